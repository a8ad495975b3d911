"""Trees, linear models and their preprocessing (ai.onnx.ml) run on generated kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_cases import agree, by_onnxruntime, by_plan, by_reference, model, one

from whet.errors import GraphError
from whet.frontends import load_model

ML = "ai.onnx.ml"
RNG = np.random.default_rng


def ml(op: str, arrays: list[np.ndarray], outputs: int = 1, version: int = 3, **attrs: Any) -> Any:
    """(model of one ai.onnx.ml node, feeds)."""
    names = [f"x{i}" for i in range(len(arrays))]
    results = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, names, results, domain=ML, **attrs)
    return model([node], {n: (a.dtype, a.shape) for n, a in zip(names, arrays)}, results,
                 domains={ML: version}), dict(zip(names, arrays))


def random_trees(rng: np.random.Generator, trees: int, depth: int, features: int, modes: list[str],
                 kind: str, targets: int) -> dict[str, Any]:
    """Attributes of an ensemble of the old form: unbalanced trees whose leaves weigh one or two targets."""
    out: dict[str, list[Any]] = {f"nodes_{k}": [] for k in (
        "treeids", "nodeids", "modes", "featureids", "values", "truenodeids", "falsenodeids",
        "missing_value_tracks_true")}
    out |= {f"{kind}_{k}": [] for k in ("treeids", "nodeids", "ids", "weights")}
    for tree in range(trees):
        numbers = iter(range(1 << 20))

        def grow(level: int, tree: int = tree, numbers: Any = numbers) -> int:
            i = next(numbers)
            row = len(out["nodes_nodeids"])
            leaf = level == depth or (level > 0 and rng.random() < 0.2)
            for k, v in (("treeids", tree), ("nodeids", i), ("modes", "LEAF" if leaf else str(rng.choice(modes))),
                         ("featureids", int(rng.integers(features))), ("values", float(rng.integers(-3, 4))),
                         ("truenodeids", 0), ("falsenodeids", 0), ("missing_value_tracks_true", int(rng.integers(2)))):
                out[f"nodes_{k}"].append(v)
            if leaf:
                for t in rng.choice(targets, min(targets, 2), replace=False):
                    for k, v in (("treeids", tree), ("nodeids", i), ("ids", int(t)), ("weights", float(rng.normal()))):
                        out[f"{kind}_{k}"].append(v)
            else:
                out["nodes_truenodeids"][row], out["nodes_falsenodeids"][row] = grow(level + 1), grow(level + 1)
            return i

        grow(0)
    return out


def rows(rng: np.random.Generator, n: int, features: int) -> np.ndarray:
    """Whole and other numbers (so that thresholds are met exactly), NaN and infinities among them."""
    x = np.where(rng.random((n, features)) < 0.5, rng.integers(-4, 5, (n, features)), rng.normal(size=(n, features)))
    x[rng.random((n, features)) < 0.1] = np.nan
    x[0, 0], x[-1, -1] = np.inf, -np.inf
    return x.astype(np.float32)


@pytest.mark.parametrize("modes", [["BRANCH_LEQ"], ["BRANCH_LT"], ["BRANCH_GTE"], ["BRANCH_GT"], ["BRANCH_EQ"],
                                   ["BRANCH_NEQ"], ["BRANCH_LEQ", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"]])
@pytest.mark.parametrize(("trees", "depth", "targets"), [(1, 3, 1), (7, 5, 3)])
def test_regression_trees(modes: list[str], trees: int, depth: int, targets: int) -> None:
    """Every comparison, NaN included, goes the way that onnx.reference goes."""
    rng = RNG(trees)
    attrs = random_trees(rng, trees, depth, 4, modes, "target", targets)
    m, feeds = ml("TreeEnsembleRegressor", [rows(rng, 53, 4)], n_targets=targets, aggregate_function="SUM",
                  post_transform="NONE", base_values=[0.5] * targets, **attrs)
    want = by_reference(m, feeds)
    agree(by_plan(m, feeds), want, 1e-4, 1e-5)


@pytest.mark.parametrize("how", ["AVERAGE", "MIN", "MAX"])
def test_how_trees_are_put_together(how: str) -> None:
    rng = RNG(2)
    attrs = random_trees(rng, 5, 4, 3, ["BRANCH_LEQ"], "target", 1)
    m, feeds = ml("TreeEnsembleRegressor", [rows(rng, 17, 3)], n_targets=1, aggregate_function=how, **attrs)
    agree(by_plan(m, feeds), by_reference(m, feeds))


@pytest.mark.parametrize("post", ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"])
def test_classification_trees(post: str) -> None:
    rng = RNG(4)
    attrs = random_trees(rng, 6, 4, 3, ["BRANCH_LEQ", "BRANCH_LT"], "class", 3)
    m, feeds = ml("TreeEnsembleClassifier", [rows(rng, 31, 3)], outputs=2, post_transform=post,
                  classlabels_int64s=[7, 3, 11], **attrs)
    got, want = by_plan(m, feeds), by_reference(m, feeds)
    agree(got[1:], want[1:])
    if post != "SOFTMAX_ZERO":  # which changes the order; the reference takes labels after it, ONNX Runtime before
        agree(got, want)


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("post", ["NONE", "LOGISTIC"])
def test_two_classes_of_which_one_is_weighed(positive: bool, post: str) -> None:
    """As ONNX Runtime has it: probabilities or scores, by the weights' signs."""
    rng = RNG(5)
    attrs = random_trees(rng, 3, 4, 3, ["BRANCH_LEQ"], "class", 1)
    attrs["class_weights"] = [abs(w) / 3 if positive else w for w in attrs["class_weights"]]
    x = np.nan_to_num(rows(rng, 31, 3))
    m, feeds = ml("TreeEnsembleClassifier", [x], outputs=2, post_transform=post, classlabels_int64s=[0, 1],
                  base_values=[0.1], **attrs)
    m.graph.output[0].type.tensor_type.elem_type, m.graph.output[1].type.tensor_type.elem_type = 7, 1
    agree(by_plan(m, feeds), by_onnxruntime(m, feeds))


