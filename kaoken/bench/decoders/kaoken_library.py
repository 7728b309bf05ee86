"""kaoken: prefill and steps of a compiled decoder."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from kaoken.bench.decoder_models import TERNARY
from kaoken.bench.peer import Arrived, Generating, Job, Peer, Unsuitable
from kaoken.bench.peers.kaoken_library import WEIGHTS_MAPPING

LAYERS = tuple(
    f"{part}.weight"
    for part in (
        *("attn_q", "attn_k", "attn_v", "attn_output"),
        *("ffn_gate", "ffn_up", "ffn_down"),
    )
)
"""The ends of the names of a Llama's matrices in a GGUF file."""
_KV_BYTES = {"f32": 4, "bf16": 2, "int8": 1 + 4 / 64}
"""Of a number in caches; int8 has a scale for each head of a token, mostly of 64 numbers."""


def build(job: Job, folder: Path, dtype: str, kv: str) -> None:
    import kaoken

    kaoken.compile(
        job.decoder_source(),
        target=job.target,
        threads=job.threads,
        out=folder / "model",
        dtype=dtype,
        kv=kv,
        max_tokens=job.tokens,
    )


def build_ternary(job: Job, folder: Path, head: str) -> None:
    """Compile a GGUF file of the model with ternary layers, which are kept as they are."""
    import gguf

    import kaoken
    from kaoken.bench.gguf_writer import write_gguf

    if job.model not in TERNARY:
        raise Unsuitable("the weights of this model are not ternary")
    source = job.folder / f"ternary_{head}.gguf"
    if not source.exists():
        types = gguf.GGMLQuantizationType
        kinds = dict.fromkeys(LAYERS, types.TQ2_0) | {"token_embd.weight": types[head]}
        draft = write_gguf(source.with_suffix(".draft"), job.decoder_module(), kinds)
        draft.rename(source)
    kaoken.compile(
        source, target=job.target, threads=job.threads, out=folder / "model", max_tokens=job.tokens
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


def _peer(precision: str, dtype: str, kv: str = "f32") -> Peer:
    return Peer(
        f"kaoken_{precision}" + ("" if kv == "f32" else f"_kv_{kv}"),
        precision,
        partial(build, dtype=dtype, kv=kv),
        open_,
        mapping=WEIGHTS_MAPPING,
        cache_bytes=_KV_BYTES[kv],
        rebuilt=True,
    )


PEERS = (
    _peer("fp32", "f32"),
    _peer("bf16", "bf16"),
    _peer("int8", "int8"),
    _peer("int4", "int4"),
    _peer("bf16", "bf16", "bf16"),
    _peer("bf16", "bf16", "int8"),
    *(
        Peer(
            f"kaoken_ternary{end}",
            "ternary",
            partial(build_ternary, head=head),
            open_,
            ("gguf", "torch"),
            mapping=WEIGHTS_MAPPING,
            rebuilt=True,
        )
        for end, head in (("", "Q8_0"), ("_q4_head", "Q4_0"))
    ),
)
