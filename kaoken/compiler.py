"""`kaoken.compile` and `kaoken.load`: from a model to a function that runs it.

The stages are those of the map in docs: import, the passes of the default pipeline, C, weights,
library. Whoever wants to stop in between uses them one by one, as `kaoken compile --emit` does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaoken.backend.cache import (
    cached_package,
    compiler_version,
    content_key,
    trim_packages,
)
from kaoken.choices import ACTIVATIONS, DTYPES, FEW_BITS, GROUP_SIZE, KV_TYPES, MATHS
from kaoken.errors import KaokenError

if TYPE_CHECKING:
    import torch
    from xdsl.dialects.builtin import ModuleOp

    from kaoken.backend.machine import TargetMachine
    from kaoken.backend.toolchain import Compiler
    from kaoken.calibration import Samples
    from kaoken.compiled_decoder import CompiledDecoder
    from kaoken.compiled_model import CompiledModel

Progress = Callable[[str], None]
"""Told the name of each stage when it begins."""

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
)
MAX_BATCH, MAX_TOKENS = 8, 512
MOST_SEQUENCES = 8


def _silent(stage: str) -> None:
    pass


@dataclass(frozen=True)
class CompileOptions:
    """How a module is made into a package; what it contains follows from the module."""

    target: str = "native"
    dtype: str = "auto"
    """What weights become; `auto`: what they are, those of few bits too, others float32."""
    threads: int = 1
    schedule: str | Path | None = None
    cc: str | None = None
    copied_files: Sequence[Path] = ()
    """What the package holds besides: the tokenizer's files."""
    library: bool = True
    """Whether to run the C compiler."""
    profile: bool = False
    """Whether the model is to note how long each of its kernels takes."""
    math: str = "exact"
    """How accurate exponentials are: the precision of `lower-math`."""
    calibrate: Sequence[Mapping[str, Any]] = ()
    """Sample inputs for int8 and few bits, as arrays by the names of @main's arguments."""
    activations: str = "dynamic"
    """Where int8 takes the scales of activations from: each row, or `static`, from the samples."""
    batch: int = 1
    """How many texts a context of a decoder goes on with in one pass."""
    kv: str = "f32"
    """What a model that generates text keeps keys and values as."""
    group_size: int = GROUP_SIZE
    """Few bits: how many weights along K share a scale; 0 for a whole row."""
    policy: str | Path | None = None
    """A file that says what single weights become instead (`passes/quantizing/policy.py`)."""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise KaokenError(f"unknown dtype {self.dtype}: choose from {', '.join(DTYPES)}")
        if self.kv not in KV_TYPES:
            raise KaokenError(f"unknown kv {self.kv}: choose from {', '.join(KV_TYPES)}")
        if self.math not in MATHS:
            raise KaokenError(f"unknown math {self.math}: choose from {', '.join(MATHS)}")
        if self.threads < 1:
            raise KaokenError(f"threads is {self.threads}, but must be at least 1")
        if not 1 <= self.batch <= MOST_SEQUENCES:
            raise KaokenError(f"batch is {self.batch}, but must be from 1 to {MOST_SEQUENCES}")
        if self.activations not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise KaokenError(f"unknown activations {self.activations}: choose from {known}")
        self._check_rounding()

    def _check_rounding(self) -> None:
        if self.calibrate and self.dtype not in ("int8", *FEW_BITS):
            raise KaokenError(f"calibration is for dtype int8 and few bits, not {self.dtype}")
        if self.dtype != "int8" and self.activations == "static":
            raise KaokenError(f"static activations are for dtype int8, not {self.dtype}")
        if self.group_size != GROUP_SIZE and self.dtype not in FEW_BITS:
            raise KaokenError(f"groups are for {', '.join(FEW_BITS)}, not {self.dtype}")
        if self.activations == "static" and not self.calibrate:
            raise KaokenError("static activations need samples to calibrate with: give some")

    def check(self, out: Path | None) -> None:
        """Raise KaokenError for what can be known to be wrong before the work begins."""
        from kaoken.backend.machine import TargetMachine
        from kaoken.backend.package import check_output
        from kaoken.backend.toolchain import find_compiler

        TargetMachine.parse(self.target)
        if out is not None:
            check_output(out)
        if self.library:
            find_compiler(self.cc)
        if self.schedule is not None:
            from kaoken.schedule.parser import read_schedule

            read_schedule(self.schedule)
        if self.policy is not None:
            from kaoken.passes.quantizing.policy import Choice, read_policy

            read_policy(self.policy, Choice(self.dtype))


