"""What the host does between native stretches: reference kernels and control flow.

These alone take and give values that are no dense tensors of a known rank (DType.OBJECT: sequences, optionals,
tensors of unknown rank) and tensors of strings.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from whet import plugins
from whet.errors import MissingPluginError
from whet.ir.dtypes import DType
from whet.ir.graph import Graph, Value
from whet.ir.ops_base import REQUIRED, Attrs, OpDef, Spec, need


def _rule(ins: list[Value], at: Attrs) -> list[Spec]:
    need(isinstance(at["proto"], bytes), "onnx: `proto` is a serialized ModelProto of one node")
    specs = at["results"] = tuple((t, tuple(s)) for t, s in at["results"])
    need(all(isinstance(t, DType) for t, _ in specs), "onnx: `results` are pairs of type and shape")
    return list(specs)


@functools.lru_cache(maxsize=64)
def _kernel(proto: bytes) -> Any:
    from whet.reference import Kernel

    return Kernel(proto)


def _reference(xs: list[Any], at: Attrs) -> list[Any]:
    results: list[Any] = _kernel(at["proto"])(xs)
    return results


# Operators that need not give the same result twice.
RANDOM = frozenset({"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial",
                    "Bernoulli", "Dropout"})

# proto:   a serialized ModelProto whose graph is the node; its inputs are the present ones of this node's, in order.
# results: (dtype, shape) of each output. name: the ONNX operator; reason: why it is not compiled; both for people.
ONNX = OpDef("onnx", (0, None), _rule, _reference, {"proto": REQUIRED, "results": REQUIRED, "name": "", "reason": ""},
             optional=tuple(range(64)))


# -- control flow ------------------------------------------------------------------------------------
# A body is a Graph of its own. Its inputs are first the formal ones, then one for each value that it takes from
# outside (captures; constants need none). Its `dims` list every dimension that it uses: those of the graph around
# it keep their names, others are learnt from its inputs' shapes. Dimensions that a body's results have and the graph
# around does not know are symbols of that graph (`Graph.sizes`, learnt from the node's results).


def _if_rule(ins: list[Value], at: Attrs) -> list[Spec]:
    for branch in ("then_branch", "else_branch"):
        g = at[branch]
        need(isinstance(g, Graph), f"if: `{branch}` is a Graph")
        need(len(g.inputs) == len(ins) - 1, f"if: `{branch}` has {len(g.inputs)} inputs for {len(ins) - 1} captures")
        need(len(g.outputs) == len(at["results"]), f"if: `{branch}` has {len(g.outputs)} outputs, not as its node")
    return [(t, tuple(s)) for t, s in at["results"]]


def _loop_rule(ins: list[Value], at: Attrs) -> list[Spec]:
    body, states, scans = at["body"], at["states"], len(at["scan_inputs"])
    need(isinstance(body, Graph), "loop: `body` is a Graph")
    need(len(ins) >= 2 + states + scans, "loop: operands are trip count, condition, states, scan inputs, captures")
    need(len(body.inputs) == len(ins), f"loop: a body of {len(body.inputs)} inputs for {len(ins)} operands")
    need(len(body.outputs) == 1 + states + len(at["scan_outputs"]), "loop: the body gives condition, states, slices")
    need(len(at["results"]) == states + len(at["scan_outputs"]), "loop: its results are states and stacked slices")
    return [(t, tuple(s)) for t, s in at["results"]]


def _control(xs: list[Any], at: Attrs) -> list[np.ndarray]:
    raise NotImplementedError("control flow is interpreted by ir.interpreter, which knows the dimensions")


# inputs: condition (bool, one element), captures. results: (dtype, shape) of each output.
IF = OpDef("if", (1, None), _if_rule, _control, {"then_branch": REQUIRED, "else_branch": REQUIRED, "results": REQUIRED})

# inputs:       trip count (i64, or absent), condition (bool, or absent), states, scan inputs, captures.
# body:         inputs iteration (i64 scalar), condition (bool scalar), states, slices, captures; outputs condition,
#               states, slices.
# states:       how many. Runs while the count is not reached and the condition holds; with scan inputs and no trip
#               count, as often as they are long.
# scan_inputs:  for each (axis, reverse): slice i is taken along the axis, from the end where reverse.
# scan_outputs: for each (axis, reverse): slices are stacked along a new axis.
# results:      (dtype, shape) of the final states and the stacked slices.
LOOP = OpDef("loop", (2, None), _loop_rule, _control,
             {"body": REQUIRED, "states": REQUIRED, "scan_inputs": (), "scan_outputs": (), "results": REQUIRED},
             optional=(0, 1))

def _plugin_reference(xs: list[Any], at: Attrs) -> list[Any]:
    p = plugins.find(at["domain"], at["name"], at["since"])
    if p is None:
        raise MissingPluginError(f"the plugin {at['domain']}.{at['name']} is not here", do="import its package")
    return plugins.call(p, xs, dict(at["attributes"]))


def _plugin_rule(ins: list[Value], at: Attrs) -> list[Spec]:
    return [(t, tuple(s)) for t, s in at["results"]]


# A plugin's function on arrays. attributes: (name, value) pairs.
PLUGIN = OpDef("plugin", (0, None), _plugin_rule, _plugin_reference,
               {"domain": REQUIRED, "name": REQUIRED, "since": REQUIRED, "attributes": (), "results": REQUIRED},
               optional=tuple(range(64)))



def _fallback_rule(ins: list[Value], at: Attrs) -> list[Spec]:
    region = at["region"]
    return [(t.dtype, t.shape) for t in (region.output, *region.extra_outputs)]


def _fallback_reference(xs: list[Any], at: Attrs) -> list[np.ndarray]:
    from whet.ir.region_eval import region_reference

    return region_reference(at["region"], xs)


# A region that the target has no kernel for; `reason` says why (lowering makes these, `lowering.fallback`).
FALLBACK = OpDef("fallback", (0, None), _fallback_rule, _fallback_reference, {"region": REQUIRED, "reason": ""})

HOST_OPS = {op.name: op for op in (ONNX, PLUGIN, IF, LOOP, FALLBACK)}
HOST = frozenset(HOST_OPS)
