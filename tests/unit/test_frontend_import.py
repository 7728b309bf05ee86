"""What the importer keeps of a module besides its ops: names, sizes, weights; and its errors."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.dialects.func import FuncOp

from kaoken import output_tree
from kaoken.dialect.reference import run_module
from kaoken.errors import KaokenError
from kaoken.frontend.load import load_model
from kaoken.modules import parse_module, read_module, write_module
from kaoken.weights import store_of

torch = pytest.importorskip("torch")
F = torch.nn.functional

from kaoken.frontend.torch_export import import_exported, import_module  # noqa: E402

Dim = torch.export.Dim


def main_of(module: ModuleOp) -> FuncOp:
    return next(op for op in module.walk() if isinstance(op, FuncOp))


def tree_of(module: ModuleOp, kind: str = "output") -> Any:
    text = module.attributes[f"kaoken.{kind}_tree"]
    assert isinstance(text, StringAttr)
    return json.loads(text.data)


class TwoInputs(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)
        self.twin = torch.nn.Linear(4, 3)
        self.twin.weight = self.layer.weight
        self.register_buffer("offset", torch.arange(3.0))

    def forward(self, x: Any, others: Any, flag: bool = True) -> Any:
        y = self.layer(x) + self.offset
        return {"y": y, "pair": (self.twin(others[0]), None, 3), "z": y.sum(0)}


def two_inputs() -> tuple[Any, tuple[Any, ...], Any]:
    n = Dim("rows", max=16)
    return TwoInputs(), (torch.randn(2, 4), [torch.randn(2, 4)]), ({0: n}, [{0: n}])


def test_names_of_inputs_sizes_and_results() -> None:
    module, args, sizes = two_inputs()
    text = str(import_module(module, args, {}, sizes, name="my model"))
    assert 'kaoken.name = "my_model"' in text
    assert (
        '%x: tensor<?x4xf32> {kaoken.shape = #kaoken.shape<[rows, 4]>, kaoken.name = "x"}' in text
    )
    assert 'kaoken.name = "others_0"' in text
    assert "kaoken.max = {rows = 16 : i64}" in text
    assert 'kaoken.results = ["y", "pair_0", "z"]' in text


def test_structure_of_results() -> None:
    module, args, sizes = two_inputs()
    imported = import_module(module, args, {}, sizes)
    results = run_module(imported, [args[0].numpy(), args[1][0].numpy()])
    built = output_tree.build(tree_of(imported), results)
    expected = module(*args)
    assert list(built) == ["y", "pair", "z"]
    assert built["pair"][1:] == (None, 3)
    np.testing.assert_allclose(built["pair"][0], expected["pair"][0].detach(), atol=1e-6)
    np.testing.assert_allclose(built["z"], expected["z"].detach(), atol=1e-6)


def test_shared_weights_are_stored_once_and_not_copied() -> None:
    module, args, sizes = two_inputs()
    store = store_of(import_module(module, args, {}, sizes))
    (shared,) = set(store.keys()) - {"layer.bias", "twin.bias", "offset"}
    assert shared in ("layer.weight", "twin.weight")
    assert store[shared].ctypes.data == module.layer.weight.data_ptr()


def test_text_and_sidecar_give_the_same_module(tmp_path: Any) -> None:
    module, args, sizes = two_inputs()
    imported = import_module(module, args, {}, sizes)
    write_module(imported, tmp_path / "two.mlir")
    again = load_model(tmp_path / "two.mlir")
    inputs = [args[0].numpy(), args[1][0].numpy()]
    for a, b in zip(run_module(imported, inputs), run_module(again, inputs), strict=True):
        np.testing.assert_array_equal(a, b)
    assert str(parse_module(str(imported))) == str(imported)


class Scale(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        return x * 2


class Difference(torch.nn.Module):
    def forward(self, x: Any, y: Any) -> Any:
        return x - y


def test_one_tensor_as_two_inputs() -> None:
    x = torch.ones(2)
    imported = import_module(Difference(), (x, x))
    (result,) = run_module(imported, [np.full(2, 5, np.float32), np.ones(2, np.float32)])
    np.testing.assert_array_equal(result, 4)


def test_sizes_without_names_are_called_after_their_argument() -> None:
    program = torch.export.export(
        Scale(), (torch.ones(3, 5),), dynamic_shapes={"x": {1: Dim("n", max=9)}}, strict=False
    )
    imported = import_exported(program)
    assert "#kaoken.shape<[3, x_1]>" in str(imported)
    assert "kaoken.max = {x_1 = 9 : i64}" in str(imported)
    assert 'kaoken.results = ["output"]' in str(imported)


def test_sizes_that_follow_from_another() -> None:
    n = Dim("n", max=4)
    imported = import_module(Scale(), (torch.ones(6, 2),), {}, {"x": {0: 2 * n}})
    assert '#kaoken.shape<["2*n", 2]>' in str(imported)
    (result,) = run_module(imported, [np.ones((4, 2), np.float32)])
    assert result.shape == (4, 2)


def test_pt2_file(tmp_path: Any) -> None:
    path = tmp_path / "scale.pt2"
    torch.export.save(torch.export.export(Scale(), (torch.ones(3),)), path)
    imported = load_model(path)
    assert 'kaoken.name = "scale"' in str(imported)
    (result,) = run_module(imported, [np.ones(3, np.float32)])
    np.testing.assert_array_equal(result, 2)


def test_a_module_without_open_sizes_or_weights() -> None:
    imported = load_model(Scale(), (torch.ones(2),))
    assert "kaoken.max = {}" in str(imported)
    assert store_of(imported).keys() == []


def fails(match: str, function: Any, *inputs: Any, sizes: Any = None) -> None:
    class Module(torch.nn.Module):
        def forward(self, *inputs: Any) -> Any:
            return function(*inputs)

    with pytest.raises(KaokenError, match=match):
        import_module(Module(), inputs, {}, sizes)


class Unknown(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        y = torch.sort(x).values
        z = torch.linalg.qr(x).Q
        return y + z + torch.sort(z).values


def test_unknown_ops_are_all_listed_with_their_lines() -> None:
    with pytest.raises(KaokenError) as raised:
        load_model(Unknown(), (torch.ones(3, 3),))
    text = str(raised.value)
    assert "2 ops" in text
    assert text.count("aten.sort") == 2
    assert "aten.linalg_qr" in text
    assert "test_frontend_import.py" in text
    assert "z = torch.linalg.qr(x).Q" in text


def test_an_open_size_without_a_maximum() -> None:
    with pytest.raises(KaokenError, match=r'"n" has no largest value.*Dim\("n", max='):
        import_module(Scale(), (torch.ones(3),), {}, {"x": {0: Dim("n")}})


def test_a_size_that_is_no_polynomial() -> None:
    sizes = (({0: Dim("n", max=8)},),)
    fails(r"n \+ 1\)//2.*no polynomial", lambda x: x[::2] * 2, torch.ones(6), sizes=sizes)


class LastRows(torch.nn.Module):
    """As ALiBi's table in MPT: as many rows of a table, from its end, as there are tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.arange(9.0))

    def forward(self, x: Any) -> Any:
        rows = self.table[torch.sym_max(0, 9 - x.shape[0]) :]
        return x * rows[torch.sym_max(0, 1 - x.shape[0]) :]


