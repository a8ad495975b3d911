"""Lowering of TfIdfVectorizer on numbers: every n-gram of a row is compared with every one of the pool."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np

from whet.frontends.call import Call, NeedsReferenceError, lowers
from whet.frontends.formulas import Formula, concat, formula
from whet.ir.dtypes import DType
from whet.ir.graph import Value
from whet.ir.symbolic import Dim

MAX_COMPARISONS = 1 << 24  # n-grams of a row times n-grams of the pool


def _pool(c: Call) -> Iterator[tuple[int, np.ndarray]]:
    """(n, [grams, n]) of each size, in the order of ngram_indexes."""
    items, starts = np.asarray(c.attr("pool_int64s"), np.int64), c.attr("ngram_counts")
    for k, start in enumerate(starts):
        end = starts[k + 1] if k + 1 < len(starts) else len(items)
        if end > start:
            yield k + 1, items[start:end].reshape(-1, k + 1)


@lowers("TfIdfVectorizer")
def _tfidf(c: Call) -> Value:
    """Items of an n-gram lie 1 to max_skip_count + 1 apart; single items are counted once."""
    x, places = formula(c, 0), c.attr("ngram_indexes")
    if x.dtype is DType.STRING or c.attr("pool_int64s") is None:
        raise NeedsReferenceError("of strings")
    length, flat = x.shape[-1] if x.rank else None, x.rank == 1
    pool = list(_pool(c))
    grams = [tuple(g) for _, table in pool for g in table.tolist()]
    if not isinstance(length, int) or length * len(grams) > MAX_COMPARISONS:
        raise NeedsReferenceError("of rows of a dynamic length, or with so large a pool")
    if len(set(grams)) < len(grams) or len(set(places)) < len(places) or len(places) != len(grams):
        raise NeedsReferenceError("with n-grams that share a place")
    x = (x.reshape(1, length) if flat else x).to(DType.I64)
    rows = x.shape[0]
    counts = [_counted(x, table, n, c.attr("max_skip_count") + 1 if n > 1 else 1)
              if c.attr("min_gram_length") <= n <= c.attr("max_gram_length") else _zeros(c, rows, len(table))
              for n, table in pool]
    size = max(places) + 1
    order = np.full(size, len(grams))  # a column of zeros, for places that no n-gram has
    order[places] = np.arange(len(grams))
    y = concat([*counts, _zeros(c, rows, 1)], 1).gather(Formula(c, c.constant(order, DType.I64)), axis=1)
    weights = c.attr("weights")
    if c.attr("mode") == "IDF":
        y = (y > 0).to(DType.F32)
    if c.attr("mode") != "TF" and weights:
        y = y * Formula(c, c.constant(weights, DType.F32))
    return y.reshape(size).value if flat else y.value


def _zeros(c: Call, rows: Dim, columns: int) -> Formula:
    return Formula(c, c.constant(0, DType.F32)).expand(rows, columns)


def _counted(x: Formula, table: np.ndarray, n: int, skips: int) -> Formula:
    """[rows, grams] (f32): how often each of the grams [grams, n] occurs in the rows of x [rows, length]."""
    c, (rows, length) = x.call, x.shape
    assert isinstance(length, int)
    total = _zeros(c, rows, len(table))
    for apart in range(1, skips + 1):
        starts = length - apart * (n - 1)
        if starts < 1:
            break
        items = (Formula(c, c.constant(table[:, k], DType.I64)) for k in range(n))
        same = [x.slice(1, apart * k, starts).reshape(rows, starts, 1).eq(item) for k, item in enumerate(items)]
        total = total + functools.reduce(lambda a, b: a & b, same).to(DType.F32).reduce("sum", (1,))
    return total
