"""Caches and rotary positions."""

from __future__ import annotations

import numpy as np
from xdsl.interpreter import Interpreter, impl

from kaoken.dialect import decoder, quant
from kaoken.dialect.reference.results import Array, Arrays, OpFunctions, result, wide
from kaoken.dtypes import numpy_dtype
from kaoken.errors import KaokenError


class DecoderFunctions(OpFunctions):
    """Of `kaoken.dialect.decoder`."""

    @impl(decoder.CacheOp)
    def cache(self, interpreter: Interpreter, op: decoder.CacheOp, args: Arrays) -> Arrays:
        type_ = decoder.cache_type(op.result)
        empty = _empty_cache(type_)
        rows = self._caches.setdefault(op.key.data, empty)
        if rows.shape != empty.shape or rows.dtype != empty.dtype:
            raise KaokenError(
                f'cache "{op.key.data}" is {rows.dtype.name} {list(rows.shape)}, '
                f"but the module says {type_}"
            )
        return (rows,)

    @impl(decoder.CacheAppendOp)
    def cache_append(
        self, interpreter: Interpreter, op: decoder.CacheAppendOp, args: Arrays
    ) -> Arrays:
        new, rows = args
        (start,) = self._shape(op.start.data)
        if start < 0 or start + new.shape[1] > len(rows):
            raise KaokenError(f"the cache holds at most {len(rows)} rows")
        rows[start : start + new.shape[1]] = _to_cache(new[0], rows.dtype)
        return ()

    @impl(decoder.CacheReadOp)
    def cache_read(self, interpreter: Interpreter, op: decoder.CacheReadOp, args: Arrays) -> Arrays:
        (length,) = self._shape(op.length.data)
        if length > len(args[0]):
            raise KaokenError(f"the cache holds at most {len(args[0])} rows")
        return (_from_cache(args[0][:length])[None],)

    @impl(decoder.RopeOp)
    def rope(self, interpreter: Interpreter, op: decoder.RopeOp, args: Arrays) -> Arrays:
        x = wide(args[0]).reshape(*args[0].shape[:2], op.heads, op.head_size)
        cos, sin = (wide(table)[None, :, None, :] for table in args[1:])
        pairs = op.pairs
        if op.interleaved.value.data:
            first, second = np.s_[..., 0 : 2 * pairs : 2], np.s_[..., 1 : 2 * pairs : 2]
        else:
            first, second = np.s_[..., :pairs], np.s_[..., pairs : 2 * pairs]
        y = x.copy()
        y[first] = x[first] * cos - x[second] * sin
        y[second] = x[second] * cos + x[first] * sin
        return (result(op, y.reshape(args[0].shape)),)


def _empty_cache(type_: decoder.CacheType) -> Array:
    """Rows that hold nothing yet; those of i8 are numbers with a scale for each head."""
    if not type_.has_scales:
        shape = (type_.capacity.data, type_.width)
        return np.full(shape, np.nan, numpy_dtype(type_.element_type))
    heads = type_.heads.data
    row = [("numbers", np.int8, (heads, type_.head_size.data)), ("scales", np.float32, (heads,))]
    empty = np.zeros(type_.capacity.data, np.dtype(row))
    empty["scales"] = np.nan
    return empty


def _to_cache(rows: Array, dtype: np.dtype) -> Array:
    """Rows [S, heads * head_size] of f32 as a cache keeps them."""
    if dtype.names is None:
        return rows.astype(dtype)
    kept = np.empty(len(rows), dtype)
    by_head = rows.reshape(kept["numbers"].shape)
    largest = np.abs(by_head).max(-1, keepdims=True)
    scales = np.maximum(largest * np.float32(1 / quant.LIMIT), np.float32(quant.LEAST_SCALE))
    kept["numbers"] = np.clip(np.rint(by_head * (np.float32(1) / scales)), -128, quant.LIMIT)
    kept["scales"] = scales[..., 0]
    return kept


def _from_cache(kept: Array) -> Array:
    """Rows of a cache as [S, heads * head_size] of f32."""
    if kept.dtype.names is None:
        return kept.astype(np.float32)
    rows = kept["numbers"].astype(np.float32) * kept["scales"][..., None]
    return rows.reshape(len(kept), -1)
