"""The `kaoken` dialect: transformer ops on tensors, each with a numpy meaning."""

from xdsl.ir import Dialect

from kaoken.dialect.attributes import (
    ActivationAttr,
    ApproximationAttr,
    FunctionAttr,
    NormAttr,
    ReductionAttr,
    RoundingAttr,
    ScheduleAttr,
    ShapeAttr,
)
from kaoken.dialect.decoder import DECODER_OPS, CacheType
from kaoken.dialect.formats import FormatAttr
from kaoken.dialect.lookup import LOOKUP_OPS
from kaoken.dialect.nn import NN_OPS
from kaoken.dialect.quant import QUANT_OPS
from kaoken.dialect.sparsity import SPARSITY_OPS
from kaoken.dialect.tensor import TENSOR_OPS

Kaoken = Dialect(
    "kaoken",
    [*NN_OPS, *DECODER_OPS, *QUANT_OPS, *LOOKUP_OPS, *SPARSITY_OPS, *TENSOR_OPS],
    [
        ActivationAttr,
        ApproximationAttr,
        CacheType,
        FormatAttr,
        FunctionAttr,
        NormAttr,
        ReductionAttr,
        RoundingAttr,
        ScheduleAttr,
        ShapeAttr,
    ],
)
