"""JSON: files that other programs wrote, refused in one sentence, and what commands print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kaoken.errors import KaokenError


def read_json(path: Path, kind: type = dict) -> Any:
    """What a JSON file holds, a dict unless another `kind` is wanted; None where there is no file.

    Raises KaokenError for a file that cannot be read, or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise KaokenError(f"{path} is not JSON: put a good copy there ({error})") from None
    if not isinstance(value, kind):
        raise KaokenError(f"{path} holds no JSON {_NAMES[kind]}: put a good copy there")
    return value


_NAMES = {dict: "object", list: "array"}


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, indent=2))