def test_a_tree_that_is_one_leaf_and_sets_with_missing_values() -> None:
    """The newest form: leaves apart, membership, NaN that counts as a member."""
    def tensor(name: str, values: list[float], kind: int) -> TensorProto:
        return helper.make_tensor(name, kind, (len(values),), values)

    x = np.array([[1], [2], [3], [4], [5], [np.nan]], np.float32)
    m, feeds = ml("TreeEnsemble", [x], version=5, n_targets=2, tree_roots=[0, 2],
                  nodes_modes=tensor("m", [6, 5, 0], TensorProto.UINT8), nodes_featureids=[0, 0, 0],
                  nodes_splits=tensor("s", [0, 4, 0], TensorProto.FLOAT), nodes_missing_value_tracks_true=[1, 0, 0],
                  membership_values=tensor("v", [1, 3, 5, np.nan], TensorProto.FLOAT),
                  nodes_truenodeids=[0, 1, 3], nodes_trueleafs=[1, 1, 1], nodes_falsenodeids=[1, 2, 3],
                  nodes_falseleafs=[0, 1, 1], leaf_targetids=[0, 1, 0, 1],
                  leaf_weights=tensor("w", [1, 10, 100, 1000], TensorProto.FLOAT))
    want = [[1, 1000], [0, 1010], [1, 1000], [100, 1000], [1, 1000], [1, 1000]]
    agree(by_plan(m, feeds), [np.array(want, np.float32)])


@pytest.mark.parametrize("post", ["NONE", "LOGISTIC", "SOFTMAX"])
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_linear_models(post: str, dtype: Any) -> None:
    rng = RNG(6)
    x = rng.integers(-3, 4, (13, 5)).astype(dtype)
    coefficients, intercepts = rng.normal(size=15).tolist(), rng.normal(size=3).tolist()
    m, feeds = ml("LinearClassifier", [x], outputs=2, coefficients=coefficients, intercepts=intercepts,
                  classlabels_ints=[4, 0, 9], post_transform=post)
    agree(by_plan(m, feeds), by_reference(m, feeds))
    m, feeds = ml("LinearClassifier", [x], outputs=2, coefficients=coefficients[:5], intercepts=intercepts[:1],
                  classlabels_ints=[2, 5], post_transform="LOGISTIC")
    agree(by_plan(m, feeds), by_reference(m, feeds))
    if dtype is np.float32:
        m, feeds = ml("LinearRegressor", [x], coefficients=coefficients, intercepts=intercepts, targets=3)
        agree(by_plan(m, feeds), by_reference(m, feeds))


@pytest.mark.parametrize("kernel", ["LINEAR", "RBF", "POLY", "SIGMOID"])
@pytest.mark.parametrize("one_class", [0, 1])
def test_support_vectors(kernel: str, one_class: int) -> None:
    rng = RNG(8)
    m, feeds = ml("SVMRegressor", [rng.normal(size=(19, 5)).astype(np.float32)], kernel_type=kernel, rho=[0.3],
                  kernel_params=[0.4, 0.5, 3.0], n_supports=7, coefficients=rng.normal(size=7).tolist(),
                  support_vectors=rng.normal(size=35).tolist(), one_class=one_class)
    agree(by_plan(m, feeds), by_reference(m, feeds))


