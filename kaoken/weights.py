"""WeightStore: the bytes of a module's weights, outside the IR.

`kaoken.weight "key"` names an entry of the store that belongs to the module. Stores are read from
safetensors files, which are mapped into memory and never copied, and are written as such.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from xdsl.dialects.builtin import ArrayAttr, ModuleOp, StringAttr

from kaoken.dtypes import SAFETENSORS_NAMES, dtype_by_name
from kaoken.errors import KaokenError

if TYPE_CHECKING:
    import numpy as np

WEIGHTS = "kaoken.weights"
"""Module attribute: the sidecar files, relative to the folder of the .mlir."""
DIGEST = "kaoken.digest"
"""Module attribute: what `WeightStore.digest` gives for the sidecars' contents."""

_DATA_ALIGNMENT = 64
_MAX_HEADER = 100_000_000


class WeightStore:
    """Arrays by key: read-only views in the dtype of their file (bf16 by ml_dtypes)."""

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray] = {}
        self._hashes: dict[str, bytes] = {}

    @staticmethod
    def open(paths: str | Path | Iterable[str | Path]) -> WeightStore:
        """Map one or several safetensors files.

        Raises KaokenError when a file is missing, truncated or not safetensors.
        """
        store = WeightStore()
        for path in [paths] if isinstance(paths, str | Path) else paths:
            for key, array in _map_file(Path(path)):
                store.add(key, array)
        return store

    def __getitem__(self, key: str) -> np.ndarray:
        """The array as it is stored; KaokenError when there is no such key."""
        if (array := self._arrays.get(key)) is None:
            raise KaokenError(f'there is no weight "{key}": its sidecar file may be missing')
        return array

    def get_f32(self, key: str) -> np.ndarray:
        """The array as float32: the stored one itself, or converted from bf16, f16 or f64."""
        return self[key].astype("float32", copy=False)

    def __contains__(self, key: str) -> bool:
        return key in self._arrays

    def __len__(self) -> int:
        return len(self._arrays)

    def keys(self) -> list[str]:
        return list(self._arrays)

    def add(self, key: str, array: np.ndarray) -> str:
        """Keep a view of an array under a key, and give back the key.

        The caller must not change the array afterwards. Raises KaokenError when the key already
        names something else.
        """
        view = array.view()
        view.flags.writeable = False
        if (old := self._arrays.get(key)) is not None and not _same(old, view):
            raise KaokenError(f'the weight "{key}" exists already with another content')
        self._arrays.setdefault(key, view)
        return key

    def hash_of(self, key: str) -> str:
        """A hex hash of one array's dtype, shape and contents; computed once a key."""
        return self._hash(key).hex()

    def digest(self, keys: Iterable[str] | None = None) -> str:
        """A hex hash of keys, dtypes, shapes and contents, whatever their order or file layout."""
        total = hashlib.sha256()
        for key in sorted(self._arrays if keys is None else set(keys)):
            total.update(json.dumps(key).encode() + b"\n" + self._hash(key))
        return total.hexdigest()

    def save(self, path: str | Path, keys: Iterable[str] | None = None) -> None:
        """Write a safetensors file of all keys or some: under a temporary name, then renamed.

        Raises KaokenError when the place cannot be written.
        """
        chosen = {key: self[key] for key in (self._arrays if keys is None else keys)}
        path = Path(path)
        try:
            with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
                try:
                    _write(file, chosen)
                    os.fchmod(file.fileno(), 0o644)
                    os.replace(file.name, path)
                except BaseException:
                    os.unlink(file.name)
                    raise
        except OSError as error:
            raise KaokenError(f"cannot write the weights {path}: {error.strerror}") from None

    def _hash(self, key: str) -> bytes:
        if key not in self._hashes:
            array = self[key]
            head = json.dumps([array.dtype.name, list(array.shape)]).encode()
            one = hashlib.sha256(head)
            one.update(_bytes(array).data)
            self._hashes[key] = one.digest()
        return self._hashes[key]


