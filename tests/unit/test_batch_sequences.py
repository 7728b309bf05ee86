"""`batch-sequences`: each sequence has the logits that it has alone, in whichever calls."""

from __future__ import annotations

import numpy as np
import pytest

from kaoken.dialect.reference import run_module
from kaoken.errors import KaokenError
from kaoken.modules import parse_module
from kaoken.passes.batch_sequences import batch_sequences
from tests.helpers import apply_passes, fill_weights
from tests.unit.causal_models import BODIES, VOCABULARY, model

CALLS = [(1, 1, 1), (17, 0, 7), (0, 128, 0), (1, 0, 1), (3, 0, 0), (0, 1, 0)]
"""Tokens of each of three sequences."""


@pytest.mark.parametrize("name", BODIES)
def test_sequences_are_as_if_alone(name: str) -> None:
    module = parse_module(model(BODIES[name], "causal = true, window = 50 : i64"))
    fill_weights(module)
    alone = apply_passes(module, "add-caches")
    batched = apply_passes(alone, "batch-sequences{count=3}")
    random = np.random.default_rng(0)
    lengths = np.sum(CALLS, 0)
    ids = [random.integers(0, VOCABULARY, length) for length in lengths]
    wanted = [run_module(module, [own[None]])[0][0] for own in ids]
    caches: dict[str, np.ndarray] = {}
    past = np.zeros(3, int)
    for call in CALLS:
        rows = np.concatenate(
            [own[at : at + n] for own, at, n in zip(ids, past, call, strict=True)]
        )
        sizes = {f"past_{n}": int(at) for n, at in enumerate(past)} | {"outputs": len(rows)}
        sizes |= {f"tokens_{n}": count for n, count in enumerate(call)}
        (got,) = run_module(batched, [rows[None]], sizes=sizes, caches=caches)
        expected = [w[at : at + n] for w, at, n in zip(wanted, past, call, strict=True)]
        np.testing.assert_allclose(got[0], np.concatenate(expected), atol=1e-5)
        past += call


def test_what_is_refused() -> None:
    module = parse_module(model(BODIES["nothing"]))
    with pytest.raises(KaokenError, match="for models that generate text"):
        batch_sequences(module, 2)
    fill_weights(module)
    generating = apply_passes(module, "add-caches")
    for count in (0, 9):
        with pytest.raises(KaokenError, match=f"a batch is {count}, but must be from 1 to 8"):
            batch_sequences(generating, count)
