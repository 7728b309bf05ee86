"""WeightStore and its files."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from xdsl.dialects.builtin import StringAttr

from kaoken.backend.package import HUGE_PAGE_BYTES, Blocks
from kaoken.errors import KaokenError
from kaoken.modules import parse_module, read_module, write_module
from kaoken.weights import DIGEST, WEIGHTS, WeightStore, attach_store, store_of
from tests.helpers import store_from

ARRAYS: dict[str, np.ndarray] = {
    "a": np.arange(6, dtype="f4").reshape(2, 3),
    "half": np.array([1.5, -2.0], ml_dtypes.bfloat16),
    "f16": np.array([0.1], "f2"),
    "flags": np.array([True, False, True]),
    "scalar": np.array(7, "i8"),
    "none": np.zeros((0, 4), "f4"),
    "bytes": np.array([1, 2, 3], "i1"),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    store_from(ARRAYS).save(path)
    return path


def test_round_trip_keeps_dtypes_shapes_and_contents(file: Path) -> None:
    store = WeightStore.open(file)
    assert sorted(store.keys()) == sorted(ARRAYS)
    for key, array in ARRAYS.items():
        assert store[key].dtype == array.dtype
        assert store[key].shape == array.shape
        np.testing.assert_array_equal(store[key], array)
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_the_safetensors_library_reads_our_files_and_we_its(file: Path, tmp_path: Path) -> None:
    np.testing.assert_array_equal(load_file(file)["a"], ARRAYS["a"])
    theirs = tmp_path / "theirs.safetensors"
    save_file({"b": ARRAYS["a"]}, theirs, {"format": "pt"})
    np.testing.assert_array_equal(WeightStore.open(theirs)["b"], ARRAYS["a"])


def test_arrays_are_views_that_cannot_be_written(file: Path) -> None:
    array = np.zeros(3, "f4")
    store = store_from({"x": array})
    assert np.shares_memory(store["x"], array)
    with pytest.raises(ValueError, match="read-only"):
        store["x"][0] = 1
    opened = WeightStore.open(file)["a"]
    assert opened.base is not None
    assert not opened.flags.writeable


def test_get_f32_converts() -> None:
    store = store_from(ARRAYS)
    assert store.get_f32("half").dtype == np.float32
    assert np.shares_memory(store.get_f32("a"), ARRAYS["a"])


def test_same_content_may_be_added_again_and_other_content_not() -> None:
    store = store_from(ARRAYS)
    assert store.add("a", ARRAYS["a"].copy()) == "a"
    for other in (ARRAYS["a"] + 1, ARRAYS["a"].astype("f8"), ARRAYS["a"].reshape(3, 2)):
        with pytest.raises(KaokenError, match='"a" exists already'):
            store.add("a", other)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(KaokenError, match='no weight "nope"'):
        store_from({})["nope"]


def test_digest_depends_on_keys_dtypes_shapes_and_contents_alone(file: Path) -> None:
    digest = store_from(ARRAYS).digest()
    assert WeightStore.open(file).digest() == digest
    assert store_from(dict(reversed(ARRAYS.items()))).digest() == digest
    a = ARRAYS["a"]
    for changed in (a + 1, a.reshape(3, 2), a.view("i4")):
        assert store_from(ARRAYS | {"a": changed}).digest() != digest
    assert store_from({("b" if k == "a" else k): v for k, v in ARRAYS.items()}).digest() != digest
    strided = np.repeat(a, 2, 1)[:, ::2]
    assert store_from(ARRAYS | {"a": strided}).digest() == digest


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_truncated_file(file: Path, length: int) -> None:
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(KaokenError, match=r"model.safetensors is truncated"):
        WeightStore.open(file)


@pytest.mark.parametrize(
    "content", [b"hello, this is text", b"\x02\0\0\0\0\0\0\0[]", b'\x0c\0\0\0\0\0\0\0{"a":{"b":1}}']
)
def test_not_a_safetensors_file(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(KaokenError, match="is not a safetensors file"):
        WeightStore.open(file)


def test_missing_file_and_unwritable_folder(tmp_path: Path) -> None:
    with pytest.raises(KaokenError, match=r"cannot read the weights .*No such file"):
        WeightStore.open(tmp_path / "none.safetensors")
    with pytest.raises(KaokenError, match=r"cannot write the weights .*No such file"):
        store_from(ARRAYS).save(tmp_path / "none" / "x.safetensors")


TEXT = """
func.func @main() {
  %a = kaoken.weight "a" : tensor<2x3xf32>
  func.return
}
"""


def test_module_and_sidecar_travel_together(tmp_path: Path) -> None:
    module = parse_module(TEXT)
    attach_store(module, store_from(ARRAYS))
    write_module(module, tmp_path / "m.mlir")
    again = read_module(tmp_path / "m.mlir")
    assert store_of(again).keys() == ["a"]
    np.testing.assert_array_equal(store_of(again)["a"], ARRAYS["a"])
    assert WEIGHTS in again.attributes


def test_sidecar_of_another_module(tmp_path: Path) -> None:
    module = parse_module(TEXT)
    attach_store(module, store_from(ARRAYS))
    write_module(module, tmp_path / "m.mlir")
    store_from({"a": ARRAYS["a"] + 1}).save(tmp_path / "m.safetensors")
    with pytest.raises(KaokenError, match=r"m.safetensors does not match its .mlir"):
        read_module(tmp_path / "m.mlir")
    module.attributes[DIGEST] = StringAttr("?")
    assert store_of(module).keys() == list(ARRAYS)


def test_a_module_without_sidecar_has_an_empty_store() -> None:
    module = parse_module(TEXT)
    assert store_of(module).keys() == []
    assert store_of(module) is store_of(module)


def test_weights_files_are_written_in_huge_pages() -> None:
    """Whole blocks at once, each where a page begins, however the pieces are cut."""

    class File:
        def __init__(self) -> None:
            self.writes: list[bytes] = []

        def write(self, data: memoryview) -> int:
            self.writes.append(bytes(data))
            return len(data)

    file = File()
    data = np.random.default_rng(0).bytes(2 * HUGE_PAGE_BYTES + 5)
    with Blocks(file) as blocks:  # pyright: ignore[reportArgumentType]
        for begin, end in pairwise([0, 7, 8, HUGE_PAGE_BYTES + 9, HUGE_PAGE_BYTES + 9, len(data)]):
            blocks.write(data[begin:end])
    assert b"".join(file.writes) == data
    assert [len(part) for part in file.writes] == [HUGE_PAGE_BYTES, HUGE_PAGE_BYTES, 5]
