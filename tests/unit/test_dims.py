"""Symbolic sizes."""

from __future__ import annotations

import pytest

from kaoken.dialect.dims import DYNAMIC, Dim, product

BATCH, TOKENS = Dim.symbol("batch"), Dim.symbol("tokens")


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("tokens", "tokens"),
        ("tokens*batch", "batch*tokens"),
        ("1 + tokens*2", "2*tokens + 1"),
        ("(tokens - 1)*(tokens + 1)", "tokens*tokens - 1"),
        ("batch - batch", "0"),
        ("-tokens + 3", "-tokens + 3"),
        ("2*3", "6"),
    ],
)
def test_expressions_have_one_normal_form(text: str, normal: str) -> None:
    assert str(Dim.of(text)) == normal
    assert Dim.of(normal) == Dim.of(text)


@pytest.mark.parametrize("text", ["", "2 +", "a b", "(a", "a/2", "*a"])
def test_text_that_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a size|expected '\)'"):
        Dim.of(text)


def test_constants() -> None:
    assert Dim.of(5).constant == 5
    assert Dim.of(0).constant == 0
    assert TOKENS.constant is None
    assert (TOKENS - TOKENS + 3).constant == 3
    assert Dim.of(5).static == 5
    assert TOKENS.static == DYNAMIC


def test_arithmetic_and_evaluation() -> None:
    size = BATCH * TOKENS * 2 + TOKENS - 1
    assert size.evaluate({"batch": 3, "tokens": 5}) == 34
    assert size.symbols == {"batch", "tokens"}
    assert product([BATCH, TOKENS, Dim.of(4)]) == Dim.of("4*batch*tokens")
    assert product([]) == Dim.of(1)
    with pytest.raises(KeyError, match="tokens"):
        size.evaluate({"batch": 3})


@pytest.mark.parametrize(
    ("dividend", "divisor", "quotient"),
    [
        ("4*batch*tokens", "2*tokens", "2*batch"),
        ("batch*tokens + 2*tokens", "tokens", "batch + 2"),
        ("batch + 1", "batch + 1", "1"),
        ("3*tokens", "2", None),
        ("batch", "tokens", None),
        ("batch + 2", "batch + 1", None),
    ],
)
def test_exact_division(dividend: str, divisor: str, quotient: str | None) -> None:
    result = Dim.of(dividend).divide(Dim.of(divisor))
    assert result == (None if quotient is None else Dim.of(quotient))