_stores: WeakKeyDictionary[ModuleOp, WeightStore] = WeakKeyDictionary()
_directories: WeakKeyDictionary[ModuleOp, Path] = WeakKeyDictionary()


def attach_store(module: ModuleOp, store: WeightStore) -> None:
    """Make `store` the one that the module's weights name."""
    _stores[module] = store


def set_base_directory(module: ModuleOp, path: str | Path) -> None:
    """Say what the module's `kaoken.weights` are relative to; otherwise the current folder."""
    _directories[module] = Path(path)


def sidecars(module: ModuleOp) -> list[Path]:
    """The files that `kaoken.weights` names."""
    names = module.attributes.get(WEIGHTS)
    if names is None:
        return []
    if not isinstance(names, ArrayAttr) or not all(isinstance(n, StringAttr) for n in names):
        raise KaokenError(f"{WEIGHTS} is a list of file names, not {names}")
    base = _directories.get(module, Path())
    return [base / name.data for name in names if isinstance(name, StringAttr)]


def store_of(module: ModuleOp) -> WeightStore:
    """The module's store: the attached one, else its sidecars opened, else a new empty one.

    Raises KaokenError when a sidecar is missing, broken or does not match `kaoken.digest`.
    """
    if (store := _stores.get(module)) is None:
        files = sidecars(module)
        store = _stores[module] = WeightStore.open(files)
        _check_digest(module, store, files)
    return store


def _check_digest(module: ModuleOp, store: WeightStore, files: list[Path]) -> None:
    expected = module.attributes.get(DIGEST)
    if files and isinstance(expected, StringAttr) and store.digest() != expected.data:
        del _stores[module]
        names = ", ".join(map(str, files))
        raise KaokenError(
            f"the sidecar {names} does not match its .mlir: the two were not written together"
        )


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    same_memory = a.ctypes.data == b.ctypes.data and a.strides == b.strides
    return same_memory or bool((_bytes(a) == _bytes(b)).all())


def _bytes(array: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _map_file(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    import numpy as np

    try:
        size = path.stat().st_size
        memory = np.asarray(np.memmap(path, np.uint8, "r")) if size else np.empty(0, np.uint8)
    except OSError as error:
        raise KaokenError(f"cannot read the weights {path}: {error.strerror}") from None
    start, header = _read_header(path, memory)
    for key, entry in header.items():
        yield key, _entry(path, key, entry, memory[start:])


def _read_header(path: Path, memory: np.ndarray) -> tuple[int, dict[str, Any]]:
    length = int.from_bytes(memory[:8].tobytes(), "little")
    if len(memory) < 8 or (len(memory) < 8 + length and length < _MAX_HEADER):
        raise KaokenError(f"the weights file {path} is truncated: fetch or write it again")
    try:
        header = json.loads(memory[8 : 8 + min(length, _MAX_HEADER)].tobytes())
        header.pop("__metadata__", None)
    except (ValueError, AttributeError, TypeError):
        raise KaokenError(f"{path} is not a safetensors file") from None
    return 8 + length, header


def _entry(path: Path, key: str, entry: dict[str, Any], data: np.ndarray) -> np.ndarray:
    names = {v: k for k, v in SAFETENSORS_NAMES.items()}
    try:
        type_, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise KaokenError(f"{path} is not a safetensors file") from None
    if type_ not in names:
        raise KaokenError(f'{path}: weight "{key}" has the unknown type {type_}')
    if end > len(data):
        raise KaokenError(f"the weights file {path} is truncated: fetch or write it again")
    try:
        return data[begin:end].view(dtype_by_name(names[type_])).reshape(shape)
    except ValueError:
        raise KaokenError(f'{path}: weight "{key}" has a wrong size') from None


def _write(file: Any, arrays: dict[str, np.ndarray]) -> None:
    ordered = sorted(arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    header: dict[str, Any] = {}
    offset = 0
    for key, array in ordered:
        header[key] = {
            "dtype": SAFETENSORS_NAMES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % _DATA_ALIGNMENT)
    file.write(len(text).to_bytes(8, "little") + text)
    for _, array in ordered:
        file.write(_bytes(array).data)
