"""Fewer points that draw the same line: M4.

Jugel, Jerzak, Hackenbroich and Markl, "M4: A Visualization-Oriented Time Series Data Aggregation", Proceedings of the
VLDB Endowment 7(10), 2014: of the points in each of w equal spans of time, the first, the last, the least and the
greatest. Where a span is a column of pixels, the line through them covers the pixels of the line through all.
"""

from __future__ import annotations

import numpy as np


def m4(at: np.ndarray, values: np.ndarray, columns: int) -> np.ndarray:
    """Indices, ascending, of at most 4 * `columns` points: [n] times in order, [n] values without NaN.

    Every extreme of the whole is among them.
    """
    n = len(at)
    if n <= 4 * columns:
        return np.arange(n)
    span = float(at[-1] - at[0])
    if span <= 0:  # all at one time: by their order instead
        at, span = np.arange(n), float(n - 1)
    column = np.minimum((columns * ((at - at[0]) / span)).astype(np.intp), columns - 1)
    starts = np.flatnonzero(np.concatenate([[True], np.diff(column) > 0]))
    stops = np.append(starts[1:], n)
    kept = []
    for a, b in zip(starts.tolist(), stops.tolist()):
        part = values[a:b]
        kept += [a, a + int(part.argmin()), a + int(part.argmax()), b - 1]
    return np.unique(np.array(kept))
