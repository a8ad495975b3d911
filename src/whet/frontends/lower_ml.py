"""Lowerings of ai.onnx.ml's linear models and preprocessing: what scikit-learn pipelines export."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from whet.errors import GraphError
from whet.frontends.call import Call, NeedsReferenceError, lowers
from whet.frontends.formulas import Formula, concat, formula
from whet.frontends.lower_trees import ML
from whet.frontends.scores import labels_of, transformed
from whet.ir.dtypes import DType
from whet.ir.graph import Value


def _floats(c: Call) -> Formula:
    """Operand 0 as f32, or f64 where it is that."""
    x = formula(c, 0)
    return x if x.dtype in (DType.F32, DType.F64) else x.to(DType.F32)


def _linear(c: Call, x: Formula, targets: int) -> Formula:
    """x [rows, features] times the coefficients [targets, features], plus the intercepts."""
    if x.rank == 1:
        x = x.reshape(1, x.shape[0])
    weights = np.asarray(c.attr("coefficients"), np.float64).reshape(targets, -1).T
    y = x.apply("matmul", c.constant(weights, x.dtype))
    intercepts = c.attr("intercepts")
    return y + Formula(c, c.constant(intercepts, x.dtype)) if intercepts else y


@lowers("LinearRegressor", domain=ML)
def _linear_regressor(c: Call) -> Value:
    y = _linear(c, _floats(c), c.attr("targets", 1))
    return transformed(y, c.attr("post_transform", "NONE")).to(DType.F32).value


@lowers("LinearClassifier", domain=ML)
def _linear_classifier(c: Call) -> list[Value]:
    """The label of the greatest score; one row of coefficients for two classes gives [-s, s]."""
    labels = c.attr("classlabels_ints")
    x = _floats(c)
    features = x.shape[-1]
    if not labels or len(labels) < 2 or not isinstance(features, int):
        raise NeedsReferenceError("of labels that are strings, or of rows of a dynamic length")
    rows = len(c.attr("coefficients")) // features
    y = _linear(c, x, rows)
    if rows == 1 and len(labels) == 2:
        y = concat([-y, y], 1)
    elif rows != len(labels):
        raise GraphError(f"{rows} rows of coefficients for {len(labels)} classes", where=c.origin,
                         do="export the model again")
    return [labels_of(y, labels), transformed(y, c.attr("post_transform", "NONE")).to(DType.F32).value]


def _kernel(c: Call, x: Formula, vectors: np.ndarray) -> Formula:
    """The kernel of rows [rows, features] with support vectors [vectors, features]: [rows, vectors]."""
    gamma, offset, degree = c.attr("kernel_params") or (0.0, 0.0, 0.0)
    if c.attr("kernel_type", "LINEAR") == "RBF":  # by differences: the squares' own would cancel
        d = x.reshape(x.shape[0], 1, x.shape[1]) - Formula(c, c.constant(vectors, x.dtype))
        return ((d * d).reduce("sum", (2,)) * -gamma).apply("exp")
    dot = x.apply("matmul", c.constant(vectors.T, x.dtype))
    match c.attr("kernel_type", "LINEAR"):
        case "LINEAR":
            return dot
        case "SIGMOID":
            return (dot * gamma + offset).apply("tanh")
        case "POLY":
            return (dot * gamma + offset).apply("pow", int(degree))
    raise NeedsReferenceError("with an unknown kernel")


@lowers("SVMRegressor", domain=ML)
def _svm_regressor(c: Call) -> Value:
    x, count = _floats(c), c.attr("n_supports", 0)
    weights = np.asarray(c.attr("coefficients"), np.float64)
    if x.rank != 2:
        raise NeedsReferenceError("of a vector")
    if count:
        x = _kernel(c, x, np.asarray(c.attr("support_vectors"), np.float64).reshape(count, -1))
    y = x.apply("matmul", c.constant(weights.reshape(-1, 1), x.dtype)) + float(c.attr("rho")[0])
    if c.attr("one_class", 0):
        y = (y > 0).where(y * 0 + 1, -1)
    return transformed(y, c.attr("post_transform", "NONE")).to(DType.F32).value


@lowers("SVMClassifier", domain=ML)
def _svm_classifier(c: Call) -> list[Value]:
    """One against one: each pair of classes gets a score, and the class that wins most pairs the label.

    Scores are those of the pairs; of two classes [-s, s], as in ONNX Runtime and onnx.reference.
    """
    x, labels, sizes = _floats(c), c.attr("classlabels_ints"), c.attr("vectors_per_class")
    weights = np.asarray(c.attr("coefficients"), np.float64)
    if not labels or len(labels) < 2 or not sizes or c.attr("prob_a") or x.rank != 2 or weights.min() >= 0:
        raise NeedsReferenceError("of strings, with probabilities, or of other than pairs of classes")
    n, vectors = len(labels), sum(sizes)
    starts = np.cumsum([0, *sizes])
    weights = weights.reshape(n - 1, vectors)
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    each, first, second = np.zeros((vectors, len(pairs))), np.zeros((len(pairs), n)), np.zeros((len(pairs), n))
    for k, (i, j) in enumerate(pairs):
        own, other = slice(starts[i], starts[i + 1]), slice(starts[j], starts[j + 1])
        each[own, k], each[other, k] = weights[j - 1, own], weights[i, other]
        first[k, i] = second[k, j] = 1
    near = _kernel(c, x, np.asarray(c.attr("support_vectors"), np.float64).reshape(vectors, -1))
    y = near.apply("matmul", c.constant(each, x.dtype)) + Formula(c, c.constant(c.attr("rho"), x.dtype))
    won = (y > 0).to(x.dtype)
    votes = won.apply("matmul", c.constant(first, x.dtype)) + (1 - won).apply("matmul", c.constant(second, x.dtype))
    scores = concat([-y, y], 1) if len(pairs) == 1 else y
    return [labels_of(votes, labels), transformed(scores, c.attr("post_transform", "NONE")).to(DType.F32).value]


def _per_feature(c: Call, x: Formula, name: str) -> Formula:
    return Formula(c, c.constant(c.attr(name), x.dtype))


@lowers("Scaler", domain=ML)
def _scaler(c: Call) -> Value:
    x = _floats(c)
    x = x - _per_feature(c, x, "offset") if c.attr("offset") else x
    return (x * _per_feature(c, x, "scale") if c.attr("scale") else x).to(DType.F32).value


@lowers("Normalizer", domain=ML)
def _normalizer(c: Call) -> Value:
    x = _floats(c)
    match c.attr("norm", "MAX"):
        case "MAX":  # as ONNX Runtime and scikit-learn: of the absolute values
            norm = x.abs().reduce("max", (-1,), keepdims=True)
        case "L1":
            norm = x.abs().reduce("sum", (-1,), keepdims=True)
        case _:
            norm = (x * x).reduce("sum", (-1,), keepdims=True).sqrt()
    return (x / norm.max(1e-30)).to(DType.F32).value


@lowers("Binarizer", domain=ML)
def _binarizer(c: Call) -> Value:
    x = formula(c, 0)
    return (x > c.attr("threshold", 0.0)).to(x.dtype).value


@lowers("Imputer", domain=ML)
def _imputer(c: Call) -> Value:
    x = formula(c, 0)
    if x.dtype.is_float:
        values, replaced = c.attr("imputed_value_floats"), c.attr("replaced_value_float", 0.0)
    else:
        values, replaced = c.attr("imputed_value_int64s"), c.attr("replaced_value_int64", 0)
    if not values:
        raise NeedsReferenceError("without values to fill in")
    absent = x.apply("isnan") if isinstance(replaced, float) and math.isnan(replaced) else x.eq(replaced)
    return absent.where(Formula(c, c.constant(values, x.dtype)), x).value


@lowers("OneHotEncoder", domain=ML)
def _one_hot_encoder(c: Call) -> Value:
    """Zeros where a value is of no category. With zeros=0 that is an error, which only the reference raises."""
    x, categories = formula(c, 0), c.attr("cats_int64s")
    if not categories or x.dtype is DType.STRING or not c.attr("zeros", 1):
        raise NeedsReferenceError("of strings, or that refuses what is of no category")
    x = x.to(DType.I64).reshape(*x.shape, 1)
    return x.eq(Formula(c, c.constant(categories, DType.I64))).to(DType.F32).value


@lowers("ArrayFeatureExtractor", domain=ML)
def _array_feature_extractor(c: Call) -> Value:
    x, at = formula(c, 0), formula(c, 1)
    if x.dtype is DType.STRING or x.rank == 0:
        raise NeedsReferenceError("of strings, or of a scalar")
    x = x.reshape(1, x.shape[0]) if x.rank == 1 else x
    count: Any = 1
    for d in at.shape:
        count = count * d
    return x.gather(at.to(DType.I64).reshape(count), axis=x.rank - 1).value


@lowers("FeatureVectorizer", domain=ML)
def _feature_vectorizer(c: Call) -> Value:
    """Columns side by side, each operand cut or filled with zeros to its length."""
    parts = []
    for i, size in enumerate(c.attr("inputdimensions")):
        x = formula(c, i).to(DType.F32)
        x = x if x.rank == 2 else x.reshape(1, x.shape[0])
        have = x.shape[1]
        if not isinstance(have, int):
            raise NeedsReferenceError("of rows of a dynamic length")
        parts.append(x.slice(1, 0, size) if have > size else x.apply("pad", pads=(0, 0, 0, size - have))
                     if have < size else x)
    return concat(parts, 1).value


@lowers("LabelEncoder", domain=ML)
def _label_encoder(c: Call) -> Value:
    """Numbers to numbers: every value is compared with every key; the first that is equal counts (NaN equals NaN)."""
    x = formula(c, 0)
    keys, values, default = _mapping(c)
    if keys.dtype.kind not in "if" or values.dtype.kind not in "if" or x.dtype is DType.STRING or not keys.size:
        raise NeedsReferenceError("from or to strings")
    among = Formula(c, c.constant(keys, x.dtype))
    wide = x.reshape(*x.shape, 1)
    same = wide.eq(among)
    if x.dtype.is_float and np.isnan(keys).any():
        same = same | (wide.apply("isnan") & Formula(c, c.constant(np.isnan(keys), DType.BOOL)))
    hits = same.to(DType.I32)
    found = hits.reduce("max", (-1,)).ne(0)
    first = hits.apply("arg", kind="max", axis=x.rank, keepdims=False)
    table = Formula(c, c.constant(values, DType.of(values.dtype)))
    return found.where(table.gather(first), default).value


def _mapping(c: Call) -> tuple[np.ndarray, np.ndarray, Any]:
    """(keys, values, default) of a LabelEncoder, in the types that it gives them."""
    if c.attr("classes_strings") is not None:
        raise NeedsReferenceError("from or to strings")
    types = {"floats": np.float32, "int64s": np.int64}

    def given(name: str) -> np.ndarray:
        tensor = c.attr(f"{name}_tensor")
        if tensor is not None:
            return np.asarray(tensor)
        for suffix, dtype in types.items():
            if c.attr(f"{name}_{suffix}") is not None:
                return np.asarray(c.attr(f"{name}_{suffix}"), dtype)
        raise NeedsReferenceError("from or to strings")

    values = given("values")
    tensor = c.attr("default_tensor")
    if tensor is not None:
        default = np.asarray(tensor).reshape(-1)[0]
    else:
        default = c.attr("default_int64", -1) if values.dtype.kind == "i" else c.attr("default_float", -0.0)
    return given("keys"), values, default