def compile(
    module: torch.nn.Module | str | Path,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    target: str = "native",
    dtype: str = "auto",
    threads: int = 1,
    schedule: str | Path | None = None,
    out: str | Path | None = None,
    max_tokens: int = MAX_TOKENS,
    max_batch: int = MAX_BATCH,
    head: str = "none",
    cc: str | None = None,
    profile: bool = False,
    math: str = "exact",
    calibrate: Sequence[Mapping[str, Any]] = (),
    activations: str = "dynamic",
    batch: int = 1,
    kv: str = "f32",
    group_size: int = GROUP_SIZE,
    policy: str | Path | None = None,
    progress: Progress = _silent,
) -> CompiledModel:
    """Compile a module, given as in torch.export.export, or a model on disk, and load the result.

    A path is a Hugging Face folder (up to `max_batch` texts of `max_tokens` tokens a call), a
    `.pt2`, a `.mlir` or a `.gguf`. `dtype` is what weights become (the pass `quantize`): f32, bf16,
    int8, int4, int2, ternary, int1, or auto, what they are; `policy` is a file that says otherwise
    of single ones (`kaoken.passes.quantizing.policy`), `group_size` how many of few bits share a
    scale. `target` is `native` or such as `x86-64-v4+vnni`; `threads` the most that a call may use;
    `schedule` a file or text of `kaoken.schedule`; `head` what follows a folder's model (none,
    auto, mean-pool, sentence); `out` the folder to write, by default one in kaoken's cache; `math`
    is `exact`, or `quake1` or `quake2` for faster exponentials with errors of 3 % and 0.3 %; with
    `profile`, `CompiledModel.profile` tells how long each op takes. For int8 and few bits,
    `calibrate` holds sample inputs (arrays by name, numpy or torch), from which layers learn how
    large their inputs are; int8's `activations="static"` takes all scales from them. A decoder with
    a `batch` goes on with so many texts in one pass.
    `kv` is what a decoder keeps keys and values as: f32, bf16 or int8. Raises KaokenError.
    """
    from kaoken.backend.loader import is_package

    options = CompileOptions(
        target,
        dtype,
        threads,
        schedule,
        cc,
        tokenizer_files(module),
        profile=profile,
        math=math,
        calibrate=calibrate,
        activations=activations,
        batch=batch,
        kv=kv,
        group_size=group_size,
        policy=policy,
    )
    options.check(None if out is None else Path(out))
    progress("import")
    model = import_model(
        module,
        *_distinct_tensors(args, kwargs),
        dynamic_shapes=dynamic_shapes,
        max_batch=max_batch,
        max_tokens=max_tokens,
        head=head,
    )
    folder = cached_folder(model, options) if out is None else Path(out)
    if out is not None or not is_package(folder):
        compile_module(model, folder, options, progress)
        trim_packages()
    progress("load")
    return load(folder)


def import_model(module: Any, *args: Any, **options: Any) -> ModuleOp:
    """`kaoken.frontend.load.load_model`; KaokenError also where PyTorch is needed and missing."""
    from kaoken.frontend.load import load_model

    try:
        return load_model(module, *args, **options)
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "transformers"):
            raise
        raise KaokenError(
            f"compiling this needs {error.name}, which is not installed: "
            "`pip install 'kaoken[torch]'`"
        ) from None


def tokenizer_files(model: Any) -> tuple[Path, ...]:
    """The files of a tokenizer: a Hugging Face folder's, those beside a .mlir, a .gguf's own."""
    if not isinstance(model, str | Path):
        return ()
    path = Path(model)
    if path.suffix == ".gguf" and path.is_file():
        from kaoken.frontend.gguf_tokenizer import write_tokenizer

        return write_tokenizer(path)
    folder = path.parent if path.suffix == ".mlir" else path
    found = tuple(folder / name for name in TOKENIZER_FILES if (folder / name).is_file())
    if not found or (folder / "tokenizer.json").is_file() or not _generates(path):
        return found
    from kaoken.frontend.hugging_face_tokenizer import converted_tokenizer

    return (*found, *converted_tokenizer(folder))


def _generates(path: Path) -> bool:
    """Whether a path is a Hugging Face folder of a model that generates text."""
    if not (path / "config.json").is_file():
        return False
    from kaoken.frontend.hugging_face_decoder import is_causal_folder
    from kaoken.frontend.hugging_face_seq2seq import is_seq2seq_folder

    return is_causal_folder(path) or is_seq2seq_folder(path)


