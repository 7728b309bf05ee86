"""A peer's own process. The harness writes requests on stdin, a JSON line each; answers likewise.

    python -m kaoken.bench.worker '{"task": "run", "peer": "ort_fp32", "job": {...}}'

Imports as little as it can: how soon the first answer comes is one of the figures.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from kaoken.bench.peer import Generating, Job, Peer, Running

Reply = Callable[[dict[str, Any]], None]
SAMPLE_SECONDS = 1e-3
"""Shorter calls are timed in groups, so that reading the clock does not count."""
FEWEST_SAMPLES = 3
PROFILE_SECONDS = 1.0


def main() -> None:
    request = json.loads(sys.argv[1])
    # Libraries print on stdout; answers go where it was.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def reply(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    try:
        _serve(request, reply)
    except Exception as error:
        text = str(error).strip() or type(error).__name__
        if type(error).__name__ not in ("KaokenError", "Unsuitable"):
            text = f"{type(error).__name__}: {text}"
        reply({"error": text.splitlines()[0]})
        raise


def _serve(request: dict[str, Any], reply: Reply) -> None:
    from kaoken.bench.peer import Job, all_peers

    job = Job(**request["job"] | {"folder": Path(request["job"]["folder"])})
    pin(job.threads)
    if request["task"] == "prepare":
        reply(prepare_decoder(job) if job.decoder else prepare(job))
        return
    peer, folder = all_peers(job.decoder)[request["peer"]], Path(request["folder"])
    if request["task"] == "profile" and peer.profile is not None:
        reply({"ops": [asdict(op) for op in peer.profile(job, folder, seconds=PROFILE_SECONDS)]})
    elif request["task"] == "build":
        start = time.perf_counter()
        peer.build(job, folder)
        reply({"seconds": time.perf_counter() - start})
    else:
        _run(peer, job, folder, reply)


def pin(threads: int) -> None:
    """Keep this process to its first `threads` CPUs."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


# ---- before anything is timed ----


def prepare(job: Job) -> dict[str, Any]:
    """Write the job's inputs and wanted output; say how much work a call is."""
    import numpy as np

    make = _prepare_text if job.is_text else _prepare_module
    inputs, wanted, work = make(job)
    np.savez(job.folder / "inputs.npz", allow_pickle=False, **inputs)
    np.save(job.folder / "wanted.npy", wanted)
    return work | {"data_bytes": wanted.nbytes + sum(array.nbytes for array in inputs.values())}


Prepared = tuple[dict[str, "np.ndarray"], "np.ndarray", dict[str, Any]]


def _prepare_module(job: Job) -> Prepared:
    import torch

    from kaoken.bench.peers.pytorch import first_tensor

    workload = job.workload()
    with torch.inference_mode():
        wanted = first_tensor(workload.module(**workload.inputs))
    inputs = {name: tensor.numpy() for name, tensor in workload.inputs.items()}
    return inputs, wanted, {"flops": workload.flops(), "weights": workload.weights()}


def _prepare_text(job: Job) -> Prepared:
    """A .mlir: random inputs, and what the reference interpreter makes of them."""
    import numpy as np

    import kaoken
    from kaoken.bench.text import text_inputs
    from kaoken.dialect.reference import run_module
    from kaoken.modules import read_module, stored_keys
    from kaoken.weights import store_of

    manifest = kaoken.compile(job.model, target=job.target).manifest
    inputs = text_inputs(manifest, job.batch, job.tokens)
    module = read_module(Path(job.model))
    wanted = run_module(module, list(inputs.values()))[0].astype(np.float32)
    weights = sum(store_of(module)[key].size for key in stored_keys(module))
    return inputs, wanted, {"flops": None, "weights": weights}


# ---- timing ----


def _run(peer: Peer, job: Job, folder: Path, reply: Reply) -> None:
    from kaoken.bench.peer import Generating

    begin = time.monotonic()
    running = peer.open(job, folder)
    if isinstance(running, Generating):
        _run_decoder(running, begin, job, reply)
        return
    result = running.call()
    answered = time.monotonic()
    # The harness knows when it started this process, on the same clock.
    figures = {"answered": answered, "load_seconds": answered - begin}
    reply(figures | difference(running.output(result), job.wanted()))
    del result
    for line in sys.stdin:
        request = json.loads(line)
        if "calls" in request:
            reply({"seconds": separate_calls(running, request["calls"])})
        elif "seconds" in request:
            reply({"seconds": turn(running, request["seconds"])})
        else:
            reply({"peak_bytes": peak_memory()})


