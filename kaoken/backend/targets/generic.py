"""Any CPU: no SIMD assumed, every lane a scalar; the C compiler may find vectors by itself."""

from kaoken.backend.targets.base import TargetDescription

TARGET = TargetDescription(
    name="generic",
    rank=0,
    architecture="",
    vector_bytes=0,
    vector_registers=16,
)
