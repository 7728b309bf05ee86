"""kaoken.compile and kaoken.load, from a torch module or a path to a function."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kaoken
from kaoken.errors import KaokenError
from kaoken.options import CompileOptions
from kaoken.tools.inspect_command import describe
from tests.unit.small_bert import MAX_POSITIONS, WORDS, write_folder

torch = pytest.importorskip("torch")


class TwoLayers(torch.nn.Module):
    """y = W2 gelu(W1 x), in a structure that a test chooses."""

    def __init__(self, shape: str = "tensor"):
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Linear(20, 33)
        self.second = torch.nn.Linear(33, 12)
        self.shape = shape

    def forward(self, x: Any) -> Any:
        hidden = torch.nn.functional.gelu(self.first(x))
        y = self.second(hidden)
        return {"tensor": y, "tuple": (y, hidden), "dict": {"y": y, "hidden": hidden}}[self.shape]


class Nested(torch.nn.Module):
    """Inputs in a list and a dict."""

    def forward(self, pair: Any, named: Any) -> Any:
        return pair[0] + pair[1] * named["scale"]


ROWS = torch.export.Dim("rows", max=40)


def compile_two(out: Path | None, shape: str = "tensor", **options: Any) -> Any:
    module = TwoLayers(shape).eval()
    x = torch.randn(5, 20)
    return module, kaoken.compile(module, (x,), dynamic_shapes=({0: ROWS},), out=out, **options)


def assert_close(actual: Any, expected: Any) -> None:
    actual = actual.numpy() if isinstance(actual, torch.Tensor) else actual
    np.testing.assert_allclose(actual, expected.detach().numpy(), atol=1e-6)


def test_one_artefact_takes_every_size(tmp_path: Path) -> None:
    module, model = compile_two(tmp_path / "two")
    for rows in (1, 2, 3, 6, 7, 13, 40):
        x = torch.randn(rows, 20)
        assert_close(model(x), module(x))
        assert_close(model(x.numpy()), module(x))
    with pytest.raises(KaokenError, match="rows is 41, but the model was compiled for at most 40"):
        model(torch.randn(41, 20))


def test_a_long_name_stays_whole_in_c(tmp_path: Path) -> None:
    module, model = compile_two(tmp_path / ("two_layers_" * 13))
    x = torch.randn(3, 20)
    assert_close(model(x), module(x))


def test_rows_do_not_depend_on_their_neighbours(tmp_path: Path) -> None:
    _, model = compile_two(tmp_path / "two")
    x = np.random.default_rng(0).standard_normal((40, 20)).astype(np.float32)
    whole = model(x)
    for rows in (1, 3, 7):
        np.testing.assert_array_equal(model(x[:rows]), whole[:rows])


def test_threads_give_equal_bits(tmp_path: Path) -> None:
    _, model = compile_two(tmp_path / "two", threads=3)
    x = np.random.default_rng(0).standard_normal((40, 20)).astype(np.float32)
    for threads in (1, 2):
        np.testing.assert_array_equal(kaoken.load(model.folder, threads)(x), model(x))


@pytest.mark.parametrize("target", ["generic", "x86-64-v3", "x86-64-v4"])
def test_targets(tmp_path: Path, target: str) -> None:
    from kaoken.backend.machine import TargetMachine, cpu_flags

    if not cpu_flags().issuperset(TargetMachine.parse(target).cpu_flags):
        pytest.skip(f"this CPU is no {target}")
    module, model = compile_two(tmp_path / "two", target=target)
    assert model.manifest["target"] == target
    x = torch.randn(7, 20)
    assert_close(model(x), module(x))


def test_given_schedule(tmp_path: Path) -> None:
    text = "linear k=20 n=33 { panel(8) tile(m, 2) order(n0, m, m_in, n1) vectorize(m_in, n1) }"
    module, model = compile_two(tmp_path / "two", target="generic", schedule=text)
    assert "n0 * 8" in (tmp_path / "two" / "two.c").read_text()
    x = torch.randn(7, 20)
    assert_close(model(x), module(x))
    with pytest.raises(KaokenError, match="attention"):
        compile_two(tmp_path / "other", schedule="attention { tile(i, 4) }")


@pytest.mark.parametrize(("dtype", "tolerance"), [("bf16", 2e-2), ("int8", 5e-2)])
def test_narrow_dtypes(tmp_path: Path, dtype: str, tolerance: float) -> None:
    module, model = compile_two(tmp_path / "two", dtype=dtype)
    x = torch.randn(7, 20)
    difference = (model(x) - module(x)).abs().max().item()
    assert 0 < difference < tolerance


@pytest.mark.parametrize(("math", "tolerance"), [("quake1", 2e-2), ("quake2", 2e-3)])
def test_fast_exponentials(tmp_path: Path, math: str, tolerance: float) -> None:
    module, model = compile_two(tmp_path / "two", math=math)
    assert describe(model.folder)["math"] == math
    for rows in (1, 7, 17, 40):
        x = 4 * torch.randn(rows, 20)
        difference = (model(x) - module(x)).abs().max().item()
        assert 0 < difference < tolerance
    alone = model(x[:1])
    np.testing.assert_array_equal(alone.numpy(), model(x)[:1].numpy())


@pytest.mark.parametrize("math", ["quake1", "quake2"])
def test_fast_attention_sees_no_padding(tmp_path: Path, math: str, bert_folder: Path) -> None:
    model = kaoken.compile(bert_folder, out=tmp_path / "bert", math=math)
    exact = kaoken.compile(bert_folder, out=tmp_path / "exact")
    ids = np.random.default_rng(0).integers(0, len(WORDS), (2, 9))
    mask = np.ones_like(ids)
    mask[1, 5:] = 0
    padded = model(ids, mask).last_hidden_state
    np.testing.assert_array_equal(padded[1, :5], model(ids[1:, :5]).last_hidden_state[0])
    difference = np.abs(padded - exact(ids, mask).last_hidden_state).max()
    assert 0 < difference < (0.03 if math == "quake1" else 0.003)


def test_output_structures(tmp_path: Path) -> None:
    x = torch.randn(3, 20)
    module, model = compile_two(tmp_path / "tuple", "tuple")
    result = model(x)
    assert isinstance(result, tuple)
    assert_close(result[1], module(x)[1])
    module, model = compile_two(tmp_path / "dict", "dict")
    result = model(x)
    assert list(result) == ["y", "hidden"]
    assert_close(result["hidden"], module(x)["hidden"])


def test_nested_inputs(tmp_path: Path) -> None:
    a, b = torch.randn(2, 4), torch.randn(2, 4)
    arguments = ([a, b], {"scale": torch.tensor(3.0)})
    model = kaoken.compile(Nested(), arguments, out=tmp_path / "nested")
    assert_close(model(*arguments), Nested()(*arguments))


def test_an_input_given_twice_is_two_inputs(tmp_path: Path) -> None:
    class Difference(torch.nn.Module):
        def forward(self, a: Any, b: Any) -> Any:
            return a - b

    x = torch.randn(4)
    model = kaoken.compile(Difference(), (x, x), out=tmp_path / "difference")
    assert_close(model(x, 2 * x), -x)


def test_cached_compile_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAOKEN_CACHE", str(tmp_path))
    stages: list[str] = []
    compile_two(None, progress=stages.append)
    assert "compile C" in stages
    stages.clear()
    module, model = compile_two(None, progress=stages.append)
    assert stages == ["import", "load"]
    x = torch.randn(3, 20)
    assert_close(model(x), module(x))
    compile_two(None, progress=stages.append, target="generic")
    assert "compile C" in stages


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    return write_folder(tmp_path_factory.mktemp("hf") / "tinybert")


def test_hugging_face_folder(bert_folder: Path, tmp_path: Path) -> None:
    from transformers import BertModel

    model = kaoken.compile(bert_folder, out=tmp_path / "bert")
    module = BertModel.from_pretrained(bert_folder).eval()
    ids = torch.randint(4, len(WORDS), (3, 9))
    mask = torch.ones_like(ids)
    result, expected = model(input_ids=ids, attention_mask=mask), module(ids, mask)
    assert type(result) is type(expected)
    assert_close(result.last_hidden_state, expected.last_hidden_state)
    assert_close(result.pooler_output, expected.pooler_output)
    assert_close(model(ids).last_hidden_state, expected.last_hidden_state)
    zeros = torch.zeros_like(ids)
    assert_close(model(ids, token_type_ids=zeros)[0], expected.last_hidden_state)
    with pytest.raises(KaokenError, match="was compiled without token_type_ids"):
        model(ids, token_type_ids=zeros + 1)


def test_token_outside_the_vocabulary(bert_folder: Path, tmp_path: Path) -> None:
    model = kaoken.compile(bert_folder, out=tmp_path / "bert")
    for token in (len(WORDS), -1, 1 << 40):
        ids = np.full((2, 5), 4, np.int64)
        ids[1, 3] = token
        with pytest.raises(KaokenError, match=f"input_ids .*: {token}$"):
            model(ids)
    with pytest.raises(KaokenError, match=f"tokens is 99, .* at most {MAX_POSITIONS}"):
        model(np.full((1, 99), 4, np.int64))


WRONG_OPTIONS = {
    "dtype": ({"dtype": "int7"}, "unknown dtype int7: choose from auto, f32, bf16, int8"),
    "math": ({"math": "fast"}, "unknown math fast: choose from exact, quake1, quake2"),
    "threads": ({"threads": 0}, "threads is 0, but must be at least 1"),
}


@pytest.mark.parametrize(("options", "message"), WRONG_OPTIONS.values(), ids=WRONG_OPTIONS.keys())
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(KaokenError, match=message):
        CompileOptions(**options)


def test_wrong_target_and_output(tmp_path: Path) -> None:
    with pytest.raises(KaokenError, match="unknown target 'z80'"):
        compile_two(tmp_path / "two", target="z80")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(KaokenError, match="holds other files"):
        compile_two(tmp_path / "mine")
    with pytest.raises(KaokenError, match="cannot write to /dev/null/two"):
        compile_two(Path("/dev/null/two"))
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_what_is_no_model() -> None:
    with pytest.raises(KaokenError, match="not int"):
        kaoken.compile(3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(KaokenError, match="there is no file or folder /nowhere"):
        kaoken.compile("/nowhere")


def test_torch_is_missing(monkeypatch: pytest.MonkeyPatch, bert_folder: Path) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr("kaoken.frontend.load.load_model", missing)
    with pytest.raises(KaokenError, match="needs torch, which is not installed: `pip install"):
        kaoken.compile(bert_folder)