FIRST_PROMPT = 8
"""Tokens of the prompt after which the first answer is timed."""
CHECKED = 64
"""Tokens after which the logits are compared with PyTorch's."""


def prepare_decoder(job: Job) -> dict[str, Any]:
    """Write the model as a Hugging Face folder and a GGUF file, a prompt, and the wanted logits;
    give the sizes of `kaoken.bench.figures.Decoder`."""
    import numpy as np
    import torch

    from kaoken.bench.decoder_models import (
        make_decoder,
        prompt_of,
        sizes_of,
        write_word_tokenizer,
    )
    from kaoken.bench.gguf_writer import write_gguf

    model = make_decoder(job.model)
    prompt = prompt_of(job.model, model.config.vocab_size, job.tokens)
    if not job.gguf.exists():
        model.save_pretrained(job.hugging_face)
        write_word_tokenizer(job.hugging_face, model.config.vocab_size)
        draft = job.gguf.with_suffix(".draft")
        write_gguf(draft, model).rename(job.gguf)
    with torch.inference_mode():
        wanted = model(torch.from_numpy(prompt[:CHECKED])[None], logits_to_keep=1).logits
    np.savez(job.folder / "inputs.npz", allow_pickle=False, prompt=prompt)
    np.save(job.folder / "wanted.npy", wanted[0].float().numpy())
    return asdict(sizes_of(model))


def _run_decoder(running: Generating, begin: float, job: Job, reply: Reply) -> None:
    prompt = job.inputs()["prompt"]
    running.generate(prompt[:FIRST_PROMPT], 1, lambda: None)
    answered = time.monotonic()
    figures = {"answered": answered, "load_seconds": answered - begin}
    checked = running.logits(prompt[:CHECKED])[None]
    reply(figures | difference(checked, job.wanted()))
    for line in sys.stdin:
        request = json.loads(line)
        if "prompt" in request:
            reply({"arrivals": arrivals(running, prompt[: request["prompt"]], request["new"])})
        else:
            reply({"peak_bytes": peak_memory()})


def arrivals(running: Generating, prompt: np.ndarray, count: int) -> list[float]:
    """When each new token came, in seconds since the prompt was given. ValueError for others.

    A short text goes before, as the process was stopped until now.
    """
    running.generate(prompt[:FIRST_PROMPT], 1, lambda: None)
    times: list[float] = []
    clock = time.perf_counter
    gc.disable()
    start = clock()
    running.generate(prompt, count, lambda: times.append(clock() - start))
    gc.enable()
    if len(times) != count:
        raise ValueError(f"it gave {len(times)} tokens, not {count}")
    return times


def difference(output: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    """The largest absolute difference, and the mean cosine of the rows.

    The rows of an output [batch, tokens, features] are the means over the tokens, as embeddings are
    made. Raises ValueError when the shapes differ.
    """
    import numpy as np

    if output.shape != wanted.shape:
        raise ValueError(f"its output is {output.shape}, not {wanted.shape}")
    found = {
        "max_abs": float(np.abs(output - wanted).max()),
        "largest": float(np.abs(wanted).max()),
    }
    if output.ndim == 3:
        output, wanted = output.mean(1), wanted.mean(1)
    a, b = (x.reshape(-1, x.shape[-1]).astype(np.float64) for x in (output, wanted))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines = (a * b).sum(1) / np.maximum(lengths, 1e-300)
    return found | {"cosine": float(cosines.mean())}


def turn(running: Running, seconds: float) -> list[float]:
    """Seconds of a call, again and again for that long."""
    call, clock = running.call, time.perf_counter
    call()
    start = clock()
    call()
    group = max(1, int(SAMPLE_SECONDS / max(clock() - start, 1e-9)))
    times: list[float] = []
    end = clock() + seconds
    gc.disable()
    while clock() < end or len(times) < FEWEST_SAMPLES:
        start = clock()
        for _ in range(group):
            call()
        times.append((clock() - start) / group)
    gc.enable()
    return times


def separate_calls(running: Running, count: int) -> list[float]:
    """Seconds of each of that many calls, one by one, as a server would see them."""
    times: list[float] = []
    running.call()
    for _ in range(count):
        start = time.perf_counter()
        running.call()
        times.append(time.perf_counter() - start)
    return times


def peak_memory() -> int | None:
    """The most bytes that were resident; None where the system does not say."""
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return None
    line = next(line for line in text.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


if __name__ == "__main__":
    main()
