"""scikit-learn's models, exported by skl2onnx, run on generated kernels alone and match ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    AdaBoostClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Binarizer, MinMaxScaler, Normalizer, OneHotEncoder, PolynomialFeatures, StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

import whet
from whet.measure import relative_l2
from whet.tuning.cache import TimingCache

skl2onnx = pytest.importorskip("skl2onnx")
ort = pytest.importorskip("onnxruntime")

RNG = np.random.default_rng(0)
X = RNG.standard_normal((200, 6)).astype(np.float32)
CLASSES = (X[:, 0] + X[:, 1] ** 2 > 0.5).astype(int) + (X[:, 2] > 1)
TWO = CLASSES > 0
VALUES = X[:, 0] * X[:, 1] + X[:, 3]
MIXED = np.concatenate([X, RNG.integers(0, 4, (200, 2))], 1).astype(np.float32)
GAPS = np.where(RNG.random(X.shape) < 0.1, np.nan, X).astype(np.float32)


def one_hot() -> Any:
    columns = [("numbers", StandardScaler(), list(range(6))),
               ("kinds", OneHotEncoder(handle_unknown="ignore"), [6, 7])]
    return make_pipeline(ColumnTransformer(columns), LogisticRegression())


# name: (makes the model, its inputs, its targets)
MODELS: dict[str, tuple[Callable[[], Any], np.ndarray, np.ndarray | None]] = {
    "tree": (lambda: DecisionTreeClassifier(max_depth=5, random_state=0), X, CLASSES),
    "tree of two classes": (lambda: DecisionTreeClassifier(max_depth=4, random_state=0), X, TWO),
    "tree with gaps": (lambda: DecisionTreeClassifier(max_depth=5, random_state=0), GAPS, CLASSES),
    "regression tree": (lambda: DecisionTreeRegressor(random_state=0), X, VALUES),
    "forest": (lambda: RandomForestClassifier(10, max_depth=5, random_state=0), X, CLASSES),
    "forest of two classes": (lambda: RandomForestClassifier(10, max_depth=5, random_state=0), X, TWO),
    "regression forest": (lambda: RandomForestRegressor(10, max_depth=5, random_state=0), X, VALUES),
    "several targets": (lambda: RandomForestRegressor(5, max_depth=4, random_state=0), X, X[:, :3] ** 2),
    "extra trees": (lambda: ExtraTreesClassifier(10, max_depth=4, random_state=0), X, CLASSES),
    "gradient boosting": (lambda: GradientBoostingClassifier(n_estimators=10, random_state=0), X, CLASSES),
    "boosting of two classes": (lambda: GradientBoostingClassifier(n_estimators=10, random_state=0), X, TWO),
    "boosted regression": (lambda: GradientBoostingRegressor(n_estimators=10, random_state=0), X, VALUES),
    "adaboost": (lambda: AdaBoostClassifier(n_estimators=3, random_state=0), X, CLASSES),
    "linear": (LinearRegression, X, VALUES),
    "linear of two targets": (Ridge, X, np.stack([VALUES, -VALUES], 1)),
    "logistic": (LogisticRegression, X, CLASSES),
    "logistic of two classes": (LogisticRegression, X, TWO),
    "linear support vectors": (LinearSVC, X, CLASSES),
    "standard scaler": (StandardScaler, X, None),
    "range scaler": (MinMaxScaler, X, None),
    "normalizer": (Normalizer, X, None),
    "normalizer by the sum": (lambda: Normalizer("l1"), X, None),
    "binarizer": (Binarizer, X, None),
    "polynomials": (lambda: PolynomialFeatures(2), X, None),
    "scaler, components, logistic": (lambda: make_pipeline(StandardScaler(), PCA(3), LogisticRegression()), X, CLASSES),
    "one-hot kinds beside scaled numbers": (one_hot, MIXED, CLASSES),
    "imputer before a line": (lambda: make_pipeline(SimpleImputer(), LinearRegression()), GAPS, VALUES),
    "perceptron": (lambda: MLPClassifier(hidden_layer_sizes=(8,), max_iter=20, random_state=0), X, CLASSES),
    "nearest neighbours": (lambda: KNeighborsClassifier(3), X, CLASSES),
    "naive Bayes": (GaussianNB, X, CLASSES),
    "clusters": (lambda: KMeans(3, n_init=1, random_state=0), X, None),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_matches_onnx_runtime_on_generated_kernels(name: str) -> None:
    make, x, y = MODELS[name]
    fitted = make().fit(x) if y is None else make().fit(x, y)
    options = {"zipmap": False} if hasattr(fitted, "predict_proba") else None
    check(skl2onnx.to_onnx(fitted, x[:1], options=options), x)


def check(model: onnx.ModelProto, x: np.ndarray) -> None:
    """The model runs on generated kernels, and as ONNX Runtime does at batches of 1, 7 and all."""
    (name,) = (i.name for i in model.graph.input)
    width = x.shape[1]
    plan = whet.build(model, opt_level=0, timing_cache=TimingCache(),
                      profiles=[{name: ((1, width), (8, width), (len(x), width))}])
    steps = plan.summary()["steps"]
    assert steps["reference"] + steps["host"] == 0, steps
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    with whet.load(plan) as engine:
        for n in (1, 7, len(x)):
            found = engine({name: x[:n]})
            for output, want in zip(session.get_outputs(), session.run(None, {name: x[:n]}), strict=True):
                assert found[output.name].dtype == want.dtype
                assert relative_l2(found[output.name], want) < 1e-5, output.name


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("names", [[4, 7, 9], ["low", "middle", "high"]])
def test_probabilities_by_class_come_as_dicts(names: list[Any]) -> None:
    model = skl2onnx.to_onnx(LogisticRegression().fit(X, np.array(names)[CLASSES]), X[:1])
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {model.graph.input[0].name: X[:5]}
    labels, scores = session.run(None, feeds)
    with whet.load(whet.build(model, opt_level=0, timing_cache=TimingCache())) as engine:
        found = engine(feeds)
    assert found["output_label"].tolist() == labels.tolist()
    for got, want in zip(found["output_probability"], scores, strict=True):
        assert got == pytest.approx(want, rel=1e-5)
