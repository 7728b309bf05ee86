"""Time kaoken and its peers side by side: fresh processes, in turns, medians and ratios.

    python bench/compare.py bert-base --batch 1 --tokens 128 --threads 1 --peers torch_eager
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import statistics
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_PEERS = ("torch_eager", "onnxruntime")


def main() -> None:
    options = _arguments()
    figures = compare(options)
    print(table(figures, options))
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2) + "\n")


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Times in seconds by peer, in the order they were taken."""
    context = multiprocessing.get_context("spawn")
    workers: dict[str, Connection] = {}
    for peer in ("kaoken", *options.peers):
        ours, theirs = context.Pipe()
        context.Process(target=_work, args=(peer, vars(options), theirs), daemon=True).start()
        answer = ours.recv()
        if isinstance(answer, str):
            print(f"{peer}: skipped, {answer}", file=sys.stderr)
        else:
            workers[peer] = ours
    times: dict[str, list[float]] = {peer: [] for peer in workers}
    for _ in range(options.rounds):
        for peer, worker in workers.items():
            worker.send(options.seconds)
            times[peer].extend(worker.recv())
    return {"times": times, "workload": options.workload, "threads": options.threads}


def _work(peer: str, options: dict[str, Any], pipe: Connection) -> None:
    """A peer's process: prepare once, then time a turn whenever asked."""
    threads = options["threads"]
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:threads]))
    sys.path.insert(0, str(ROOT))
    try:
        from bench.workloads import WORKLOADS

        workload = WORKLOADS[options["workload"]](options["batch"], options["tokens"])
        run = importlib.import_module(f"bench.peers.{peer}").prepare(workload, threads)
        for _ in range(3):
            run()
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}".splitlines()[0])
        return
    pipe.send(True)
    while True:
        pipe.send(_turn(run, pipe.recv()))


def _turn(run: Any, seconds: float) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times


def table(figures: dict[str, Any], options: argparse.Namespace) -> str:
    """Medians, spread, and how many times as long as kaoken each peer takes."""
    times = figures["times"]
    base = statistics.median(times["kaoken"]) if "kaoken" in times else None
    shape = f"{options.batch}x{options.tokens}"
    lines = [f"{options.workload} {shape}, {options.threads} thread(s)"]
    for peer, values in sorted(times.items(), key=lambda item: statistics.median(item[1])):
        median = statistics.median(values)
        ratio = f"{median / base:6.2f}x" if base else ""
        spread = f"{min(values) * 1e3:.3f}-{max(values) * 1e3:.3f}"
        lines.append(f"  {peer:14} {median * 1e3:10.3f} ms  {ratio}  ({spread})")
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a turn")
    parser.add_argument("--peers", type=lambda s: s.split(","), default=list(DEFAULT_PEERS))
    parser.add_argument("--json", help="write all times to this file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
