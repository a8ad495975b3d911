"""ONNX's own test suite, every case of the installed version: exact types and shapes, the suite's tolerances.

What does not pass is in `exceptions.toml`, with the reason. `python tests/conformance` counts what passes.
"""

from __future__ import annotations

import unittest
from typing import Any

import pytest
from whet_backend import cases, drawn, exceptions, generated, home

# What held when these were last raised; neither number may fall.
PASSES = 2022
GENERATED = 1890

CASES = cases(home())
FAILS, RANDOM = exceptions(), drawn()
ran: dict[str, bool] = {}  # the cases that passed -> by generated kernels alone


def _marked(name: str) -> Any:
    if name not in FAILS and name not in RANDOM:
        return name
    return pytest.param(name, marks=pytest.mark.xfail(reason=FAILS.get(name) or RANDOM[name], strict=name in FAILS))


@pytest.mark.parametrize("name", [_marked(n) for n in sorted(CASES)])
@pytest.mark.filterwarnings("ignore")
def test_case(name: str) -> None:
    case: Any = CASES[name]
    try:
        getattr(case, case._testMethodName)()
    except unittest.SkipTest as e:
        pytest.fail(f"skipped: {e}")
    if name not in RANDOM:
        ran[name] = generated()


def test_every_exception_is_a_case() -> None:
    assert FAILS.keys() | RANDOM.keys() <= CASES.keys()


def test_exceptions_have_reasons() -> None:
    assert all(len(reason) > 10 for reason in (*FAILS.values(), *RANDOM.values()))


def test_no_fewer_pass_than_did() -> None:
    """Runs after the cases; says nothing where only some of them were asked for."""
    if len(ran) < len(CASES) - len(FAILS) - len(RANDOM):
        pytest.skip("not every case ran")
    assert len(ran) >= PASSES
    assert sum(ran.values()) >= GENERATED
