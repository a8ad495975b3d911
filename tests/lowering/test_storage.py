"""A view has exactly the elements that NumPy's operation has, and says so when it cannot."""

import numpy as np
import pytest

from whet.ir.symbolic import symbol
from whet.lowering.storage import reshape_strides


def strides_of(a: np.ndarray) -> tuple[int, ...]:
    return tuple(s // a.itemsize for s in a.strides)


CASES = [
    ((4, 6, 8), (0, 1, 2), (24, 8)), ((4, 6, 8), (1, 0, 2), (6, 4, 2, 4)), ((4, 6, 8), (1, 0, 2), (24, 8)),
    ((4, 6, 8), (0, 2, 1), (4, 48)), ((2, 3, 4, 5), (0, 2, 1, 3), (2, 4, 15)), ((2, 3, 4, 5), (1, 0, 2, 3), (3, 2, 20)),
    ((2, 1, 4), (0, 1, 2), (8,)), ((6,), (0,), (2, 1, 3)), ((2, 3, 4, 5), (0, 2, 1, 3), (8, 3, 5)),
    ((2, 3, 4, 5), (0, 2, 1, 3), (2, 2, 2, 3, 5)),
]


@pytest.mark.parametrize(("shape", "perm", "new"), CASES)
def test_reshape_of_a_transposed_array_is_a_view_exactly_when_numpy_says_so(shape, perm, new) -> None:
    a = np.arange(np.prod(shape)).reshape(shape).transpose(perm)
    got = reshape_strides(a.shape, strides_of(a), new)
    b = a.reshape(new)
    if np.shares_memory(a, b):
        assert got is not None
        ours = np.lib.stride_tricks.as_strided(a, new, [s * a.itemsize for s in got])
        np.testing.assert_array_equal(ours, b)
    else:
        assert got is None


def test_symbolic_heads_split_and_merge() -> None:
    b, s = symbol("b"), symbol("s")
    # [b, s, 768] -> [b, s, 12, 64]
    assert reshape_strides((b, s, 768), (s * 2304, 2304, 1), (b, s, 12, 64)) == (s * 2304, 2304, 64, 1)
    # and merging b and s of a strided slice
    assert reshape_strides((b, s, 768), (s * 2304, 2304, 1), (b * s, 768)) == (2304, 1)
