"""GGUF files: hyperparameters, tensors and tokenizer of a decoder, as an L0 module.

Matrices of the types in `KEPT` stay codes and scales, of which `quantize` makes what it wants;
other types become float32. Rows of queries and keys stay in the file's order: `llama` files pair
neighbours for rotary positions.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from xdsl.dialects.builtin import ArrayAttr, ModuleOp, StringAttr

from kaoken.dialect.attributes import Activation
from kaoken.dialect.formats import Format
from kaoken.errors import KaokenError
from kaoken.frontend.decoder import DecoderConfig, build_decoder
from kaoken.frontend.generation_config import of_gguf
from kaoken.frontend.gguf_blocks import KEPT, gguf_blocks
from kaoken.frontend.rotary import Rotary
from kaoken.quantized import Quantized
from kaoken.weights import WeightStore

if TYPE_CHECKING:
    import gguf

FLOATS = ("F32", "F16", "BF16")
"""The tensor types that are numbers."""
CODEBOOKS = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS")
WIDENED = ("MXFP4", "NVFP4", *CODEBOOKS)
"""The tensor types without a kernel of their own, which become float32."""
TYPES = (*FLOATS, *KEPT, *WIDENED)
"""The tensor types that kaoken reads."""
MAGIC = b"GGUF"

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GEMMA_NAMES = _LAYER_NAMES | {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")


@dataclass(frozen=True)
class Architecture:
    """What `general.architecture` implies besides the numbers in the file."""

    interleaved: bool = False
    activation: Activation = Activation.SILU
    layer_names: Mapping[str, str] = field(default_factory=lambda: _LAYER_NAMES)
    scaled_embedding: bool = False
    pattern: int | None = None
    """Every so many layers, one sees the whole context; the others have a window."""
    local_base: float | None = None


ARCHITECTURES = {
    "llama": Architecture(interleaved=True),
    "qwen2": Architecture(),
    "qwen3": Architecture(),
    "gemma": Architecture(activation=Activation.GELU_TANH, scaled_embedding=True),
    "gemma3": Architecture(
        activation=Activation.GELU_TANH,
        layer_names=_GEMMA_NAMES,
        scaled_embedding=True,
        pattern=6,
        local_base=10000.0,
    ),
}


class GgufFile:
    """An open GGUF file: `fields` of metadata, and tensors by name.

    Raises KaokenError when the file is missing, truncated or no GGUF file, or the package `gguf` is
    not installed.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._check_magic()
        reader = _open(self.path)
        self._fields = reader.fields
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}

    def _check_magic(self) -> None:
        try:
            with self.path.open("rb") as file:
                magic = file.read(len(MAGIC))
        except OSError as error:
            raise KaokenError(f"cannot read {self.path}: {error.strerror}") from None
        if magic != MAGIC:
            raise KaokenError(f"{self.path} is not a GGUF file")

    @property
    def architecture(self) -> str:
        return str(self.require("general.architecture"))

    def get(self, key: str, default: Any = None) -> Any:
        """A metadata value as a Python object."""
        entry = self._fields.get(key)
        if entry is None:
            return default
        try:
            return entry.contents()
        except (ValueError, IndexError, UnicodeDecodeError) as error:
            raise KaokenError(f"{self.path}: {key} cannot be read: {error}") from None

    def require(self, key: str) -> Any:
        value = self.get(key)
        if value is None:
            raise KaokenError(f"{self.path} does not say {key}, which a model needs")
        return value

    def number(self, name: str, default: float | None = None) -> Any:
        """`<architecture>.<name>`; KaokenError when it is missing and has no default."""
        key = f"{self.architecture}.{name}"
        return self.require(key) if default is None else self.get(key, default)

    def array(self, name: str) -> np.ndarray:
        """A tensor as float32. Raises KaokenError for a type that kaoken does not read."""
        from gguf import quants

        tensor = self.tensors[name]
        kind = tensor.tensor_type.name
        if kind not in TYPES:
            raise KaokenError(
                f"{self.path}: {name} has the type {kind}; kaoken reads {', '.join(TYPES)}"
            )
        values = quants.dequantize(tensor.data, tensor.tensor_type)
        return np.ascontiguousarray(values, np.float32)

    def quantized(self, name: str) -> Quantized | None:
        """A tensor as codes and scales, where its type is one of `KEPT`."""
        tensor = self.tensors[name]
        kind = tensor.tensor_type.name
        if kind not in KEPT or len(tensor.shape) != 2:
            return None
        return gguf_blocks(kind, np.asarray(tensor.data), int(tensor.shape[0]))

    def types(self) -> dict[str, int]:
        """How many tensors there are of each type, the most frequent first."""
        return dict(Counter(t.tensor_type.name for t in self.tensors.values()).most_common())


