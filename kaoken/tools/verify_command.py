"""`kaoken verify`: a compiled model against PyTorch, layer by layer.

The layers' values are results of a second module: forward hooks on the model's layers collect
what they return, and that module is exported, compiled and run as any other. So nothing depends
on how kaoken names or fuses what is in between. The plain model is compiled as users compile it.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kaoken.errors import KaokenError
from kaoken.frontend.hugging_face import load_folder_model, read_config
from kaoken.frontend.hugging_face_inputs import example_inputs, text_config
from kaoken.model_files import generates
from kaoken.options import CompileOptions
from kaoken.texts import SENTENCES, batch_tokenizer, encoder_inputs, read_texts
from kaoken.tools.verify_decoder import CONTEXT, TOLERANCE, decoder_logits

if TYPE_CHECKING:
    import torch

SHAPES = ((1, 1), (1, 16), (2, 33), (4, 128))
"""(batch, tokens) of the random texts that are compared."""
LEAST_COSINES = {"bf16": 0.9995, "int8": 0.99}
"""What a narrow dtype must reach at each layer and output: its largest errors say little."""
LEAST_RANK_CORRELATION = 0.99

Compile = Callable[..., Any]


@dataclass(frozen=True)
class Comparison:
    """How far one value is from the expected one, over all inputs tried."""

    name: str
    max_abs: float
    rms: float
    max_ulp: int
    cosine: float
    scale: float
    """The largest expected magnitude, at least 1; the tolerance is relative to it."""

    def passes(self, limit: Limit) -> bool:
        if limit.cosine is not None:
            return self.cosine >= limit.cosine
        return self.max_abs <= limit.tolerance * self.scale


@dataclass(frozen=True)
class Limit:
    """What decides: the largest difference, relative to the scale, or a narrow dtype's cosine."""

    tolerance: float
    cosine: float | None = None

    def __str__(self) -> str:
        if self.cosine is not None:
            return f"a least cosine of {self.cosine:g}"
        return f"a tolerance of {self.tolerance:g}"


def compare(name: str, actual: np.ndarray, expected: np.ndarray) -> Comparison:
    """Compare two arrays of equal shape; NaN anywhere counts as infinitely far."""
    a, b = (np.asarray(x, np.float32).ravel() for x in (actual, expected))
    if not a.size:
        return Comparison(name, 0.0, 0.0, 0, 1.0, 1.0)
    difference = np.abs(a.astype(np.float64) - b)
    length = np.linalg.norm(a.astype(np.float64)) * np.linalg.norm(b.astype(np.float64))
    return Comparison(
        name,
        float(np.nan_to_num(difference, nan=np.inf).max()),
        float(np.sqrt(np.square(np.nan_to_num(difference, nan=np.inf)).mean())),
        int(np.abs(_ordered(a) - _ordered(b)).max()),
        float(a.astype(np.float64) @ b.astype(np.float64) / length) if length else 1.0,
        float(max(1.0, np.abs(b).max())),
    )


def _ordered(values: np.ndarray) -> np.ndarray:
    """Integers in the order of the floats, neighbours one apart."""
    bits = values.view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def worst(parts: Sequence[Comparison]) -> Comparison:
    """One comparison for the same value on several inputs."""
    return Comparison(
        parts[0].name,
        max(p.max_abs for p in parts),
        max(p.rms for p in parts),
        max(p.max_ulp for p in parts),
        min(p.cosine for p in parts),
        max(p.scale for p in parts),
    )


@dataclass(frozen=True)
class Request:
    """What `kaoken verify` was asked for."""

    tolerance: float | None = None
    """By default 1e-5, for decoders 1e-3."""
    texts: Path | None = None
    """Texts whose similarities are ranked, one a line; by default some that are built in."""

    def __post_init__(self) -> None:
        if self.tolerance is not None and not self.tolerance >= 0:
            raise KaokenError(f"--tolerance is {self.tolerance:g}, but must be at least 0")

    def limit(self, usual: float, dtype: str) -> Limit:
        tolerance = usual if self.tolerance is None else self.tolerance
        return Limit(tolerance, LEAST_COSINES.get(dtype))


