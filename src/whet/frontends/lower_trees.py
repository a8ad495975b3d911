"""Lowerings of tree ensembles (ai.onnx.ml): every row walks down all trees at once, one level per step.

Trees of all dialects become one table of nodes `x[feature] <= threshold ? yes : no`; leaves lead to themselves.
A step is three gathers from the table and one from the row; at the end a gather gives the leaves' weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from whet.errors import GraphError
from whet.frontends.call import Call, NeedsReferenceError, lowers
from whet.frontends.formulas import Formula, concat, formula
from whet.frontends.scores import labels_of, transformed
from whet.ir.dtypes import DType
from whet.ir.graph import Value

ML = "ai.onnx.ml"
MODES = ("LEQ", "LT", "GTE", "GT", "EQ", "NEQ", "MEMBER")
MAX_DEPTH = 512  # steps of a walk


@dataclass
class Forest:
    """Nodes as columns: `feature` (-1: a leaf), `threshold`, `yes` and `no` (nodes), `missing` (NaN goes to yes);
    `roots`; `payload` of a node: what the model calls it, -1 for nodes that were added."""

    dtype: np.dtype
    feature: list[int] = field(default_factory=list)
    threshold: list[float] = field(default_factory=list)
    yes: list[int] = field(default_factory=list)
    no: list[int] = field(default_factory=list)
    missing: list[bool] = field(default_factory=list)
    payload: list[int] = field(default_factory=list)
    roots: list[int] = field(default_factory=list)

    def leaf(self, payload: int) -> int:
        return self._add(-1, 0.0, -1, -1, False, payload)

    def branch(self, mode: str, feature: int, values: Sequence[float], missing: bool, payload: int) -> tuple[int, Any]:
        """(node, connect): a node that compares as `mode` says; connect(yes, no) tells where it leads.

        Every comparison is put in terms of <=: x < t is x <= the number before t, and x >= t is its contrary.
        """
        t = values[0] if values else 0.0
        match mode:
            case "LEQ" | "LT":
                i = self._add(feature, t if mode == "LEQ" else self._before(t), -1, -1, missing, payload)
                return i, lambda yes, no: self._connect(i, yes, no)
            case "GT" | "GTE":
                i = self._add(feature, t if mode == "GT" else self._before(t), -1, -1, not missing, payload)
                return i, lambda yes, no: self._connect(i, no, yes)
            case "EQ" | "MEMBER":
                pairs = [(self._add(feature, v, -1, -1, missing and not k, payload if not k else -1),
                          self._add(feature, self._before(v), -1, -1, False, -1)) for k, v in enumerate(values)]
                if not pairs:
                    i = self._add(feature, -np.inf, -1, -1, missing, payload)
                    return i, lambda yes, no: self._connect(i, no, no)

                def connect(yes: int, no: int) -> None:
                    for (upper, lower), after in itertools.zip_longest(pairs, pairs[1:]):
                        otherwise = no if after is None else after[0]
                        self._connect(upper, lower, otherwise)  # x <= v, and then
                        self._connect(lower, otherwise, yes)  # not x < v; NaN comes here by `missing` alone
                return pairs[0][0], connect
            case "NEQ":
                i, same = self.branch("EQ", feature, values, not missing, payload)
                return i, lambda yes, no: same(no, yes)
        raise GraphError(f"a tree that branches by {mode}", do="export the model again")

    def _before(self, t: float) -> float:
        return float(np.nextafter(self.dtype.type(t), self.dtype.type(-np.inf)))

    def _add(self, feature: int, t: float, yes: int, no: int, missing: bool, payload: int) -> int:
        for column, v in zip((self.feature, self.threshold, self.yes, self.no, self.missing, self.payload),
                             (feature, t, yes, no, missing, payload)):
            column.append(v)  # type: ignore[attr-defined]
        return len(self.feature) - 1

    def _connect(self, i: int, yes: int, no: int) -> None:
        self.yes[i], self.no[i] = yes, no

    @property
    def leaves(self) -> list[int]:
        return [i for i, f in enumerate(self.feature) if f < 0]

    def depth(self) -> int:
        """The most branches from a root to a leaf. GraphError for a tree that leads back into itself."""
        level, n = set(self.roots), 0
        while level := {j for i in level if self.feature[i] >= 0 for j in (self.yes[i], self.no[i])}:
            n += 1
            if n > len(self.feature):
                raise GraphError("a tree leads back into itself", do="export the model again")
        return n


def walk(c: Call, forest: Forest, x: Formula) -> Formula:
    """The node [rows, trees] (i32) that each row of x [rows, features] ends at in each tree."""
    n, trees = len(forest.feature), len(forest.roots)
    depth = forest.depth()
    if depth > MAX_DEPTH:
        raise NeedsReferenceError("of such depth")
    children = np.empty((n, 2), np.int32)
    for i in range(n):
        leaf = forest.feature[i] < 0
        children[i] = (i, i) if leaf else (forest.no[i], forest.yes[i])
    features = np.maximum(forest.feature, 0)

    def table(data: Any, dtype: DType) -> Formula:
        return Formula(c, c.constant(np.asarray(data), dtype))

    feature, threshold = table(features, DType.I32), table(forest.threshold, x.dtype)
    after = table(children.reshape(-1), DType.I32)
    tracks = [i for i in range(n) if forest.missing[i] and forest.feature[i] >= 0]
    missing = table(forest.missing, DType.BOOL) if tracks else None
    rows = x.shape[0]
    node = table(np.asarray(forest.roots)[None], DType.I32)
    if not depth:
        return node.expand(rows, trees)
    for level in range(depth):
        which = feature.gather(node)
        v = x.gather(which.reshape(trees), axis=1) if not level else x.apply("gather_elements", which, axis=1)
        yes = v <= threshold.gather(node)
        if missing is not None:
            yes = yes | (v.apply("isnan") & missing.gather(node))
        node = after.gather(node * 2 + yes.to(DType.I32))
    return node


def _number_type(x: Formula) -> Formula:
    """Rows of floats; integers are compared as f32, as elsewhere."""
    return x if x.dtype in (DType.F32, DType.F64) else x.to(DType.F32)


def _list(c: Call, name: str) -> list[Any]:
    """An attribute, or its form as a tensor."""
    given = c.attr(f"{name}_as_tensor")
    if given is None:
        given = c.attr(name)
    return [] if given is None else np.asarray(given).reshape(-1).tolist()


def _old_forest(c: Call, dtype: DType) -> Forest:
    """Of TreeEnsembleRegressor and TreeEnsembleClassifier: nodes known by tree and number."""
    forest = Forest(dtype.np)
    trees, numbers = c.attr("nodes_treeids", []), c.attr("nodes_nodeids", [])
    modes, features = c.attr("nodes_modes", []), c.attr("nodes_featureids", [])
    yes, no = c.attr("nodes_truenodeids", []), c.attr("nodes_falsenodeids", [])
    values, missing = _list(c, "nodes_values"), c.attr("nodes_missing_value_tracks_true") or [0] * len(trees)
    at: dict[tuple[int, int], int] = {}
    connects = []
    for i, key in enumerate(zip(trees, numbers, strict=True)):
        if modes[i] == "LEAF":
            at[key] = forest.leaf(i)
        else:
            at[key], connect = forest.branch(modes[i].removeprefix("BRANCH_"), features[i], [values[i]],
                                             bool(missing[i]), i)
            connects.append((i, connect))
    for i, connect in connects:
        connect(at[trees[i], yes[i]], at[trees[i], no[i]])
    inner = {(trees[i], n) for i, _ in connects for n in (yes[i], no[i])}
    first: dict[int, int] = {}
    for key in zip(trees, numbers):
        if key not in inner:  # nothing leads to a root
            first.setdefault(key[0], at[key])
    forest.roots = list(first.values())
    return forest


def _weights(forest: Forest, keys: Sequence[tuple[int, int, float]], targets: int, how: str,
             dtype: DType) -> np.ndarray:
    """[nodes, targets]: what a leaf adds to each target; keys are (payload, target, weight)."""
    empty = {"MIN": np.finfo(dtype.np).max, "MAX": np.finfo(dtype.np).min}.get(how, 0.0)
    out = np.full((len(forest.feature), targets), empty, np.float64)
    place = {p: i for i, p in enumerate(forest.payload) if p >= 0}
    for payload, target, weight in keys:
        i = place.get(payload)
        if i is not None:
            old = out[i, target]
            out[i, target] = {"MIN": min(old, weight), "MAX": max(old, weight)}.get(how, old + weight)
    return out


def _aggregated(c: Call, forest: Forest, x: Formula, weights: np.ndarray, how: str) -> Formula:
    """[rows, targets]: the leaves' weights over all trees."""
    table = Formula(c, c.constant(weights, x.dtype))
    each = table.gather(walk(c, forest, x))
    return each.reduce({"SUM": "sum", "AVERAGE": "mean", "MIN": "min", "MAX": "max"}[how], (1,))