def _open(path: Path) -> gguf.GGUFReader:
    try:
        import gguf
    except ModuleNotFoundError as error:
        if error.name != "gguf":
            raise
        raise KaokenError(
            "reading GGUF files needs gguf, which is not installed: `pip install 'kaoken[gguf]'`"
        ) from None
    try:
        reader = gguf.GGUFReader(path)
    except ValueError as error:
        unknown = re.search(r"(\d+)\)? is not a valid GGMLQuantizationType", str(error))
        if unknown is not None:
            raise KaokenError(f"{path}: a tensor has the unknown type {unknown.group(1)}") from None
        raise KaokenError(f"{path} is broken or truncated: fetch it again ({error})") from None
    except (IndexError, KeyError, EOFError, OverflowError, TypeError, MemoryError) as error:
        raise KaokenError(f"{path} is broken or truncated: fetch it again ({error})") from None
    size = path.stat().st_size
    for tensor in reader.tensors:
        if tensor.data_offset + tensor.n_bytes > size:
            raise KaokenError(f"{path} is truncated in {tensor.name}: fetch it again")
    return reader


def import_gguf(path: str | Path, max_tokens: int = 2048, name: str | None = None) -> ModuleOp:
    """The model in a GGUF file, for contexts of up to `max_tokens` tokens.

    `max_tokens` is lowered to what the model was made for. The module's `kaoken.notes` say which
    tensor types were made into float32 whatever `quantize` does. Raises KaokenError when the file
    is broken, or its architecture, a tensor type or a scaling of positions is unknown.
    """
    if max_tokens < 1:
        raise KaokenError("max_tokens is at least 1")
    file = GgufFile(path)
    architecture = _architecture(file)
    config = _config(file, architecture, name or _name_of(file))
    store, formats = _weights(file, architecture)
    module = build_decoder(config, store, min(max_tokens, config.context), formats)
    known = ("F32", *KEPT)
    changed = [f"{kind} ({n} tensors)" for kind, n in file.types().items() if kind not in known]
    if changed:
        note = StringAttr(f"{file.path.name}: {', '.join(changed)} become f32")
        module.attributes["kaoken.notes"] = ArrayAttr([note])
    return module


def _architecture(file: GgufFile) -> Architecture:
    known = ARCHITECTURES.get(file.architecture)
    if known is None:
        raise KaokenError(
            f"{file.path} is a {file.architecture!r} model; of GGUF files kaoken reads "
            f"{', '.join(ARCHITECTURES)}"
        )
    experts = file.number("expert_count", 0)
    if experts:
        raise KaokenError(f"{file.path} has {experts} experts: mixtures of experts are not read")
    return known


def _name_of(file: GgufFile) -> str:
    return re.sub(r"\W+", "_", file.path.stem.split(".")[0]).strip("_").lower() or "decoder"


