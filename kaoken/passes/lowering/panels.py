"""Tensors that lie in panels of columns, [columns / 32, rows, 32], and not row after row.

`panel-inputs` says which by an attribute of the op that writes the tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from xdsl.dialects.builtin import IntegerAttr
from xdsl.ir import Operation, SSAValue

from kaoken.dialect.dims import Dim
from kaoken.passes.lowering.kernel import Kernel
from kaoken.passes.lowering.rows import row_shape

PANEL = "kaoken.panel"
"""The columns of a panel, on the op whose result lies so."""


def panel_of(value: SSAValue) -> int | None:
    """The columns of a panel where a tensor lies in panels."""
    attribute = value.owner.attributes.get(PANEL) if isinstance(value.owner, Operation) else None
    return attribute.value.data if isinstance(attribute, IntegerAttr) else None


def panelled_buffer(kernel: Kernel, name: str, value: SSAValue) -> SSAValue:
    """A buffer of rows, [rows, columns], or where it lies in panels [panels, rows, columns]."""
    rows, width = row_shape(kernel.shape(value))
    panel = panel_of(value)
    if panel is None:
        return kernel.buffer(name, value, (rows, width))
    return kernel.buffer(name, value, (Dim.of((width.constant or 0) // panel), rows, Dim.of(panel)))


@contextmanager
def each_column(
    kernel: Kernel, m: SSAValue, width: Dim, panel: int | None
) -> Iterator[tuple[SSAValue, tuple[SSAValue, ...]]]:
    """A loop over the columns of row m: the column, and its place in rows or in panels."""
    if panel is None:
        with kernel.parallel("h", kernel.size("n", width)) as h:
            yield h, (m, h)
        return
    with (
        kernel.parallel("h0", (width.constant or 0) // panel) as h0,
        kernel.parallel("h", panel) as h,
    ):
        yield kernel.affine(lambda h0, h: h0 * panel + h, h0, h), (h0, m, h)
