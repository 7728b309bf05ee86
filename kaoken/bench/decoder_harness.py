"""The course of `kaoken bench` for decoders: as for encoders, but a turn is one text.

In each round every peer, one after the other, reads a prompt and adds tokens to it, for each length
of prompt. When each token came says how long the prompt took (up to the first one) and how long
steps take at that depth (from one to the next).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

from kaoken.bench.figures import Decoder, DecoderWork, Figures, PeerFigures, ThreadFigures
from kaoken.bench.harness import (
    PROBE_SHARE,
    Progress,
    Settings,
    Worker,
    WorkerError,
    machine,
    open_all,
    working,
)
from kaoken.bench.limits import Limits, Probe
from kaoken.bench.peer import Job, Peer
from kaoken.errors import KaokenError

_SPARE = 8
"""Tokens of the context that are left over."""


@dataclass(frozen=True)
class Texts:
    """What is generated: after each of the prompts so many new tokens."""

    prompts: Sequence[int] = (8, 128, 512)
    new: int = 128

    @property
    def capacity(self) -> int:
        return max(self.prompts) + self.new + _SPARE


Arrivals = dict[tuple[str, int], list[list[float]]]
"""By peer and length of the prompt, for each text when its tokens came."""


@dataclass(frozen=True)
class Measure:
    """Which part of a text is timed."""

    what: str
    prompt: int
    work: DecoderWork
    tokens: int
    """How many tokens a time is for."""
    times: Callable[[Sequence[float]], list[float]]
    """The times out of when the tokens came."""


def run_decoders(
    job: Job,
    peers: Sequence[Peer],
    thread_counts: Sequence[int],
    texts: Texts,
    settings: Settings,
    progress: Progress,
) -> list[Figures]:
    """Time the peers; figures of each prompt, then of the steps after each. Raises KaokenError.

    The job's `tokens` must be the texts' capacity. Its `threads` does not count.
    """
    progress("PyTorch's answer")
    try:
        with working(Worker("prepare", replace(job, threads=max(thread_counts)))) as worker:
            sizes = Decoder(**worker.answer())
    except WorkerError as error:
        raise KaokenError(str(error)) from None
    measures = _measures(sizes, texts)
    about = machine(job), asdict(settings) | asdict(texts)
    found = [
        Figures(job.model, 1, m.prompt, m.work, *about, what=m.what, new_tokens=m.tokens)
        for m in measures
    ]
    read = {measures[0].work.read_size(peer.precision) for peer in peers}
    probe = Probe(job.target, job.folder, read)
    for threads in thread_counts:
        one = replace(job, threads=threads)
        for figures, each in zip(
            found, _time_peers(one, peers, texts, measures, settings, probe, progress), strict=True
        ):
            each.set_bounds(figures.work, peers)
            figures.threads.append(each)
    return found


def _measures(sizes: Decoder, texts: Texts) -> list[Measure]:
    prompts = [
        Measure(f"prompt of {n} tokens", n, sizes.prefill(n), n, lambda at: [at[0]])
        for n in texts.prompts
    ]
    if texts.new == 1:
        return prompts
    # The first token comes with the prompt; the others each see one more than the last.
    return prompts + [
        Measure(f"{texts.new} tokens after {n}", n, sizes.step(n + texts.new / 2), 1, _intervals)
        for n in texts.prompts
    ]


def _intervals(arrivals: Sequence[float]) -> list[float]:
    return [after - before for before, after in pairwise(arrivals)]


def _time_peers(
    job: Job,
    peers: Sequence[Peer],
    texts: Texts,
    measures: Sequence[Measure],
    settings: Settings,
    probe: Probe,
    progress: Progress,
) -> list[ThreadFigures]:
    """Figures of each measure."""
    rows = [PeerFigures(peer.name, peer.precision, generates=True) for peer in peers]
    limits, arrivals = Limits(), Arrivals()
    with ExitStack() as stack:
        workers = open_all(job, peers, rows, settings.starts, stack, progress)
        for number in range(1, settings.rounds + 1):
            progress(f"{job.threads} thread(s), round {number} of {settings.rounds}")
            probe.measure(limits, job.threads, settings.seconds * PROBE_SHARE)
            for prompt in texts.prompts:
                for found in rows:
                    _ask(workers, found, prompt, texts.new, arrivals)
        for found in rows:
            if found.skipped is None:
                found.peak_bytes = workers[found.name].ask()["peak_bytes"]
    return [
        ThreadFigures(job.threads, limits, [_of(m, found, arrivals) for found in rows])
        for m in measures
    ]


def _ask(
    workers: Mapping[str, Worker], found: PeerFigures, prompt: int, new: int, arrivals: Arrivals
) -> None:
    """Add one text of a peer; one that fails is skipped from then on."""
    if found.skipped is not None:
        return
    try:
        times = workers[found.name].ask(prompt=prompt, new=new)["arrivals"]
    except WorkerError as error:
        found.skipped = str(error)
    else:
        arrivals.setdefault((found.name, prompt), []).append(times)


def _of(measure: Measure, found: PeerFigures, arrivals: Arrivals) -> PeerFigures:
    """A peer's figures with the times of one measure, in order."""
    texts = arrivals.get((found.name, measure.prompt), [])
    times = [time for text in texts for time in measure.times(text)]
    return replace(found, seconds=times, calls=times)