def _config(file: GgufFile, architecture: Architecture, name: str) -> DecoderConfig:
    hidden, heads = file.number("embedding_length"), file.number("attention.head_count")
    layers = file.number("block_count")
    kv_heads = file.number("attention.head_count_kv", heads)
    if not isinstance(heads, int) or not isinstance(kv_heads, int) or heads % kv_heads:
        raise KaokenError(f"{file.path}: {heads} heads with {kv_heads} key heads are not read")
    head_size = file.number("attention.key_length", hidden // heads)
    if file.number("attention.value_length", head_size) != head_size:
        raise KaokenError(f"{file.path}: keys and values of different sizes are not read")
    rotary = _rotary(file, architecture, head_size)
    return DecoderConfig(
        name=name,
        vocabulary=_vocabulary(file),
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        eps=file.number("attention.layer_norm_rms_epsilon"),
        rotary=rotary,
        context=file.number("context_length"),
        activation=architecture.activation,
        windows=_windows(file, architecture, layers),
        local_rotary=_local_rotary(architecture, head_size),
        embedding_scale=hidden**0.5 if architecture.scaled_embedding else 1.0,
        end_tokens=_end_tokens(file),
        defaults=of_gguf(file.get),
    )


def _vocabulary(file: GgufFile) -> int:
    if "token_embd.weight" not in file.tensors:
        raise KaokenError(f"{file.path} has no token_embd.weight: it is no whole model")
    return int(file.tensors["token_embd.weight"].shape[-1])


def _end_tokens(file: GgufFile) -> tuple[int, ...]:
    keys = ("eos_token_id", "eot_token_id", "eom_token_id")
    found = [file.get(f"tokenizer.ggml.{key}") for key in keys]
    return tuple(dict.fromkeys(int(token) for token in found if token is not None))


def _rotary(file: GgufFile, architecture: Architecture, head_size: int) -> Rotary:
    divisors = file.array("rope_freqs.weight") if "rope_freqs.weight" in file.tensors else None
    scaling, factor = _scaling(file)
    return Rotary(
        size=int(file.number("rope.dimension_count", head_size)),
        base=float(file.number("rope.freq_base", 10000.0)),
        interleaved=architecture.interleaved,
        scaling=scaling,
        factor=factor,
        original=int(
            file.number("rope.scaling.original_context_length", file.number("context_length"))
        ),
        beta_fast=float(file.number("rope.scaling.yarn_beta_fast", 32.0)),
        beta_slow=float(file.number("rope.scaling.yarn_beta_slow", 1.0)),
        divisors=None if divisors is None else tuple(divisors.tolist()),
    )


def _scaling(file: GgufFile) -> tuple[str, float]:
    """The name and factor of the scaling; older files say `rope.scale_linear` alone."""
    old = float(file.number("rope.scale_linear", 0.0))
    scaling = str(file.get(f"{file.architecture}.rope.scaling.type", "linear" if old else "none"))
    return scaling, float(file.number("rope.scaling.factor", old or 1.0))


def _local_rotary(architecture: Architecture, head_size: int) -> Rotary | None:
    if architecture.local_base is None:
        return None
    return Rotary(head_size, architecture.local_base, architecture.interleaved)


def _windows(file: GgufFile, architecture: Architecture, layers: int) -> tuple[int | None, ...]:
    window = int(file.number("attention.sliding_window", 0)) or None
    if window is None or architecture.pattern is None:
        return (window,) * layers
    return tuple(None if (i + 1) % architecture.pattern == 0 else window for i in range(layers))


def _weights(file: GgufFile, architecture: Architecture) -> tuple[WeightStore, dict[str, Format]]:
    """All tensors under Hugging Face's names, with the formats of those of few bits."""
    store = WeightStore()
    formats: dict[str, Format] = {}
    for name in file.tensors:
        if name == "rope_freqs.weight":
            continue
        key = _key(file, architecture, name)
        if (kept := file.quantized(name)) is None:
            store.add(key, file.array(name))
            continue
        formats[key] = kept.format
        store.add(key, kept.codes)
        store.add(f"{key}.scale", kept.scale)
        if kept.minimum is not None:
            store.add(f"{key}.min", kept.minimum)
        if kept.supers is not None:
            store.add(f"{key}.supers", kept.supers)
    return store, formats


def _key(file: GgufFile, architecture: Architecture, name: str) -> str:
    stem, _, kind = name.rpartition(".")
    if stem in _NAMES:
        return f"{_NAMES[stem]}.{kind}"
    match = _LAYER.fullmatch(name)
    known = architecture.layer_names.get(match.group(2)) if match else None
    if match is None or known is None:
        raise KaokenError(
            f"{file.path} has a tensor {name} that kaoken does not know in a "
            f"{file.architecture} model"
        )
    return f"model.layers.{match.group(1)}.{known}.{match.group(3)}"


def read_gguf(path: str | Path) -> tuple[DecoderConfig, dict[str, np.ndarray]]:
    """What a file says of its model, and all tensors as float32 under Hugging Face's names.

    Raises KaokenError as `import_gguf` does.
    """
    file = GgufFile(path)
    architecture = _architecture(file)
    arrays = {
        _key(file, architecture, n): file.array(n) for n in file.tensors if n != "rope_freqs.weight"
    }
    return _config(file, architecture, _name_of(file)), arrays
