"""The C runtime through a hand-written model: weights file, arena, threads, CPU check, errors."""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from kaoken.backend.loader import Library
from kaoken.backend.machine import TargetMachine
from kaoken.backend.package import HEADER_BYTES
from kaoken.backend.targets import all_targets
from kaoken.backend.toolchain import RUNTIME, find_compiler, run_compiler
from kaoken.compiled_model import CompiledModel
from kaoken.errors import KaokenError
from tests.available import needs
from tests.unit.tiny_model import MAX_TOKENS, Broken, expected, inputs, write_tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("runtime") / "tiny", threads=4)


def load(folder: Path, threads: int | None = None) -> CompiledModel:
    return CompiledModel(Library(folder), threads)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_all_thread_counts_give_the_same(folder: Path, threads: int) -> None:
    model = load(folder, threads)
    for tokens in (1, 2, 7, MAX_TOKENS):
        arguments = inputs(tokens)
        y, z = expected(arguments["x"])
        result = model(**arguments)
        np.testing.assert_array_equal(result["y"], y)
        np.testing.assert_array_equal(result["z"], z)


def test_barrier_holds_over_many_calls(folder: Path) -> None:
    model = load(folder, 4)
    arguments = inputs(9)
    _, z = expected(arguments["x"])
    call = model.bind(**arguments)
    for _ in range(2000):
        assert (call()["z"] == z).all()


def test_sleeping_threads_wake(folder: Path) -> None:
    model = load(folder, 4)
    arguments = inputs(9)
    for _ in range(3):
        threading.Event().wait(0.005)
        np.testing.assert_array_equal(model(**arguments)["z"], expected(arguments["x"])[1])


def test_run_time_error_names_the_value(folder: Path) -> None:
    arguments = inputs(3)
    arguments["ids"][1] = 77
    model = load(folder, 2)
    with pytest.raises(KaokenError, match=r"^ids holds a number outside 0\.\.9: 77$"):
        model(**arguments)
    arguments["ids"][1] = 1
    np.testing.assert_array_equal(model(**arguments)["y"], expected(arguments["x"])[0])


def test_missing_weights(copy: Path) -> None:
    (copy / "tiny.weights").unlink()
    with pytest.raises(KaokenError, match=r"tiny\.weights is missing"):
        load(copy)


def test_truncated_weights(copy: Path) -> None:
    os.truncate(copy / "tiny.weights", HEADER_BYTES + 3)
    with pytest.raises(KaokenError, match="is truncated: it has 4099 bytes, not 73728"):
        load(copy)


@pytest.mark.parametrize(("position", "message"), [(0, "is not a kaoken"), (20, "does not belong")])
def test_foreign_weights(copy: Path, position: int, message: str) -> None:
    data = bytearray((copy / "tiny.weights").read_bytes())
    data[position] ^= 1
    (copy / "tiny.weights").write_bytes(data)
    with pytest.raises(KaokenError, match=message):
        load(copy)


def test_empty_weights_file(copy: Path) -> None:
    (copy / "tiny.weights").write_bytes(b"")
    with pytest.raises(KaokenError, match="is not a kaoken weights file"):
        load(copy)


@pytest.mark.parametrize(
    ("threads", "message"),
    [(0, "threads is 0, but must be at least 1"), (5, "was compiled for 1 to 4")],
)
def test_thread_count_out_of_range(folder: Path, threads: int, message: str) -> None:
    with pytest.raises(KaokenError, match=message):
        load(folder, threads)


def test_cpu_without_the_features(tmp_path: Path) -> None:
    write_tiny(tmp_path / "tiny", options=Broken())
    with pytest.raises(KaokenError, match="this CPU lacks amx_nonsense, which tiny was compiled"):
        load(tmp_path / "tiny")


def test_cpu_check_agrees_with_the_system(tmp_path: Path) -> None:
    """Every feature that a target of this architecture may need is known to the check."""
    program = tmp_path / "check.c"
    program.write_text(
        '#include "kaoken_runtime.h"\n#include <stdio.h>\n'
        "int main(int n, char **names) {\n    char missing[99];\n"
        "    for (int i = 1; i < n; i++)\n"
        "        if (kk_cpu_has(names[i], missing, sizeof missing))\n"
        '            printf("%s\\n", names[i]);\n}\n'
    )
    compiler = find_compiler()
    sources = [str(program), str(RUNTIME / "kaoken_cpu.c")]
    run_compiler([*compiler.command, f"-I{RUNTIME}", *sources, "-o", str(tmp_path / "check")])
    native = TargetMachine.native().description.architecture
    targets = [t for t in all_targets().values() if t.architecture in ("", native)]
    names = {flag for t in targets for flag in t.cpu_flags}
    names |= {flag for t in targets for f in t.features.values() for flag in f.cpu_flags}
    found = subprocess.run([tmp_path / "check", *names], capture_output=True, text=True, check=True)
    assert set(found.stdout.split()) == names & _system_flags()


