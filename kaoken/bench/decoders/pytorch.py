"""PyTorch: transformers, eager, with its own cache."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kaoken.bench.peer import Arrived, Generating, Job, Peer


def build(job: Job, folder: Path) -> None:
    """Nothing: the job's folder has the model."""


def open_(job: Job, folder: Path, dtype: str) -> Generating:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(job.threads)
    model = AutoModelForCausalLM.from_pretrained(job.hugging_face, dtype=getattr(torch, dtype))

    def call(ids: Any, cache: Any) -> Any:
        return model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)

    def generate(prompt: np.ndarray, count: int, arrived: Arrived) -> None:
        with torch.inference_mode():
            result = call(torch.from_numpy(prompt)[None], None)
            for left in range(count, 0, -1):
                token = result.logits[:, -1].argmax(-1, keepdim=True)
                arrived()
                if left > 1:
                    result = call(token, result.past_key_values)

    def logits(prompt: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return call(torch.from_numpy(prompt)[None], None).logits[0, -1].float().numpy()

    return Generating(generate, logits)


PEERS = tuple(
    Peer(
        f"torch_eager_{precision}",
        precision,
        build,
        partial(open_, dtype=dtype),
        ("torch", "transformers"),
        cache_bytes=4 if precision == "fp32" else 2,
    )
    for precision, dtype in (("fp32", "float32"), ("bf16", "bfloat16"))
)
