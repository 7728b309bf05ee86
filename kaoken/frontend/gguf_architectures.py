"""Architectures of GGUF files: what their names imply, and what their tensors are called.

A tensor that is several layers side by side, such as `attn_qkv`, has the names of all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kaoken.dialect.attributes import Activation, Norm

Names = tuple[str, ...]

QKV: Names = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
GATE_UP: Names = ("mlp.gate_proj", "mlp.up_proj")

TOP_NAMES: Mapping[str, str] = {
    "token_embd": "model.embed_tokens",
    "position_embd": "model.embed_positions",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_LAYER_NAMES: Mapping[str, Names] = {
    "attn_norm": ("input_layernorm",),
    "attn_q": QKV[:1],
    "attn_k": QKV[1:2],
    "attn_v": QKV[2:],
    "attn_qkv": QKV,
    "attn_output": ("self_attn.o_proj",),
    "attn_q_norm": ("self_attn.q_norm",),
    "attn_k_norm": ("self_attn.k_norm",),
    "ffn_norm": ("post_attention_layernorm",),
    "ffn_gate": GATE_UP[:1],
    "ffn_up": GATE_UP[1:],
    "ffn_down": ("mlp.down_proj",),
}


@dataclass(frozen=True)
class Architecture:
    """What `general.architecture` implies besides the numbers in the file."""

    interleaved: bool = False
    activation: Activation = Activation.SILU
    squared_activation: bool = False
    norm: Norm = Norm.RMS_NORM
    names: Mapping[str, Names] = field(default_factory=dict)
    """Layers whose tensors have another name than in most architectures."""
    scaled_embedding: bool = False
    pattern: int | None = None
    """Every so many layers, one sees the whole context; the others have a window."""
    local_base: float | None = None

    def layers(self, name: str) -> Names | None:
        """What a tensor of that name belongs to, in each layer of the model."""
        return self.names.get(name) or _LAYER_NAMES.get(name)


_SUB_NORMS: Mapping[str, Names] = {
    "attn_sub_norm": ("self_attn.attn_sub_norm",),
    "ffn_sub_norm": ("mlp.ffn_sub_norm",),
}
_GPT = Architecture(activation=Activation.GELU_TANH, norm=Norm.LAYER_NORM)

ARCHITECTURES = {
    "llama": Architecture(interleaved=True),
    "qwen2": Architecture(),
    "qwen3": Architecture(),
    "phi3": Architecture(names={"ffn_up": GATE_UP}),
    "bitnet": Architecture(names=_SUB_NORMS),
    "bitnet-b1.58": Architecture(
        activation=Activation.RELU, squared_activation=True, names=_SUB_NORMS
    ),
    "gpt2": _GPT,
    "starcoder2": _GPT,
    "gemma": Architecture(activation=Activation.GELU_TANH, scaled_embedding=True),
    "gemma3": Architecture(
        activation=Activation.GELU_TANH,
        names={
            "post_attention_norm": ("post_attention_layernorm",),
            "ffn_norm": ("pre_feedforward_layernorm",),
            "post_ffw_norm": ("post_feedforward_layernorm",),
        },
        scaled_embedding=True,
        pattern=6,
        local_base=10000.0,
    ),
}
