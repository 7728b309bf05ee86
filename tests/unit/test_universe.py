"""The registry and the command-line tools built on it."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import ArrayAttr, ModuleOp, StringAttr
from xdsl.passes import ModulePass
from xdsl.universe import XDSL_UNIVERSE

from kaoken.dialect.nn import WeightOp
from kaoken.modules import parse_module, read_module, write_module
from kaoken.tools import kaoken_opt, kaoken_translate
from kaoken.universe import KAOKEN_UNIVERSE, make_context
from kaoken.weights import WEIGHTS, attach_store, store_of
from tests.helpers import store_from

MODULE = """
func.func @main(%x: tensor<?x3xf32>) -> tensor<?x3xf32> {
  %w = kaoken.weight "w" : tensor<3xf32>
  %y = kaoken.elementwise add %x, %w : tensor<?x3xf32>, tensor<3xf32> -> tensor<?x3xf32>
  func.return %y : tensor<?x3xf32>
}
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    module = parse_module(MODULE)
    attach_store(module, store_from({"w": np.arange(3, dtype="f4"), "unused": np.zeros(1)}))
    path = tmp_path / "model.mlir"
    write_module(module, path)
    return path


def test_names_do_not_clash_with_xdsl() -> None:
    for mine, theirs in (
        (KAOKEN_UNIVERSE.all_dialects, XDSL_UNIVERSE.all_dialects),
        (KAOKEN_UNIVERSE.all_passes, XDSL_UNIVERSE.all_passes),
        (KAOKEN_UNIVERSE.all_targets, XDSL_UNIVERSE.all_targets),
    ):
        assert not mine.keys() & theirs.keys()


@pytest.mark.parametrize("name", KAOKEN_UNIVERSE.all_passes)
def test_passes_load_and_have_the_name_they_are_registered_under(name: str) -> None:
    pass_ = KAOKEN_UNIVERSE.all_passes[name]()
    assert pass_.name == name
    assert pass_.__doc__


def test_targets_and_dialects_load() -> None:
    for name, target in KAOKEN_UNIVERSE.all_targets.items():
        assert target().name == name
    context = make_context()
    for name in KAOKEN_UNIVERSE.all_dialects:
        assert context.get_dialect(name).name == name


def test_plain_xdsl_opt_knows_the_dialect(model: Path) -> None:
    tool = Path(sys.executable).with_name("xdsl-opt")
    done = subprocess.run([tool, model, "-p", "cse"], capture_output=True, text=True, check=True)
    assert "kaoken.elementwise add" in done.stdout


def test_help_is_quick_and_imports_neither_numpy_nor_torch() -> None:
    code = (
        "import sys\nfrom kaoken.tools.kaoken_opt import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print(sorted({'numpy', 'torch', 'ml_dtypes'} & set(sys.modules)))"
    )
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.perf_counter() - begin < 2
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("{m} -p tiel", "there is no pass 'tiel': did you mean tile?"),
        ("{m} -p canonicalize,fuze", "there is no pass 'fuze': did you mean fuse?"),
        ("{m} -p cse{{x=1}}", "pass 'cse' has no option 'x': it has none"),
        ("{m} -p cse{{x=1", "cannot read the pipeline"),
        ("{m} -p expand-math-to-polynomials{{terms=a}}", "expand-math-to-polynomials': Incompat"),
        ("{m} -t mlir{{x=1}}", "target 'mlir' has no option 'x'"),
        ("{m} -t d", "invalid choice: 'd'"),
        ("{m} --nope", "unrecognized arguments: --nope"),
        ("{m}.none", "model.mlir.none: No such file or directory"),
        ("{d}", "Is a directory"),
        ("{d}/bytes.mlir", "bytes.mlir: it is not text"),
        ("{m} -o {d}/none/x.mlir", "No such file or directory"),
    ],
)
def test_kaoken_opt_errors_are_one_line(
    model: Path, capsys: pytest.CaptureFixture[str], args: str, message: str
) -> None:
    (model.parent / "bytes.mlir").write_bytes(b"\xff\xfe")
    with pytest.raises(SystemExit) as exit_:
        kaoken_opt.main(args.format(m=model, d=model.parent).split())
    assert exit_.value.code not in (0, None)
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("func.func @f(%x: tensor<4xf32>) { kaoken.foo %x }", ":1:46: Operation kaoken.foo is not"),
        (
            "func.func @f(%x: tensor<4xf32>) { "
            "%0 = kaoken.relu %x : tensor<4xf32> -> tensor<5xf32> func.return }",
            "error: kaoken.relu: result is tensor<5xf32>",
        ),
        ("nonsense", "error: "),
    ],
)
def test_errors_in_the_module_say_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    path = tmp_path / "bad.mlir"
    path.write_text(text)
    out = tmp_path / "out.mlir"
    with pytest.raises(SystemExit):
        kaoken_opt.main([str(path), "-o", str(out)])
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert not out.exists()


