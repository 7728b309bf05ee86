"""`kaoken.compile` and `kaoken.load`: from a model to a function that runs it.

The stages are those of the map in docs: import, the passes of the default pipeline, C, weights,
library. Whoever wants to stop in between uses them one by one, as `kaoken compile --emit` does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaoken.choices import GROUP_SIZE
from kaoken.errors import KaokenError
from kaoken.model_files import tokenizer_files
from kaoken.options import CompileOptions

if TYPE_CHECKING:
    import torch
    from xdsl.dialects.builtin import ModuleOp

    from kaoken.calibration import Samples
    from kaoken.compiled_decoder import CompiledDecoder
    from kaoken.compiled_model import CompiledModel

Progress = Callable[[str], None]
"""Told the name of each stage when it begins."""

MAX_BATCH, MAX_TOKENS = 8, 512
POLICY_FILE = "layers.policy"


def silent(stage: str) -> None:
    pass


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
    budget: str | None = None,
    density: float | None = None,
    progress: Progress = silent,
) -> CompiledModel:
    """Compile a module, given as in torch.export.export, or a model on disk, and load the result.

    A path is a Hugging Face folder (up to `max_batch` texts of `max_tokens` tokens a call), a
    `.pt2`, a `.mlir` or a `.gguf`. `dtype` is what weights become (the pass `quantize`): f32, bf16,
    int8, int6 to int1, ternary, or auto, what they are; mixed chooses bits for each weight within a
    `budget`, "4.5" a weight, "60MB", or "60MB/token", by default what int4 takes, and writes them
    to `layers.policy` in the folder. `policy` is a file that says otherwise of single weights
    (`kaoken.passes.quantizing.policy`), `group_size` how many of few bits share a scale. `target`
    is `native` or such as `x86-64-v4+vnni`; `threads` the most that a call may use; `schedule` a
    file or text of `kaoken.schedule`; `head` what follows a folder's model (none, auto, mean-pool,
    sentence); `out` the folder to write, by default one in kaoken's cache; `math` is `exact`, or
    `quake1` or `quake2` for faster exponentials with errors of 3 % and 0.3 %; with `profile`,
    `CompiledModel.profile` tells how long each op takes. For int8 and few bits, `calibrate` holds
    sample inputs (arrays by name, numpy or torch), from which layers learn how large their inputs
    are; int8's `activations="static"` takes all scales from them. A decoder with a `batch` goes on
    with so many texts in one pass.
    `kv` is what a decoder keeps keys and values as: f32, bf16 or int8. `density` is the share of
    numbers behind a ReLU that is not zero: where that is small, a single row passes over the zeros.
    Raises KaokenError.
    """
    options = CompileOptions(
        target,
        dtype,
        threads,
        schedule,
        cc,
        profile=profile,
        math=math,
        calibrate=calibrate,
        activations=activations,
        batch=batch,
        kv=kv,
        group_size=group_size,
        policy=policy,
        budget=budget,
        density=density,
    )
    return compile_model(
        options,
        module,
        args,
        kwargs,
        dynamic_shapes=dynamic_shapes,
        max_batch=max_batch,
        max_tokens=max_tokens,
        head=head,
        out=out,
        progress=progress,
    )


def compile_model(
    options: CompileOptions,
    module: Any,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    out: str | Path | None = None,
    progress: Progress = silent,
    **importing: Any,
) -> CompiledModel:
    """`compile` with options that are made already; `importing` goes to `import_model`."""
    from kaoken.backend.cache import trim_packages
    from kaoken.backend.loader import is_package

    options.check(None if out is None else Path(out))
    options = replace(options, copied_files=tokenizer_files(module))
    progress("import")
    model = import_model(module, *_distinct_tensors(args, kwargs), **importing)
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
    module: ModuleOp, out: Path, options: CompileOptions, progress: Progress = silent
) -> None:
    """Lower a module of any level, which changes it, and write its package to `out`."""
    _ = options.compiler  # Better missed now than after minutes of work.
    _check_kv(module, options)
    if options.batch > 1:
        from kaoken.passes.batch_sequences import batch_sequences

        batch_sequences(module, options.batch)
    ops = op_counts(module)
    options = replace(options, dtype=_resolved(module, options.dtype))
    lower(module, options, progress)
    write_lowered(module, out, options, ops, progress)


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
    out: Path,
    options: CompileOptions,
    ops: Mapping[str, int] | None = None,
    progress: Progress = silent,
) -> None:
    """Write the package of a module that all passes have lowered; `ops` is what it tells of them.

    Without `options.library` there is no library in it.
    """
    from xdsl.dialects.builtin import StringAttr

    from kaoken.backend.c_printer import print_module
    from kaoken.backend.interface import interface_of
    from kaoken.backend.package import output_folder, write_package
    from kaoken.backend.toolchain import build_library
    from kaoken.weights import store_of

    machine = options.machine
    with output_folder(out) as draft:
        progress("write C")
        interface = interface_of(module, out.name)
        module.attributes["kaoken.name"] = StringAttr(interface.name)
        source = print_module(module, machine)
        progress("write weights")
        write_package(draft, source, interface, store_of(module), options, ops or {})
        _write_policy(module, draft)
        if (compiler := options.compiler) is not None:
            progress("compile C")
            build_library(draft, interface.name, machine, compiler)


def _write_policy(module: ModuleOp, folder: Path) -> None:
    """The bits that dtype=mixed chose, as a file that a person can change and give again."""
    from kaoken.passes.quantize import chosen_policy

    if (lines := chosen_policy(module)) is not None:
        head = f"# chosen by --dtype mixed; give it again: --dtype mixed --policy {POLICY_FILE}"
        (folder / POLICY_FILE).write_text("\n".join([head, *lines, ""]))


def lower(module: ModuleOp, options: CompileOptions, progress: Progress = silent) -> None:
    """Run what remains of the default pipeline; KaokenError names the pass that failed.

    Where the options hold samples to calibrate with, passes run those in place of random ones.
    """
    from xdsl.utils.exceptions import DiagnosticException

    from kaoken.modules import diagnostic_text
    from kaoken.passes.calibrate import CalibratePass
    from kaoken.passes.calibrate import calibrate as run_calibrate
    from kaoken.passes.quantize import QuantizePass
    from kaoken.pipelines import default_pipeline
    from kaoken.universe import make_context

    context, given = make_context(), options.calibrate
    for one in default_pipeline(options):
        progress(one.name)
        try:
            if given and isinstance(one, CalibratePass):
                run_calibrate(module, _samples(module, given, progress))
            elif given and isinstance(one, QuantizePass) and options.dtype != "int8":
                one.quantize(module, _samples(module, given, progress))
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
    return Samples(ordered, lambda n, of: progress(f"calibrate: {n} of {of}"))


def cached_folder(module: ModuleOp, options: CompileOptions) -> Path:
    """Where the cache keeps the package of this module, compiled this way by this kaoken."""
    from xdsl.dialects.builtin import StringAttr

    from kaoken.backend.cache import cached_package, content_key
    from kaoken.modules import stored_keys
    from kaoken.weights import store_of

    digest = store_of(module).digest(stored_keys(module))
    key = content_key([str(module), digest, options.cache_key()])
    name = module.attributes.get("kaoken.name")
    stem = name.data if isinstance(name, StringAttr) else "model"
    return cached_package("models", key, stem)


def op_counts(module: ModuleOp) -> dict[str, int]:
    """How many ops of each name the module's functions hold, the most frequent first."""
    names = Counter(op.name for op in module.walk() if op.name.startswith("kaoken."))
    return dict(names.most_common())
