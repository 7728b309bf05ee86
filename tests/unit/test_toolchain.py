"""Finding compilers, building libraries, the cache of built ones, and the output folder."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from kaoken.backend import toolchain
from kaoken.backend.cache import cache_directory, content_key
from kaoken.backend.loader import Library
from kaoken.backend.package import check_output, output_folder
from kaoken.backend.toolchain import find_compiler, run_compiler
from kaoken.compiled_model import CompiledModel
from kaoken.errors import KaokenError
from kaoken.options import CompileOptions
from tests.unit.tiny_model import expected, inputs, write_tiny


def test_a_compiler_is_found() -> None:
    compiler = find_compiler()
    assert compiler.family in ("gcc", "clang", "zig")
    assert compiler.version


def test_cc_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler-here")
    with pytest.raises(KaokenError, match="no-such-compiler-here cannot be run"):
        find_compiler()


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(toolchain.shutil, "which", lambda name: None)
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(KaokenError, match="no C compiler found: install gcc or `pip install kao"):
        find_compiler()
    with pytest.raises(KaokenError, match="zig is not installed"):
        find_compiler("zig")


def test_a_program_that_is_no_compiler() -> None:
    with pytest.raises(KaokenError, match="does not answer to --version"):
        find_compiler("false")


def test_compiler_errors_are_short(tmp_path: Path) -> None:
    source = tmp_path / "bad.c"
    source.write_text("int main(void) { return nothing; }\n")
    with pytest.raises(KaokenError, match=r"failed: .*nothing") as caught:
        run_compiler([*find_compiler().command, str(source), "-o", str(tmp_path / "bad")])
    assert "\n" not in str(caught.value)


def test_builds_are_cached_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAOKEN_CACHE", str(tmp_path / "cache"))
    write_tiny(tmp_path / "a")
    libraries = list(cache_directory("libraries").iterdir())
    assert len(libraries) == 1

    def fail(*_: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(toolchain, "run_compiler", fail)
    write_tiny(tmp_path / "b")
    assert (tmp_path / "b" / "libtiny.so").read_bytes() == libraries[0].read_bytes()
    with pytest.raises(AssertionError, match="compiled again"):
        write_tiny(tmp_path / "c", threads=3)


def test_cache_folder_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAOKEN_CACHE", "/dev/null/cache")
    with pytest.raises(KaokenError, match="set KAOKEN_CACHE"):
        cache_directory("libraries")


def test_keys_tell_where_parts_end() -> None:
    assert content_key(["ab", "c"]) != content_key(["a", "bc"])


@pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="no zig")
@pytest.mark.parametrize("target", ["generic", "native"])
def test_zig(tmp_path: Path, target: str) -> None:
    write_tiny(tmp_path / "tiny", options=CompileOptions(target, cc="zig"))
    model = CompiledModel(Library(tmp_path / "tiny"))
    np.testing.assert_array_equal(model(**inputs(5))["y"], expected(inputs(5)["x"])[0])


@pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="no zig")
@pytest.mark.parametrize("machine", ["aarch64-linux-gnu", "riscv64-linux-musl", "aarch64-macos"])
def test_runtime_compiles_for_other_machines(tmp_path: Path, machine: str) -> None:
    command = [*find_compiler("zig").command, "-target", machine, "-std=c11", "-Wall", "-Werror"]
    for source in toolchain.RUNTIME_SOURCES:
        path = str(toolchain.RUNTIME / source)
        run_compiler([*command, "-c", path, "-o", str(tmp_path / "object.o")])


def test_older_package_is_replaced(tmp_path: Path) -> None:
    write_tiny(tmp_path / "tiny", threads=1)
    write_tiny(tmp_path / "tiny", threads=2)
    assert [p.name for p in tmp_path.iterdir()] == ["tiny"]


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(KaokenError, match="holds other files"):
        write_tiny(tmp_path / "notes")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(KaokenError, match="is a file"):
        check_output(tmp_path / "file")


def test_unwritable_output() -> None:
    with (
        pytest.raises(KaokenError, match="cannot write to /dev/null/x"),
        output_folder(Path("/dev/null/x")),
    ):
        pass


def test_nothing_is_left_of_a_failure(tmp_path: Path) -> None:
    def attempt() -> None:
        with output_folder(tmp_path / "out") as draft:
            (draft / "half").write_text("half")
            raise KaokenError("no")

    with pytest.raises(KaokenError, match="no"):
        attempt()
    assert list(tmp_path.iterdir()) == []
