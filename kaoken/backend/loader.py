"""A compiled folder as a library in this process: numpy and ctypes, neither torch nor xDSL."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kaoken.dialect.dims import Dim
from kaoken.errors import KaokenError
from kaoken.json_files import read_json

MANIFEST = "manifest.json"
_ERROR_BYTES = 512


@dataclass(frozen=True)
class Tensor:
    """An input or output as its caller sees it; `default` fills an input that is left out."""

    name: str
    dtype: np.dtype
    shape: tuple[int | str | Dim, ...]
    """Numbers, symbols, and what is made of symbols."""
    default: float | None = None

    @property
    def text(self) -> str:
        return f"[{', '.join(map(str, self.shape))}]"

    def sizes(self, symbols: Mapping[str, int]) -> list[int]:
        """The shape as numbers; KeyError names a symbol without a value."""
        return [
            symbols[s] if isinstance(s, str) else s if isinstance(s, int) else s.evaluate(symbols)
            for s in self.shape
        ]


class Library:
    """One compiled model, its functions ready to call.

    Raises KaokenError when the folder is no compiled model or a file of it is missing.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.manifest = read_manifest(folder)
        self.name: str = self.manifest["name"]
        self.inputs = tuple(map(_tensor, self.manifest["inputs"]))
        self.outputs = tuple(map(_tensor, self.manifest["outputs"]))
        self.symbols: dict[str, int] = self.manifest["symbols"]
        self.threads: int = self.manifest["threads"]
        self._weights = _file(folder, self.manifest["weights"])
        library = _open(_file(folder, self.manifest["library"]), self.manifest["target"])
        self._library = library
        self._create, self._error, self._destroy, self.run = self._functions(library)
        self._timers, self._reset_timers = self._timer_functions(library)

    def _functions(self, library: ctypes.CDLL) -> tuple[Any, Any, Any, Any]:
        try:
            create, error, destroy, run = (
                getattr(library, f"{self.name}_{verb}")
                for verb in ("create", "error", "destroy", "run")
            )
        except AttributeError:
            raise KaokenError(f"{self.folder}: the library is not the manifest's model") from None
        create.restype = ctypes.c_void_p
        create.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t]
        error.restype, error.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
        destroy.restype, destroy.argtypes = None, [ctypes.c_void_p]
        pointers = [ctypes.c_void_p] * (1 + len(self.inputs) + len(self.outputs))
        run.restype = ctypes.c_int
        run.argtypes = [*pointers, *[ctypes.c_int64] * len(self.symbols)]
        return create, error, destroy, run

    def functions(self, signatures: Mapping[str, tuple[Any, list[Any]]]) -> dict[str, Any]:
        """More functions of the library by name: what each gives, and takes behind the context.

        KaokenError for one that is not there: another kaoken made the library.
        """
        found: dict[str, Any] = {}
        for verb, (result, arguments) in signatures.items():
            function = getattr(self._library, f"{self.name}_{verb}", None)
            if function is None:
                raise KaokenError(
                    f"{self.folder} was compiled by another version of kaoken, whose library has "
                    f"no {self.name}_{verb}: compile the model again"
                )
            function.restype, function.argtypes = result, [ctypes.c_void_p, *arguments]
            found[verb] = function
        return found

    def _timer_functions(self, library: ctypes.CDLL) -> tuple[Any, Any]:
        """How to read and reset the timers, of a model that was compiled with some."""
        if not self.manifest.get("timers"):
            return None, None
        read = getattr(library, f"{self.name}_timers")
        read.restype = ctypes.c_int
        read.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
        reset = getattr(library, f"{self.name}_reset_timers")
        reset.restype, reset.argtypes = None, [ctypes.c_void_p]
        return read, reset

    def create_context(self, threads: int) -> Context:
        """A new context; KaokenError when the CPU, the weights file or `threads` is unsuitable."""
        message = ctypes.create_string_buffer(_ERROR_BYTES)
        path = os.fsencode(self._weights)
        handle = self._create(path, threads, message, _ERROR_BYTES)
        if not handle:
            raise KaokenError(message.value.decode(errors="replace"))
        return Context(self, handle)

    def error_of(self, handle: int) -> str:
        return self._error(handle).decode(errors="replace")

    def read_timers(self, handle: int, thread: int) -> np.ndarray:
        """int64 [timers, 3]: calls, nanoseconds of work, nanoseconds of waiting."""
        values = np.zeros((len(self.manifest["timers"]), 3), np.int64)
        self._timers(handle, thread, values.ctypes.data)
        return values

    def reset_timers(self, handle: int) -> None:
        self._reset_timers(handle)

    def destroy(self, handle: int) -> None:
        self._destroy(handle)


class Context:
    """One context of the C library: for one caller at a time, destroyed with this object."""

    def __init__(self, library: Library, handle: int):
        self.library = library
        self.handle = handle

    def run(self, addresses: Sequence[int], sizes: Sequence[int]) -> None:
        """Run once on arrays by address; KaokenError when the model refuses the input."""
        if self.library.run(self.handle, *addresses, *sizes):
            raise KaokenError(self.library.error_of(self.handle))

    def __del__(self) -> None:
        self.library.destroy(self.handle)


def read_manifest(folder: Path) -> dict[str, Any]:
    """manifest.json of a compiled folder; KaokenError when there is none."""
    manifest = read_json(folder / MANIFEST)
    if manifest is None:
        raise KaokenError(
            f"{folder} is not a compiled model: it has no manifest.json; `kaoken compile` makes one"
        )
    if "kaoken" not in manifest:
        raise KaokenError(f"{folder / MANIFEST} is not a manifest of kaoken")
    return manifest


def is_package(folder: Path) -> bool:
    """True if kaoken wrote this folder."""
    try:
        return "kaoken" in (read_json(folder / MANIFEST) or {})
    except KaokenError:
        return False


def _file(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise KaokenError(f"{path} is missing: compile the model again")
    return path


def _open(path: Path, target: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path.resolve()))
    except OSError as error:
        raise KaokenError(
            f"{path}, built for {target}, cannot be loaded on this machine: {error}"
        ) from None


def _tensor(entry: dict[str, Any]) -> Tensor:
    shape = tuple(size if _is_plain(size) else Dim.of(size) for size in entry["shape"])
    return Tensor(entry["name"], numpy_type(entry["dtype"]), shape, entry.get("default"))


def _is_plain(size: int | str) -> bool:
    return isinstance(size, int) or size.isidentifier()


def numpy_type(name: str) -> np.dtype:
    """The dtype that a manifest names."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)
