"""One row times many matrices that do not fit the caches, beside the rate of reading memory.

    python bench/gemv.py FOLDER [--shapes 2048x2048 ...] [--formats int4 ...]

A model is y = W_1 x + W_2 x + ...: so many matrices that their weights are read from memory at each
call. Its bytes a second stand beside those of a probe that reads as many from a file mapped alike.
llama.cpp's kernels multiply matrices of the same shapes through ggml, in one graph. Compiles into
FOLDER what is not there yet (--build: that alone), then times all in turns.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ggml import KINDS, GgmlProducts
from rich.console import Console
from scaling import elsewhere, medians
from xdsl.dialects.builtin import ModuleOp

import kaoken
from kaoken.bench.limits import Limits, Probe
from kaoken.bench.peers.kaoken_library import WEIGHTS_MAPPING
from kaoken.bench.tables import Table
from kaoken.bench.worker import pin
from kaoken.compiler import compile_module
from kaoken.dialect.formats import Format
from kaoken.modules import parse_module
from kaoken.options import CompileOptions
from kaoken.weights import WeightStore, attach_store

HEAD = "50257x768"
"""GPT-2's layer of logits."""
SHAPES = ("2048x2048", "4096x4096", "1536x576", HEAD)
FORMATS = {
    "int4": Format(4, 32, 8),
    "ternary": Format(2, 0, 1),
    "ternary-256": Format(2, 256, 1),
    "int1": Format(1, 0, 1, 2),
}
"""By name: a scale a group, or a row where there are no groups."""
DTYPES = {"int8": 8.0, "bf16": 16.0, "f32": 32.0}
"""Bits of weights that are no codes, by `--dtype`."""
SCALE_BYTES = 2
KAOKEN = "kaoken "


def count_of(n: int, k: int, bits: float, total: int) -> int:
    """How many matrices have so many bytes together."""
    return max(1, round(total / (n * k * bits / 8)))


def bits_of(name: str, k: int) -> float:
    """What a weight takes, scales of groups included."""
    if name in DTYPES:
        return DTYPES[name]
    return FORMATS[name].bits + 8 * SCALE_BYTES * FORMATS[name].groups(k) / k


def model(format_: Format | None, n: int, k: int, count: int) -> ModuleOp:
    """The sum of products with `count` matrices."""
    lines, arrays = [], dict[str, np.ndarray]()
    random = np.random.default_rng(0)
    total = "%r"
    for i in range(count):
        if format_ is None:
            lines.append(f'%w{i} = kaoken.weight "w{i}" : tensor<{n}x{k}xf32>')
            arrays[f"w{i}"] = np.broadcast_to(np.float32(i % 7), (n, k))
        else:
            groups = format_.groups(k)
            lines += [
                f'%c{i} = kaoken.weight "c{i}" : tensor<{n}x{k}xui8>',
                f'%s{i} = kaoken.weight "s{i}" : tensor<{n}x{groups}xf16>',
                f"%w{i} = kaoken.dequantize %c{i} scale %s{i} : tensor<{n}x{groups}xf16> "
                f"{{format = #kaoken.format<{format_}>}} "
                f": tensor<{n}x{k}xui8> -> tensor<{n}x{k}xf32>",
            ]
            codes = random.integers(0, format_.largest + 1, (1, k))
            arrays[f"c{i}"] = np.broadcast_to(codes.astype(np.uint8), (n, k))
            arrays[f"s{i}"] = np.full((n, groups), 0.01, np.float16)
        lines.append(
            f"%y{i} = kaoken.linear %x, %w{i} residual {total} : tensor<1x{n}xf32> "
            f": tensor<1x{k}xf32>, tensor<{n}x{k}xf32> -> tensor<1x{n}xf32>"
        )
        total = f"%y{i}"
    body = "\n  ".join(lines)
    module = parse_module(f"""
func.func @main(%x: tensor<1x{k}xf32>, %r: tensor<1x{n}xf32>) -> tensor<1x{n}xf32> {{
  {body}
  return {total} : tensor<1x{n}xf32>
}}
""")
    store = WeightStore()
    for name, array in arrays.items():
        store.add(name, array)
    attach_store(module, store)
    return module


