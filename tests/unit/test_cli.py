"""The `kaoken` command: what it writes and prints, and one sentence for every mistake."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kaoken import KaokenError
from kaoken import compile as kaoken_compile
from kaoken.tools.kaoken import main
from kaoken.tools.verify_command import rank_correlation
from tests.unit.small_bert import write_folder
from tests.unit.tiny_model import write_tiny

pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("hf") / "tinybert")


@pytest.fixture(scope="module")
def compiled(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "encoder"
    kaoken("compile", str(checkpoint), "-o", str(out), "--max-batch", "2")
    return out


def kaoken(*args: str) -> int:
    """Run the command in this process; its exit code."""
    try:
        main(list(args))
    except SystemExit as done:
        return int(done.code or 0)
    return 0


def failure(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The one line that a failing command prints on stderr."""
    capsys.readouterr()
    assert kaoken(*args) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1, shown.err
    return shown.err.strip()


def test_compile_writes_a_package(compiled: Path) -> None:
    names = {path.name for path in compiled.iterdir()}
    assert names >= {
        "encoder.c",
        "encoder.h",
        "encoder.weights",
        "libencoder.so",
        "manifest.json",
        "CMakeLists.txt",
        "tokenizer.json",
        "kaoken_runtime.c",
        "kaoken_runtime.h",
        "kaoken_cpu.c",
    }


