"""Hugging Face folders: config.json with safetensors or pytorch_model.bin, as an L0 module.

The folder's model is built by transformers and exported with what it reads: `input_ids` and
`attention_mask` [batch, tokens], both sizes open, or images of one size, or both. A head may
follow that makes the tokens' vectors into one for the sentence.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xdsl.builder import Builder
from xdsl.dialects.builtin import ArrayAttr, FunctionType, ModuleOp, StringAttr
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import SSAValue
from xdsl.rewriter import InsertPoint

from kaoken.analysis.shapes import argument_name
from kaoken.dialect.nn import MeanPoolOp, NormalizeOp
from kaoken.errors import KaokenError
from kaoken.frontend.checkpoint_quantization import Convention, convention_of
from kaoken.frontend.graph import Graph
from kaoken.frontend.hugging_face_inputs import example_inputs, text_config
from kaoken.frontend.pytree import TENSOR
from kaoken.frontend.torch_export import import_module, quietly
from kaoken.json_files import read_json

if TYPE_CHECKING:
    import torch

HEADS = ("none", "auto", "mean-pool", "sentence")
"""What may follow the model; see `import_folder`."""

_WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def import_folder(
    path: str | Path,
    max_batch: int = 8,
    max_tokens: int = 512,
    task: str | None = None,
    head: str = "none",
    name: str | None = None,
) -> ModuleOp:
    """The model in a folder, for up to `max_batch` texts of `max_tokens` tokens (images) a call.

    `max_tokens` is lowered to what the model's position table holds. `task` names a class of
    transformers such as `AutoModelForSequenceClassification`; by default `AutoModel`. `head` adds a
    result: `mean-pool` the mean of the unmasked tokens, `sentence` that with length 1, `auto` what
    the folder's sentence-transformers files say. Raises KaokenError when the folder, its config or
    its weights are missing or broken, or transformers does not know the architecture.
    """
    path = Path(path)
    if head not in HEADS:
        raise KaokenError(f"unknown head {head!r}: choose from {', '.join(HEADS)}")
    if max_batch < 1 or max_tokens < 1:
        raise KaokenError("max_batch and max_tokens are at least 1")
    config = read_config(path)
    model: Any = load_folder_model(path, config, task)
    model.config.use_cache = False  # Of decoders that embed texts.
    tokens = min(max_tokens, position_limit(text_config(model.config)))
    with errors_name_model(path, config):
        inputs, open_ = example_inputs(path, model, max_batch, tokens)
    module = import_module(model, (), inputs, open_, name or name_of_folder(path))
    chosen = folder_head(path) if head == "auto" else head
    if chosen != "none":
        add_sentence_head(module, normalize=chosen == "sentence")
    return module


def add_sentence_head(module: ModuleOp, normalize: bool) -> None:
    """Add a result to @main: the mean of its first result's unmasked tokens, perhaps normalised.

    It is called `sentence_embedding`. Raises KaokenError when the module has no `attention_mask`
    or its first result is not [batch, tokens, features].
    """
    function = next(op for op in module.walk() if isinstance(op, FuncOp))
    end = function.body.block.last_op
    assert isinstance(end, ReturnOp)
    graph = Graph(Builder(InsertPoint.before(end)))
    hidden = end.arguments[0]
    if graph.rank(hidden) != 3:
        raise KaokenError("a sentence head needs a model that gives a vector for each token")
    pooled = graph.make(MeanPoolOp, [hidden, _mask_of(function)])
    result = graph.make(NormalizeOp, [pooled]) if normalize else pooled
    _add_result(module, function, end, result)


def _mask_of(function: FuncOp) -> SSAValue:
    for i, argument in enumerate(function.args):
        if argument_name(function, i) == "attention_mask":
            return argument
    raise KaokenError("a sentence head needs a model with an attention_mask")


def _add_result(module: ModuleOp, function: FuncOp, end: ReturnOp, result: SSAValue) -> None:
    values = [*end.arguments, result]
    function.body.block.erase_op(end)
    function.body.block.add_op(ReturnOp(*values))
    function.function_type = FunctionType.from_lists(
        function.function_type.inputs.data, [value.type for value in values]
    )
    names = function.attributes["kaoken.results"]
    assert isinstance(names, ArrayAttr)
    function.attributes["kaoken.results"] = ArrayAttr(
        [*names.data, StringAttr("sentence_embedding")]
    )
    text = module.attributes["kaoken.output_tree"]
    assert isinstance(text, StringAttr)
    tree = json.loads(text.data)
    tree["items"].append(TENSOR)
    # A ModelOutput's class would refuse the key that its author did not know.
    tree = {"kind": "dict", "keys": [*tree["keys"], "sentence_embedding"], "items": tree["items"]}
    module.attributes["kaoken.output_tree"] = StringAttr(json.dumps(tree))


def read_config(path: Path) -> dict[str, Any]:
    """config.json of a folder. Raises KaokenError when it is missing or broken."""
    if not path.is_dir():
        raise KaokenError(f"there is no folder {path}")
    file = path / "config.json"
    config = read_json(file)
    if config is None:
        raise KaokenError(f"{path} holds no config.json: it is not a Hugging Face model")
    if "model_type" not in config:
        raise KaokenError(f'{file} has no "model_type": it is not a transformers model')
    return config


def load_folder_model(path: Path, config: dict[str, Any], task: str | None) -> torch.nn.Module:
    """The folder's model in float32, of a class of transformers. KaokenError when it is broken."""
    files = _checked_weights(path)
    loader = _model_class(task)
    if (convention := _convention_of(path, config)) is not None:
        model, missing = _load_quantized(loader, path, config, convention, files)
    else:
        model, missing = _from_pretrained(loader, path, config)
    if missing and all(key.startswith("pooler.") for key in missing):
        # Checkpoints of language models hold no pooler; it would be random.
        model, missing = _from_pretrained(loader, path, config, add_pooling_layer=False)
    if missing:
        raise KaokenError(
            f"the weights in {path} lack {_some(missing)}: they are for another model"
        )
    return model.eval()


