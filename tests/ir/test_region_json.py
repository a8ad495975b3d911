"""A region written down and read again is the same region, with the same signature."""

import json
import math

import pytest

from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Imm, Leaf
from whet.ir.region import Region, Tensor, region_from_json
from whet.ir.symbolic import symbol


def example() -> Region:
    b = symbol("b")
    x = Tensor(DType.BF16, (b, 7), (b * 2 + 9, 1))
    w = Tensor.dense(DType.F32, (7, 5), const=True)
    e = Expr((Leaf(ANCHOR, DType.F32), Leaf(2, DType.F32), Apply("add", (0, 1), DType.F32), Imm(-math.inf, DType.F32),
              Apply("max", (2, 3), DType.F32), Apply("cast", (4,), DType.BF16, (("to", DType.BF16),))))
    pro = Expr((Leaf(0, DType.BF16), Apply("cast", (0,), DType.F32, (("to", DType.F32),))))
    attrs = {"shape": (b, 3), "to": DType.I8, "flag": True, "none": None}
    return Region("matmul", attrs, (x, w, Tensor.dense(DType.F32, (5,))), 2, Tensor.dense(DType.BF16, (b, 5)),
                  Tensor.dense(DType.F32, (b, 5)), e, {0: pro}, dims={"b": (1, 2, 9)}, compute="bf16")


def test_round_trip() -> None:
    r = example()
    again = region_from_json(json.loads(json.dumps(r.describe())))
    assert again == r
    assert again.signature() == r.signature()


@pytest.mark.parametrize("field", ["kind", "attrs", "inputs", "output", "epilogue", "dims", "compute"])
def test_every_part_counts_in_the_signature(field: str) -> None:
    r = example()
    changed = {"kind": "conv", "attrs": {}, "inputs": r.inputs[:2], "output": r.anchor, "epilogue": None,
               "dims": {"b": (1, 3, 9)}, "compute": "f32"}[field]
    other = Region(**{**r.__dict__, field: changed})
    assert other.signature() != r.signature()
