"""GGUF files: hyperparameters, tensors and tokenizer of a decoder, as an L0 module.

Matrices of the types in `KEPT` stay codes and scales, of which `quantize` makes what it wants;
other types become float32. Rows of queries and keys stay in the file's order: `llama` files pair
neighbours for rotary positions.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from xdsl.dialects.builtin import ModuleOp

from kaoken.dialect.attributes import Norm
from kaoken.dialect.formats import Format
from kaoken.errors import KaokenError
from kaoken.frontend.decoder import DecoderConfig, build_decoder
from kaoken.frontend.generation_config import of_gguf
from kaoken.frontend.gguf_architectures import ARCHITECTURES, QKV, TOP_NAMES, Architecture
from kaoken.frontend.gguf_blocks import KEPT, gguf_blocks
from kaoken.frontend.rotary import Rotary
from kaoken.modules import add_notes
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

_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")


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
        except (ValueError, IndexError, UnicodeDecodeError):
            raise KaokenError(f"{self.path} is broken at {key}: fetch it again") from None

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
            raise KaokenError(_unread(self.path, name, kind))
        values = quants.dequantize(tensor.data, tensor.tensor_type)
        return self._finite(name, np.ascontiguousarray(values, np.float32))

    def quantized(self, name: str) -> Quantized | None:
        """A tensor as codes and scales, where its type is one of `KEPT`."""
        tensor = self.tensors[name]
        kind = tensor.tensor_type.name
        if kind not in KEPT or len(tensor.shape) != 2:
            return None
        kept = gguf_blocks(kind, np.asarray(tensor.data), int(tensor.shape[0]))
        for numbers in (kept.scale, kept.minimum, kept.supers):
            if numbers is not None:
                self._finite(name, numbers)
        return kept

    def _finite(self, name: str, numbers: np.ndarray) -> np.ndarray:
        """The numbers of a tensor, or its scales. Raises KaokenError for NaN and infinity."""
        if not np.isfinite(numbers).all():
            raise KaokenError(
                f"{self.path}: {name} holds NaN or infinity, so the model gives nothing else: "
                "fetch the file again, or convert the model anew"
            )
        return numbers

    def special_token(self, role: str) -> int | None:
        """The token of a role (bos, eos, unknown ...); None where there is none that exists."""
        token = self.get(f"tokenizer.ggml.{role}_token_id")
        return int(token) if token is not None and 0 <= int(token) < self._tokens else None

    @property
    def _tokens(self) -> int:
        """How many tokens there are: those of the tokenizer, or the model's."""
        named = self.get("tokenizer.ggml.tokens")
        return vocabulary_of(self) if named is None else len(named)

    def unusable_tokens(self) -> list[str]:
        """Tokens of roles that no tokenizer has, as some converters write: they are left out."""
        given = {role: self.get(f"tokenizer.ggml.{role}_token_id") for role in _ROLES}
        return [
            f"{self.path.name}: tokenizer.ggml.{role}_token_id is {token}, which is none of its "
            f"{self._tokens} tokens: left out"
            for role, token in given.items()
            if token is not None and self.special_token(role) is None
        ]

    def types(self) -> dict[str, int]:
        """How many tensors there are of each type, the most frequent first."""
        return dict(Counter(t.tensor_type.name for t in self.tensors.values()).most_common())


_ROLES = ("bos", "eos", "eot", "eom", "unknown", "padding")


def _open(path: Path) -> gguf.GGUFReader:
    try:
        import gguf
    except ModuleNotFoundError as error:
        if error.name != "gguf":
            raise
        raise KaokenError(
            "reading GGUF files needs gguf, which is not installed: `pip install 'kaoken[gguf]'`"
        ) from None
    size = path.stat().st_size
    broken = f"{path} is truncated or broken: what it should hold does not fit its {size:,} bytes"
    try:
        reader = gguf.GGUFReader(path)
    except ValueError as error:
        unknown = re.search(r"(\d+)\)? is not a valid GGMLQuantizationType", str(error))
        if unknown is not None:
            raise KaokenError(_unread(path, "a tensor", unknown.group(1))) from None
        raise KaokenError(f"{broken}; fetch it again") from None
    except (IndexError, KeyError, EOFError, OverflowError, TypeError, MemoryError):
        raise KaokenError(f"{broken}; fetch it again") from None
    for tensor in reader.tensors:
        if tensor.data_offset + tensor.n_bytes > size:
            raise KaokenError(f"{path} is truncated in {tensor.name}: fetch it again")
    return reader


