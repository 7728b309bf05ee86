"""What the functions of one module share while they are lowered."""

from __future__ import annotations

from dataclasses import dataclass, field

from xdsl.builder import Builder
from xdsl.dialects import func
from xdsl.dialects.builtin import ArrayAttr, ModuleOp, StringAttr
from xdsl.rewriter import InsertPoint

from kaoken.analysis.shapes import symbolic_shapes


@dataclass
class LoweredModule:
    """What the functions of one module share: kernels, error texts, signatures."""

    module: ModuleOp
    functions: list[func.FuncOp]
    kernels: dict[str, list[func.FuncOp]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    symbols: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read all signatures while they still are those of tensors."""
        self.shapes = {f.sym_name.data: symbolic_shapes(f) for f in self.functions}
        self.parameters = {
            f.sym_name.data: [self.shapes[f.sym_name.data][a] for a in f.args]
            for f in self.functions
        }

    def add_error(self, text: str) -> int:
        """The code of a run-time error, from 1 on."""
        if text not in self.errors:
            self.errors.append(text)
        return self.errors.index(text) + 1

    def share(self, kernel: func.FuncOp) -> str:
        """The name of an equal kernel, or of this one, now part of the module."""
        name = kernel.sym_name.data
        known = self.kernels.setdefault(name, [])
        for other in known:
            kernel.sym_name = other.sym_name
            if kernel.is_structurally_equivalent(other):
                return other.sym_name.data
        kernel.sym_name = StringAttr(f"{name}_{len(known) + 1}" if known else name)
        known.append(kernel)
        return kernel.sym_name.data

    def finish(self) -> None:
        """Put the kernels before their callers, and the error texts on the module."""
        builder = Builder(InsertPoint.at_start(self.module.body.block))
        for kernels in self.kernels.values():
            for kernel in kernels:
                builder.insert(kernel)
        if self.errors:
            texts = ArrayAttr([StringAttr(text) for text in self.errors])
            self.module.attributes["kaoken.errors"] = texts