def build(options: argparse.Namespace, shape: str, name: str) -> tuple[Path, int]:
    """The compiled model of a shape and a format, and how many bytes of weights a call reads."""
    n, k = map(int, shape.split("x"))
    count = count_of(n, k, bits_of(name, k), options.megabytes << 20)
    place = options.folder / f"{shape}-{name}-{options.megabytes}"
    if not place.exists():
        format_, dtype = FORMATS.get(name), name if name in DTYPES else "auto"
        settings = CompileOptions(threads=max(options.threads), dtype=dtype)
        compile_module(model(format_, n, k, count), place, settings)
    return place, round(count * n * k * bits_of(name, k) / 8)


def measure(options: argparse.Namespace, threads: int) -> Table:
    header = ("matrices", "kernel", "GB/s", "of reading", "G weights/s", "of bf16")
    title = f"One row times matrices of {options.megabytes} MB together, threads: {threads}"
    table = Table(title, header, left=2)
    for shape in options.shapes:
        table.rows += rows(options, shape, threads)
    return table


def rows(options: argparse.Namespace, shape: str, threads: int) -> Iterator[list[str]]:
    """The lines of one shape, fewest bits a weight first."""
    k = int(shape.split("x")[1])
    speeds, shares = rates(options, shape, threads)
    weights = {name: speed * 8 / _bits(name, k) for name, speed in speeds.items()}
    base = weights.get(f"{KAOKEN}bf16")
    for name, speed in speeds.items():
        factor = f"{weights[name] / base:.2f}x" if base else ""
        share = f"{100 * shares[name]:.0f} %"
        yield [shape, name, f"{speed / 1e9:.1f}", share, f"{weights[name] / 1e9:.1f}", factor]


def rates(
    options: argparse.Namespace, shape: str, threads: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Bytes of weights a second by kernel, and what share that is of reading as many alone.

    Pins this process.
    """
    pin(threads)
    n, k = map(int, shape.split("x"))
    calls: dict[str, Callable[[], Any]] = {}
    moved: dict[str, int] = {}
    x, zeros = np.ones((1, k), np.float32), np.zeros((1, n), np.float32)
    for name in options.formats:
        place, moved[KAOKEN + name] = build(options, shape, name)
        calls[KAOKEN + name] = kaoken.load(place, threads=threads).bind(x, zeros)
    for kind in options.peers:
        products = GgmlProducts.filling(kind, n, k, options.megabytes << 20, threads)
        if products is not None:
            moved[f"ggml {kind}"] = products.bytes_read
            calls[f"ggml {kind}"] = products.compute
    limits, probe = Limits(), Probe("native", options.folder, moved.values())
    calls["probe"] = lambda: probe.measure(limits, threads, options.seconds)
    times = medians(calls, options.rounds, options.seconds)
    speeds = {name: size / times[name] for name, size in moved.items()}
    limit = {name: limits.bandwidth(WEIGHTS_MAPPING, size) for name, size in moved.items()}
    return speeds, {name: speed / (limit[name] or math.inf) for name, speed in speeds.items()}


def _bits(name: str, k: int) -> float:
    who, kind = name.split()
    return bits_of(kind, k) if who == KAOKEN.strip() else KINDS[kind].bits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shapes", nargs="+", default=SHAPES, choices=SHAPES)
    formats, usual = (*FORMATS, *DTYPES), (*FORMATS, "bf16")
    parser.add_argument("--formats", nargs="+", default=usual, choices=formats)
    parser.add_argument("--peers", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--megabytes", type=int, default=200, help="of weights that a call reads")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.2, help="length of a turn")
    parser.add_argument("--build", action="store_true", help="compile only")
    options = parser.parse_args()
    if options.build:
        for shape in options.shapes:
            for name in options.formats:
                build(options, shape, name)
        return
    for threads in options.threads:
        Console(width=120).print(elsewhere(measure, options, threads).rich())


if __name__ == "__main__":
    main()
