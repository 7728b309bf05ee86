"""`kaoken bench`: its parts, and small runs of the whole. The times mean nothing here."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from kaoken.backend.machine import TargetMachine
from kaoken.bench.figures import Decoder, Figures, PeerFigures, ThreadFigures, Work, percentile
from kaoken.bench.harness import Settings, Worker, WorkerError, run_benchmark, working
from kaoken.bench.limits import Limits, Probe
from kaoken.bench.ops import Level, OpFigures, levels
from kaoken.bench.peer import Job, Running, Unsuitable, all_peers, choose_peers
from kaoken.bench.report import tables
from kaoken.bench.tables import Table, seconds, span, three_digits
from kaoken.bench.text import text_inputs
from kaoken.bench.worker import difference, separate_calls, turn
from kaoken.errors import KaokenError
from kaoken.profile import OpTime
from kaoken.tools.bench_command import parse_threads
from kaoken.tools.kaoken import main
from tests.available import needs

QUICK = Settings(rounds=1, seconds=0.01, calls=5, ops=True)
MLIR = """
func.func @main(%x: tensor<?x16xf32> {kaoken.shape = #kaoken.shape<[tokens, 16]>,
                                      kaoken.name = "x"})
    -> tensor<?x16xf32> attributes {kaoken.max = {tokens = 8 : i64}} {
  %0 = kaoken.relu %x : tensor<?x16xf32> -> tensor<?x16xf32>
  func.return %0 : tensor<?x16xf32>
}
"""


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job("layer-norm", 1, 1, 1, "native", tmp_path)


# ---- choosing ----


def test_peers_are_found_by_the_beginnings_of_their_names() -> None:
    assert [p.name for p in choose_peers("torch_eager,kaoken_fp32")] == [
        "torch_eager_fp32",
        "torch_eager_bf16",
        "kaoken_fp32",
    ]
    assert choose_peers("all") == list(all_peers().values())
    assert next(iter(all_peers())).startswith("kaoken")


@pytest.mark.parametrize("request_", ["tensorflow", "", "ort_fp32,"])
def test_unknown_peers_are_refused(request_: str) -> None:
    with pytest.raises(KaokenError, match="choose from kaoken_"):
        choose_peers(request_)


def test_a_missing_package_is_named() -> None:
    known = all_peers()["kaoken_fp32"]
    peer = replace(
        known, packages=("numpy", "no_such_package"), install=("numpy", "no-such-package")
    )
    assert peer.missing() == "no_such_package: not installed (pip install numpy no-such-package)"
    assert replace(peer, packages=("numpy",)).missing() is None


def test_a_text_is_no_module(job: Job) -> None:
    with pytest.raises(Unsuitable, match=r"runs no \.mlir"):
        replace(job, model="model.mlir").workload()


@pytest.mark.parametrize("text", ["", "0", "1,", "two", "-1"])
def test_threads_are_numbers(text: str) -> None:
    with pytest.raises(KaokenError, match="--threads"):
        parse_threads(text)


# ---- limits and figures ----


def test_the_bound_is_the_longer_of_two_times() -> None:
    limits = Limits({"fp32": [1e9, 3e9, 2e9], "file 4096": [1e6]})
    assert limits.bound("fp32", 4e9, 4096, "file") == 2.0
    assert limits.bound("fp32", 1.0, 4096, "file") == 4096e-6
    assert limits.bound("bf16", 1.0, 4096, "file") is None
    assert limits.bound("fp32", 1.0, 8192, "file") is None
    assert limits.bound("fp32", None, 4096, "file") is None


def test_the_peak_is_that_of_the_faster_unit() -> None:
    limits = Limits({"bf16": [1e9], "bf16_tiles": [9e9, 7e9, 8e9], "int8_tiles": [1e10]})
    assert limits.peak("bf16") == 8e9
    assert limits.peak("int8") == 1e10
    assert limits.peak("fp32") is None


@pytest.mark.parametrize("target", ["native", "generic"])
def test_the_probe_measures(target: str, tmp_path: Path) -> None:
    limits = Limits()
    probe = Probe(target, tmp_path, [10, 1 << 20])
    before = os.sched_getaffinity(0)
    for _ in range(2):
        probe.measure(limits, 1, 0.001)
    assert os.sched_getaffinity(0) == before
    assert {"fp32", "anonymous 4096", "huge 1048576", "file 1048576"} <= set(limits.rates)
    assert all(len(rates) == 2 and min(rates) > 1e6 for rates in limits.rates.values())
    has_unit = TargetMachine.parse(target).matrix_unit is not None
    assert has_unit == ({"bf16_tiles", "int8_tiles"} <= set(limits.rates))


def test_wrong_peers_have_no_rank() -> None:
    slow = PeerFigures("kaoken_fp32", "fp32", seconds=[2.0, 4.0, 3.0], max_abs=1e-6, starts=[1.0])
    wrong = PeerFigures("fast", "fp32", seconds=[1.0], max_abs=1e-2, largest=5.0, starts=[1.0])
    near = PeerFigures("near", "int8", seconds=[5.0], max_abs=1e-2, cosine=0.996, starts=[1.0])
    absent = PeerFigures("absent", "fp32", skipped="not installed")
    figures = ThreadFigures(1, Limits(), [wrong, near, slow, absent])
    assert figures.ranked() == [slow, near, wrong]
    assert figures.of("kaoken_fp32") is slow
    assert figures.of("fast") is None
    text = tables(whole(figures))[0].markdown()
    assert "| wrong | fast | fp32 | 1.00 s | 1.00-1.00 s | 0.33 |" in text
    assert "absent: skipped, not installed" in text


def whole(figures: ThreadFigures) -> Figures:
    work = Work(1e9, 1000, 24)
    machine = {"target": "generic", "compiler": "gcc", "versions": {"torch": "2"}}
    return Figures("model", 1, 16, work, machine, {}, [figures])


def test_work_counts_the_bytes_of_the_precision() -> None:
    work = Work(None, 1000, 24)
    assert [work.bytes_moved(p) for p in ("fp32", "bf16", "int8")] == [4024, 2024, 1024]


def test_percentiles() -> None:
    values = list(range(1000, 0, -1))
    assert [percentile(values, p) for p in (50, 99, 100)] == [501, 991, 1000]
    assert percentile([7.0], 50) == 7.0


def test_differences() -> None:
    a = np.array([[[3.0, 4.0], [-3.0, 4.0]]], np.float32)
    b = np.array([[[3.0, 4.0], [0.0, 4.0]]], np.float32)
    found = difference(b, a)
    assert (found["max_abs"], found["largest"]) == (3.0, 4.0)
    assert found["cosine"] == pytest.approx(4.0 / np.hypot(1.5, 4.0))
    with pytest.raises(ValueError, match="its output is"):
        difference(a[0], a)


def test_turns_count_calls() -> None:
    calls: list[int] = []
    running = Running(lambda: calls.append(1), lambda _: np.zeros(1))
    times = turn(running, 0.005)
    assert len(times) >= 3
    assert len(calls) > 100 * len(times)
    assert all(0 < time < 1e-3 for time in times)
    assert len(separate_calls(running, 4)) == 4


# ---- tables ----


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234.0, "1234 s"),
        (1.0, "1.00 s"),
        (0.0123, "12.3 ms"),
        (0.000456, "456 us"),
        (5e-10, "0.500 ns"),
        (0.0, "0 ns"),
        (None, ""),
    ],
)
def test_seconds(value: float | None, text: str) -> None:
    assert seconds(value) == text


def test_numbers() -> None:
    assert span(0.00098, 0.00123) == "0.980-1.23 ms"
    assert [three_digits(x) for x in (0.012345, 9.99, 1234.5)] == ["0.0123", "9.99", "1234"]


def test_tables_in_all_forms() -> None:
    table = Table("a < b", ("x", "y"), [("one", "1")], ["note"])
    assert table.markdown() == "**a < b**\n\n| x | y |\n| --- | ---: |\n| one | 1 |\n\nnote\n"
    assert "<h2>a &lt; b</h2>" in table.html()
    assert table.rich() is not None


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib")
def test_a_page_needs_no_other_file(tmp_path: Path) -> None:
    from kaoken.bench.plots import write_page

    peer = PeerFigures("kaoken_fp32", "fp32", seconds=[2.0], starts=[1.0], bound=1.0)
    figures = whole(ThreadFigures(1, Limits(), [peer]))
    write_page([figures], tables(figures), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("<svg") == 1
    assert "50%" in page
    assert "src=" not in page


# ---- ops ----


def op_figures() -> OpFigures:
    limits = Limits({"fp32": [1e9], "file 4096": [4e9], "file 40960": [1e9]})
    ops = [
        OpTime("small", "main", "fp32", 1, 1e-6, 0.0, 0, 8),
        OpTime("unused", "main", "fp32", 0, 0.0, 0.0, 0, 0),
        OpTime("linear", "layer", "fp32", 2, 4e-3, 1e-3, 2_000_000, 8000),
        OpTime("copy", "main", "fp32", 1, 1e-3, 0.0, 0, 100_000),
    ]
    return OpFigures("model", ops, limits, [Level("L1", 8192, 4096), Level("all", 40960, 40960)])


def test_ops_stand_beside_their_bounds() -> None:
    figures = op_figures()
    _, _, linear, copy = figures.ops
    assert figures.bound(linear) == 2e-3, "arithmetic: 4000 bytes a call come from L1"
    assert figures.bound(copy) == 1e-4, "what no level holds comes from the last"
    text = figures.table().markdown()
    row = "| linear | layer | 2 | 4.00 ms | 80.0% | 0.500 | 50% | 0.00200 | 250 | 25% | 50% |"
    assert row in text
    assert "| 1 small ops |  | 1 | 1.00 us | 0% |" in text
    assert "unused" not in text


def test_levels_are_what_the_threads_have() -> None:
    machine = replace(TargetMachine.parse("generic"), l1_bytes=100, l2_bytes=1000, l3_bytes=10**6)
    found = levels(machine, 2, 5000)
    assert [(one.name, one.capacity, one.size) for one in found] == [
        ("L1", 200, 100),
        ("L2", 2000, 1000),
        ("all weights", 5000, 5000),
    ]


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib")
def test_the_roofline_has_a_dot_for_each_op_that_computes() -> None:
    from kaoken.bench.roofline import roofline

    figure = roofline(op_figures())
    assert figure is not None
    (axes,) = figure.axes
    assert np.asarray(axes.collections[0].get_offsets()).tolist() == [[250.0, 0.5]]
    assert [line.get_label() for line in axes.lines] == [
        "fp32 peak: 1 GFLOP/s",
        "L1: 4 GB/s",
        "all: 1 GB/s",
    ]
    assert "linear" in axes.texts[-1].get_text()
    assert roofline(replace(op_figures(), ops=[])) is None


def test_a_profile_of_a_text_and_of_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.mlir"
    path.write_text(MLIR)
    json_file, folder = tmp_path / "f.json", tmp_path / "out"
    words = ["--tokens", "4", "--seconds", "0.01", "--json", str(json_file)]
    before = os.sched_getaffinity(0)
    assert command(["profile", str(path), *words]) == 0
    found = json.loads(json_file.read_text())
    assert [op["kernel"] for op in found["ops"]] == ["elementwise_relu"]
    assert found["ops"][0]["bytes"] == 2 * 4 * 16 * 4
    assert command(["compile", str(path), "-o", str(folder), "--profile"]) == 0
    assert command(["profile", str(folder), *words]) == 0
    assert "out 1x4 f32, 1 thread" in capsys.readouterr().out
    assert os.sched_getaffinity(0) == before


# ---- processes ----


def test_a_process_that_fails_says_why(job: Job) -> None:
    peer = all_peers()["kaoken_fp32"]
    with working(Worker("run", job, peer, job.folder / "nowhere")) as worker:
        with pytest.raises(WorkerError, match="is not a compiled model"):
            worker.answer()


def test_a_process_that_ends_is_noticed(job: Job) -> None:
    with working(Worker("run", job, all_peers()["kaoken_fp32"], job.folder)) as worker:
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(WorkerError, match="its process ended with code -9"):
            worker.answer()


# ---- the whole ----


def test_a_text_is_timed(tmp_path: Path) -> None:
    path = tmp_path / "model.mlir"
    path.write_text(MLIR)
    job = Job(str(path), 1, 4, 1, "native", tmp_path)
    peers = choose_peers("kaoken_fp32,torch_eager_fp32")
    stages: list[str] = []
    figures = run_benchmark(job, peers, [1], QUICK, stages.append)
    kaoken, torch = figures.threads[0].peers
    assert kaoken.right
    assert kaoken.max_abs == 0
    assert len(kaoken.calls) == QUICK.calls
    assert 0 < kaoken.load_seconds < kaoken.starts[0]
    assert kaoken.artefact_bytes > 1000
    assert kaoken.bound is None
    assert torch.skipped is not None
    assert figures.work.flops is None
    assert "kaoken_fp32: build" in stages
    (op,) = figures.threads[0].ops["kaoken_fp32"]
    assert (op.kernel, op.calls) == ("elementwise_relu", 1)
    assert "relu" in tables(figures)[-1].markdown()
    assert figures.as_json()["threads"][0]["ops"]["kaoken_fp32"][0]["kernel"] == "elementwise_relu"


def test_sizes_over_the_maximum_are_refused() -> None:
    manifest = {"symbols": {"tokens": 8}, "inputs": []}
    with pytest.raises(KaokenError, match="tokens is 9, but the model says at most 8"):
        text_inputs(manifest, 1, 9)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    words = "bench layer-norm --tokens 1 --rounds 1 --seconds 0.01 --calls 3 --starts 2".split()
    peers = ["--peers", "kaoken_fp32,torch_eager_fp32"]
    command([*words, *peers, "--json", str(tmp_path / "f.json"), "--work", str(tmp_path / "work")])
    shown = capsys.readouterr().out
    assert "layer-norm 1x1, 1 thread" in shown
    assert "torch_eager_fp32" in shown
    found = json.loads((tmp_path / "f.json").read_text())
    kaoken, torch = found["threads"][0]["peers"]
    assert kaoken["right"]
    assert torch["right"]
    assert len(kaoken["starts"]) == 2
    assert kaoken["bound"] > 0
    assert found["work"]["weights"] == 2 * 768


def test_an_unknown_model_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["bench", "no-such-model"]) == 1
    shown = capsys.readouterr()
    assert shown.err.startswith("error: no-such-model is neither a Hugging Face folder")
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_files_are_checked_first(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["bench", "gelu", option, "/nowhere/file"]) == 1
    assert capsys.readouterr().err.startswith("error: cannot write /nowhere/file")


def test_tables_go_into_the_page(tmp_path: Path) -> None:
    documentation = load_script("documentation")
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- t -->\nold\n<!-- end t -->\nafter\n")
    documentation.write_block("t", [Table("new", ("x",), [("1",)])], page)
    text = page.read_text()
    assert text.startswith("before\n<!-- t -->\n\nMeasured ")
    assert text.endswith("| 1 |\n\n<!-- end t -->\nafter\n")
    assert "old" not in text
    with pytest.raises(ValueError, match="has no place for other"):
        documentation.write_block("other", [], page)
    places = documentation.PAGE.read_text()
    assert all(f"<!-- {n} -->" in places for n in ("targets", "tokens", "compile", "layers"))


def load_script(name: str) -> ModuleType:
    """A script of bench/, which is no package."""
    path = Path(__file__).parents[2] / "bench" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def command(words: list[str]) -> int:
    """Run the command in this process; its exit code."""
    try:
        main(words)
    except SystemExit as done:
        return int(done.code or 0)
    return 0


# ---- decoders ----


def test_arrivals_are_prompts_and_steps() -> None:
    from kaoken.bench.decoder_harness import Texts, _measures, _of

    sizes = Decoder(weights=1000, head=100, cache=8, products=16)
    measures = _measures(sizes, Texts((2, 4), 3))
    assert [m.what for m in measures] == [
        "prompt of 2 tokens",
        "prompt of 4 tokens",
        "3 tokens after 2",
        "3 tokens after 4",
    ]
    arrivals = {("a", 2): [[1.0, 1.5, 3.0], [2.0, 2.25, 2.5]]}
    found = PeerFigures("a", "fp32")
    assert _of(measures[0], found, arrivals).seconds == [1.0, 2.0]
    assert _of(measures[2], found, arrivals).seconds == [0.5, 1.5, 0.25, 0.25]
    assert _of(measures[3], found, arrivals).seconds == []
    assert found.seconds == []


def test_work_of_decoders() -> None:
    sizes = Decoder(weights=1024, head=128, cache=8, products=16)
    step, prompt = sizes.step(10), sizes.prefill(3)
    assert step.flops == 2 * (1024 + 128 + 160)
    assert prompt.flops == 2 * (3 * 1024 + 128 + 6 * 16)
    sizes_read = [step.read_size(p) for p in ("fp32", "bf16", "int8", "int4")]
    assert sizes_read == [4608, 2304, 1152, 576 + 128]
    assert step.bytes_moved("int4") == 576 + 128 + 4 * 80
    assert step.bytes_moved("int4", cache_bytes=2) == 576 + 128 + 2 * 80
    assert prompt.bytes_moved("bf16", cache_bytes=1.0625) == 2304 + 25
    limits = Limits({"int8": [1e6], "file 0": [], "file 4096": [1e6]})
    assert limits.bound("int4", 1e6, 10, "file", 4096) == 1.0


@needs(importlib.util.find_spec("gguf"), "gguf")
def test_a_small_decoder_is_timed(tmp_path: Path) -> None:
    from kaoken.bench.decoder_models import from_gguf, sizes_of
    from tests.unit.gguf_files import random_model, write_gguf

    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 96}
    model = random_model("llama", **sizes, **heads)
    path = write_gguf(tmp_path / "tiny.gguf", model)
    assert sizes_of(from_gguf(path)) == Decoder(
        weights=sum(p.numel() for p in model.parameters()) - 2 * 97 * 64,
        head=97 * 64,
        cache=2 * 2 * 2 * 16,
        products=2 * 2 * 4 * 16,
    )
    words = ["bench", str(path), "--peers", "kaoken_fp32", "--tokens", "8,9"]
    words += ["--new-tokens", "3", "--rounds", "1", "--seconds", "0.01"]
    files = ["--json", str(tmp_path / "f.json"), "--work", str(tmp_path / "work")]
    with pytest.raises(SystemExit) as stopped:
        main([*words, *files])
    assert not stopped.value.code
    runs = json.loads((tmp_path / "f.json").read_text())
    assert [run["what"] for run in runs[::2]] == ["prompt of 8 tokens", "3 tokens after 8"]
    for run, times in zip(runs, (1, 1, 2, 2), strict=True):
        for peer in run["threads"][0]["peers"]:
            assert peer["skipped"] is None
            assert peer["right"]
            assert len(peer["seconds"]) == times
            assert 0 < peer["bound"]
            assert peer["peak_bytes"] > 1 << 20


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.gguf"], "there is no file missing.gguf"),
        (["smollm"], "smollm2-135m, gpt2-shape, ternary-llama-shape"),
        (["smollm2-135m", "--tokens", "8,x"], "--tokens is '8,x'"),
        (["smollm2-135m", "--batch", "2"], "--batch is for encoders"),
        (["smollm2-135m", "--peers", "tensorflow"], "choose from kaoken_"),
        (["layer-norm", "--tokens", "8,9"], "--tokens is one number"),
    ],
)
def test_mistakes_about_decoders(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["bench", *words])
    assert stopped.value.code
    assert message in capsys.readouterr().err
