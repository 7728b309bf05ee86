"""The cache of compiled models: what is used stays, what is old goes when there is too much."""

import os
import time

import pytest

from kaoken.backend.cache import cached_package, trim_packages
from kaoken.compiler import cached_folder
from kaoken.errors import KaokenError
from kaoken.modules import parse_module
from kaoken.options import CompileOptions


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KAOKEN_CACHE", str(tmp_path))
    return tmp_path


def put(kind, key, hours_ago):
    """A model of 1 MB that was last used so long ago."""
    folder = cached_package(kind, key, "model")
    folder.mkdir()
    (folder / "model.weights").write_bytes(bytes(1_000_000))
    then = time.time() - 3600 * hours_ago
    os.utime(folder.parent, (then, then))
    return folder


def test_oldest_go_first(cache, monkeypatch):
    monkeypatch.setenv("KAOKEN_CACHE_LIMIT", "0.0025")
    old, new, older = put("models", "a", 20), put("decoders", "b", 10), put("decoders", "c", 30)
    trim_packages()
    assert old.exists()
    assert new.exists()
    assert not older.exists()


def test_using_a_model_keeps_it(cache, monkeypatch):
    monkeypatch.setenv("KAOKEN_CACHE_LIMIT", "0.0015")
    used, other = put("models", "a", 20), put("models", "b", 10)
    assert cached_package("models", "a", "model") == used
    trim_packages()
    assert used.exists()
    assert not other.exists()


def test_models_in_use_stay_whatever_the_limit(cache, monkeypatch):
    monkeypatch.setenv("KAOKEN_CACHE_LIMIT", "0")
    recent, old = put("models", "a", 0.5), put("models", "b", 2)
    trim_packages()
    assert recent.exists()
    assert not old.exists()


def test_a_limit_that_is_no_number(cache, monkeypatch):
    monkeypatch.setenv("KAOKEN_CACHE_LIMIT", "much")
    with pytest.raises(KaokenError, match="KAOKEN_CACHE_LIMIT is 'much': give a number"):
        trim_packages()


def test_a_cache_that_may_only_be_read_is_used(cache, monkeypatch):
    there = put("models", "a", 20)

    def refuse(*args):
        raise PermissionError

    monkeypatch.setattr(os, "utime", refuse)
    assert cached_package("models", "a", "model") == there


def test_other_sizes_of_caches_are_another_model(cache):
    """Since schedules depend on them; 1 MB is what the target has anyway."""
    module = parse_module("""
func.func @main(%x: tensor<2x3xf32>) -> tensor<2x3xf32> {
  return %x : tensor<2x3xf32>
}""")
    targets = ("x86-64-v4", "x86-64-v4+l2=1M", "x86-64-v4+l2=256K")
    folders = [cached_folder(module, CompileOptions(target=target)) for target in targets]
    assert folders[0] == folders[1] != folders[2]