def _unread(path: Path, what: str, kind: str) -> str:
    return (
        f"{path}: {what} has the type {kind}, which kaoken does not read: take a file with one of "
        f"{', '.join(TYPES)}"
    )


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
    config = _config(file, architecture, name or _name_of(file), max_tokens)
    store, formats = _weights(file, architecture, config)
    module = build_decoder(config, store, min(max_tokens, config.context), formats)
    known = ("F32", *KEPT)
    changed = [f"{kind} ({n} tensors)" for kind, n in file.types().items() if kind not in known]
    if changed:
        add_notes(module, [f"{file.path.name}: {', '.join(changed)} become f32"])
    add_notes(module, file.unusable_tokens())
    return module


def _architecture(file: GgufFile) -> Architecture:
    known = ARCHITECTURES.get(file.architecture)
    if known is None:
        raise KaokenError(
            f"{file.path} is a {file.architecture!r} model; of GGUF files kaoken reads "
            f"{', '.join(ARCHITECTURES)}: compile its Hugging Face folder instead"
        )
    experts = file.number("expert_count", 0)
    if experts:
        raise KaokenError(f"{file.path} has {experts} experts: mixtures of experts are not read")
    return known


def _name_of(file: GgufFile) -> str:
    return re.sub(r"\W+", "_", file.path.stem.split(".")[0]).strip("_").lower() or "decoder"


