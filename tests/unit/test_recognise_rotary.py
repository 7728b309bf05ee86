"""Rotary positions as models write them out, and what only looks like them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tests.unit.written_modules import imported_ops  # noqa: E402

HEADS, SIZE = 3, 8


def angles(x: Any, pairs: int) -> Any:
    """The angle of each position and pair, [tokens, pairs]."""
    return torch.arange(x.shape[1])[:, None].float() * 0.7 ** torch.arange(pairs)


def heads(x: Any) -> Any:
    """[B, H, S, D] of [B, S, H*D]."""
    return x.view(*x.shape[:2], HEADS, SIZE).transpose(1, 2)


def rows(x: Any) -> Any:
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], HEADS * SIZE)


def rotate_half(x: Any) -> Any:
    a, b = x.chunk(2, -1)
    return torch.cat((-b, a), -1)


def rotate_every_two(x: Any) -> Any:
    return torch.stack((-x[..., 1::2], x[..., 0::2]), -1).flatten(-2)


def halves(_: Any, x: Any) -> Any:
    """Llama."""
    turns = torch.cat([angles(x, SIZE // 2)] * 2, -1)[None, None]
    x = heads(x)
    return rows(x * turns.cos() + rotate_half(x) * turns.sin())


def scaled(_: Any, x: Any) -> Any:
    """Tables with a factor, of [B, S, H, D]."""
    turns = angles(x, SIZE // 2)
    cos, sin = (torch.cat((t, t), -1)[None, :, None] * 1.5 for t in (turns.cos(), turns.sin()))
    y = x.view(*x.shape[:2], HEADS, SIZE)
    return (rotate_half(y) * sin + y * cos).flatten(-2)


def neighbours(_: Any, x: Any) -> Any:
    """GPT-J, Cohere."""
    turns = angles(x, SIZE // 2).repeat_interleave(2, -1)
    x = heads(x)
    return rows(x * turns.cos() + rotate_every_two(x) * turns.sin())


def partial(_: Any, x: Any) -> Any:
    """GPT-NeoX, Phi: the first numbers of each head."""
    turns = torch.cat([angles(x, 2)] * 2, -1)
    x = heads(x)
    turned, rest = x[..., :4], x[..., 4:]
    turned = turned * turns.cos() + rotate_half(turned) * turns.sin()
    return rows(torch.cat((turned, rest), -1))


def in_halves(_: Any, x: Any) -> Any:
    """GPT-OSS: each half by itself."""
    turns = angles(x, SIZE // 2)
    a, b = heads(x).chunk(2, -1)
    cos, sin = turns.cos(), turns.sin()
    return rows(torch.cat((a * cos - b * sin, b * cos + a * sin), -1))


@pytest.mark.parametrize("function", [halves, scaled, neighbours, partial, in_halves])
def test_recognised(function: Callable[..., Any]) -> None:
    ops = imported_ops(function, torch.randn(2, 5, HEADS * SIZE))
    assert ops["rope"] == 1
    assert ops["neg"] == ops["transpose"] == 0


def all_different(_: Any, x: Any) -> Any:
    """Tables in which the numbers of a pair differ."""
    turns = angles(x, SIZE)
    x = heads(x)
    return rows(x * turns.cos() + rotate_half(x) * turns.sin())


def reflected(_: Any, x: Any) -> Any:
    """Both halves exchanged, but none negated."""
    turns = torch.cat([angles(x, SIZE // 2)] * 2, -1)
    x = heads(x)
    a, b = x.chunk(2, -1)
    return rows(x * turns.cos() + torch.cat((b, a), -1) * turns.sin())


def across_texts(_: Any, x: Any) -> Any:
    """Tables with rows for texts, not for positions."""
    turns = torch.cat([x[:, :1, :4]] * 2, -1)[:, None]
    x = heads(x)
    return rows(x * turns.cos() + rotate_half(x) * turns.sin())


@pytest.mark.parametrize("function", [all_different, reflected, across_texts])
def test_left_alone(function: Callable[..., Any]) -> None:
    assert imported_ops(function, torch.randn(2, 5, HEADS * SIZE))["rope"] == 0


@pytest.mark.parametrize("window", [1, 4])
def test_causal_window(window: int) -> None:
    def attention(_: Any, x: Any) -> Any:
        place = torch.arange(x.shape[1])
        near = (place[None] > place[:, None] - window) & (place[None] <= place[:, None])
        q = heads(x)
        return rows(torch.nn.functional.scaled_dot_product_attention(q, q, q, near))

    ops = imported_ops(attention, torch.randn(2, 5, HEADS * SIZE))
    assert ops["attention"] == 1
    assert ops["iota"] == ops["elementwise"] == 0


def test_joined_positions_are_positions() -> None:
    """transformers' test for packed texts: a place that does not follow the one before it."""

    def attention(_: Any, x: Any) -> Any:
        place = torch.arange(x.shape[1])[None]
        breaks = torch.diff(place, prepend=place[:, :1] - 1, dim=-1) != 1
        text = breaks.cumsum(-1)
        q = heads(x)
        mask = (text[:, :, None] == text[:, None, :])[:, None]
        return rows(torch.nn.functional.scaled_dot_product_attention(q, q, q, mask))

    ops = imported_ops(attention, torch.randn(2, 5, HEADS * SIZE))
    assert ops["attention"] == 1
    assert ops["cumsum"] == ops["concat"] == ops["elementwise"] == 0