def _from_pretrained(
    loader: Any, path: Path, config: dict[str, Any], **options: Any
) -> tuple[torch.nn.Module, list[str]]:
    """The model of a folder, and which of its weights the folder lacks."""
    with _transformers_quietly():
        try:
            model, report = loader.from_pretrained(
                path, local_files_only=True, dtype="float32", output_loading_info=True, **options
            )
        except Exception as error:
            raise KaokenError(_load_error(path, config, error)) from error
    return model, sorted(report["missing_keys"])


def _convention_of(path: Path, config: Mapping[str, Any]) -> Convention | None:
    try:
        return convention_of(config)
    except KaokenError as error:
        raise KaokenError(f"the weights in {path} cannot be read: {error}") from None


def _load_quantized(
    loader: Any, path: Path, config: dict[str, Any], convention: Convention, files: list[Path]
) -> tuple[torch.nn.Module, list[str]]:
    from kaoken.frontend.hugging_face_quantized import load_quantized

    with _transformers_quietly():
        try:
            return load_quantized(loader, path, config, convention, files)
        except KaokenError as error:
            raise KaokenError(f"{path}: {error}") from None
        except Exception as error:
            raise KaokenError(_load_error(path, config, error)) from error


def _some(keys: Sequence[str]) -> str:
    shown = ", ".join(keys[:3])
    return shown if len(keys) <= 3 else f"{shown} and {len(keys) - 3} more"


def _model_class(task: str | None) -> Any:
    import transformers

    name = task or "AutoModel"
    if (found := getattr(transformers, name, None)) is None:
        raise KaokenError(f"transformers has no class {name}")
    return found


def _checked_weights(path: Path) -> list[Path]:
    """The files with the folder's weights, all of them whole: before torch tries them.

    Raises KaokenError when one is missing or broken.
    """
    present = [path / name for name in _WEIGHT_FILES if (path / name).exists()]
    if not present:
        raise KaokenError(
            f"{path} has a config but no weights: it needs model.safetensors or pytorch_model.bin"
        )
    files = _shards(present[0])
    for file in files:
        if file.suffix == ".safetensors":
            _check_safetensors(file)
        elif not file.exists():
            raise KaokenError(f"the weights file {file} is missing: fetch it again")
    return files


def _shards(file: Path) -> list[Path]:
    if file.suffix != ".json":
        return [file]
    try:
        names = set(read_json(file)["weight_map"].values())
    except (KeyError, AttributeError):
        raise KaokenError(f"{file} is not an index of weights: fetch it again") from None
    return [file.parent / name for name in sorted(names)]


def _check_safetensors(file: Path) -> None:
    from kaoken.weights import WeightStore

    WeightStore.open(file)


def _load_error(path: Path, config: dict[str, Any], error: Exception) -> str:
    kind = config["model_type"]
    text = str(error)
    if "does not recognize this architecture" in text or "Unrecognized model" in text:
        return f"{path} is a {kind!r} model, an architecture that transformers does not know"
    if "Unrecognized configuration class" in text:
        wanted = text.partition("this kind of AutoModel: ")[2].partition(".")[0]
        return (
            f"{path} is a {kind!r} model, which transformers has no {wanted} for: "
            "give kaoken.compile the module, or its encoder, with example inputs"
        )
    reason = (text.strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, EOFError | OSError) or "PytorchStreamReader" in text or "pickle" in text:
        return f"the weights in {path} are broken: fetch them again ({reason})"
    return f"transformers cannot load {path}: {reason}"


def position_limit(config: Any) -> int:
    """How many tokens the model's position table holds."""
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:
        return 1 << 30
    if config.model_type in _POSITIONS_AFTER_PADDING:
        return limit - (config.pad_token_id or 0) - 1
    return limit


_POSITIONS_AFTER_PADDING = {
    "camembert",
    "data2vec-text",
    "longformer",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
}
"""Architectures that number the first token padding_idx + 1."""


def folder_head(path: Path) -> str:
    """The head that a sentence-transformers folder asks for: beside or above the model."""
    for folder in (path, path.parent):
        modules = read_json(folder / "modules.json", list)
        if modules is not None:
            return _head_of(folder, [str(entry.get("type", "")) for entry in modules])
    return _head_of(path, ["Pooling"]) if (path / "1_Pooling").exists() else "none"


def _head_of(folder: Path, kinds: Sequence[str]) -> str:
    if not any("Pooling" in kind for kind in kinds):
        return "none"
    pooling = read_json(folder / "1_Pooling" / "config.json")
    if pooling is not None and not pooling.get("pooling_mode_mean_tokens"):
        return "none"
    return "sentence" if any("Normalize" in kind for kind in kinds) else "mean-pool"


@contextmanager
def errors_name_model(path: Path, config: Mapping[str, Any]) -> Iterator[None]:
    """What goes wrong inside names the folder and the architecture."""
    try:
        yield
    except KaokenError as error:
        kind = config["model_type"]
        raise KaokenError(f"{path} is a {kind!r} model: {error}") from error


def name_of_folder(path: Path) -> str:
    """What a folder's model is called: the folder, or the one around a snapshot."""
    resolved = path.resolve()
    generic = resolved.name in ("model", "snapshot") or len(resolved.name) == 40
    return resolved.parent.name if generic else resolved.name


@contextmanager
def _transformers_quietly() -> Iterator[None]:
    """Without transformers' progress bars and remarks."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with quietly():
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