@dataclass
class Notes:
    """What is compared besides values."""

    rank_correlation: float | None = None
    """Of the similarities of sentences (Spearman)."""
    equal_tokens: float | None = None
    """The part of a decoder's greedy tokens that are PyTorch's too."""

    def passes(self, limit: Limit) -> bool:
        """Narrow dtypes may choose another one of two tokens that are nearly as likely."""
        ranks, tokens = self.rank_correlation, self.equal_tokens
        good = ranks is None or ranks >= LEAST_RANK_CORRELATION
        return good and (tokens is None or tokens == 1 or limit.cosine is not None)


def run_verify(model: str, options: CompileOptions, request: Request, as_json: bool) -> bool:
    """Compare, print a table, and say whether all is within the limits."""
    from kaoken.compiler import compile_model
    from kaoken.tools.compile_command import progress_line

    path = Path(model)
    writes_text = generates(path)
    limit = request.limit(TOLERANCE if writes_text else 1e-5, options.dtype)
    notes = Notes()
    with tempfile.TemporaryDirectory() as scratch, progress_line() as progress:

        def compile(what: Any, *args: Any, **kwargs: Any) -> Any:
            folder = Path(tempfile.mkdtemp(dir=scratch)) / "model"
            return compile_model(options, what, *args, out=folder, progress=progress, **kwargs)

        if writes_text:
            found, notes.equal_tokens = verify_decoder(path, compile)
        elif path.suffix == ".mlir":
            found = verify_text(path, compile)
        elif path.suffix == ".pt2":
            found = verify_exported(path, compile)
        else:
            found, notes.rank_correlation = verify_folder(path, compile, request.texts)
    passed = all(c.passes(limit) for c in found) and notes.passes(limit)
    _report(found, limit, notes, passed, as_json)
    return passed


# ---- what there is to compare ----


def verify_decoder(path: Path, compile: Compile) -> tuple[list[Comparison], float]:
    """A decoder's logits behind prompts and each token after them; the part of equal tokens."""
    found: dict[str, list[Comparison]] = {}
    logits, equal = decoder_logits(path, compile(path, max_tokens=CONTEXT))
    for name, actual, expected in logits:
        found.setdefault(name, []).append(compare(name, actual, expected))
    return [worst(parts) for parts in found.values()], equal


def verify_folder(
    path: Path, compile: Compile, texts: Path | None = None
) -> tuple[list[Comparison], float | None]:
    """A Hugging Face folder: its layers, then the outputs of the model as users compile it; and,
    where it has a tokenizer, how alike sentences rank by similarity."""
    plain = compile(path)
    model = load_folder_model(path, read_config(path), None)
    layers = compare_layers(path, model, compile, plain.manifest["symbols"])
    found = layers + compare_outputs(model, plain, model)
    limits = plain.manifest["symbols"]
    if not (path / "tokenizer.json").exists() or "tokens" not in limits:
        return found, None
    some = SENTENCES if texts is None else read_texts(texts)
    return found, rank_correlation(*_embeddings(path, plain, model, some, limits.get("tokens")))


