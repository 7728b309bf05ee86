"""kaoken: prefill and steps of a compiled decoder."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from kaoken.bench.peer import Arrived, Generating, Job, Peer
from kaoken.bench.peers.kaoken_library import WEIGHTS_MAPPING


def build(job: Job, folder: Path, dtype: str) -> None:
    import kaoken

    kaoken.compile(
        job.decoder_source(),
        target=job.target,
        threads=job.threads,
        out=folder / "model",
        dtype=dtype,
        max_tokens=job.tokens,
    )


def open_(job: Job, folder: Path) -> Generating:
    import kaoken

    model = kaoken.load_decoder(folder / "model", job.threads)

    def generate(prompt: np.ndarray, count: int, arrived: Arrived) -> None:
        model.reset()
        model.prefill(prompt)
        for left in range(count, 0, -1):
            token = model.best_token()
            arrived()
            if left > 1:
                model.step(token)

    def logits(prompt: np.ndarray) -> np.ndarray:
        model.reset()
        return model.prefill(prompt).copy()

    return Generating(generate, logits)


PEERS = tuple(
    Peer(
        f"kaoken_{precision}",
        precision,
        partial(build, dtype=dtype),
        open_,
        mapping=WEIGHTS_MAPPING,
        rebuilt=True,
    )
    for precision, dtype in (("fp32", "f32"), ("bf16", "bf16"), ("int8", "int8"), ("int4", "int4"))
)