def test_output_in_another_folder_finds_its_weights(model: Path) -> None:
    folder = model.parent / "deep" / "er"
    folder.mkdir(parents=True)
    kaoken_opt.main([str(model), "-p", "cse", "-o", str(folder / "out.mlir")])
    module = read_module(folder / "out.mlir")
    assert "../../model.safetensors" in str(module.attributes[WEIGHTS])
    assert store_of(module).keys() == ["w"]


@dataclass(frozen=True)
class DoubleWeights(ModulePass):
    """Stands for a pass that makes new weights, as bake does."""

    name = "double-weights"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        store = store_of(op)
        for weight in [w for w in op.walk() if isinstance(w, WeightOp)]:
            key = weight.key.data
            weight.properties["key"] = StringAttr(store.add(f"{key}.double", store[key] * 2))


@pytest.fixture
def new_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KAOKEN_UNIVERSE.all_passes, DoubleWeights.name, lambda: DoubleWeights)


@pytest.mark.usefixtures("new_pass")
def test_new_weights_are_written_beside_the_output(model: Path) -> None:
    out = model.parent / "out.mlir"
    kaoken_opt.main([str(model), "-p", "double-weights", "-o", str(out)])
    module = read_module(out)
    assert module.attributes[WEIGHTS] == ArrayAttr([StringAttr("out.safetensors")])
    assert store_of(module).keys() == ["w.double"]
    np.testing.assert_array_equal(store_of(module)["w.double"], [0, 2, 4])
    assert store_of(read_module(model)).keys() == ["w"]


@pytest.mark.usefixtures("new_pass")
def test_new_weights_go_to_the_cache_when_printing(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KAOKEN_CACHE", str(model.parent / "cache"))
    kaoken_opt.main([str(model), "-p", "double-weights"])
    out, err = capsys.readouterr()
    (file,) = (model.parent / "cache" / "weights").iterdir()
    assert err == f"new weights are in {file}\n"
    np.testing.assert_array_equal(store_of(parse_module(out))["w.double"], [0, 2, 4])


@pytest.mark.parametrize("damage", ["missing", "truncated", "other"])
def test_bad_sidecars(model: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    sidecar = model.with_suffix(".safetensors")
    if damage == "missing":
        sidecar.unlink()
    elif damage == "truncated":
        sidecar.write_bytes(sidecar.read_bytes()[:-1])
    else:
        store_from({"w": np.ones(3, "f4")}).save(sidecar)
    with pytest.raises(SystemExit):
        kaoken_opt.main([str(model)])
    messages = {"missing": "No such file", "truncated": "truncated", "other": "does not match"}
    error = capsys.readouterr().err
    assert messages[damage] in error
    assert error.count("\n") == 1


def test_translate_errors_are_one_line(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for args in ([str(model)], ["--to-c", "none.mlir"], ["--to-c", str(model), "--target", "vax"]):
        with pytest.raises(SystemExit):
            kaoken_translate.main(args)
        assert capsys.readouterr().err.count("\n") == 1


LAYER = """
module attributes {kaoken.name = "tiny"} {
  func.func @main(%x: tensor<?x32xf32> {kaoken.shape = #kaoken.shape<[tokens, 32]>})
      -> tensor<?x48xf32> attributes {kaoken.max = {tokens = 16}, kaoken.results = ["y"]} {
    %w = arith.constant dense<0.5> : tensor<48x32xf32>
    %y = kaoken.linear %x, %w : tensor<?x32xf32>, tensor<48x32xf32> -> tensor<?x48xf32>
    func.return %y : tensor<?x48xf32>
  }
}
"""


@pytest.mark.parametrize(
    "passes", ["canonicalize", "choose-schedule{target=generic}", "bake", "outline", "plan-memory"]
)
def test_translate_takes_a_module_of_any_level(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], passes: str
) -> None:
    steps = "canonicalize,fuse,choose-schedule{target=generic},bake,outline,lower-to-loops,"
    steps += "reorder,tile,vectorize,lower-math,parallelize,plan-memory"
    before, after = tmp_path / "before.mlir", tmp_path / "after.mlir"
    before.write_text(LAYER)
    kaoken_translate.main(["--to-c", str(before), "--target", "generic"])
    expected = capsys.readouterr().out
    assert "static void linear" in expected
    pipeline = steps[: steps.index(passes) + len(passes)]
    kaoken_opt.main([str(before), "-p", pipeline, "-o", str(after)])
    out = tmp_path / "after.c"
    kaoken_translate.main(["--to-c", str(after), "--target", "generic", "-o", str(out)])
    assert out.read_text() == expected
