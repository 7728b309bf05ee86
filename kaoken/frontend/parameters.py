"""The parameters, buffers and constants of an exported program as weights of a store, uncopied."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xdsl.ir import SSAValue

from kaoken.dialect.base import shaped
from kaoken.dialect.dims import Dim
from kaoken.dialect.nn import WeightOp
from kaoken.errors import KaokenError
from kaoken.frontend.aten import Importer
from kaoken.frontend.aten.registry import element_type_of
from kaoken.weights import WeightStore

if TYPE_CHECKING:
    from torch.export import ExportedProgram


class Parameters:
    """The parameters, buffers and constants of an exported program, put into a store."""

    def __init__(self, program: ExportedProgram, importer: Importer, store: WeightStore):
        signature = program.graph_signature
        self.keys: dict[str, str] = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        self._parameters = set(signature.inputs_to_parameters)
        self._tensors = {**program.constants, **program.state_dict}
        self._importer = importer
        self._store = store
        self._by_memory: dict[tuple[Any, ...], str] = {}

    def load(self, placeholder: str) -> SSAValue:
        """The value of a weight; a buffer or constant of one element becomes a kaoken.full."""
        import torch

        key = self.keys[placeholder]
        tensor = self._tensors[key].detach()
        if tensor.device.type != "cpu":
            raise KaokenError(
                f'the weight "{key}" is on {tensor.device}: move the module to the CPU'
            )
        dtype = element_type_of(tensor.dtype)
        if tensor.numel() == 1 and placeholder not in self._parameters:
            shape = tuple(Dim.of(n) for n in tensor.shape)
            return self._importer.full(tensor.item(), dtype, shape)
        if tensor.dtype == torch.bfloat16:
            raise KaokenError(f'the weight "{key}" is bfloat16: convert the module with .float()')
        array = tensor.contiguous().numpy()
        memory = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        shared = self._by_memory.setdefault(memory, key)
        if shared == key:
            self._store.add(key, array)
        type_ = shaped(tuple(Dim.of(n) for n in tensor.shape), dtype)
        return self._importer.add(WeightOp(shared, type_))
