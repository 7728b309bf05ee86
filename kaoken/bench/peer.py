"""What a peer is. Each file in kaoken/bench/peers names its own in `PEERS`; no other list exists.
Those that generate text are in kaoken/bench/decoders, in the same way.

A peer is built once, in a process of its own that may import PyTorch, into a folder; it is timed
in other processes, which open that folder and know nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

import numpy as np

from kaoken.errors import KaokenError

if TYPE_CHECKING:
    from kaoken.bench.workloads import Workload
    from kaoken.profile import OpTime

PRECISIONS = {"fp32": 4, "bf16": 2, "int8": 1}
"""Name to bytes of a weight; each has a limit of its own."""


class Unsuitable(KaokenError):
    """The peer cannot run this model; the message says why."""


@dataclass(frozen=True)
class Job:
    """One model at one size, for one number of threads."""

    model: str
    batch: int
    tokens: int
    threads: int
    target: str
    folder: Path
    """Of this model and size: the inputs, the wanted output, what peers share, their folders."""
    decoder: bool = False
    """Whether it is about generating text; `tokens` then is how long a context gets."""

    @property
    def is_text(self) -> bool:
        """Whether the model is a .mlir, which only kaoken runs."""
        return self.model.endswith(".mlir")

    def workload(self) -> Workload:
        """The model as a PyTorch module. Raises Unsuitable when it is none."""
        from kaoken.bench.workloads import make_workload

        if self.is_text:
            raise Unsuitable("runs no .mlir")
        return make_workload(self.model, self.batch, self.tokens)

    @property
    def hugging_face(self) -> Path:
        """The folder of a decoder in float32."""
        return self.folder / "hugging_face"

    @property
    def gguf(self) -> Path:
        """The same as a GGUF file in F32."""
        return self.folder / "model.gguf"

    def decoder_source(self) -> Path:
        """What kaoken compiles: the GGUF file if it reads that, else the folder."""
        from kaoken.frontend.gguf import ARCHITECTURES, GgufFile

        known = GgufFile(self.gguf).architecture in ARCHITECTURES
        return self.gguf if known else self.hugging_face

    def decoder_module(self) -> Any:
        """The model of transformers, in float32."""
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(self.hugging_face)

    def inputs(self) -> dict[str, np.ndarray]:
        """The inputs by name, in the module's order."""
        with np.load(self.folder / "inputs.npz") as file:
            return dict(file)

    def wanted(self) -> np.ndarray:
        """The first output as PyTorch computes it."""
        return np.load(self.folder / "wanted.npy")


@dataclass(frozen=True)
class Running:
    """An opened peer."""

    call: Callable[[], Any]
    """Runs the model once on the job's inputs; this is what is timed."""
    output: Callable[[Any], np.ndarray]
    """The first output, in fp32, out of what `call` returned."""


Arrived = Callable[[], None]
"""To be called at each token, as soon as it is chosen."""


@dataclass(frozen=True)
class Generating:
    """An opened decoder."""

    generate: Callable[[np.ndarray, int, Arrived], None]
    """`generate(prompt, count, arrived)` begins anew, reads the prompt (int64 [tokens]) and adds
    that many tokens, each the likeliest, whether or not it ends a text."""
    logits: Callable[[np.ndarray], np.ndarray]
    """float32 [vocabulary], what follows a prompt."""


@dataclass(frozen=True)
class Peer:
    """A program to time."""

    name: str
    precision: str
    """Of the matrix products: which of the machine's limits applies."""
    build: Callable[[Job, Path], None]
    """Make what is needed to run the job, in an empty folder. May raise Unsuitable."""
    open: Callable[[Job, Path], Running | Generating]
    """Open that folder."""
    packages: Sequence[str] = ()
    """What must be installed, by import name."""
    install: Sequence[str] = ()
    """The same by the names that pip knows, where they differ."""
    mapping: str = "anonymous"
    """How it holds its weights: anonymous memory, or a mapped file."""
    cache_bytes: float = 4
    """Of a decoder: what a number in its caches of keys and values takes."""
    rebuilt: bool = False
    """Whether it is built anew for each number of threads and in each run."""
    profile: Callable[..., list[OpTime]] | None = None
    """`profile(job, folder, seconds=)` says how long each op takes, where the peer knows."""

    def missing(self) -> str | None:
        """What to install first, in a few words."""
        absent = [name for name in self.packages if find_spec(name) is None]
        if not absent:
            return None
        return f"{absent[0]}: not installed (pip install {' '.join(self.install or self.packages)})"


@cache
def all_peers(decoders: bool = False) -> dict[str, Peer]:
    """Every peer by name, kaoken's first: encoders, or what generates text."""
    package = import_module(f"kaoken.bench.{'decoders' if decoders else 'peers'}")
    modules = [
        import_module(f"{package.__name__}.{m.name}") for m in iter_modules(package.__path__)
    ]
    found = [peer for module in modules for peer in module.PEERS]
    return {p.name: p for p in sorted(found, key=lambda p: not p.name.startswith("kaoken"))}


def choose_peers(request: str, decoders: bool = False) -> list[Peer]:
    """The peers of a list such as `kaoken,torch_eager_fp32,ov`: names, their beginnings, or `all`.

    Raises KaokenError for a word that fits none.
    """
    known, chosen = all_peers(decoders), dict[str, Peer]()
    for word in request.split(","):
        fitting = {n: p for n, p in known.items() if word == "all" or n.startswith(word)}
        if not word or not fitting:
            raise KaokenError(f"there is no peer '{word}': choose from {', '.join(known)}")
        chosen |= fitting if word not in fitting else {word: fitting[word]}
    return list(chosen.values())
