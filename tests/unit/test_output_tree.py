"""Flat outputs back in the module's structure."""

import subprocess
import sys

import pytest

from kaoken.errors import KaokenError
from kaoken.output_tree import Output, build

TENSOR = {"kind": "tensor"}


def test_plain_structures() -> None:
    assert build(TENSOR, [1]) == 1
    assert build({"kind": "tuple"}, [1, 2]) == (1, 2)
    assert build({"kind": "list", "items": [TENSOR, TENSOR]}, [1, 2]) == [1, 2]
    assert build({"kind": "dict", "keys": ["a", "b"]}, [1, 2]) == {"a": 1, "b": 2}


def test_nested_structures_and_constants() -> None:
    items = [TENSOR, {"kind": "tuple", "items": [TENSOR, {"kind": "constant", "value": None}]}]
    assert build({"kind": "dict", "keys": ["a", "b"], "items": items}, [1, 2]) == {
        "a": 1,
        "b": (2, None),
    }


def test_model_output_without_transformers() -> None:
    tree = {"kind": "model_output", "class": "transformers.no.Such", "keys": ["a", "b"]}
    result = build(tree, [1, 2])
    assert isinstance(result, Output)
    assert (result.a, result["b"], result[0], result[-1], result[:1]) == (1, 2, 1, 2, (1,))
    assert result.to_tuple() == (1, 2)
    with pytest.raises(AttributeError):
        _ = result.c


def test_model_output_class_is_used_where_it_is_loaded() -> None:
    name = "collections.UserDict"
    tree = {"kind": "model_output", "class": name, "keys": ["a"]}
    assert type(build(tree, [1])).__name__ == "UserDict"


def test_wrong_number_of_outputs() -> None:
    with pytest.raises(KaokenError, match="fewer leaves"):
        build(TENSOR, [1, 2])
    with pytest.raises(KaokenError, match="more leaves"):
        build({"kind": "dict", "keys": ["a", "b"]}, [1])
    with pytest.raises(KaokenError, match="unknown kind set"):
        build({"kind": "set", "keys": [], "items": []}, [])


def test_importing_kaoken_is_light() -> None:
    code = (
        "import sys, kaoken; from kaoken import load, compile, CompiledModel\n"
        "print([m for m in ('torch', 'xdsl', 'transformers') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