def _keys(c: Call, kind: str) -> Iterator[tuple[int, int, float]]:
    """(payload of the leaf, target, weight) of the old operators."""
    known = {key: i for i, key in enumerate(zip(c.attr("nodes_treeids", []), c.attr("nodes_nodeids", [])))}
    for tree, node, target, weight in zip(c.attr(f"{kind}_treeids", []), c.attr(f"{kind}_nodeids", []),
                                          c.attr(f"{kind}_ids", []), _list(c, f"{kind}_weights"), strict=True):
        yield known[tree, node], target, weight


@lowers("TreeEnsembleRegressor", domain=ML)
def _regressor(c: Call) -> Value:
    x = _number_type(formula(c, 0))
    forest, how = _old_forest(c, x.dtype), c.attr("aggregate_function", "SUM")
    targets = c.attr("n_targets", 1)
    y = _aggregated(c, forest, x, _weights(forest, list(_keys(c, "target")), targets, how, x.dtype), how)
    base = _list(c, "base_values")
    if base:
        y = y + Formula(c, c.constant(base, x.dtype))
    y = transformed(y, c.attr("post_transform", "NONE"))
    return y.to(DType.F32).value


@lowers("TreeEnsembleClassifier", domain=ML)
def _classifier(c: Call) -> list[Value]:
    """Scores of the classes, and the label of the greatest.

    Two classes of which the leaves weigh but one are [1 - p, p] where all weights are positive (probabilities),
    else, or where a sigmoid follows, [-p, p], as ONNX Runtime has it.
    """
    labels = c.attr("classlabels_int64s")
    if not labels or len(labels) < 2:
        raise NeedsReferenceError("of labels that are strings, or of one class")
    x = _number_type(formula(c, 0))
    forest, keys = _old_forest(c, x.dtype), list(_keys(c, "class"))
    post, base = c.attr("post_transform", "NONE"), _list(c, "base_values")
    ids = {k for _, k, _ in keys}
    if len(labels) == 2 and len(ids) == 1:
        if post not in ("NONE", "LOGISTIC"):
            raise NeedsReferenceError("of two classes with such a transform of their scores")
        keys = [(p, 0, w) for p, _, w in keys]
        p = _aggregated(c, forest, x, _weights(forest, keys, 1, "SUM", x.dtype), "SUM")
        if base:
            p = p + base[-1]
        positive = all(w >= 0 for _, _, w in keys)
        label = (p > (0.5 if positive else 0)).reshape(x.shape[0])
        if post == "LOGISTIC":
            other, p = (-p).apply("sigmoid"), p.apply("sigmoid")
        else:
            other = 1 - p if positive else -p
        yes, no = (Formula(c, c.constant(l, DType.I64)) for l in (labels[1], labels[0]))
        return [label.where(yes, no).value, concat([other, p], 1).to(DType.F32).value]
    y = _aggregated(c, forest, x, _weights(forest, keys, len(labels), "SUM", x.dtype), "SUM")
    if base:
        y = y + Formula(c, c.constant(base, x.dtype))
    return [labels_of(y, labels), transformed(y, post).to(DType.F32).value]


