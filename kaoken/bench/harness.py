"""The benchmark's course: build each peer, open all, then time them in turns, a process each.

Peers that are not at work are stopped (SIGSTOP), so that threads which spin for a while after a
call take nothing from the one that is. The probe of the machine's limits takes its turn too.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kaoken.backend.machine import TargetMachine
from kaoken.bench.figures import Figures, PeerFigures, ThreadFigures, Work
from kaoken.bench.limits import Limits, Probe
from kaoken.bench.ops import levels
from kaoken.bench.peer import Job, Peer
from kaoken.errors import KaokenError
from kaoken.profile import OpTime

PROBE_SHARE = 0.1
"""Of a turn's seconds, what each figure of the probe takes."""
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_PACKAGES = ("torch", "transformers", "onnxruntime", "openvino", "nncf", "ctranslate2")

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """How long and how often to time."""

    rounds: int = 7
    seconds: float = 1.0
    """Of one peer's turn."""
    calls: int = 0
    """Calls to time one by one at the end; 0 for none."""
    starts: int = 1
    """How many processes to start for the time to the first answer."""
    ops: bool = False
    """Whether to ask peers how long each of their ops takes."""


class WorkerError(Exception):
    """A peer's process gave up; the message says why."""


class Worker:
    """A peer's process, stopped except while it is asked something."""

    def __init__(self, task: str, job: Job, peer: Peer | None = None, folder: Path | None = None):
        name = peer.name if peer is not None else task
        request = {"task": task, "job": asdict(job), "peer": name, "folder": folder}
        self.started = time.monotonic()
        with (job.folder / f"{name}.log").open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "kaoken.bench.worker", json.dumps(request, default=str)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | dict.fromkeys(_THREAD_VARIABLES, str(job.threads)),
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def answer(self) -> dict[str, Any]:
        """What the process says next. Raises WorkerError."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(f"its process ended with code {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def ask(self, **request: Any) -> dict[str, Any]:
        """Let it go on until it has answered a request."""
        assert self._process.stdin is not None
        self._process.send_signal(signal.SIGCONT)
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            pass  # it has ended, which is its answer
        answer = self.answer()
        self.stop()
        return answer

    def stop(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def working(worker: Worker) -> Iterator[Worker]:
    try:
        yield worker
    finally:
        worker.close()


def run_benchmark(
    job: Job,
    peers: Sequence[Peer],
    thread_counts: Sequence[int],
    settings: Settings,
    progress: Progress,
) -> Figures:
    """Time the peers on the job, whose own `threads` does not count. Raises KaokenError."""
    progress("PyTorch's answer")
    try:
        with working(Worker("prepare", replace(job, threads=max(thread_counts)))) as worker:
            work = Work(**worker.answer())
    except WorkerError as error:
        raise KaokenError(str(error)) from None
    figures = Figures(job.model, job.batch, job.tokens, work, machine(job), asdict(settings))
    sizes = {work.bytes_moved(peer.precision) for peer in peers}
    target = TargetMachine.parse(job.target)
    read = {n: levels(target, n, max(sizes)) for n in thread_counts if settings.ops}
    sizes |= {level.size for some in read.values() for level in some}
    probe = Probe(job.target, job.folder, sizes)
    for threads in thread_counts:
        one = replace(job, threads=threads)
        found = _time_peers(one, peers, settings, probe, progress)
        if settings.ops:
            found.levels = read[threads]
            _profile_peers(one, peers, found, progress)
        found.set_bounds(work, peers)
        figures.threads.append(found)
    return figures


def _time_peers(
    job: Job, peers: Sequence[Peer], settings: Settings, probe: Probe, progress: Progress
) -> ThreadFigures:
    rows = [PeerFigures(peer.name, peer.precision) for peer in peers]
    figures = ThreadFigures(job.threads, Limits(), rows)
    with ExitStack() as stack:
        workers = open_all(job, peers, rows, settings.starts, stack, progress)
        _turns(workers, figures, settings, probe, progress)
    return figures


def open_all(
    job: Job,
    peers: Sequence[Peer],
    rows: Sequence[PeerFigures],
    starts: int,
    stack: ExitStack,
    progress: Progress,
) -> dict[str, Worker]:
    """The peers' processes by name, each started that often; rows note why one is not there."""
    workers: dict[str, Worker] = {}
    for peer, found in zip(peers, rows, strict=True):
        try:
            progress(f"{peer.name}: build")
            folder = built(peer, job, found)
            progress(f"{peer.name}: open")
            worker = stack.enter_context(working(open_peer(peer, job, folder, found)))
            for _ in range(starts - 1):
                open_peer(peer, job, folder, found).close()
            workers[peer.name] = worker
        except WorkerError as error:
            found.skipped = str(error)
    return workers


