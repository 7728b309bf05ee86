"""`lower-to-loops`: from tensors to buffers, from ops to kernels made of plain loop nests.

Every op becomes a call of a private function, its kernel; equal ops share one. Kernels hold the
plainest nest that computes the op, each loop marked parallel or reduction, and carry the op's
schedule, which the passes after this one obey. Functions get a buffer for each argument and
result, and an index for each symbolic size.

    %y = kaoken.linear %x, %w bias %b {schedule = #kaoken.schedule<tile(m, 8), ...>} : ...
->
    %y = memref.alloc(%tokens) : memref<?x1152xf32>
    func.call @linear_384x1152(%x, %w, %b, %y, %tokens) : ...

    func.func private @linear_384x1152(%x: memref<?x384xf32>, %w: memref<24x384x48xf32>, ...) {
      affine.for %m = 0 to %tokens {
        affine.for %n0 = 0 to 24 {
          affine.for %n1 = 0 to 48 {
            %acc = affine.for %k = 0 to 384 iter_args(%a = %bias) { ... math.fma ... }
            memref.store %acc, %y[%m, %n]
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects import func
from xdsl.dialects.builtin import ModuleOp, TensorType
from xdsl.passes import ModulePass

from kaoken.passes.bake import BakePass
from kaoken.passes.lowering.function import FunctionLowering
from kaoken.passes.lowering.module import LoweredModule
from kaoken.passes.skip_zeros import SkipZerosPass
from kaoken.passes.tabulate import TabulatePass


@dataclass(frozen=True)
class LowerToLoopsPass(ModulePass):
    """Turn tensor functions into loop kernels and the functions that call them."""

    name = "lower-to-loops"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        if not any(_has_tensors(f) for f in op.ops if isinstance(f, func.FuncOp)):
            return
        SkipZerosPass().apply(ctx, op)
        TabulatePass().apply(ctx, op)
        BakePass().apply(ctx, op)
        functions = [f for f in op.ops if isinstance(f, func.FuncOp)]
        shared = LoweredModule(op, functions)
        for function in _callees_first(functions):
            lowered = FunctionLowering(shared, function).run()
            op.body.block.insert_op_before(lowered, function)
            function.detach()
            function.erase()
        shared.finish()


def _has_tensors(function: func.FuncOp) -> bool:
    types = function.function_type
    return any(isinstance(t, TensorType) for t in (*types.inputs, *types.outputs))


def _callees_first(functions: list[func.FuncOp]) -> list[func.FuncOp]:
    by_name = {f.sym_name.data: f for f in functions}
    ordered: dict[str, func.FuncOp] = {}

    def visit(function: func.FuncOp) -> None:
        for op in function.body.walk():
            if isinstance(op, func.CallOp) and op.callee.root_reference.data in by_name:
                visit(by_name[op.callee.root_reference.data])
        ordered.setdefault(function.sym_name.data, function)

    for function in functions:
        visit(function)
    return list(ordered.values())
