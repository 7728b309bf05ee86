"""Sample inputs for int8: from Python, from a file of texts, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kaoken
from kaoken.errors import KaokenError
from kaoken.options import CompileOptions
from kaoken.texts import read_texts, text_samples

torch = pytest.importorskip("torch")
CHANNELS = 64


def network() -> tuple[Any, Any]:
    """A norm and two layers, with inputs whose first channel is far larger than the others."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.LayerNorm(CHANNELS),
        torch.nn.Linear(CHANNELS, 96),
        torch.nn.GELU(),
        torch.nn.Linear(96, 48),
    )
    with torch.no_grad():
        module[0].weight[0] = 30.0
    return module.eval(), torch.randn(40, CHANNELS)


def relative_error(model: Any, module: Any, x: Any) -> float:
    wanted = module(x).detach().numpy()
    return float(np.linalg.norm(model(x.numpy()) - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("activations", ["dynamic", "static"])
def test_samples_make_int8_better(activations: str, tmp_path: Path) -> None:
    module, x = network()
    plain = kaoken.compile(module, (x,), dtype="int8", out=tmp_path / "plain")
    samples = [{"input": x[:20].numpy()}, {"input": x[20:30]}]
    padded = [{"input": np.resize(np.asarray(s["input"]), (40, CHANNELS))} for s in samples]
    calibrated = kaoken.compile(
        module,
        (x,),
        dtype="int8",
        calibrate=padded,
        activations=activations,
        out=tmp_path / "calibrated",
    )
    error = relative_error(calibrated, module, x)
    assert error < 0.02
    if activations == "dynamic":
        assert error < relative_error(plain, module, x)
    source = (calibrated.folder / "calibrated.c").read_text()
    assert ("row_scale" in source) == (activations == "dynamic")


def test_a_sample_without_an_input_is_told(tmp_path: Path) -> None:
    module, x = network()
    with pytest.raises(KaokenError, match="a calibration sample has no 'input', only y"):
        kaoken.compile(module, (x,), dtype="int8", calibrate=[{"y": x}], out=tmp_path / "m")


def test_options_that_do_not_go_together() -> None:
    with pytest.raises(KaokenError, match="calibration is for dtype int8 and few bits, not bf16"):
        CompileOptions(dtype="bf16", calibrate=[{"x": np.zeros(1)}])
    with pytest.raises(KaokenError, match="static activations need samples"):
        CompileOptions(dtype="int8", activations="static")
    with pytest.raises(KaokenError, match="unknown activations odd: choose from dynamic, static"):
        CompileOptions(dtype="int8", activations="odd")


def test_files_of_texts(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("A cat.\n\n  A dog. \n", encoding="utf-8")
    assert read_texts(path) == ["A cat.", "A dog."]
    with pytest.raises(KaokenError, match=r"has no tokenizer\.json"):
        text_samples(tmp_path, path, 16)
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(KaokenError, match="has no text in it: give one text a line"):
        read_texts(path)
    with pytest.raises(KaokenError, match="cannot be read as text"):
        read_texts(tmp_path / "none.txt")
