"""Results of slow steps, kept by the content of what they were made from.

The folder is $KAOKEN_CACHE, else $XDG_CACHE_HOME/kaoken, else ~/.cache/kaoken. It may be deleted
at any time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from kaoken.errors import KaokenError


def cache_directory(kind: str) -> Path:
    """The folder for one kind of result, created if need be; KaokenError when it cannot be."""
    if (root := os.environ.get("KAOKEN_CACHE")) is None:
        home = os.environ.get("XDG_CACHE_HOME")
        root = Path(home) / "kaoken" if home else Path.home() / ".cache" / "kaoken"
    folder = Path(root) / kind
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KaokenError(
            f"the cache folder {folder} cannot be made: {error.strerror}; set KAOKEN_CACHE"
        ) from None
    return folder


def content_key(parts: Iterable[str | bytes]) -> str:
    """A hex key of texts; where one ends and the next begins matters."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()[:32]


@cache
def compiler_version() -> str:
    """A hash of kaoken's own source: what another version made is not reused."""
    root = Path(__file__).parents[1]
    sources = sorted(p for s in ("py", "c", "h", "lark") for p in root.rglob(f"*.{s}"))
    return content_key(part for p in sources for part in (str(p), p.read_bytes()))


def copy_file(source: Path, target: Path) -> None:
    """Copy under a temporary name, then rename: readers see the whole file or none."""
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
        temporary = Path(file.name)
    try:
        shutil.copyfile(source, temporary)
        temporary.chmod(0o644)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
