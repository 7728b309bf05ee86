"""CompiledModel: arguments, checks, kinds of array, bound calls."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kaoken.backend.loader import Library
from kaoken.compiled_model import CompiledModel
from kaoken.errors import KaokenError
from tests.unit.tiny_model import expected, inputs, write_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> CompiledModel:
    folder = write_tiny(tmp_path_factory.mktemp("loader") / "tiny", threads=1)
    return CompiledModel(Library(folder))


def test_positions_and_names(model: CompiledModel) -> None:
    arguments = inputs(5)
    y = expected(arguments["x"])[0]
    for result in (
        model(**arguments),
        model(*arguments.values()),
        model(arguments["x"], ids=arguments["ids"]),
    ):
        np.testing.assert_array_equal(result["y"], y)


def test_strided_arrays_are_copied(model: CompiledModel) -> None:
    x = np.asfortranarray(inputs(5)["x"])
    np.testing.assert_array_equal(model(x, inputs(5)["ids"])["y"], expected(x)[0])


def test_unaligned_arrays_are_copied(model: CompiledModel) -> None:
    memory = np.zeros(5 * 4 * 4 + 1, np.uint8)[1:]
    x = memory.view(np.float32).reshape(5, 4)
    x[:] = inputs(5)["x"]
    np.testing.assert_array_equal(model(x, inputs(5)["ids"])["y"], expected(x)[0])


def test_results_are_not_overwritten_by_the_next_call(model: CompiledModel) -> None:
    first = model(**inputs(5))["y"]
    before = first.copy()
    model(inputs(5)["x"] + 1, inputs(5)["ids"])
    np.testing.assert_array_equal(first, before)


WRONG = {
    "missing": ({"ids": None}, "the input ids is missing"),
    "unknown": ({"mask": np.zeros(1)}, "tiny has no input mask; it has x, ids"),
    "dtype": ({"x": np.zeros((5, 4))}, "x: expected float32, got float64"),
    "rank": (
        {"x": np.zeros(5, np.float32)},
        r"x: expected 2 dimensions \[tokens, 4\], got 1",
    ),
    "fixed size": (
        {"x": np.zeros((5, 3), np.float32)},
        r"x: dimension 1 of \[tokens, 4\] is 3, expected 4",
    ),
    "symbol": ({"ids": np.zeros(4, np.int64)}, "tokens is 4 in ids, but 5 in x"),
    "list": ({"x": [1.0]}, "x: expected a numpy array or torch tensor, got list"),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG.keys())
def test_wrong_arguments(model: CompiledModel, change: dict[str, object], message: str) -> None:
    with pytest.raises(KaokenError, match=f"^{message}$"):
        model(**(inputs(5) | change))


def test_wrong_count_of_arguments(model: CompiledModel) -> None:
    with pytest.raises(KaokenError, match="takes 2 inputs, but got 3"):
        model(1, 2, 3)
    with pytest.raises(KaokenError, match="the input x is given twice"):
        model(inputs(5)["x"], x=inputs(5)["x"])


def test_too_many_tokens(model: CompiledModel) -> None:
    message = (
        "^tokens is 65, but the model was compiled for at most 64: compile with --max-tokens 65$"
    )
    with pytest.raises(KaokenError, match=message):
        model(**inputs(65))
    with pytest.raises(KaokenError, match="tokens is 0, but must be at least 1"):
        model(**inputs(0))


def test_bound_call(model: CompiledModel) -> None:
    arguments = inputs(5)
    out = {"y": np.empty((5, 4), np.float32), "z": np.empty(5, np.float32)}
    call = model.bind(**arguments, out=out)
    for value in (1.0, 2.0):
        arguments["x"][:] = value
        result = call()
        assert np.shares_memory(result["y"], out["y"])
        np.testing.assert_array_equal(out["y"], expected(arguments["x"])[0])
    arguments["ids"][0] = -3
    with pytest.raises(KaokenError, match=r"outside 0\.\.9: -3"):
        call()


def test_bound_call_checks_once(model: CompiledModel) -> None:
    arguments = inputs(5)
    with pytest.raises(KaokenError, match="bind needs a contiguous, aligned array"):
        model.bind(np.asfortranarray(arguments["x"]), arguments["ids"])
    with pytest.raises(KaokenError, match="has 2 outputs, but out has 1"):
        model.bind(**arguments, out=np.empty(5, np.float32))
    wrong = [np.empty((4, 4), np.float32), np.empty(5, np.float32)]
    with pytest.raises(KaokenError, match=r"y: dimension 0 of \[tokens, 4\] is 4, expected 5"):
        model.bind(**arguments, out=wrong)
    wrong = [np.empty((5, 4), np.float32), np.broadcast_to(np.float32(0), 5).copy()]
    wrong[1].flags.writeable = False
    with pytest.raises(KaokenError, match="z: the output's array cannot be written"):
        model.bind(**arguments, out=wrong)


def test_torch_in_torch_out(model: CompiledModel) -> None:
    torch = pytest.importorskip("torch")
    arguments = {name: torch.from_numpy(value) for name, value in inputs(5).items()}
    arguments["x"].requires_grad_()
    result = model(**arguments)
    assert isinstance(result["y"], torch.Tensor)
    assert torch.equal(result["y"], torch.from_numpy(expected(inputs(5)["x"])[0]))
    with pytest.raises(KaokenError, match="x: expected float32, got float64"):
        model(arguments["x"].double(), arguments["ids"])


def test_new_context_is_independent(model: CompiledModel) -> None:
    other = model.new_context()
    assert other._idle[0] is not model._idle[0]
    np.testing.assert_array_equal(other(**inputs(3))["y"], model(**inputs(3))["y"])


def test_default_of_a_left_out_input(model: CompiledModel, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(model.folder, tmp_path / "copy"))
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["inputs"][1]["default"] = 3
    (copy / "manifest.json").write_text(json.dumps(manifest))
    result = CompiledModel(Library(copy))(inputs(5)["x"])
    np.testing.assert_array_equal(result["y"], expected(inputs(5)["x"])[0])


def test_folders_that_are_no_model(model: CompiledModel, tmp_path: Path) -> None:
    with pytest.raises(KaokenError, match="is not a compiled model: it has no manifest"):
        Library(tmp_path)
    for text, message in (("{", "is not JSON"), ("[]", "no JSON object"), ("{}", "not a manifest")):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(KaokenError, match=message):
            Library(tmp_path)
    copy = Path(shutil.copytree(model.folder, tmp_path / "copy"))
    (copy / "libtiny.so").write_bytes(b"nothing")
    with pytest.raises(KaokenError, match="cannot be loaded on this machine"):
        Library(copy)
    (copy / "libtiny.so").unlink()
    with pytest.raises(KaokenError, match=r"libtiny\.so is missing"):
        Library(copy)


def test_a_library_of_another_version(model: CompiledModel) -> None:
    with pytest.raises(KaokenError, match=r"another version of kaoken.*_foretell: compile"):
        Library(model.folder).functions({"foretell": (None, [])})


def test_running_needs_neither_torch_nor_xdsl(model: CompiledModel) -> None:
    code = (
        "import sys, kaoken, numpy as np\n"
        f"m = kaoken.load({str(model.folder)!r})\n"
        "m(np.zeros((2, 4), np.float32), np.zeros(2, np.int64))\n"
        "print([m for m in ('torch', 'xdsl') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_open_sizes_are_xdsls() -> None:
    from xdsl.dialects.builtin import DYNAMIC_INDEX

    from kaoken.dialect.dims import DYNAMIC

    assert DYNAMIC == DYNAMIC_INDEX


# ---- calls with sizes that were seen before ----


def test_known_sizes_are_checked_again(model: CompiledModel) -> None:
    """A second call takes the short way, and still refuses what the first one would."""
    arguments = inputs(5)
    model(**arguments)
    y = expected(arguments["x"])[0]
    np.testing.assert_array_equal(model(**arguments)["y"], y)
    np.testing.assert_array_equal(model(*arguments.values())["y"], y)
    for change, message in WRONG.values():
        with pytest.raises(KaokenError, match=f"^{message}$"):
            model(**(arguments | change))
    arguments["ids"][0] = -3
    with pytest.raises(KaokenError, match=r"outside 0\.\.9: -3"):
        model(**arguments)


def test_known_sizes_take_arrays_of_any_memory(model: CompiledModel) -> None:
    arguments = inputs(7)
    x, ids = arguments["x"], arguments["ids"]
    y = model(x, ids)["y"]
    frozen = x.copy()
    frozen.flags.writeable = False
    unaligned = np.zeros(x.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(x.shape)
    unaligned[:] = x
    swapped = x.astype(x.dtype.newbyteorder())
    for same in (frozen, np.asfortranarray(x), np.repeat(x, 2, axis=0)[::2], unaligned):
        np.testing.assert_array_equal(model(same, ids)["y"], y)
    with pytest.raises(KaokenError, match="x: expected float32"):
        model(swapped, ids)


def test_known_sizes_with_inputs_left_out(model: CompiledModel) -> None:
    arguments = inputs(7)
    model(**arguments)
    with pytest.raises(KaokenError, match="the input ids is missing"):
        model(arguments["x"])
    with pytest.raises(KaokenError, match="the input ids is missing"):
        model(arguments["x"], None)
    with pytest.raises(KaokenError, match="the input x is given twice"):
        model(arguments["x"], x=arguments["x"])
    y = expected(arguments["x"])[0]
    zeros = np.zeros((1, 7), np.int64)
    np.testing.assert_array_equal(model(**arguments, token_type_ids=zeros)["y"], y)


def test_plans_do_not_pile_up(model: CompiledModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kaoken.call_plans.MAX_PLANS", 3)
    for tokens in (*range(1, 9), *range(1, 9)):
        arguments = inputs(tokens)
        np.testing.assert_array_equal(model(**arguments)["y"], expected(arguments["x"])[0])
    assert len(model._plans._plans) <= 3


def test_known_sizes_of_tensors(model: CompiledModel) -> None:
    torch = pytest.importorskip("torch")
    arguments = {name: torch.from_numpy(value) for name, value in inputs(7).items()}
    x, ids = arguments["x"], arguments["ids"]
    y = torch.from_numpy(expected(inputs(7)["x"])[0])
    negated = torch.complex(torch.zeros_like(x), -x).conj().imag
    assert negated.is_neg()
    again = [x, x.clone().requires_grad_(), x.T.contiguous().T, torch.nn.Parameter(x), negated]
    for same in again:
        result = model(same, ids)["y"]
        assert type(result) is torch.Tensor
        assert torch.equal(result, y)
    assert isinstance(model(x.numpy(), ids.numpy())["y"], np.ndarray)
    for wrong in (x.double(), x.to("meta"), x.to_sparse()):
        with pytest.raises(KaokenError, match=r"^x: "):
            model(wrong, ids)


def test_calls_of_many_threads(model: CompiledModel) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def call(tokens: int) -> bool:
        arguments = inputs(tokens)
        wanted = expected(arguments["x"])[0]
        return all(np.array_equal(model(**arguments)["y"], wanted) for _ in range(50))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(call, [1, 5, 7, 17, 33, 64] * 4))