def test_c_compiles_without_warnings(compiled: Path) -> None:
    command = ["gcc", "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
    manifest = json.loads((compiled / "manifest.json").read_text())
    from kaoken.backend.machine import TargetMachine

    flags = TargetMachine.parse(manifest["target"]).compiler_flags("gcc")
    for source in sorted(compiled.glob("*.c")):
        result = subprocess.run([*command, *flags, source], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr


def test_run_one_text(compiled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert kaoken("run", str(compiled), "--text", "a cat sat") == 0
    numbers = capsys.readouterr().out.replace("[", "").replace("]", "").split()
    assert len(numbers) == 24
    assert sum(float(n) ** 2 for n in numbers) == pytest.approx(1, abs=1e-4)


def test_run_several_texts(compiled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["a cat sat", "a dog ran", "a cat sat"]
    options = [word for text in texts for word in ("-t", text)]
    assert kaoken("run", str(compiled), *options, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    similarities = found["similarities"]
    assert similarities[0][2] == pytest.approx(1, abs=1e-6)
    assert similarities[0][1] < 0.999
    assert kaoken("run", str(compiled), *options) == 0
    assert "3. a cat sat" in capsys.readouterr().out


def test_sentence_head(
    checkpoint: Path, compiled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model pools itself what `kaoken run` pools otherwise."""
    out = str(tmp_path / "sentence")
    assert kaoken("compile", str(checkpoint), "-o", out, "--head", "sentence") == 0
    found = []
    for folder in (out, str(compiled)):
        capsys.readouterr()
        assert kaoken("run", folder, "-t", "a cat sat", "-t", "dog", "--json") == 0
        found.append(json.loads(capsys.readouterr().out)["embeddings"])
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-6)


def test_long_texts_are_cut(compiled: Path) -> None:
    assert kaoken("run", str(compiled), "-t", "a cat " * 100) == 0


def test_inspect(compiled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert kaoken("inspect", str(compiled)) == 0
    shown = capsys.readouterr().out
    for part in ("input_ids: int64 batch x tokens", "batch: 1 to 2", "encoder.weights", "linear"):
        assert part in shown
    assert kaoken("inspect", str(compiled), "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["ops"]["kaoken.attention"] == 2
    assert facts["library_bytes"] > 0


def test_verify_passes(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert kaoken("verify", str(checkpoint), "--json") == 0
    report = json.loads(capsys.readouterr().out)
    names = [value["name"] for value in report["values"]]
    assert report["passed"]
    assert names[:3] == ["embeddings", "encoder.layer.0", "encoder.layer.1"]
    assert "last_hidden_state" in names
    assert all(value["cosine"] > 0.999999 for value in report["values"])


def test_verify_a_narrow_dtype(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert kaoken("verify", str(checkpoint), "--dtype", "bf16", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["cosine"] == 0.9995
    assert all(v["cosine"] >= 0.9995 and 0 <= v["rms"] <= v["max_abs"] for v in report["values"])


def test_ranks_of_similarities() -> None:
    """Spearman's rho of the pairs: by definition 1 - 6 sum(d^2) / (n (n^2 - 1))."""
    random = np.random.default_rng(0)
    a, b = (random.standard_normal((7, 5)) for _ in range(2))
    assert rank_correlation(a, a) == pytest.approx(1)
    pairs = np.triu_indices(7, 1)
    order = [np.searchsorted(np.sort(s), s) for s in ((v @ v.T)[pairs] for v in (a, b))]
    squares = np.square(order[0] - order[1]).sum()
    assert rank_correlation(a, b) == pytest.approx(1 - 6 * squares / (21 * (21**2 - 1)))


def test_verify_fails(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert kaoken("verify", str(checkpoint), "--tolerance", "1e-12") == 1
    assert "too far" in capsys.readouterr().out


def test_mlir_round_trip(checkpoint: Path, tmp_path: Path) -> None:
    assert kaoken("compile", str(checkpoint), "-o", str(tmp_path / "ir"), "--emit", "mlir") == 0
    text = tmp_path / "ir" / "ir.mlir"
    assert "kaoken.attention" in text.read_text()
    assert kaoken("compile", str(text), "-o", str(tmp_path / "out")) == 0
    assert kaoken("verify", str(text)) == 0


def test_emit_c(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "c"
    assert kaoken("compile", str(checkpoint), "-o", str(out), "--emit", "c") == 0
    assert not (out / "libc.so").exists()
    assert "libc.so is missing" in failure(capsys, "run", str(out), "-t", "a")


def test_wrong_values_of_options(capsys: pytest.CaptureFixture[str]) -> None:
    message = failure(capsys, "run", "folder", "--text", "\udcff")
    assert message == r"error: the argument '\udcff' is not text in UTF-8"
    message = failure(capsys, "verify", "folder", "--tolerance", "nan")
    assert message == "error: --tolerance is nan, but must be at least 0"


@pytest.mark.parametrize("option", ["threads", "batch", "group_size", "max_tokens", "max_batch"])
def test_options_are_whole_numbers(checkpoint: Path, option: str) -> None:
    options: dict[str, Any] = {option: 1.5}
    with pytest.raises(KaokenError, match=f"{option} is 1.5, but must be a whole number"):
        kaoken_compile(checkpoint, **options)


def test_no_partial_output_and_no_traceback(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = str(checkpoint), str(tmp_path / "out")
    wrong = {
        ("/nowhere", "-o", out): "there is no file or folder /nowhere",
        (model, "-o", out, "--target", "z80"): "unknown target 'z80'",
        (model, "-o", out, "--emit", "exe"): "unknown --emit exe",
        (model, "-o", out, "--dtype", "f8"): "unknown dtype f8",
        (
            model,
            "-o",
            out,
            "--math",
            "fast",
        ): "unknown math fast: choose from exact, quake1, quake2",
        (model, "-o", out, "--cc", "no-such-cc"): "no-such-cc cannot be run",
        (model, "-o", "/dev/null/x"): "cannot write to /dev/null/x",
    }
    for args, message in wrong.items():
        assert message in failure(capsys, "compile", *args)
    assert list(tmp_path.iterdir()) == []


def test_broken_checkpoints(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    copy = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    os.truncate(copy / "model.safetensors", 2000)
    assert "is truncated" in failure(capsys, "compile", str(copy), "-o", out)
    (copy / "model.safetensors").unlink()
    assert "a config but no weights" in failure(capsys, "compile", str(copy), "-o", out)


def test_sidecar_of_another_module(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kaoken("compile", str(checkpoint), "-o", str(tmp_path / "ir"), "--emit", "mlir")
    sidecar = tmp_path / "ir" / "ir.safetensors"
    data = bytearray(sidecar.read_bytes())
    data[-1] ^= 1
    sidecar.write_bytes(data)
    model, out = str(tmp_path / "ir" / "ir.mlir"), str(tmp_path / "out")
    assert "does not match its .mlir" in failure(capsys, "compile", model, "-o", out)


def test_what_is_no_compiled_encoder(
    tmp_path: Path, compiled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is not a compiled model" in failure(capsys, "run", str(tmp_path), "-t", "a")
    assert "is not a compiled model" in failure(capsys, "inspect", str(tmp_path))
    tiny = str(write_tiny(tmp_path / "tiny", threads=1))
    assert "is no text encoder" in failure(capsys, "run", tiny, "-t", "a")
    copy = Path(shutil.copytree(compiled, tmp_path / "copy"))
    (copy / "tokenizer.json").unlink()
    assert "has no tokenizer.json" in failure(capsys, "run", str(copy), "-t", "a")
    os.truncate(copy / "encoder.weights", 5000)
    assert "is truncated" in failure(capsys, "run", str(copy), "-t", "a")


def test_run_needs_no_torch(compiled: Path) -> None:
    code = (
        "import sys; from kaoken.tools.kaoken import main\n"
        f"try: main(['run', {str(compiled)!r}, '-t', 'a cat'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'xdsl', 'transformers') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip().endswith("[]")


def test_help_is_quick_and_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    start = time.perf_counter()
    command = [sys.executable, "-m", "kaoken.tools.kaoken", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert time.perf_counter() - start < 2
    assert "Start with: kaoken compile" in shown.stdout
    for name in ("compile", "run", "verify", "inspect"):
        assert kaoken(name, "--help") == 0
        assert "Example" in capsys.readouterr().out


def test_unknown_options_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert kaoken("compile", "model", "--nonsense") == 2
    assert "nonsense" in capsys.readouterr().err


def test_exported_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    module = torch.nn.Sequential(torch.nn.Linear(6, 10), torch.nn.ReLU(), torch.nn.Linear(10, 3))
    rows = torch.export.Dim("rows", max=8)
    x = torch.randn(4, 6)
    program = torch.export.export(module.eval(), (x,), dynamic_shapes=({0: rows},))
    path = tmp_path / "small.pt2"
    torch.export.save(program, path)
    assert kaoken("verify", str(path)) == 0
    assert "passed" in capsys.readouterr().out
    assert kaoken("compile", str(path), "-o", str(tmp_path / "out")) == 0
    assert (tmp_path / "out" / "out.c").exists()
    path.write_bytes(path.read_bytes()[:500])
    assert "truncated" in failure(capsys, "compile", str(path), "-o", str(tmp_path / "other"))


def test_unknown_op_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    class Sorted(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.svdvals(x)

    path = tmp_path / "sorted.pt2"
    torch.export.save(torch.export.export(Sorted(), (torch.randn(3, 3),)), path)
    capsys.readouterr()
    assert kaoken("compile", str(path), "-o", str(tmp_path / "out")) == 1
    shown = capsys.readouterr().err
    assert "no meaning for 1 op" in shown
    assert "svd" in shown
    assert not (tmp_path / "out").exists()
