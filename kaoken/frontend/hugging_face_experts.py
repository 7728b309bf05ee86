"""Mixtures of experts of transformers, as layers that every token goes through.

    router: top_k_index, top_k_weights [tokens, k]
    y[t] = sum over k of top_k_weights[t, k] * expert[top_k_index[t, k]](x[t])
->
    w[t, e] = sum over those k of top_k_weights[t, k] where top_k_index[t, k] is e
    y[t] = sum over all e of w[t, e] * expert[e](x[t])

The same numbers but for the order of the sum. All experts are computed for every token: kaoken has
no layers yet that read only the weights which a token asks for, so a model is as slow as one of as
many weights without experts. Its experts are linear layers like any others, packed and narrow.
"""

from __future__ import annotations

from functools import reduce
from operator import add
from types import MethodType
from typing import TYPE_CHECKING, Any

from kaoken.errors import KaokenError

if TYPE_CHECKING:
    import torch

_FACTS = ("num_experts", "has_gate", "has_bias", "is_transposed", "has_post_expert_norm")
"""What transformers notes of experts that its `use_experts_implementation` can compute."""


def compute_all_experts(model: torch.nn.Module) -> None:
    """Let the mixtures of a model compute all of their experts.

    Raises KaokenError for those that do not say how they are made.
    """
    for module in model.modules():
        name = type(module).__name__
        if not name.endswith("Experts"):
            continue
        if not all(hasattr(module, fact) for fact in _FACTS):
            raise KaokenError(
                f"its experts ({name}) are of a kind of their own: kaoken has those that "
                "transformers computes by use_experts_implementation, as Mixtral's and Qwen's"
            )
        module.forward = MethodType(_weighted_sum, module)


def _weighted_sum(
    self: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """What all experts make of [tokens, hidden], each by its weight, which is 0 unless chosen."""
    parts: list[torch.Tensor] = []
    for number in range(self.num_experts):
        weight = (top_k_weights * (top_k_index == number)).sum(-1, keepdim=True)
        parts.append(weight * _expert(self, hidden_states, number))
    return reduce(add, parts)


def _expert(self: Any, rows: torch.Tensor, number: int) -> torch.Tensor:
    inner = _linear(self, "gate_up_proj" if self.has_gate else "up_proj", rows, number)
    inner = self._apply_gate(inner) if self.has_gate else self.act_fn(inner)
    result = _linear(self, "down_proj", inner, number)
    return self.post_expert_norm(result) if self.has_post_expert_norm else result


def _linear(self: Any, name: str, rows: torch.Tensor, number: int) -> torch.Tensor:
    from torch.nn.functional import linear

    weight = getattr(self, name)[number]
    bias = getattr(self, f"{name}_bias")[number] if self.has_bias else None
    return linear(rows, weight.T if self.is_transposed else weight, bias)
