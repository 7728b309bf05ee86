"""Results of slow steps, kept by the content of what they were made from.

The folder is $KAOKEN_CACHE, else $XDG_CACHE_HOME/kaoken, else ~/.cache/kaoken. It may be deleted
at any time. Compiled models in it take at most $KAOKEN_CACHE_LIMIT gigabytes, 20 unless that is
set: those that were not used for longest go first.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

from kaoken.errors import KaokenError

PACKAGES = ("models", "decoders")
"""Kinds of which each result is a whole compiled model."""

_IN_USE = 3600.0
"""Seconds for which a model is taken to be in use after it was asked for."""


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


def cached_package(kind: str, key: str, name: str) -> Path:
    """The folder of the compiled model `name`, there or not; it counts as used now."""
    place = cache_directory(f"{kind}/{key}")
    with suppress(OSError):  # Another user's cache may be read all the same.
        os.utime(place)
    return place / name


def trim_packages() -> None:
    """Delete the models not used for longest, until the rest keep within the limit."""
    limit = _limit()
    last_used: dict[Path, float] = {}
    for place in (p for kind in PACKAGES for p in cache_directory(kind).iterdir() if p.is_dir()):
        with suppress(FileNotFoundError):  # Another process deletes as well.
            last_used[place] = place.stat().st_mtime
    total = 0
    for place in sorted(last_used, key=last_used.__getitem__, reverse=True):
        total += _size(place)
        if total > limit and time.time() - last_used[place] > _IN_USE:
            shutil.rmtree(place, ignore_errors=True)


def _size(folder: Path) -> int:
    """Bytes of all files; those that another process deletes meanwhile count nothing."""
    total = 0
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError):
            total += file.lstat().st_size
    return total


def _limit() -> float:
    """Bytes that compiled models may take; KaokenError when what is asked is not a number."""
    text = os.environ.get("KAOKEN_CACHE_LIMIT", "20")
    try:
        return float(text) * 1e9
    except ValueError:
        raise KaokenError(f"KAOKEN_CACHE_LIMIT is {text!r}: give a number of gigabytes") from None


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