def _config(
    file: GgufFile, architecture: Architecture, name: str, max_tokens: int
) -> DecoderConfig:
    hidden, heads = file.number("embedding_length"), file.number("attention.head_count")
    layers = file.number("block_count")
    kv_heads = file.number("attention.head_count_kv", heads)
    if not isinstance(heads, int) or not isinstance(kv_heads, int) or heads % kv_heads:
        raise KaokenError(f"{file.path}: {heads} heads with {kv_heads} key heads are not read")
    head_size = file.number("attention.key_length", hidden // heads)
    if file.number("attention.value_length", head_size) != head_size:
        raise KaokenError(f"{file.path}: keys and values of different sizes are not read")
    has_positions = "position_embd.weight" in file.tensors
    eps = "layer_norm_rms_epsilon" if architecture.norm is Norm.RMS_NORM else "layer_norm_epsilon"
    return DecoderConfig(
        name=name,
        vocabulary=vocabulary_of(file),
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        eps=file.number(f"attention.{eps}"),
        rotary=None if has_positions else _rotary(file, architecture, head_size, max_tokens),
        norm=architecture.norm,
        context=file.number("context_length"),
        activation=architecture.activation,
        squared_activation=architecture.squared_activation,
        windows=_windows(file, architecture, layers),
        local_rotary=_local_rotary(architecture, head_size),
        embedding_scale=hidden**0.5 if architecture.scaled_embedding else 1.0,
        end_tokens=_end_tokens(file),
        defaults=of_gguf(file.get),
    )


def vocabulary_of(file: GgufFile) -> int:
    """How many tokens the model knows. Raises KaokenError where the file has no table of them."""
    if "token_embd.weight" not in file.tensors:
        raise KaokenError(f"{file.path} has no token_embd.weight: it is no whole model")
    return int(file.tensors["token_embd.weight"].shape[-1])


def _end_tokens(file: GgufFile) -> tuple[int, ...]:
    found = [file.special_token(name) for name in ("eos", "eot", "eom")]
    return tuple(dict.fromkeys(token for token in found if token is not None))


def _rotary(file: GgufFile, architecture: Architecture, head_size: int, max_tokens: int) -> Rotary:
    scaling, factor = _scaling(file)
    original = file.number("rope.scaling.original_context_length", file.number("context_length"))
    divisors = _divisors(file, long=max_tokens > original)
    attention = file.number("rope.scaling.attn_factor", 0.0) if scaling == "none" else 0.0
    return Rotary(
        size=int(file.number("rope.dimension_count", head_size)),
        base=float(file.number("rope.freq_base", 10000.0)),
        interleaved=architecture.interleaved,
        scaling=scaling,
        factor=factor,
        original=int(original),
        beta_fast=float(file.number("rope.scaling.yarn_beta_fast", 32.0)),
        beta_slow=float(file.number("rope.scaling.yarn_beta_slow", 1.0)),
        attention_factor=float(attention) or None,
        divisors=divisors,
    )


def _divisors(file: GgufFile, long: bool) -> tuple[float, ...] | None:
    """What the file divides each frequency by, in `long` contexts where it tells them apart."""
    names = ("rope_freqs", f"rope_factors_{'long' if long else 'short'}")
    found = [f"{name}.weight" for name in names if f"{name}.weight" in file.tensors]
    return tuple(file.array(found[0]).tolist()) if found else None


def _scaling(file: GgufFile) -> tuple[str, float]:
    """The name and factor of the scaling; older files say `rope.scale_linear` alone."""
    old = float(file.number("rope.scale_linear", 0.0))
    scaling = str(file.get(f"{file.architecture}.rope.scaling.type", "linear" if old else "none"))
    if scaling == "longrope":  # Its factors are tensors.
        return "none", 1.0
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


def _weights(
    file: GgufFile, architecture: Architecture, config: DecoderConfig
) -> tuple[WeightStore, dict[str, Format]]:
    """All tensors under Hugging Face's names, with the formats of those of few bits."""
    store = WeightStore()
    formats: dict[str, Format] = {}
    for name in _model_tensors(file):
        kept = file.quantized(name)
        array = file.array(name) if kept is None else kept.codes
        for key, rows in _parts(file, architecture, config, name, len(array)):
            store.add(key, array[rows])
            if kept is None:
                continue
            formats[key] = kept.format
            numbers = {"scale": kept.scale, "min": kept.minimum, "supers": kept.supers}
            for part, values in numbers.items():
                if values is not None:
                    store.add(f"{key}.{part}", values[rows])
    return store, formats


def _model_tensors(file: GgufFile) -> list[str]:
    """The names of the tensors that are weights; the others say how positions are scaled."""
    return [name for name in file.tensors if not name.startswith(("rope_freqs", "rope_factors"))]


def _parts(
    file: GgufFile, architecture: Architecture, config: DecoderConfig, name: str, count: int
) -> Iterator[tuple[str, slice]]:
    """Hugging Face's names for the weights in a tensor of `count` rows, and the rows of each."""
    keys = _keys(file, architecture, name)
    sizes = [count // len(keys)] * len(keys)
    if len(keys) == len(QKV):
        sizes = [heads * config.head_size for heads in (config.heads, *[config.kv_heads] * 2)]
    if sum(sizes) != count:
        raise KaokenError(f"{file.path}: {name} has {count} rows, which are not {sizes}")
    start = 0
    for key, size in zip(keys, sizes, strict=True):
        yield key, slice(start, start + size)
        start += size


def _keys(file: GgufFile, architecture: Architecture, name: str) -> list[str]:
    """What Hugging Face calls the weights in a tensor."""
    stem, _, kind = name.rpartition(".")
    if stem in TOP_NAMES:
        return [f"{TOP_NAMES[stem]}.{kind}"]
    match = _LAYER.fullmatch(name)
    known = architecture.layers(match.group(2)) if match else None
    if match is None or known is None:
        raise KaokenError(
            f"{file.path} has a tensor {name} that kaoken does not know in a "
            f"{file.architecture} model: compile its Hugging Face folder instead"
        )
    return [f"model.layers.{match.group(1)}.{part}.{match.group(3)}" for part in known]


def read_gguf(
    path: str | Path, max_tokens: int = 2048
) -> tuple[DecoderConfig, dict[str, np.ndarray]]:
    """What a file says of its model, and all tensors as float32 under Hugging Face's names.

    Raises KaokenError as `import_gguf` does.
    """
    file = GgufFile(path)
    architecture = _architecture(file)
    config = _config(file, architecture, _name_of(file), max_tokens)
    arrays: dict[str, np.ndarray] = {}
    for name in _model_tensors(file):
        array = file.array(name)
        parts = _parts(file, architecture, config, name, len(array))
        arrays |= {key: array[rows] for key, rows in parts}
    return config, arrays