def _system_flags() -> set[str]:
    from kaoken.backend.machine import cpu_flags

    if not (flags := cpu_flags()):
        pytest.skip("this system does not list its CPU's features")
    return set(flags)


def test_contexts_share_nothing(folder: Path) -> None:
    """Many Python threads, each with its own input, through one model."""
    model = load(folder, 2)
    wrong: list[int] = []

    def work(number: int) -> None:
        x = np.full((5, 4), number, np.float32)
        for _ in range(200):
            result = model(x, np.zeros(5, np.int64))
            if not (result["y"] == expected(x)[0]).all() or not (result["z"] == number).all():
                wrong.append(number)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
def test_forked_child_makes_its_own_contexts(folder: Path) -> None:
    model = load(folder, 2)
    arguments = inputs(5)
    bound = model.bind(**arguments)
    bound()
    child = os.fork()
    if child == 0:
        os._exit(_check_child(model, arguments, bound))
    assert os.waitpid(child, 0)[1] == 0


def _check_child(model: CompiledModel, arguments: dict[str, np.ndarray], bound) -> int:
    try:
        bound()
        return 1
    except KaokenError as error:
        if "before fork()" not in str(error):
            return 2
    return int(not (model(**arguments)["y"] == expected(arguments["x"])[0]).all())


def test_package_builds_with_cmake_or_by_hand(folder: Path, tmp_path: Path) -> None:
    """Without Python: the sources compile without warnings, and the example runs."""
    copy = Path(shutil.copytree(folder, tmp_path / "c"))
    sources = [copy / f for f in ("tiny.c", "kaoken_runtime.c", "kaoken_cpu.c", "example.c")]
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-pthread", f"-I{copy}"]
    program = copy / "program"
    compiler = find_compiler()
    run_compiler([*compiler.command, *flags, *map(str, sources), "-lm", "-o", str(program)])
    command = [program, copy / "tiny.weights", "2"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert shown.stdout == "y: 1 2 3 4 1 2 3 4\nz: 1 1\n"
    bad = subprocess.run([program, copy / "none"], capture_output=True, text=True)
    assert bad.returncode == 1
    assert "cannot be opened" in bad.stderr
    assert bad.stderr.count("\n") == 1


@needs(shutil.which("cmake"), "cmake")
def test_cmake(folder: Path, tmp_path: Path) -> None:
    subprocess.run(["cmake", "-S", folder, "-B", tmp_path], check=True, capture_output=True)
    subprocess.run(["cmake", "--build", tmp_path], check=True, capture_output=True)
    command = [tmp_path / "tiny_example", folder / "tiny.weights", "1"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("y: 1 2 3 4")


# ---- weights in memory of their own ----


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("choice", ["mapped", "copied"])
def test_where_weights_are(choice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_tiny(tmp_path / "tiny", threads=1)
    monkeypatch.setenv("KAOKEN_WEIGHTS", choice)
    model = CompiledModel(Library(folder))
    maps = Path("/proc/self/maps").read_text()
    assert (str(folder / "tiny.weights") in maps) == (choice == "mapped")
    arguments = inputs(5)
    wanted = expected(arguments["x"])[0]
    np.testing.assert_array_equal(model(**arguments)["y"], wanted)
    other = model.new_context()
    del model
    np.testing.assert_array_equal(other(**arguments)["y"], wanted)


def test_contexts_share_one_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written over the file is seen when all contexts of the old copy are gone."""
    folder = write_tiny(tmp_path / "tiny", threads=1)
    monkeypatch.setenv("KAOKEN_WEIGHTS", "copied")
    model = CompiledModel(Library(folder))
    weights = folder / "tiny.weights"
    data = weights.read_bytes()
    weights.write_bytes(data[:4096] + bytes(len(data) - 4096))
    arguments = inputs(5)
    wanted = expected(arguments["x"])[0]
    second = model.new_context()
    np.testing.assert_array_equal(second(**arguments)["y"], wanted)
    del model, second
    third = CompiledModel(Library(folder))
    assert not np.array_equal(third(**arguments)["y"], wanted)
