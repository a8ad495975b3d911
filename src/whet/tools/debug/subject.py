"""The model that is looked into: its functions inlined, its inputs, and its shapes fixed to theirs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TypeProto, helper

from whet.errors import InputError, WhetError
from whet.frontends import load_model
from whet.frontends.inline import inlined
from whet.ir.dtypes import DType
from whet.ir.symbolic import evaluate
from whet.ir.symbolic import names as dim_names
from whet.tools.surgeon.model import OnnxModel
from whet.tools.surgeon.names import producers, reads, sort, unknown
from whet.tools.surgeon.shapes import dims, inputs, set_shapes, types

FIRST, OTHER = 1, 128  # symbolic dimensions of random inputs: what plans are tuned for, if the model says nothing else

RANDOM = frozenset({"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli",
                    "Multinomial"})

Model = str | os.PathLike[str] | bytes | ModelProto | OnnxModel


@dataclass
class Subject:
    """A model and what it is run on. Its nodes are in an order in which they can run."""

    model: OnnxModel
    feeds: dict[str, np.ndarray]

    @classmethod
    def open(cls, model: Model, feeds: Mapping[str, np.ndarray] | None = None,
             shapes: Mapping[str, Sequence[int]] | None = None, fix: bool = True) -> Subject:
        """Read a model and inline its functions.

        feeds:  its inputs. None: random ones (floats normal, integers 0 or 1) of the shapes that it has or `shapes`
                say; symbolic dimensions are those that a plan is tuned for, where whet can import the model.
        fix:    the dimensions become those of the inputs.

        ModelError: not a model, or not one of these shapes. InputError: feeds of other names, or inputs that have no
        random ones.
        """
        m = OnnxModel.open(model)
        m.proto = inlined(m.proto)
        sort(m.proto.graph)
        given = dict(feeds) if feeds is not None else random_feeds(m, shapes or {})
        known = {v.name: v for v in inputs(m.proto)}
        for name in given:
            if name not in known and name not in {v.name for v in m.proto.graph.input}:
                raise unknown("input", name, known, m.name)
        if missing := [n for n in known if n not in given]:
            raise InputError(f"no array for the input {missing[0]!r}", where=m.name,
                             do=f"give {', '.join(known)}")
        if fix:
            m = fixed(m, given)
        return cls(m, given)

    def nodes(self) -> list[NodeProto]:
        """The main graph's nodes, in order."""
        return list(self.model.proto.graph.node)


def fixed(model: OnnxModel, feeds: Mapping[str, np.ndarray]) -> OnnxModel:
    """The model with its inputs' dimensions those of the feeds. ModelError where it cannot have these."""
    tensor = {v.name for v in model.proto.graph.input if v.type.WhichOneof("value") == "tensor_type"}
    return set_shapes(model, {k: list(np.shape(v)) for k, v in feeds.items() if k in tensor})


def random_feeds(model: OnnxModel, shapes: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """Random inputs. InputError for inputs of strings, or that are no tensors, or of an unknown rank."""
    rng = np.random.default_rng(0)
    known = {v.name: v.type for v in inputs(model.proto)}
    for name in shapes:
        if name not in known:
            raise unknown("input", name, known, model.name)
    sizes: dict[str, int] = {}
    for name, shape in shapes.items():
        for d, n in zip(dims(known[name]) or (), shape):
            if isinstance(d, str):
                sizes[d] = n
    tuned = {**_tuned_shapes(model, shapes), **shapes}
    return {name: random_array(t, tuned.get(name), sizes, rng, name) for name, t in known.items()}


def _tuned_shapes(model: OnnxModel, shapes: Mapping[str, Sequence[int]]) -> dict[str, Sequence[int]]:
    """The inputs' shapes at the optimum of the default profile, which knows what the model's operators allow.

    Empty where all are fixed, and where the model cannot be imported (which may be what is being looked for).
    """
    if all(isinstance(d, int) for v in inputs(model.proto) for d in dims(v.type) or ()):
        return {}
    try:
        with saved(model) as path:
            graph = load_model(path, shapes=shapes or None)
    except WhetError:
        return {}
    best = {name: opt for name, (_, opt, _) in graph.dims.items()}
    return {v.name: [evaluate(d, best) for d in v.shape] for v in graph.inputs
            if v.dtype is not DType.OBJECT and dim_names(*v.shape) <= best.keys()}


def random_array(t: TypeProto | None, shape: Sequence[int] | None, sizes: dict[str, int], rng: np.random.Generator,
                 name: str) -> np.ndarray:
    """A random array of a type; `sizes` are those of named dimensions, and learns more. InputError as above."""
    declared = dims(t)
    if shape is None and declared is not None:
        shape = [d if isinstance(d, int) else sizes.setdefault(d or f"{name}.{i}", OTHER if i else FIRST)
                 for i, d in enumerate(declared)]
    code = t.tensor_type.elem_type if t is not None else 0
    if shape is None or not code or code == onnx.TensorProto.STRING:
        raise InputError(f"there is no random array for {name!r}", why="it is no tensor of numbers of a known rank",
                         do="give arrays with --inputs x.npz, or the shape with --shapes")
    dtype = helper.tensor_dtype_to_np_dtype(code)
    if dtype.kind in "iub":
        return rng.integers(0, 2, tuple(shape)).astype(dtype)
    return rng.standard_normal(tuple(shape)).astype(dtype)


def values(model: OnnxModel) -> list[tuple[str, NodeProto]]:
    """What the main graph's nodes compute and the node that does, in order; constants are left out."""
    return [(name, n) for name, n in producers(model.proto.graph).items() if n.op_type != "Constant"]


def random_values(model: OnnxModel) -> set[str]:
    """The names of the main graph whose values are random, or depend on such: no two runtimes give the same."""
    out: set[str] = set()
    for n in model.proto.graph.node:
        if (n.op_type in RANDOM and n.domain in ("", "ai.onnx")) or out & reads(n):
            out |= {o for o in n.output if o}
    return out


def with_outputs(model: OnnxModel, names: Sequence[str]) -> OnnxModel:
    """The model with these tensors as its outputs, besides its own."""
    out = OnnxModel.open(model)
    own = {o.name for o in out.proto.graph.output}
    known = types(out.proto)
    for name in names:
        if name not in own:
            v = out.proto.graph.output.add(name=name)
            if name in known:
                v.type.CopyFrom(known[name])
    return out


@contextmanager
def saved(model: OnnxModel) -> Iterator[Path]:
    """The model as a file, for as long as it is needed."""
    with tempfile.TemporaryDirectory(prefix="whet-") as folder:
        path = Path(folder) / "model.onnx"
        model.save(path, share=False)
        yield path


def plain(x: Any) -> Any:
    """A result as a NumPy array, or a list of such; absent ones and maps as they are."""
    if isinstance(x, (list, tuple)):
        return [plain(v) for v in x]
    return x if x is None or isinstance(x, dict) else np.asarray(x)
