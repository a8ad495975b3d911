"""Two plans over the same samples."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.tiny_plans import chain
from whet.compare.evaluated import evaluate
from whet.errors import InputError
from whet.plan import Plan
from whet.plan.program import Tensor
from whet.precision.specs import of_plan

X = np.random.default_rng(0).standard_normal((70, 5)).astype(np.float32)


def test_a_plan_says_what_it_takes() -> None:
    spec, = of_plan(Plan.from_data(chain()))
    assert (spec.name, spec.dtype) == ("x", np.float32)
    assert [(e.least, e.best, e.most) for e in spec.shape] == [(1, 4, 64), (5, 5, 5)]


def test_both_answer_all_samples_in_order() -> None:
    told: list[tuple[str, int, int]] = []
    plans = {"a": Plan.from_data(chain(1)), "b": Plan.from_data(chain(2))}
    right = 2 * X + np.arange(5, dtype=np.float32)
    found = evaluate(plans, ({"x": X}, right.argmax(axis=1)), "top1", progress=lambda *a: told.append(a))
    assert [found[n].n for n in "ab"] == [70, 70]
    assert found["a"].outcomes is not None
    assert found["a"].outcomes.all()
    assert found["b"].outcomes is not None
    assert found["b"].outcomes.tolist() == ((2 * right + np.arange(5)).argmax(1) == right.argmax(1)).tolist()
    assert told[-1] == ("running b", 70, 70)


def test_a_metric_without_labels_takes_the_first_plan_for_right() -> None:
    plans = {"a": Plan.from_data(chain(1)), "b": Plan.from_data(chain(1))}
    found = evaluate(plans, {"x": X}, "divergence:l2")
    assert found["b"].value == 0


def test_plans_of_different_inputs_are_refused() -> None:
    other = Plan.from_data(chain(1, inputs=[Tensor("z", "float32", [[[1, ["batch"]]], 5])]))
    with pytest.raises(InputError, match="different inputs"):
        evaluate({"a": Plan.from_data(chain(1)), "b": other}, {"x": X}, "divergence:l2")
    with pytest.raises(InputError):
        evaluate({"a": Plan.from_data(chain(1)), "b": Plan.from_data(chain(1))}, {"x": X}, "top1")
