"""`kaoken eval`: perplexity and divergence as PyTorch computes them, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import kaoken
from kaoken.compiled_decoder import CompiledDecoder
from kaoken.errors import KaokenError
from kaoken.evaluation import evaluate, log_softmax, windows_of
from kaoken.tools.kaoken import main
from tests.available import STORIES, needs_stories

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("gguf")
pytest.importorskip("tokenizers")

from tests.unit.gguf_files import write_gguf  # noqa: E402

pytestmark = needs_stories
TEXT = "Once upon a time, there was a little girl named Lily. She loved to play outside. " * 4
WINDOW = 50


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = transformers.AutoModelForCausalLM.from_pretrained(STORIES)
    return write_gguf(tmp_path_factory.mktemp("gguf") / "s.gguf", model, tokenizer=STORIES)


@pytest.fixture(scope="module")
def packages(gguf_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """In f32 and bf16; their calls give 8 rows of logits."""
    folder = tmp_path_factory.mktemp("packages")
    for dtype in ("f32", "bf16"):
        kaoken.compile(gguf_file, out=folder / dtype, dtype=dtype, max_tokens=WINDOW)
    return folder / "f32", folder / "bf16"


def torch_log_probabilities(windows: list[np.ndarray]) -> list[np.ndarray]:
    model = transformers.AutoModelForCausalLM.from_pretrained(STORIES)
    with torch.no_grad():
        rows = [model(torch.from_numpy(w)[None]).logits[0, :-1].double() for w in windows]
    return [torch.log_softmax(one, -1).numpy() for one in rows]


def test_windows() -> None:
    pieces = windows_of(range(10, 20), 4, [1])
    assert [p.tolist() for p in pieces] == [
        [1, 10, 11, 12],
        [1, 13, 14, 15],
        [1, 16, 17, 18],
        [1, 19],
    ]
    assert [p.tolist() for p in windows_of([1, 2, 3, 4], 3)] == [[1, 2, 3]]
    with pytest.raises(KaokenError, match="too small"):
        windows_of([1, 2], 1, [1])
    with pytest.raises(KaokenError, match="too few tokens"):
        windows_of([5], 4)


def test_log_softmax_of_large_numbers() -> None:
    rows = log_softmax(np.array([[1000.0, 1000.0], [-1e4, 0.0]], np.float32))
    np.testing.assert_allclose(rows, [[-np.log(2), -np.log(2)], [-1e4, 0.0]])


def test_figures_are_those_of_pytorch(packages: tuple[Path, Path]) -> None:
    plain, narrow = (kaoken.load_decoder(folder) for folder in packages)
    ids = np.random.default_rng(0).integers(3, 512, 171)
    windows = windows_of(ids.tolist(), WINDOW, [1])
    assert [len(one) for one in windows] == [50, 50, 50, 25]
    done: list[int] = []
    score, other, comparison = evaluate(narrow, windows, plain, done.append)
    assert other is not None
    assert comparison is not None
    wanted = torch_log_probabilities(windows)
    losses = np.concatenate(
        [-rows[np.arange(len(rows)), w[1:]] for rows, w in zip(wanted, windows, strict=True)]
    )
    assert sum(done) == score.predicted == other.predicted == len(losses) == 171
    np.testing.assert_allclose(np.concatenate(other.losses), losses, atol=1e-3)
    assert other.perplexity == pytest.approx(np.exp(losses.mean()), rel=1e-4)
    assert other.error == pytest.approx(other.perplexity * losses.std() / 171**0.5, rel=1e-3)
    assert score.perplexity == pytest.approx(other.perplexity, rel=0.05)
    assert score.perplexity != other.perplexity
    narrow_rows = [log_softmax(logits_of(narrow, w[:-1])) for w in windows]
    pairs = list(zip(wanted, narrow_rows, strict=True))
    divergence = np.concatenate([(np.exp(p) * (p - q)).sum(1) for p, q in pairs]).mean()
    same = np.concatenate([p.argmax(1) == q.argmax(1) for p, q in pairs]).mean()
    assert comparison.divergence == pytest.approx(divergence, rel=0.01)
    assert comparison.agreement == pytest.approx(same)


def logits_of(decoder: CompiledDecoder, ids: np.ndarray) -> np.ndarray:
    decoder.reset()
    return np.stack([decoder.step(int(token)).copy() for token in ids])


def test_all_logits_are_those_of_steps(packages: tuple[Path, Path]) -> None:
    decoder = kaoken.load_decoder(packages[0])
    ids = np.random.default_rng(1).integers(3, 512, WINDOW)
    rows = [one.copy() for one in decoder.all_logits(ids)]
    assert [len(one) for one in rows] == [8] * 6 + [2]
    assert len(decoder) == 0
    np.testing.assert_array_equal(np.concatenate(rows), logits_of(decoder, ids))
    with pytest.raises(KaokenError, match="at most 50 tokens, but 51 were given"):
        next(decoder.all_logits(np.zeros(51, np.int64)))


def run(words: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert not stopped.value.code


def test_the_command(
    gguf_file: Path,
    packages: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A .gguf is compiled so that a call gives the logits of all its tokens."""
    monkeypatch.setenv("KAOKEN_CACHE", str(tmp_path / "cache"))
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    words = ["eval", str(gguf_file), "--text", str(text), "--tokens", "60", "--window", "50"]
    words += ["--against", str(packages[1])]
    run([*words, "--json"])
    figures = json.loads(capsys.readouterr().out)
    assert (figures["tokens"], figures["predicted"], figures["window"]) == (60, 60, 50)
    assert 1 < figures["perplexity"] < 20
    assert 0 < figures["against"]["mean_divergence"] < 0.01
    (manifest,) = (tmp_path / "cache").rglob("manifest.json")
    assert json.loads(manifest.read_text())["symbols"]["outputs"] == 50
    run(words)
    assert "perplexity" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing", "--text", "t.txt"], "there is no file or folder missing"),
        (["{f32}", "--text", "missing.txt"], r"missing\.txt cannot be read: No such file"),
        (["{f32}", "--text", "empty.txt"], r"empty\.txt has no text in it"),
        (["{f32}", "--text", "bytes.txt"], r"bytes\.txt is no text in UTF-8"),
        (["{f32}", "--text", "t.txt", "--against", "none"], "there is no file or folder none"),
        (["broken", "--text", "t.txt"], r"broken/tokenizer\.json is no tokenizer"),
        (["{f32}", "--text", "t.txt", "--window", "0"], "--window"),
    ],
)
def test_mistakes(
    words: list[str],
    message: str,
    packages: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text(TEXT)
    shutil.copytree(packages[0], "broken")
    Path("broken/tokenizer.json").write_text("{broken")
    Path("empty.txt").write_text(" \n")
    Path("bytes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SystemExit) as stopped:
        main(["eval", *(word.format(f32=packages[0]) for word in words)])
    assert stopped.value.code
    error = capsys.readouterr().err
    assert re.search(message, error)