def is_decoder(path: Path) -> bool:
    """Whether a path is a .gguf or a Hugging Face folder of a model that goes on with its input."""
    if path.suffix == ".gguf" or not (path / "config.json").is_file():
        return path.suffix == ".gguf"
    from kaoken.frontend.hugging_face_decoder import is_causal_folder

    return is_causal_folder(path)


def _distinct_tensors(args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> tuple[Any, Any]:
    """The example inputs, none of them given twice: torch.export would take two for one."""
    if not args and not kwargs:
        return args, kwargs
    from torch import Tensor
    from torch.utils._pytree import tree_map

    seen: set[int] = set()

    def distinct(value: Any) -> Any:
        if not isinstance(value, Tensor) or id(value) not in seen:
            seen.add(id(value))
            return value
        return value.clone()

    return tree_map(distinct, (tuple(args), dict(kwargs or {})))


def load(folder: str | Path, threads: int | None = None) -> CompiledModel:
    """Open a compiled folder. Imports neither torch nor xDSL.

    `threads` is at most what the model was compiled for, which is the default. Raises KaokenError
    when a file is missing or broken, or this CPU lacks what the model was compiled for.
    """
    from kaoken.backend.loader import Library
    from kaoken.compiled_model import CompiledModel

    library = Library(Path(folder))
    if library.manifest.get("encoder"):
        from kaoken.compiled_encoder_decoder import CompiledEncoderDecoder

        return CompiledEncoderDecoder(library, threads)
    if library.manifest.get("generation"):
        from kaoken.compiled_decoder import CompiledDecoder

        return CompiledDecoder(library, threads)
    return CompiledModel(library, threads)


def load_decoder(folder: str | Path, threads: int | None = None) -> CompiledDecoder:
    """Open a compiled model that generates text, as `load`; KaokenError for one that does not."""
    from kaoken.compiled_decoder import CompiledDecoder

    model = load(folder, threads)
    if not isinstance(model, CompiledDecoder):
        raise KaokenError(f"{folder} does not generate text: it was compiled from an encoder")
    return model


def compile_module(
    module: ModuleOp, out: Path, options: CompileOptions, progress: Progress = _silent
) -> None:
    """Lower a module of any level, which changes it, and write its package to `out`."""
    from kaoken.backend.machine import TargetMachine
    from kaoken.backend.toolchain import find_compiler

    machine = TargetMachine.parse(options.target)
    compiler = find_compiler(options.cc) if options.library else None
    _check_kv(module, options)
    if options.batch > 1:
        from kaoken.passes.batch_sequences import batch_sequences

        batch_sequences(module, options.batch)
    ops = op_counts(module)
    options = replace(options, dtype=_resolved(module, options.dtype))
    lower(
        module,
        machine,
        options.threads,
        options.dtype,
        options.schedule,
        progress,
        profile=options.profile,
        math=options.math,
        calibrate=options.calibrate,
        activations=options.activations,
        kv=options.kv,
        group_size=options.group_size,
        policy=options.policy,
    )
    write_lowered(module, machine, out, options, compiler, ops, progress)


def _resolved(module: ModuleOp, dtype: str) -> str:
    """`auto` is f32 where no weight is of few bits."""
    from kaoken.dialect.quant import DequantizeOp

    has_few_bits = any(isinstance(op, DequantizeOp) for op in module.walk())
    return "f32" if dtype == "auto" and not has_few_bits else dtype


def _check_kv(module: ModuleOp, options: CompileOptions) -> None:
    from kaoken.passes.narrow_caches import has_caches

    if options.kv != "f32" and not has_caches(module):
        raise KaokenError(
            f"kv is {options.kv}, but this model keeps no keys and values between calls: leave it"
        )


def write_lowered(
    module: ModuleOp,
    machine: TargetMachine,
    out: Path,
    options: CompileOptions,
    compiler: Compiler | None,
    ops: Mapping[str, int] | None = None,
    progress: Progress = _silent,
) -> None:
    """Write the package of a module that all passes have lowered; `ops` is what it tells of them.

    Without a compiler there is no library in it.
    """
    from xdsl.dialects.builtin import StringAttr

    from kaoken.backend.c_printer import print_module
    from kaoken.backend.interface import interface_of
    from kaoken.backend.package import PackageOptions, output_folder, write_package
    from kaoken.backend.toolchain import build_library
    from kaoken.weights import store_of

    package = PackageOptions(
        machine, options.threads, options.dtype, ops or {}, options.copied_files, options.math
    )
    with output_folder(out) as draft:
        progress("write C")
        interface = interface_of(module, out.name)
        module.attributes["kaoken.name"] = StringAttr(interface.name)
        source = print_module(module, machine)
        progress("write weights")
        write_package(draft, source, interface, store_of(module), package)
        if compiler is not None:
            progress("compile C")
            build_library(draft, interface.name, machine, compiler)


def lower(
    module: ModuleOp,
    machine: TargetMachine,
    threads: int = 1,
    dtype: str = "f32",
    schedule: str | Path | None = None,
    progress: Progress = _silent,
    profile: bool = False,
    math: str = "exact",
    calibrate: Sequence[Mapping[str, Any]] = (),
    activations: str = "dynamic",
    kv: str = "f32",
    group_size: int = GROUP_SIZE,
    policy: str | Path | None = None,
) -> None:
    """Run what remains of the default pipeline; KaokenError names the pass that failed.

    `calibrate` holds the samples that the pass of that name runs, in place of random ones.
    """
    from xdsl.utils.exceptions import DiagnosticException

    from kaoken.modules import diagnostic_text
    from kaoken.passes.calibrate import CalibratePass
    from kaoken.passes.calibrate import calibrate as run_calibrate
    from kaoken.passes.quantize import QuantizePass
    from kaoken.pipelines import default_pipeline
    from kaoken.universe import make_context

    context = make_context()
    passes = default_pipeline(
        machine, threads, dtype, schedule, profile, math, activations, kv, group_size, policy
    )
    for one in passes:
        progress(one.name)
        try:
            if calibrate and isinstance(one, CalibratePass):
                run_calibrate(module, _samples(module, calibrate, progress))
            elif calibrate and isinstance(one, QuantizePass) and dtype in FEW_BITS:
                one.quantize(module, _samples(module, calibrate, progress))
            else:
                one.apply(context, module)
        except DiagnosticException as error:
            raise KaokenError(f"{one.name}: {diagnostic_text(error)}") from error


def _samples(module: ModuleOp, inputs: Sequence[Mapping[str, Any]], progress: Progress) -> Samples:
    """Inputs by name as samples of @main, which say how many are done."""
    from xdsl.dialects.func import FuncOp
    from xdsl.traits import SymbolTable

    from kaoken.calibration import Samples, ordered_inputs

    main = SymbolTable.lookup_symbol(module, "main")
    assert isinstance(main, FuncOp)
    ordered = [ordered_inputs(main, sample) for sample in inputs]
    return Samples(ordered, lambda n, of: progress(f"calibrate: {n} of {of} samples"))


def cached_folder(module: ModuleOp, options: CompileOptions) -> Path:
    """Where the cache keeps the package of this module, compiled this way by this kaoken."""
    from xdsl.dialects.builtin import StringAttr

    from kaoken.modules import stored_keys
    from kaoken.weights import store_of

    digest = store_of(module).digest(stored_keys(module))
    key = content_key([str(module), digest, options_key(options)])
    name = module.attributes.get("kaoken.name")
    stem = name.data if isinstance(name, StringAttr) else "model"
    return cached_package("models", key, stem)


def options_key(options: CompileOptions) -> str:
    """What tells apart the packages that this kaoken makes of one model."""
    from kaoken.backend.machine import TargetMachine
    from kaoken.backend.toolchain import find_compiler

    return content_key(
        [
            compiler_version(),
            TargetMachine.parse(options.target).text,
            f"{options.dtype} {options.math} {options.threads} {options.profile} "
            f"{options.activations} {options.batch} {_digest(options.calibrate)} "
            f"{options.kv} {options.group_size} {_text_of(options.schedule)} "
            f"{_text_of(options.policy)}",
            str(find_compiler(options.cc)),
        ]
    )


def _digest(samples: Sequence[Mapping[str, Any]]) -> str:
    """What tells sets of samples apart."""
    import numpy as np

    arrays = [(name, np.asarray(s[name])) for s in samples for name in sorted(s)]
    return content_key([f"{name} {a.shape} {a.dtype} {a.tobytes().hex()}" for name, a in arrays])


def _text_of(file: str | Path | None) -> str:
    """What the cache's key says about a schedule or a policy: its text, as far as there is one."""
    if file is None or "{" in str(file) or not Path(file).is_file():
        return str(file)
    return Path(file).read_text()


def op_counts(module: ModuleOp) -> dict[str, int]:
    """How many ops of each name the module's functions hold, the most frequent first."""
    names = Counter(op.name for op in module.walk() if op.name.startswith("kaoken."))
    return dict(names.most_common())