def _embeddings(
    path: Path, compiled: Any, model: torch.nn.Module, texts: Sequence[str], most: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """The mean of each text's tokens, of length 1, as [texts, hidden]: compiled and expected."""
    import torch

    tokenizer = batch_tokenizer(path, most)
    names: dict[str, Any] = dict.fromkeys(("input_ids", "attention_mask"), np.int64)
    rows: list[tuple[np.ndarray, np.ndarray]] = []
    for encoding in map(tokenizer.encode, texts):
        inputs = encoder_inputs([encoding], names)
        with torch.no_grad():
            wanted = model(**{name: torch.from_numpy(a) for name, a in inputs.items()})
        both = (_named(result)[0][1][0].mean(0) for result in (compiled(**inputs), wanted))
        got, expected = (v / np.linalg.norm(v) for v in both)
        rows.append((got, expected))
    got, expected = map(np.stack, zip(*rows, strict=True))
    return got, expected


def rank_correlation(actual: np.ndarray, expected: np.ndarray) -> float:
    """Spearman's rho of the similarities of all pairs of rows of length 1."""
    pairs = np.triu_indices(len(actual), 1)
    ranks = [(v @ v.T)[pairs].argsort().argsort() for v in (actual, expected)]
    return float(np.asarray(np.corrcoef(ranks))[0, 1]) if len(pairs[0]) > 1 else 1.0


def compare_layers(
    path: Path, model: torch.nn.Module, compile: Compile, limits: Mapping[str, int]
) -> list[Comparison]:
    """Every layer of a folder's model, over `SHAPES` within these limits."""
    traced = with_layers(model)
    inputs, open_ = example_inputs(path, model, limits.get("batch", 1), limits.get("tokens", 1))
    return compare_outputs(traced, compile(traced, (), inputs, dynamic_shapes=open_), model)


def compare_outputs(
    expected: torch.nn.Module, compiled: Any, model: torch.nn.Module
) -> list[Comparison]:
    """What a torch module and its compiled form give, over those `SHAPES` that it takes."""
    import torch

    found: dict[str, list[Comparison]] = {}
    for inputs in _samples(compiled.manifest, text_config(model.config)):
        with torch.no_grad():
            wanted = expected(**inputs)
        mask = inputs.get("attention_mask")
        pairs = zip(_named(wanted), _named(compiled(**inputs)), strict=True)
        for (name, a), (_, b) in pairs:
            found.setdefault(name, []).append(compare(name, _rows(b, mask), _rows(a, mask)))
    return [worst(parts) for parts in found.values()]


def _samples(manifest: Mapping[str, Any], config: Any) -> Iterator[dict[str, torch.Tensor]]:
    """Random inputs of a folder's model: texts of unlike length in a batch, images."""
    import torch

    generator = torch.Generator().manual_seed(0)
    specs = {spec["name"]: spec["shape"] for spec in manifest["inputs"]}
    for batch, tokens in SHAPES:
        wanted = {"batch": batch, "images": batch, "tokens": tokens}
        sizes = {name: min(wanted[name], most) for name, most in manifest["symbols"].items()}
        inputs: dict[str, torch.Tensor] = {}
        for name, spec in specs.items():
            shape: list[int] = [sizes[size] if size in sizes else int(size) for size in spec]
            if name == "pixel_values":
                inputs[name] = torch.randn(shape, generator=generator)
            elif name == "input_ids":
                inputs[name] = torch.randint(2, config.vocab_size, shape, generator=generator)
            else:
                lengths = torch.tensor([max(1, shape[1] - 3 * i) for i in range(shape[0])])
                inputs[name] = (torch.arange(shape[1]) < lengths[:, None]).long()
        yield inputs


def _rows(values: np.ndarray, mask: torch.Tensor | None) -> np.ndarray:
    """Only the rows of tokens that are there, where the value has a row for each."""
    if mask is None or values.shape[:2] != tuple(mask.shape):
        return values
    return values[mask.numpy() == 1]


def _named(result: Any, path: str = "output") -> list[tuple[str, np.ndarray]]:
    """Every tensor of a result with its place."""
    if hasattr(result, "detach"):
        return [(path, result.detach().numpy())]
    if isinstance(result, np.ndarray):
        return [(path, result)]
    if isinstance(result, Mapping) or hasattr(result, "items"):
        pairs = list(result.items())
    elif isinstance(result, list | tuple):
        pairs = list(enumerate(result))
    else:
        return []
    return [leaf for key, value in pairs for leaf in _named(value, str(key))]


def with_layers(model: torch.nn.Module) -> torch.nn.Module:
    """A module of the same inputs whose results are what each layer of `model` returns."""
    import torch

    layers = layers_of(model)

    class WithLayers(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        @functools.wraps(type(model).forward)  # torch.export asks for the arguments' names.
        def forward(self, *args: Any, **kwargs: Any) -> Any:  # pyright: ignore
            found: dict[str, torch.Tensor] = {}
            hooks = [m.register_forward_hook(_keep_result(found, name)) for name, m in layers]
            self.model(*args, **kwargs)
            for hook in hooks:
                hook.remove()
            return found

    return WithLayers().eval()


def _keep_result(found: dict[str, torch.Tensor], name: str) -> Callable[..., None]:
    def keep(_module: Any, _arguments: Any, result: Any) -> None:
        if (tensor := _first_tensor(result)) is not None:
            found[name] = tensor

    return keep


def layers_of(model: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    """The modules that are called one after another: children, and what lists of layers hold."""
    found: list[tuple[str, torch.nn.Module]] = []
    for name, child in model.named_children():
        inner = [(f"{name}.{n}", m) for n, m in _list_members(child)]
        found.extend(inner or [(name, child)])
    return found


def _list_members(module: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    import torch

    for name, child in module.named_children():
        if isinstance(child, torch.nn.ModuleList):
            return [(f"{name}.{i}", layer) for i, layer in enumerate(child)]
    return []


def _first_tensor(result: Any) -> torch.Tensor | None:
    while isinstance(result, tuple | list | Mapping):
        result = next(iter(result.values() if isinstance(result, Mapping) else result), None)
    return result if hasattr(result, "detach") else None


def verify_exported(path: Path, compile: Compile) -> list[Comparison]:
    """A .pt2, on the example inputs that it was exported with."""
    import torch

    program = torch.export.load(path)
    if program.example_inputs is None:
        raise KaokenError(f"{path} has no example inputs to compare on")
    args, kwargs = program.example_inputs
    with torch.no_grad():
        wanted = program.module()(*args, **kwargs)
    pairs = zip(_named(wanted), _named(compile(path)(*args, **kwargs)), strict=True)
    return [compare(name, b, a) for (name, a), (_, b) in pairs]


def verify_text(path: Path, compile: Compile) -> list[Comparison]:
    """A .mlir against the reference interpreter, on random inputs."""
    from kaoken.bench.text import random_inputs
    from kaoken.dialect.reference import run_module
    from kaoken.modules import read_module

    compiled = compile(path)
    symbols: Mapping[str, int] = compiled.manifest["symbols"]
    sizes = {name: min(limit, 5 + i) for i, (name, limit) in enumerate(symbols.items())}
    inputs = random_inputs(compiled.manifest, sizes)
    wanted = run_module(read_module(path), list(inputs.values()))
    got = [value for _, value in _named(compiled(**inputs))]
    names = [entry["name"] for entry in compiled.manifest["outputs"]]
    return [compare(*one) for one in zip(names, got, wanted, strict=True)]


# ---- the report ----


def _report(
    found: Sequence[Comparison], limit: Limit, notes: Notes, passed: bool, as_json: bool
) -> None:
    from kaoken.json_files import print_json

    if as_json:
        values = [asdict(c) | {"passes": c.passes(limit)} for c in found]
        about = asdict(limit) | asdict(notes)
        print_json({"passed": passed, **about, "values": values})
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("value", "max abs", "RMS", "max ulp", "cosine", "", box=None)
    for c in found:
        verdict = "[green]ok[/]" if c.passes(limit) else "[red]too far[/]"
        errors = f"{c.max_abs:.2e}", f"{c.rms:.2e}", str(c.max_ulp)
        table.add_row(c.name, *errors, f"{c.cosine:.8f}", verdict)
    Console().print(table)
    if (ranks := notes.rank_correlation) is not None:
        print(f"rank correlation of similarities: {ranks:.5f}, at least {LEAST_RANK_CORRELATION}")
    if notes.equal_tokens is not None:
        print(f"greedy tokens that are PyTorch's: {100 * notes.equal_tokens:.1f} %")
    print("passed" if passed else "failed", f"at {limit}")
