"""whet as a backend of ONNX's own test suite, and what is known of its cases."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
import tomllib
import unittest
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import onnx
from onnx.backend.base import Backend, BackendRep

import whet
from whet import passes
from whet.ir import Graph
from whet.plan import Plan
from whet.tuning.cache import TimingCache

SIZES = (0, 8, 512)  # least, typical and greatest of dimensions that a model leaves open: some cases have empty ones
EXCEPTIONS = Path(__file__).with_name("exceptions.toml")


class WhetRep(BackendRep):
    """A plan of one of the suite's models, loaded."""

    def __init__(self, model: onnx.ModelProto, plan: Plan) -> None:
        weights = {t.name for t in model.graph.initializer}
        self.free = [v.name for v in model.graph.input if v.name not in weights]
        self.inputs = [v.name for v in model.graph.input]
        self.outputs = [v.name for v in model.graph.output]
        self.engine = whet.load(plan)

    def run(self, inputs: Sequence[Any], **_: Any) -> tuple[Any, ...]:
        """The outputs in the model's order. The suite gives inputs by place, with or without those that have a
        default."""
        names = self.free if len(inputs) == len(self.free) else self.inputs
        got = self.engine(dict(zip(names, inputs)))
        return tuple(got[o] for o in self.outputs)


class BuiltError(Exception):
    """A plan was built, and is not to be run."""


class WhetBackend(Backend):
    """Builds with the cost model's choices, for one thread (or the GPU of `target`)."""

    model: onnx.ModelProto | None = None  # the last that was asked for, and its plan if it could be built
    plan: Plan | None = None
    depends = False  # whether its plan's outputs do on an input, or are constants
    rep: WhetRep | None = None
    target = "cpu"
    build_only = False

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device == "CPU"

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **_: Any) -> WhetRep:
        cls.model, cls.plan, cls.depends = model, None, False
        names = {d.dim_param for v in model.graph.input for d in v.type.tensor_type.shape.dim if d.dim_param}
        profile: dict[str, Any] = {n: SIZES for n in sorted(names) if n.isidentifier()}

        def finish(*args: Any, **options: Any) -> Graph:
            graph = passes.manager.finish(*args, **options)
            cls.depends = _depends(graph)
            return graph

        with mock.patch.object(passes, "finish", finish):
            cls.plan = whet.build(model, target=cls.target, opt_level=0, timing_cache=TimingCache(),
                                  profiles=[profile] if profile else None, threads=1 if cls.target == "cpu" else None)
        if cls.build_only:
            raise BuiltError
        cls.rep = WhetRep(model, cls.plan)
        return cls.rep


def generated() -> bool:
    """True if the last plan computes by generated kernels alone, and something of what it computes depends on an
    input."""
    if WhetBackend.plan is None:
        return False
    steps = WhetBackend.plan.summary()["steps"]
    return steps["reference"] == steps["host"] == 0 < steps["native"] + steps["library"] and WhetBackend.depends


def _depends(graph: Graph) -> bool:
    """True if an output of the optimized graph can be reached from an input: it is not a constant of the plan."""
    known = {id(v) for v in graph.inputs}
    for node in graph.nodes:
        if any(v is not None and id(v) in known for v in node.inputs):
            known |= {id(v) for v in node.outputs}
    return any(id(v) in known for v in graph.outputs)


@functools.cache
def home() -> str:
    """`$ONNX_HOME`, else a folder that is removed at exit: where the suite writes files."""
    if given := os.environ.get("ONNX_HOME"):
        return given
    made = tempfile.mkdtemp(prefix="whet-onnx-")
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


@functools.cache
def cases(home: str) -> dict[str, unittest.TestCase]:
    """Every case of the installed `onnx` for the CPU, by its name without the device. Files go to the folder `home`."""
    os.environ["ONNX_HOME"] = home
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the suite computes its expectations with overflows and divisions by zero
        import onnx.backend.test
        from onnx.backend.test.case import base

        with mock.patch.object(base, "process_snippet", return_value=("", "")):  # for documentation; a second
            tests = onnx.backend.test.BackendTest(WhetBackend, __name__, tolerances())
        classes = tests.test_cases.values()
    return {name.removesuffix("_cpu"): cls(name) for cls in classes for name in dir(cls)
            if name.startswith("test_") and name.endswith("_cpu")}


@functools.cache
def _data(table: str) -> dict[str, Any]:
    return tomllib.loads(EXCEPTIONS.read_text())[table]


def tolerances() -> dict[str, dict[str, float]]:
    """{case: rtol, atol} where the suite's do not do."""
    return {name: {k: v for k, v in row.items() if k != "reason"} for name, row in _data("tolerances").items()}


def drawn() -> dict[str, str]:
    """{case: why it passes by luck alone}."""
    return _data("random")


def exceptions() -> dict[str, str]:
    """{case: why it does not pass}."""
    return _data("fails")
