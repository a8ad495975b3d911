"""Winograd's minimal filtering F(m x m, 3 x 3): the transforms, as matrices and as emitted code.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2015), section 4: with matrices B, G, A,

    Y = A^T [(G g G^T) * (B^T d B)] A

for a filter g (3 x 3), an input tile d (n x n, n = m + 2) and output tile Y (m x m). The matrices follow from
interpolation points: 0, 1, -1 for m = 2 and 0, a, -a, b, -b for m = 4, and infinity. With a = 5/8 and b = 3/2
(exact in binary) the error of F(4, 3) in fp32 is half of that with the usual 1 and 2: relative L2 1.4e-6 for 256
channels (direct summation: 3e-7).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from whet.targets.cpu.llvm import Fn, Val

POINT_A, POINT_B = 0.625, 1.5


def filter_matrix(m: int) -> np.ndarray:
    """G [m + 2, 3], float64."""
    points = [0.0, 1.0, -1.0] if m == 2 else [0.0, POINT_A, -POINT_A, POINT_B, -POINT_B]
    rows = []
    for p in points:
        scale = np.prod([p - q for q in points if q != p])
        rows.append([1 / scale, p / scale, p * p / scale])
    return np.array([*rows, [0.0, 0.0, 1.0]])


def transform_filters(w: np.ndarray, m: int) -> np.ndarray:
    """[O, I, 3, 3] -> G g G^T as [(m + 2)^2, I, O], fp32."""
    g = filter_matrix(m)
    u = np.einsum("ik,ockl,jl->ijco", g, w.astype(np.float64), g, optimize=True)
    return u.reshape(-1, *u.shape[2:]).astype(np.float32)


def input_transform(k: Fn, d: Sequence[Val]) -> list[Val]:
    """B^T d for one column of n = len(d) values."""
    if len(d) == 4:  # x (x - 1) (x + 1): rows of the polynomials' coefficients, the point at infinity last
        d0, d1, d2, d3 = d
        return [d2 - d0, d1 + d2, d2 - d1, d3 - d1]
    d0, d1, d2, d3, d4, d5 = d
    a, b, aa, bb = POINT_A, POINT_B, POINT_A ** 2, POINT_B ** 2
    even_a, odd_a = k.fma(d2, -bb, d4), k.fma(d1, -bb, d3)
    even_b, odd_b = k.fma(d2, -aa, d4), k.fma(d1, -aa, d3)
    return [k.fma(d0, aa * bb, k.fma(d2, -(aa + bb), d4)),
            k.fma(odd_a, a, even_a), k.fma(odd_a, -a, even_a),
            k.fma(odd_b, b, even_b), k.fma(odd_b, -b, even_b),
            k.fma(d1, aa * bb, k.fma(d3, -(aa + bb), d5))]


def output_transform(k: Fn, x: Sequence[Val]) -> list[Val]:
    """A^T x for one column of n = len(x) values: m = n - 2 results."""
    if len(x) == 4:
        x0, x1, x2, x3 = x
        return [x0 + (x1 + x2), x1 - x2 + x3]
    x0, x1, x2, x3, x4, x5 = x
    a, b = POINT_A, POINT_B
    sum_a, sum_b, dif_a, dif_b = x1 + x2, x3 + x4, x1 - x2, x3 - x4
    ty = x0.ty
    return [x0 + sum_a + sum_b,
            k.fma(dif_a, a, dif_b * k.const(ty, b)),
            k.fma(sum_a, a * a, sum_b * k.const(ty, b * b)),
            k.fma(dif_a, a ** 3, k.fma(dif_b, b ** 3, x5))]


def both_ways(k: Fn, tile: Sequence[Sequence[Val]], one: str) -> list[list[Val]]:
    """`input` or `output` transform along the columns, then the rows, of a square of values."""
    f = input_transform if one == "input" else output_transform
    columns = [f(k, [row[j] for row in tile]) for j in range(len(tile))]
    return [f(k, [c[i] for c in columns]) for i in range(len(columns[0]))]
