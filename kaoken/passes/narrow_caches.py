"""`narrow-caches`: keep the keys and values of caches in bf16 or eight bits.

    %keys = kaoken.cache "0.keys" : !kaoken.cache<[2048, 3, 64], f32, panels>
->
    %keys = kaoken.cache "0.keys" : !kaoken.cache<[2048, 3, 64], i8, panels>

Rows stay f32 on their way in and out: they are rounded when they are appended, with one scale for
each head of each row in i8 (He et al., arXiv 2407.07304), and widened when they are read. So a
token sees the keys of its own call rounded as well, and gives the same in whichever call it comes.
It comes before `outline`, behind which caches are arguments. With dtype=f32 nothing changes.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, bf16, f32, i8
from xdsl.ir import Attribute
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from kaoken.dialect.decoder import CacheOp, CacheType, cache_type
from kaoken.errors import KaokenError

ELEMENTS: dict[str, Attribute] = {"f32": f32, "bf16": bf16, "int8": i8}


@dataclass(frozen=True)
class NarrowCachesPass(ModulePass):
    """Narrow all caches of a module that hold f32."""

    name = "narrow-caches"

    dtype: str = "int8"
    """`f32`, `bf16` or `int8`."""

    def __post_init__(self) -> None:
        if self.dtype not in ELEMENTS:
            known = ", ".join(ELEMENTS)
            raise KaokenError(f"narrow-caches has no dtype {self.dtype!r}: choose one of {known}")

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        if self.dtype == "f32":
            return
        for cache in [inner for inner in op.walk() if isinstance(inner, CacheOp)]:
            old = cache_type(cache.result)
            if old.element_type == f32:
                sizes = old.capacity, old.heads, old.head_size
                type_ = CacheType(*sizes, ELEMENTS[self.dtype], old.layout)
                Rewriter.replace_value_with_new_type(cache.result, type_)


def has_caches(module: ModuleOp) -> bool:
    """Whether a module keeps anything between calls."""
    return any(isinstance(op, CacheOp) for op in module.walk())
