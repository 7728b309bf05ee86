"""A compiled model as a folder: C source, header, weights, CMake file, manifest, runtime.

    minilm.c  minilm.h  minilm.weights  kaoken_runtime.{c,h}  kaoken_cpu.c  example.c
    CMakeLists.txt  libminilm.so  manifest.json  tokenizer.json ...
    kaoken_state.h (of models that generate text)

The weights file is a header of 4096 bytes (`KAOKEN01`, the number of data bytes, the SHA-256 of
the data in hexadecimal, which the C source knows too), then the arrays, 64-byte aligned.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from kaoken.backend import c_api
from kaoken.backend.interface import Interface
from kaoken.backend.loader import MANIFEST, is_package
from kaoken.backend.toolchain import RUNTIME, RUNTIME_SOURCES, library_name
from kaoken.errors import KaokenError
from kaoken.tokenizer_parts import write_parts

if TYPE_CHECKING:
    from io import FileIO

    import numpy as np

    from kaoken.backend.c_printer import CSource, WeightPlacement
    from kaoken.options import CompileOptions
    from kaoken.weights import WeightStore

MAGIC = b"KAOKEN01"
HEADER_BYTES = 4096
_CHUNK_BYTES = 16 << 20
HUGE_PAGE_BYTES = 2 << 20


def write_package(
    folder: Path,
    source: CSource,
    interface: Interface,
    store: WeightStore,
    options: CompileOptions,
    ops: Mapping[str, int],
) -> None:
    """Write everything but the library into `folder`, which exists and is empty.

    `ops` counts the ops of each name that the model had when it came in, for `kaoken inspect`.
    """
    name = interface.name
    digest, weights_bytes = write_weights(folder / f"{name}.weights", source.weights, store)
    machine = options.machine
    text = c_api.ModelText(
        interface,
        name,
        machine.name,
        machine.cpu_flags,
        options.threads,
        weights_bytes,
        digest,
        kaoken_version(),
    )
    flags = {family: machine.compiler_flags(family) for family in ("gcc", "clang")}
    entries = {name: source.functions[name] for name in c_api.entries(interface)}
    calls = {
        name: c_api.entry_call(text, name, function.name, function.uses_weights)
        for name, function in entries.items()
    }
    texts = {
        f"{name}.c": c_api.source(text, source.code, calls),
        f"{name}.h": c_api.header(text),
        "example.c": c_api.example(text),
        "CMakeLists.txt": c_api.cmake(text, flags),
        MANIFEST: json.dumps(_manifest(text, options, ops), indent=2) + "\n",
    }
    for file, content in texts.items():
        (folder / file).write_text(content)
    headers = ["kaoken_runtime.h"] + ([c_api.STATE_HEADER] if interface.generation else [])
    for file in (*RUNTIME_SOURCES, *headers):
        shutil.copyfile(RUNTIME / file, folder / file)
    for path in options.copied_files:
        shutil.copyfile(path, folder / path.name)
    write_parts(folder)


def kaoken_version() -> str:
    try:
        return version("kaoken")
    except PackageNotFoundError:
        return "unknown"


def _manifest(
    m: c_api.ModelText, options: CompileOptions, ops: Mapping[str, int]
) -> dict[str, object]:
    i = m.interface
    return {
        "kaoken": m.version,
        "name": m.name,
        "target": m.target,
        "features": list(m.features),
        "threads": m.threads,
        "dtype": options.dtype,
        "math": options.math,
        "inputs": [t.as_json() for t in i.inputs],
        "outputs": [t.as_json() for t in i.outputs],
        "symbols": dict(i.symbols),
        "input_tree": i.input_tree,
        "output_tree": i.output_tree,
        "ops": dict(ops),
        "timers": [dict(timer) for timer in i.timers],
        "generation": None if i.generation is None else i.generation.as_json(),
        "encoder": None if i.encoder is None else i.encoder.as_json(),
        "arena_bytes": i.arena_bytes,
        "weights_bytes": m.weights_bytes,
        "weights_digest": m.digest,
        "errors": list(i.errors),
        "library": library_name(m.name),
        "weights": f"{m.name}.weights",
    }


# ---- weights ----


def write_weights(
    path: Path, placements: Sequence[WeightPlacement], store: WeightStore
) -> tuple[str, int]:
    """Write the weights file a piece at a time; gives the data's digest and its size in bytes.

    The system's cache keeps what is written in whole huge pages on such pages (Linux 6.16 on ext4,
    others on other file systems), and then maps them so: they are read a third faster.
    """
    total = hashlib.sha256()
    position = 0
    with path.open("wb", buffering=0) as raw, Blocks(raw) as file:
        file.write(bytes(HEADER_BYTES))
        for placement in placements:
            array = store[placement.key]
            if array.nbytes != placement.nbytes:
                raise KaokenError(
                    f'weight "{placement.key}" has {array.nbytes} bytes, but the code reads '
                    f"{placement.nbytes}"
                )
            _write(file, total, [bytes(placement.offset - position)])
            _write(file, total, _pieces(array))
            position = placement.offset + placement.nbytes
    with path.open("r+b") as file:
        file.write(MAGIC + position.to_bytes(8, "little") + total.hexdigest().encode())
    return total.hexdigest(), position


class Blocks:
    """Gathers what is written in blocks of a huge page, each of which goes to the file at once."""

    def __init__(self, file: FileIO):
        self._file, self._block = file, bytearray()

    def __enter__(self) -> Blocks:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None:
            self._flush()

    def write(self, piece: bytes | memoryview) -> None:
        left = memoryview(piece)
        while room := min(len(left), HUGE_PAGE_BYTES - len(self._block)):
            self._block += left[:room]
            left = left[room:]
            if len(self._block) == HUGE_PAGE_BYTES:
                self._flush()

    def _flush(self) -> None:
        left = memoryview(self._block)
        while left:
            left = left[self._file.write(left) :]
        self._block = bytearray()


def _write(file: Blocks, total: hashlib._Hash, pieces: Sequence[bytes] | Iterator) -> None:
    for piece in pieces:
        file.write(piece)
        total.update(piece)


def _pieces(array: np.ndarray) -> Iterator[memoryview]:
    """The array's bytes in row-major order, without a second copy of all of them."""
    import numpy as np

    if array.ndim == 0 or array.flags.c_contiguous:
        yield np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        return
    rows = max(1, _CHUNK_BYTES // max(1, array.nbytes // max(1, len(array))))
    for start in range(0, len(array), rows):
        piece = np.ascontiguousarray(array[start : start + rows])
        yield piece.reshape(-1).view(np.uint8).data


# ---- the folder ----


def check_output(out: Path) -> None:
    """Raise KaokenError unless `out` may become a package: new, empty, or an older package."""
    if out.exists() and not out.is_dir():
        raise KaokenError(f"{out} is a file: give a folder to write into")
    if out.is_dir() and any(out.iterdir()) and not is_package(out):
        raise KaokenError(f"{out} holds other files: give a new folder, or empty it")


@contextmanager
def output_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its place when the block ends without an error."""
    out = Path(out)
    check_output(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise KaokenError(f"cannot write to {out}: {error.strerror}") from None
    try:
        draft.chmod(0o755)
        yield draft
        _replace(draft, out)
    except OSError as error:
        raise KaokenError(f"cannot write to {out}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _replace(draft: Path, out: Path) -> None:
    if not out.exists():
        draft.replace(out)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent))
    out.replace(old)
    draft.replace(out)
    shutil.rmtree(old, ignore_errors=True)