@pytest.mark.parametrize("sizes", [[3, 4], [2, 5, 3], [1, 2, 3, 4]])
def test_pairs_of_classes(sizes: list[int]) -> None:
    rng = RNG(len(sizes))
    n, vectors = len(sizes), sum(sizes)
    m, feeds = ml("SVMClassifier", [rng.normal(size=(33, 4)).astype(np.float32)], outputs=2, kernel_type="RBF",
                  kernel_params=[0.4, 0.0, 3.0], vectors_per_class=sizes, classlabels_ints=list(range(5, 5 + n)),
                  coefficients=rng.normal(size=(n - 1) * vectors).tolist(),
                  rho=rng.normal(size=n * (n - 1) // 2).tolist(), support_vectors=rng.normal(size=vectors * 4).tolist())
    agree(by_plan(m, feeds), by_reference(m, feeds))


@pytest.mark.parametrize(("op", "attrs"), [
    ("Scaler", {"offset": [1.0, -2, 0.5], "scale": [2.0, 0.5, -1]}), ("Scaler", {"offset": [1.0], "scale": [0.5]}),
    ("Normalizer", {"norm": "MAX"}), ("Normalizer", {"norm": "L1"}), ("Normalizer", {"norm": "L2"}),
    ("Binarizer", {"threshold": 0.25}),
    ("Imputer", {"imputed_value_floats": [1.0, 2, 3], "replaced_value_float": float("nan")}),
    ("Imputer", {"imputed_value_floats": [5.0], "replaced_value_float": 2.0})])
def test_preprocessing(op: str, attrs: dict[str, Any]) -> None:
    x = RNG(7).normal(size=(17, 3)).astype(np.float32)
    x[3], x[5, 1] = 0, 2
    if op == "Imputer":
        x[::4, 1] = np.nan
    m, feeds = ml(op, [x], version=1, **attrs)
    agree(by_plan(m, feeds), by_reference(m, feeds))


def test_categories_and_features() -> None:
    x = np.array([[3, 1], [7, 3], [9, -2]])
    m, feeds = ml("OneHotEncoder", [x], cats_int64s=[1, 3, 7], zeros=1)
    agree(by_plan(m, feeds), by_reference(m, feeds))
    m, feeds = ml("ArrayFeatureExtractor", [x.astype(np.float32), np.array([[1, 0, 1]])])
    agree(by_plan(m, feeds), by_reference(m, feeds))
    m, feeds = ml("FeatureVectorizer", [x.astype(np.float32), np.ones((3, 4), np.float32)], inputdimensions=[3, 2])
    agree(by_plan(m, feeds), by_reference(m, feeds))


@pytest.mark.parametrize("given", [
    {"keys_int64s": [3, -1, 8], "values_floats": [0.5, 1.5, 2.5], "default_float": -3.0},
    {"keys_floats": [3.0, float("nan"), 8.0], "values_int64s": [10, 11, 12], "default_int64": -7},
    {"keys_tensor": numpy_helper.from_array(np.array([3, 8], np.int16)),
     "values_tensor": numpy_helper.from_array(np.array([0.25, 4])),
     "default_tensor": numpy_helper.from_array(np.array([-1.0]))}])
def test_labels_of_numbers(given: dict[str, Any]) -> None:
    keys = next(k for k in given if k.startswith("keys"))
    dtype = {"keys_int64s": np.int64, "keys_floats": np.float32, "keys_tensor": np.int16}[keys]
    x = np.array([[3, 8, 5], [-1, 3, 8]]).astype(dtype)
    if dtype is np.float32:
        x[1, 0] = np.nan
    m, feeds = ml("LabelEncoder", [x], version=4, **given)
    agree(by_plan(m, feeds), [lookup(x, given)])


def lookup(x: np.ndarray, given: dict[str, Any]) -> np.ndarray:
    """What a LabelEncoder with these attributes makes of x."""
    keys, values, default = (np.asarray(numpy_helper.to_array(v) if isinstance(v, TensorProto) else v)
                             for v in given.values())
    kind = {"values_floats": np.float32, "values_int64s": np.int64, "values_tensor": np.float64}[list(given)[1]]
    out = np.full(x.shape, default.reshape(-1)[0], kind)
    for at in np.ndindex(*x.shape):
        hits = np.nonzero((keys == x[at]) | ((keys != keys) & (x[at] != x[at])))[0]
        out[at] = values[hits[0]] if hits.size else out[at]
    return out


@pytest.mark.parametrize("name", ["forest", "boosted", "forest of two classes", "boosted, two classes",
                                  "tree regression", "boosted regression", "logistic", "linear", "perceptron",
                                  "vectors", "vectors of two classes"])
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer", "ignore:Attribute `prob")
def test_scikit_learn_pipelines(name: str) -> None:
    """What skl2onnx writes, scaler included, agrees with ONNX Runtime."""
    skl2onnx = pytest.importorskip("skl2onnx")
    from sklearn import ensemble, linear_model, neural_network, pipeline, preprocessing, svm, tree

    rng = RNG(8)
    x = rng.normal(size=(200, 7)).astype(np.float32)
    two, real = (x[:, 0] > 0).astype(int), x[:, 1] * 2 + x[:, 2]
    three = two + (x[:, 3] > 0)
    estimator, y = {
        "forest": (ensemble.RandomForestClassifier(20), three),
        "boosted": (ensemble.GradientBoostingClassifier(n_estimators=5), three),
        "forest of two classes": (ensemble.RandomForestClassifier(20), two),
        "boosted, two classes": (ensemble.GradientBoostingClassifier(n_estimators=5), two),
        "tree regression": (tree.DecisionTreeRegressor(), real),
        "boosted regression": (ensemble.GradientBoostingRegressor(n_estimators=5), real),
        "vectors": (svm.SVC(), three), "vectors of two classes": (svm.SVC(), two),
        "logistic": (linear_model.LogisticRegression(), three), "linear": (linear_model.Ridge(), real),
        "perceptron": (neural_network.MLPClassifier((9,), max_iter=20), two)}[name]
    fitted = pipeline.make_pipeline(preprocessing.StandardScaler(), estimator).fit(x, y)
    options = {id(fitted): {"zipmap": False}} if hasattr(fitted, "classes_") else None
    m = skl2onnx.to_onnx(fitted, x[:1], options=options, target_opset={"": 20, ML: 3})
    feeds = {"X": rng.normal(size=(64, 7)).astype(np.float32)}
    agree(by_plan(model_of(m, 64), feeds), by_onnxruntime(m, feeds), 1e-4, 1e-4)


def model_of(m: Any, batch: int) -> Any:
    """The model for one batch size."""
    m.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    return m


@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
@pytest.mark.parametrize(("low", "high", "skip"), [(1, 1, 3), (1, 3, 2), (2, 2, 0), (2, 3, 9)])
def test_ngrams_of_numbers(mode: str, low: int, high: int, skip: int) -> None:
    pool = [[2], [3], [5], [5, 4], [5, 6], [7, 8], [2, 3, 2]]
    x = RNG(1).integers(1, 8, (3, 17))
    attrs = {"mode": mode, "min_gram_length": low, "max_gram_length": high, "max_skip_count": skip,
             "ngram_counts": [0, 3, 9], "ngram_indexes": [6, 0, 2, 3, 8, 5, 1], "weights": [0.5 + i for i in range(9)],
             "pool_int64s": [i for g in pool for i in g]}
    m, feeds = one("TfIdfVectorizer", [x], **attrs)
    agree(by_plan(m, feeds), by_reference(m, feeds))
    m, feeds = one("TfIdfVectorizer", [x[0].astype(np.int32)], **attrs)
    agree(by_plan(m, feeds), by_reference(m, feeds))


def test_a_weight_of_a_leaf_that_is_not_there_is_a_fault_of_the_model() -> None:
    node = helper.make_node("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", n_targets=1, nodes_treeids=[0],
                            nodes_nodeids=[0], nodes_modes=["LEAF"], nodes_featureids=[0], nodes_values=[0.0],
                            nodes_truenodeids=[0], nodes_falsenodeids=[0], target_treeids=[0], target_nodeids=[9],
                            target_ids=[0], target_weights=[1.0])
    with pytest.raises(GraphError, match="do not fit"):
        load_model(model([node], {"x": (np.float32, ("n", 2))}, ["y"], domains={"ai.onnx.ml": 3}))


@pytest.mark.parametrize("kind", ["trees", "linear"])
def test_names_of_classes(kind: str) -> None:
    """Only the names are looked up on the host: the scores are compiled."""
    rng = RNG(9)
    x = np.nan_to_num(rows(rng, 13, 3))
    if kind == "trees":
        m, feeds = ml("TreeEnsembleClassifier", [x], outputs=2, classlabels_strings=["cat", "dog", "eel"],
                      **random_trees(rng, 3, 3, 3, ["BRANCH_LEQ"], "class", 3))
    else:
        m, feeds = ml("LinearClassifier", [np.clip(x, -9, 9)], outputs=2, coefficients=rng.normal(size=9).tolist(),
                      intercepts=[0.0, 1, 0], classlabels_strings=["cat", "dog", "eel"], post_transform="SOFTMAX")
    m.graph.output[0].type.tensor_type.elem_type, m.graph.output[1].type.tensor_type.elem_type = 8, 1
    import whet

    plan = whet.build(m, opt_level=0, threads=1)
    assert plan.summary()["steps"]["native"] > 1
    with whet.load(plan) as engine:
        label, scores = (engine(feeds)[o.name] for o in m.graph.output)
    want = by_onnxruntime(m, feeds)
    assert label.tolist() == want[0].tolist()
    agree([scores], want[1:])
