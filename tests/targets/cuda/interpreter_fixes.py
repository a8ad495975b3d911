"""What Triton's interpreter lacks or does otherwise than a GPU: libdevice, casts of bf16 and 8-bit floats, products of
them, and reductions and scans by functions of one's own (which it does one element at a time). It also looks for
overflows at each sum and product of integers, and throws away what it finds: half of its time, which is saved."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np

from whet.ir.ops_pointwise import erf

_LIBDEVICE: dict[str, Callable[..., np.ndarray]] = {
    "exp": np.exp, "log": np.log, "tanh": np.tanh, "sin": np.sin, "cos": np.cos, "tan": np.tan, "asin": np.arcsin,
    "acos": np.arccos, "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh, "asinh": np.arcsinh, "acosh": np.arccosh,
    "atanh": np.arctanh, "floor": np.floor, "ceil": np.ceil, "rint": np.rint, "erf": erf, "fmod": np.fmod,
    "pow": np.power, "copysign": np.copysign, "expm1": np.expm1, "log1p": np.log1p, "trunc": np.trunc,
    "fast_expf": np.exp, "fast_dividef": np.divide,
    "rsqrt": lambda x: (1 / np.sqrt(x)).astype(x.dtype), "isnan": np.isnan, "exp2": np.exp2, "log2": np.log2,
}


@contextlib.contextmanager
def fixed() -> Iterator[None]:
    """While a kernel is interpreted."""
    from triton.language.extra import libdevice
    from triton.runtime import interpreter

    changes: list[tuple[Any, str, Any]] = [
        *((libdevice, k, _library_function(f)) for k, f in _LIBDEVICE.items()),
        (interpreter.InterpreterBuilder, "cast_impl", _cast),
        (interpreter.InterpreterBuilder, "create_fp_to_fp", lambda self, src, ty, mode: _cast(self, src, ty)),
        (interpreter.InterpreterBuilder, "create_dot", _dot),
        (interpreter.ReduceOps, "generic_reduce", _reduce),
        (interpreter.ScanOps, "generic_scan", _scan),
        (interpreter, "_patch_lang_tensor", _with_index(interpreter._patch_lang_tensor)),
        (interpreter, "_get_np_dtype", _np_type(interpreter._get_np_dtype)),
        (interpreter.interpreter_builder, "options", interpreter.InterpreterOptions(sanitize_overflow=False)),
    ]
    before = [(where, name, getattr(where, name, None)) for where, name, _ in changes]
    for where, name, new in changes:
        setattr(where, name, new)
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        for where, name, old in before:
            setattr(where, name, old)


def _with_index(patch: Callable[..., None]) -> Callable[..., None]:
    """Bounds of loops that were computed: scalars are arrays of one element, which NumPy 2.4 takes no more for one."""
    def patched(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))
    return patched


def _np_type(find: Callable[[Any], np.dtype]) -> Callable[[Any], np.dtype]:
    """The NumPy type as which a Triton type lies, looked for once (by name: to compare Triton's types takes longer)."""
    known: dict[str, np.dtype] = {}

    def found(ty: Any) -> np.dtype:
        if ty.is_ptr() or ty.scalar.is_ptr():
            return np.dtype(np.uint64)
        name = ty.scalar.name
        if name not in known:
            known[name] = find(ty)
        return known[name]
    return found


def _library_function(f: Callable[..., np.ndarray]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        import triton.language as tl
        from triton.runtime.interpreter import TensorHandle

        first = next(a for a in args if isinstance(a, tl.tensor))
        arrays = [a.handle.data if isinstance(a, tl.tensor) else np.asarray(a, first.handle.data.dtype) for a in args]
        with np.errstate(all="ignore"):
            y = np.asarray(f(*arrays))
        kind = first.dtype.scalar if y.dtype == arrays[0].dtype else tl.int1
        shape = list(y.shape) if any(isinstance(a, tl.tensor) and a.type.is_block() for a in args) else None
        return tl.tensor(TensorHandle(y, kind), tl.block_type(kind, shape) if shape is not None else kind)
    return call


def _np(ty: Any) -> np.dtype:
    """The NumPy type that has the values of a Triton type."""
    import triton.language as tl
    from triton.runtime.interpreter import _get_np_dtype

    real = {tl.bfloat16: ml_dtypes.bfloat16, tl.float8e4nv: ml_dtypes.float8_e4m3fn, tl.float8e5: ml_dtypes.float8_e5m2}
    return np.dtype(real[ty]) if ty in real else _get_np_dtype(ty)


def _real(h: Any) -> np.ndarray:
    """A handle's values, of types that lie as unsigned integers as well. (Comparisons leave their operands' type.)"""
    from triton.runtime.interpreter import _get_np_dtype

    ty = h.dtype.scalar
    return h.data.view(_np(ty)) if ty.is_floating() and h.data.dtype == _get_np_dtype(ty) else h.data


def _cast(self: Any, src: Any, dst_type: Any) -> Any:
    from triton.runtime.interpreter import TensorHandle, _get_np_dtype

    to = dst_type.scalar
    x = _real(src)
    if to.is_fp8():  # the GPU's conversion saturates
        limits = ml_dtypes.finfo(_np(to))
        x = np.clip(x.astype(np.float32), float(limits.min), float(limits.max))
    return TensorHandle(x.astype(_np(to)).view(_get_np_dtype(to)), to)


def _dot(self: Any, a: Any, b: Any, d: Any, input_precision: Any, max_num_imprecise_acc: Any) -> Any:
    from triton.runtime.interpreter import TensorHandle

    x, y = (_real(v).astype(d.data.dtype) for v in (a, b))
    return TensorHandle(np.matmul(x, y) + d.data, d.dtype.scalar)


def _tensors(op: Any, arrays: list[np.ndarray], like: Any) -> list[Any]:
    return [op.to_tensor(a, t.dtype) for a, t in zip(arrays, like, strict=True)]


def _combined(op: Any, left: list[np.ndarray], right: list[np.ndarray], like: Any) -> list[np.ndarray]:
    shape = left[0].shape
    out = op.combine_fn.fn(*_tensors(op, left, like), *_tensors(op, right, like))
    out = out if isinstance(out, tuple) else (out,)
    return [np.broadcast_to(o.handle.data, shape).astype(a.dtype) for o, a in zip(out, left, strict=True)]


def _reduce(self: Any, input: Any) -> list[Any]:
    """By halves along the axis, as a GPU does."""
    whole = self.axis is None
    values = [t.handle.data.reshape(-1) if whole else t.handle.data for t in input]
    rank, axis = input[0].handle.data.ndim, 0 if whole else self.axis
    values = [np.moveaxis(v, axis, 0) for v in values]
    while len(values[0]) > 1:
        half = len(values[0]) // 2
        values = _combined(self, [v[:half] for v in values], [v[half:] for v in values], input)
    out = [v[0] for v in values]
    if self.keep_dims:
        out = [v.reshape((1,) * rank) if whole else np.expand_dims(v, axis) for v in out]
    return [self.to_tensor(v if v.shape else v.item(), t.dtype) for v, t in zip(out, input)]


def _scan(self: Any, input: Any) -> list[Any]:
    values = [np.moveaxis(t.handle.data, self.axis, 0).copy() for t in input]
    for i in range(1, len(values[0])):
        made = _combined(self, [v[i - 1] for v in values], [v[i] for v in values], input)
        for v, m in zip(values, made, strict=True):
            v[i] = m
    return [self.to_tensor(np.ascontiguousarray(np.moveaxis(v, 0, self.axis)), t.dtype)
            for v, t in zip(values, input)]