def test_the_larger_of_two_sizes() -> None:
    """Whichever it is by the bounds of the open sizes, which are at least 1."""
    module = import_module(LastRows(), (torch.ones(5),), None, ({0: Dim("n", max=8)},))
    for n in (1, 5, 8):
        (result,) = run_module(module, [np.ones(n, np.float32)])
        np.testing.assert_array_equal(result, np.arange(9 - n, 9))


def test_what_depends_on_data_is_refused() -> None:
    fails("torch.export cannot export", lambda x: x * 2 if x.sum() > 0 else x, torch.ones(3))


def test_indexing_by_bools_is_refused() -> None:
    fails("bool tensor|no polynomial", lambda x: x[x > 0].sum(), torch.ones(3))


def test_complex_numbers_are_refused() -> None:
    fails("complex64 are not supported", lambda x: x * 2, torch.ones(4) + 0j)


def test_a_returned_size_is_refused() -> None:
    sizes = (({0: Dim("n", max=8)},),)
    fails("returns the size n", lambda x: (x, x.shape[0]), torch.ones(6), sizes=sizes)


def test_a_module_that_changes_itself_is_refused() -> None:
    class Counter(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(3))

        def forward(self, x: Any) -> Any:
            self.count += 1
            return x + self.count

    with pytest.raises(KaokenError, match="changes count while it runs"):
        import_module(Counter(), (torch.ones(3),))


def test_training_mode_is_refused() -> None:
    with pytest.raises(KaokenError, match=r"call module.eval\(\) first"):
        import_module(torch.nn.Dropout(0.5), (torch.ones(3),))


def test_half_precision_weights_are_refused() -> None:
    with pytest.raises(KaokenError, match=r"bfloat16.*\.float\(\)"):
        import_module(torch.nn.Linear(2, 2).bfloat16(), (torch.ones(1, 2).bfloat16(),))


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("missing.pt2", None, "there is no file or folder"),
        ("broken.pt2", b"PK\x03\x04 cut off", "is not what torch.export.save writes"),
        ("model.onnx", b"x", "is no model that kaoken reads"),
        ("broken.mlir", b"func.func @main(", "broken.mlir:1"),
    ],
)
def test_files_that_hold_no_model(tmp_path: Any, name: str, content: Any, match: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(KaokenError, match=match):
        load_model(path)


def test_a_sidecar_of_another_module(tmp_path: Any) -> None:
    for name in ("a", "b"):
        imported = import_module(torch.nn.Linear(2, 2), (torch.ones(1, 2),))
        write_module(imported, tmp_path / f"{name}.mlir")
    (tmp_path / "b.safetensors").replace(tmp_path / "a.safetensors")
    with pytest.raises(KaokenError, match=r"does not match its \.mlir"):
        load_model(tmp_path / "a.mlir")
    with pytest.raises(KaokenError, match="cannot read"):
        read_module(tmp_path / "b.mlir")


def test_arguments_beside_a_path_and_things_that_are_no_model(tmp_path: Any) -> None:
    with pytest.raises(KaokenError, match="go with a torch module"):
        load_model(tmp_path, (torch.ones(1),))
    with pytest.raises(KaokenError, match="not int"):
        load_model(3)  # pyright: ignore[reportArgumentType]
