"""What every `kaoken` op shares: one tensor result whose shape follows from its operands."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Self

from xdsl.dialects.builtin import TensorType, f32
from xdsl.interfaces import HasCanonicalizationPatternsInterface
from xdsl.ir import Attribute, Operation, SSAValue, TypeAttribute
from xdsl.irdl import IRDLOperation, base, result_def, traits_def
from xdsl.pattern_rewriter import RewritePattern
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException

from kaoken.dialect.attributes import Shape
from kaoken.dialect.dims import DYNAMIC, Dim

AnyTensor = base(TensorType)
_PLACEHOLDER: TensorType[Attribute] = TensorType(f32, [])


def tensor_type(value: SSAValue | Operation) -> TensorType[Attribute]:
    """The type of a value that the verifier has proved to be a tensor."""
    type_ = SSAValue.get(value).type
    assert isinstance(type_, TensorType)
    return type_


def type_shape(type_: TensorType[Attribute], prefix: str = "d") -> Shape:
    """The shape of a type; each `?` becomes a symbol of its own, `<prefix>0`, `<prefix>1` ..."""
    sizes = type_.get_shape()
    return tuple(
        Dim.symbol(f"{prefix}{i}") if n == DYNAMIC else Dim.of(n) for i, n in enumerate(sizes)
    )


class HandleType(TypeAttribute):
    """The type of a value that is no tensor, but names memory of a known shape."""

    @property
    @abstractmethod
    def shape(self) -> Shape: ...

    @property
    @abstractmethod
    def element(self) -> Attribute: ...


def element_type_of(value: SSAValue) -> Attribute:
    """The element type of a tensor, or of what a handle names."""
    if isinstance(value.type, HandleType):
        return value.type.element
    return tensor_type(value).element_type


def operand_shape(value: SSAValue, prefix: str = "d") -> Shape:
    """The shape of a tensor, as `type_shape` gives it, or of what a handle names."""
    if isinstance(value.type, HandleType):
        return value.type.shape
    return type_shape(tensor_type(value), prefix)


def shaped(shape: Shape, element_type: Attribute) -> TensorType[Attribute]:
    """The tensor type of a symbolic shape."""
    return TensorType(element_type, [dim.static for dim in shape])


def unify(a: Dim, b: Dim, what: str) -> Dim:
    """One of two sizes that must be equal, the known one first.

    Open sizes are taken on trust: only two different numbers are an error.
    """
    if a.constant is not None and b.constant is not None and a != b:
        raise VerifyException(f"{what}: {a} is not {b}")
    return b if a.constant is None and b.constant is not None else a


Operand = SSAValue | Operation | Sequence[SSAValue | Operation] | None


class KaokenOp(IRDLOperation, HasCanonicalizationPatternsInterface):
    """An op on tensors without side effects: one result, `infer_shape` and `infer_element_type`."""

    result = result_def(TensorType)

    traits = traits_def(Pure())

    @classmethod
    def get_canonicalization_patterns(cls) -> tuple[RewritePattern, ...]:
        from kaoken.dialect.canonicalize import patterns_of

        return patterns_of(cls)

    @abstractmethod
    def infer_shape(self, *operands: Shape) -> Shape:
        """The result's shape, given those of the present operands in order.

        Raises VerifyException when they do not fit together.
        """

    def infer_element_type(self) -> Attribute:
        """The result's element type; by default that of the first operand."""
        return tensor_type(self.operands[0]).element_type

    @classmethod
    def make(
        cls,
        operands: Sequence[Operand],
        properties: Mapping[str, Attribute | None] | None = None,
    ) -> Self:
        """Build the op with the result type that its operands and properties imply.

        Optional operands at the end may be left out. Raises VerifyException when they do not
        fit together.
        """
        present = {k: v for k, v in (properties or {}).items() if v is not None}
        operands = cls.all_operands(operands)

        def build(type_: TensorType[Attribute]) -> Self:
            return cls.build(operands=operands, properties=present, result_types=[type_])

        draft = build(_PLACEHOLDER)
        inferred = draft.inferred_type()
        draft.drop_all_references()
        return build(inferred)

    @classmethod
    def all_operands(cls, operands: Sequence[Operand]) -> list[Operand]:
        """The operands with None for the optional ones that are left out at the end."""
        missing = len(cls.get_irdl_definition().operands) - len(operands)
        return [*operands, *([None] * missing)]

    def inferred_type(self) -> TensorType[Attribute]:
        shapes = [operand_shape(v, f"_{i}_") for i, v in enumerate(self.operands)]
        return shaped(self.infer_shape(*shapes), self.infer_element_type())

    def verify_(self) -> None:
        inferred, declared = self.inferred_type(), tensor_type(self.result)
        if inferred.element_type != declared.element_type:
            raise VerifyException(
                f"result has element type {declared.element_type}, "
                f"its operands give {inferred.element_type}"
            )
        if len(inferred.get_shape()) != len(declared.get_shape()):
            raise VerifyException(f"result is {declared}, its operands give {inferred}")
        for given, wanted in zip(declared.get_shape(), inferred.get_shape(), strict=True):
            if given != wanted and DYNAMIC not in (given, wanted):
                raise VerifyException(f"result is {declared}, its operands give {inferred}")
