"""A model written by hand as the C printer would give it: `y = x * scale`, `z` a rotation of it.

x: f32[tokens, 4], ids: i64[tokens] -> y: f32[tokens, 4], z: f32[tokens]
z[i] = y[(i + 1) % tokens, 0], which needs the barrier; an id outside 0..9 is an error.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kaoken.backend.c_printer import CFunction, CSource, WeightPlacement
from kaoken.backend.interface import Interface, Role, TensorSpec
from kaoken.backend.package import output_folder, write_package
from kaoken.backend.toolchain import build_library, find_compiler
from kaoken.dialect.dims import Dim
from kaoken.options import CompileOptions
from kaoken.weights import WeightStore

SCALE = np.array([1, 2, 3, 4], np.float32)
UNUSED = np.zeros(1 << 16, np.uint8)
"""So much that calls are worth several threads."""
MAX_TOKENS = 64
CODE = """
static void kaoken_main(const unsigned char *weights, const float *x, const int64_t *ids, float *y,
                        float *z, int64_t tokens, unsigned char *arena, int64_t *status,
                        kk_team *team) {
    const float *scale = (const float *)(const void *)weights;
    float *rows = (float *)(void *)arena;
    for (int64_t i = kk_thread_id(team); i < tokens; i += kk_num_threads(team)) {
        if (ids[i] < 0 || ids[i] >= 10) {
            status[0] = 1;
            status[1] = ids[i];
        }
        for (int k = 0; k < 4; k++)
            y[i * 4 + k] = x[i * 4 + k] * scale[k];
        rows[i] = y[i * 4];
    }
    kk_barrier(team);
    for (int64_t i = kk_thread_id(team); i < tokens; i += kk_num_threads(team))
        z[i] = rows[(i + 1) % tokens];
}
"""
_TREE = {"kind": "dict", "keys": ["y", "z"]}
_TOKENS = Dim.symbol("tokens")
_FOUR = Dim.of(4)
ROLES = (
    Role.INPUT,
    Role.INPUT,
    Role.OUTPUT,
    Role.OUTPUT,
    Role.SYMBOL,
    Role.ARENA,
    Role.STATUS,
    Role.TEAM,
)


class BrokenMachine:
    """A target whose C does not run here."""

    name = "amx"
    cpu_flags = ("avx2", "amx_nonsense")

    def compiler_flags(self, family: str = "gcc") -> tuple[str, ...]:
        return ("-O1",)


class Broken(CompileOptions):
    """Options that ask for such a target, which has no name that could be parsed."""

    machine: Any = BrokenMachine()  # pyright: ignore[reportIncompatibleVariableOverride]


def write_tiny(
    folder: Path,
    *,
    threads: int = 2,
    options: CompileOptions | None = None,
    tree: Mapping[str, object] = _TREE,
    extra_flags: tuple[str, ...] = (),
) -> Path:
    """Compile the model into `folder`."""
    interface = Interface(
        "tiny",
        (TensorSpec("x", "float32", (_TOKENS, _FOUR)), TensorSpec("ids", "int64", (_TOKENS,))),
        (TensorSpec("y", "float32", (_TOKENS, _FOUR)), TensorSpec("z", "float32", (_TOKENS,))),
        {"tokens": MAX_TOKENS},
        ("ids holds a number outside 0..9",),
        4 * MAX_TOKENS,
        ROLES,
        tree,
    )
    store = WeightStore()
    store.add("scale", SCALE)
    store.add("unused", UNUSED)
    main = CFunction("kaoken_main", (), uses_weights=True)
    placements = [
        WeightPlacement("scale", 0, SCALE.nbytes),
        WeightPlacement("unused", 4096, UNUSED.nbytes),
    ]
    source = CSource(CODE, placements, {"main": main})
    options = options or CompileOptions("generic", "f32", threads)
    with output_folder(folder) as draft:
        write_package(draft, source, interface, store, options, {})
        build_library(draft, "tiny", options.machine, find_compiler(options.cc), extra_flags)
    return folder


def inputs(tokens: int) -> dict[str, np.ndarray]:
    x = np.arange(tokens * 4, dtype=np.float32).reshape(tokens, 4)
    return {"x": x, "ids": np.arange(tokens, dtype=np.int64) % 10}


def expected(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    y = x * SCALE
    return y, np.roll(y[:, 0], -1)