def _profile_peers(
    job: Job, peers: Sequence[Peer], figures: ThreadFigures, progress: Progress
) -> None:
    """Let those peers say how long their ops take that can and have figures."""
    known = {peer.name: peer for peer in peers if peer.profile is not None}
    for found in figures.peers:
        if found.name not in known or found.skipped is not None:
            continue
        progress(f"{found.name}: ops")
        folder = job.folder / f"{found.name}.profile"
        folder.mkdir(exist_ok=True)
        try:
            with working(Worker("profile", job, known[found.name], folder)) as worker:
                figures.ops[found.name] = [OpTime(**op) for op in worker.answer()["ops"]]
        except WorkerError as error:
            raise KaokenError(f"{found.name}: {error}") from None


def built(peer: Peer, job: Job, found: PeerFigures) -> Path:
    """The peer's folder, made if need be. Raises WorkerError."""
    if (missing := peer.missing()) is not None:
        raise WorkerError(missing)
    folder = job.folder / peer.name
    if peer.rebuilt or not folder.exists():
        draft = job.folder / f"{peer.name}.draft"
        for old in (draft, folder):
            shutil.rmtree(old, ignore_errors=True)
        draft.mkdir()
        with working(Worker("build", job, peer, draft)) as worker:
            found.build_seconds = worker.answer()["seconds"]
        draft.rename(folder)
    found.artefact_bytes = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    return folder


def open_peer(peer: Peer, job: Job, folder: Path, found: PeerFigures) -> Worker:
    """A process that has given its first answer. Raises WorkerError."""
    worker = Worker("run", job, peer, folder)
    try:
        answer = worker.answer()
    except WorkerError:
        worker.close()
        raise
    worker.stop()
    found.starts.append(answer["answered"] - worker.started)
    found.load_seconds = answer["load_seconds"]
    found.max_abs, found.cosine = answer["max_abs"], answer["cosine"]
    found.largest = answer["largest"]
    return worker


def _turns(
    workers: dict[str, Worker],
    figures: ThreadFigures,
    settings: Settings,
    probe: Probe,
    progress: Progress,
) -> None:
    for number in range(settings.rounds):
        progress(f"{figures.threads} thread(s), round {number + 1} of {settings.rounds}")
        probe.measure(figures.limits, figures.threads, settings.seconds * PROBE_SHARE)
        for found in figures.peers:
            _ask(workers, found, found.seconds, {"seconds": settings.seconds})
    for found in figures.peers:
        if settings.calls:
            progress(f"{found.name}: {settings.calls} calls")
            _ask(workers, found, found.calls, {"calls": settings.calls})
        if found.name in workers and found.skipped is None:
            found.peak_bytes = workers[found.name].ask()["peak_bytes"]


def _ask(
    workers: dict[str, Worker], found: PeerFigures, times: list[float], request: dict[str, Any]
) -> None:
    """Add what a peer times; one that fails is skipped from then on."""
    if found.skipped is not None:
        return
    try:
        times.extend(workers[found.name].ask(**request)["seconds"])
    except WorkerError as error:
        found.skipped = str(error)


def machine(job: Job) -> dict[str, Any]:
    """What the figures depend on besides the model."""
    from kaoken.backend.toolchain import find_compiler

    versions: dict[str, str] = {}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "target": TargetMachine.parse(job.target).name,
        "compiler": str(find_compiler()),
        "python": platform.python_version(),
        "system": platform.platform(),
        "versions": versions,
    }
