"""Runs the steps of an implementation in Triton's interpreter, on NumPy arrays."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from targets.cuda import interpreter_fixes
from whet.ir.region import Region
from whet.ir.symbolic import evaluate
from whet.targets.base import Implementation, In, Int, Out, Packed, Work
from whet.targets.cuda.compile import function, recipe_of


def run(region: Region, made: Implementation, arrays: Sequence[np.ndarray], env: Mapping[str, int] | None = None
        ) -> list[np.ndarray]:
    """[output, *extra outputs] as dense arrays. `arrays`: of the inputs' logical shapes; they are laid out by the
    region's strides. Outputs begin poisoned (0xA5), the workspace too; what lies around a buffer must not change."""
    env = dict(env or {})
    ins = [_laid_out(t, a, env) for t, a in zip(region.inputs, arrays, strict=True)]
    outs = [_laid_out(t, None, env) for t in (region.output, *region.extra_outputs)]
    packs = [_guarded(np.ascontiguousarray(p.make(*(arrays[i] for i in p.sources)))) for p in made.packs]
    size = int(evaluate(made.workspace, env))
    work = _guarded(np.full(size, 0xA5, np.uint8))
    for step in made.steps:
        recipe = recipe_of(step.kernel.code)
        values: list[int] = []
        for a in step.args:
            match a:
                case In(k):
                    values.append(_first(region.inputs[k], ins[k][1], env))
                case Out(k):
                    values.append(_first((region.output, *region.extra_outputs)[k], outs[k][1], env))
                case Packed(k):
                    values.append(packs[k][1].ctypes.data)
                case Work(offset):
                    values.append(work[1].ctypes.data + int(evaluate(offset, env)))
                case Int(v):
                    values.append(int(evaluate(v, env)))
        interpret(recipe, values, int(evaluate(step.tiles, env)))
    for whole, inner in (*ins, *outs, *packs, work):
        n = (len(whole) - inner.nbytes) // 2
        assert (whole[:n] == 0x5A).all(), "written in front of a buffer"
        assert (whole[n + inner.nbytes:] == 0x5A).all(), "written behind a buffer"
    return [_dense(t, inner, env) for t, (_, inner) in zip((region.output, *region.extra_outputs), outs)]


def interpret(recipe: object, values: Sequence[int], tiles: int) -> None:
    """One launch."""
    import triton
    import triton.language as tl
    from triton.runtime import interpreter

    before = triton.knobs.runtime.interpret
    triton.knobs.runtime.interpret = True
    try:
        with _library():
            fn = function(recipe)  # type: ignore[arg-type]
            args = []
            for t, v in zip(recipe.types, values, strict=True):  # type: ignore[attr-defined]
                ty = tl.str_to_ty(t, None)
                kind = np.uint64 if t.startswith("*") else np.int64 if t == "i64" else np.int32
                args.append(tl.tensor(interpreter.TensorHandle(np.array([v], kind), ty), ty))
            run_ = _Executor(fn.rewrite(), fn.arg_names, (tiles,))
            with interpreter_fixes.fixed():
                run_(*args)
    finally:
        triton.knobs.runtime.interpret = before


@contextlib.contextmanager
def _library() -> Iterator[None]:
    """Triton's own functions (`tl.sum`, `tl.zeros`...) interpreted, for a while: they are compiled ones unless
    interpretation was asked for before Triton was imported, which would keep tests from compiling."""
    import triton.language as tl
    from triton.runtime import interpreter
    from triton.runtime.jit import JITFunction

    class Interpreted(interpreter.InterpretedFunction):
        """Does not change the language, as it is changed for all of them at once."""

        def __call__(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            return self.rewrite()(*args, **kwargs)

    found = [(m, n, f) for m in (tl.standard, tl) for n, f in vars(m).items() if isinstance(f, JITFunction)]
    made = {id(f): Interpreted(f.fn) for _, _, f in found}
    for m, n, f in found:
        setattr(m, n, made[id(f)])
    scope = interpreter._patch_lang(tl.standard.sum.fn)
    try:
        yield
    finally:
        scope.restore()
        for m, n, f in found:
            setattr(m, n, f)


def _executor() -> type:
    from triton.runtime import interpreter

    class Executor(interpreter.GridExecutor):
        """Arguments are on the host already."""

        def _init_args_hst(self, args_dev, kwargs):  # type: ignore[no-untyped-def]
            return args_dev, kwargs

        def _restore_args_dev(self, args_dev, args_hst, kwargs, kwargs_hst):  # type: ignore[no-untyped-def]
            pass

    return Executor


def _Executor(*args: object) -> object:
    return _executor()(*args)


def _guarded(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A copy with 256 known bytes on either side; (all bytes, the copy), 16-byte aligned."""
    room = np.full(a.nbytes + 512 + 64, 0x5A, np.uint8)
    start = -room.ctypes.data % 64
    whole = room[start : start + a.nbytes + 512]
    inner = whole[256 : 256 + a.nbytes].view(a.dtype) if a.nbytes else np.zeros(0, a.dtype)
    inner[...] = a.reshape(-1)
    return whole, (inner if a.nbytes else whole[256:256].view(a.dtype))


def _reach(t, env) -> tuple[list[int], list[int], int, int]:  # type: ignore[no-untyped-def]
    """(shape, strides, elements from the lowest to the highest address, how many lie before the first)."""
    shape = [int(evaluate(d, env)) for d in t.shape]
    strides = [int(evaluate(d, env)) for d in t.strides]
    if not all(shape):
        return shape, strides, 0, 0
    spans = [(d - 1) * s for d, s in zip(shape, strides)]
    return shape, strides, 1 + sum(map(abs, spans)), -sum(s for s in spans if s < 0)


def _first(t, inner, env) -> int:  # type: ignore[no-untyped-def]
    return int(inner.ctypes.data) + _reach(t, env)[3] * t.dtype.size


def _laid_out(t, a, env) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[no-untyped-def]
    shape, strides, n, first = _reach(t, env)
    flat = np.frombuffer(np.full(n * t.dtype.size, 0xA5, np.uint8).tobytes(), t.dtype.np).copy()
    if a is not None and n:
        view = np.lib.stride_tricks.as_strided(_bits(flat)[first:], shape, [s * flat.itemsize for s in strides])
        view[...] = _bits(np.ascontiguousarray(a)).reshape(shape)
    return _guarded(flat)


def _dense(t, inner, env) -> np.ndarray:  # type: ignore[no-untyped-def]
    shape, strides, n, first = _reach(t, env)
    if not n:
        return np.zeros(shape, t.dtype.np)
    view = np.lib.stride_tricks.as_strided(_bits(inner)[first:], shape, [s * inner.itemsize for s in strides])
    return np.array(view, order="C").view(t.dtype.np)


def _bits(a: np.ndarray) -> np.ndarray:
    """Elements as unsigned integers, which strided views take of every type."""
    return a.view(f"u{a.itemsize}")