@lowers("TreeEnsemble", domain=ML)
def _tree_ensemble(c: Call) -> Value:
    """The one of ai.onnx.ml 5: branches and leaves have numbers of their own, and a branch may ask for a set."""
    x = formula(c, 0)
    if x.dtype not in (DType.F32, DType.F64):
        raise NeedsReferenceError("of integers")
    forest = Forest(x.dtype.np)
    modes, features = c.attr("nodes_modes").tolist(), c.attr("nodes_featureids")
    splits, missing = c.attr("nodes_splits").tolist(), c.attr("nodes_missing_value_tracks_true") or [0] * len(modes)
    weights, targets = c.attr("leaf_weights").reshape(-1).tolist(), c.attr("leaf_targetids")
    yes, no = c.attr("nodes_truenodeids"), c.attr("nodes_falsenodeids")
    yes_leaf, no_leaf = c.attr("nodes_trueleafs"), c.attr("nodes_falseleafs")
    leaves = [forest.leaf(i) for i in range(len(weights))]
    given = c.attr("membership_values")
    members = iter([] if given is None else given.tolist())
    branches: list[tuple[int, Any]] = []
    for i, mode in enumerate(modes):
        values = list(itertools.takewhile(lambda v: v == v, members)) if MODES[mode] == "MEMBER" else [splits[i]]
        branches.append(forest.branch(MODES[mode], features[i], values, bool(missing[i]), -1))
    for i, (_, connect) in enumerate(branches):
        connect(leaves[yes[i]] if yes_leaf[i] else branches[yes[i]][0],
                leaves[no[i]] if no_leaf[i] else branches[no[i]][0])
    for r in c.attr("tree_roots"):  # a tree of one leaf is written as a branch that leads to it both ways
        lone = yes_leaf[r] and no_leaf[r] and yes[r] == no[r]
        forest.roots.append(leaves[yes[r]] if lone else branches[r][0])
    how = ("AVERAGE", "SUM", "MIN", "MAX")[c.attr("aggregate_function", 1)]
    keys = [(i, t, w) for i, (t, w) in enumerate(zip(targets, weights, strict=True))]
    y = _aggregated(c, forest, x, _weights(forest, keys, c.attr("n_targets"), how, x.dtype), how)
    post = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")[c.attr("post_transform", 0)]
    return transformed(y, post).value
