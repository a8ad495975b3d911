"""Matmul by cuBLASLt: every algorithm that its heuristics propose is a candidate.

It does bias, ReLU, GELU by tanh and a residual itself. Any other epilogue: it leaves its sums in the workspace, and a
second step (that of split-K) does the rest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache, partial
from typing import Any

import msgspec
import numpy as np

from whet import abi_cublaslt as lt
from whet import abi_cuda
from whet.errors import DeviceError, MissingExtraError
from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.ir.symbolic import is_static
from whet.targets.base import Arg, Implementation, In, Kernel, Out, Pack, Packed, Params, Step, Work
from whet.targets.cuda.cublaslt_match import TYPES, Linear, computes, known, layout, linear
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.matmul_problem import OUT, Problem, Products, packable, problem, products, second
from whet.targets.cuda.matmul_space import LAUNCH
from whet.targets.cuda.matmul_splitk import sum_step
from whet.targets.cuda.shapes import optimum

WORKSPACE = 32 << 20  # bytes that an algorithm may ask for
MOST = 24


class CublasLt:
    """C = act(A @ B) by the library. Parameters:

    order:  "" or "nk": a constant b is packed with the depth contiguous. via: sums go to the workspace.
    algo:   64 bytes of a cublasLtMatmulAlgo_t, hexadecimal. workspace: bytes that it needs.
    """

    name = "cublaslt"

    def applies(self, region: Region, machine: Gpu) -> str:
        if not machine.live or "cublas" not in machine.libraries:
            return "cuBLAS cannot be asked here"
        if not is_static(d for t in (*region.inputs, region.output) for d in (*t.shape, *t.strides)):
            return "symbolic dimensions"
        return self._reason(region)

    def _reason(self, region: Region) -> str:
        """What keeps a static region from the library, whatever the machine."""
        how = products(region)
        if region.prologue:
            return "operands are computed on load"
        if not how.dot or how.operand not in TYPES or how.offset:
            return "no such types of products"
        if region.output.shape != region.anchor.shape:
            return "the output has another shape than the product"
        if any(d == 0 for t in (*region.inputs, region.output) for d in t.shape):
            return "no elements"
        return "" if variants(region) else "no such layout of operands"

    def space(self, region: Region, machine: Gpu, threads: int) -> Iterable[Params]:
        found: list[list[Params]] = []
        for order, via in variants(region):
            product_ = describe(region, order, via)
            if product_ is not None:
                found.append([{"order": order, "via": via, "algo": algo, "workspace": size}
                              for algo, size in algorithms(product_, machine, MOST)])
        share = MOST // max(1, sum(bool(f) for f in found))
        return [params for f in found for params in f[:share]]

    def cost(self, region: Region, params: Params, machine: Gpu, threads: int) -> float:
        """Products at three fifths of the peak, or the memory; a second step after that."""
        p = problem(region)
        work = 2.0 * optimum(region, p.outputs) * optimum(region, p.k)
        rate = {DType.F32: 4e14 if products(region).precision == "tf32" else 5e13, DType.F64: 5e13,
                DType.F16: 6e14, DType.BF16: 6e14}.get(products(region).operand, 1.2e15)
        sizes = sum(t.dtype.size * np.prod([optimum(region, d) for d in t.shape], dtype=float)
                    for t in (*region.inputs, region.output))
        second_step = LAUNCH + 8 * optimum(region, p.outputs) / (machine.bandwidth or 3e12) if params["via"] else 0.0
        return 1.5 * LAUNCH + max(work / rate, float(sizes) / (machine.bandwidth or 3e12)) + second_step

    def implement(self, region: Region, params: Params, machine: Gpu, threads: int) -> Implementation:
        made = describe(region, params["order"], params["via"])
        assert made is not None, "a parameter setting that `space` does not give"
        unit = msgspec.structs.replace(made.unit, algo=params["algo"], workspace=params["workspace"])
        code = msgspec.json.encode(unit, order="sorted").decode()
        kernel = Kernel(f"cublaslt_{hashlib.sha256(code.encode()).hexdigest()[:16]}", code)
        at = -(-made.sums // 256) * 256
        steps = [Step(kernel, (*made.args, Work(at)), 1)]
        if params["via"]:
            steps.append(sum_step(region, made.problem, machine, 1, made.total))
        return Implementation(tuple(steps), made.packs, at + params["workspace"])


class Described(msgspec.Struct):
    """A product in cuBLASLt's words (without an algorithm), and how the region's tensors are its arguments.

    sums: bytes of the workspace that hold its result, of type `total`, for a second step. alignment: bytes that the
    addresses of cuBLASLt's A, B, C and D are multiples of."""

    unit: abi_cuda.Matmul
    args: tuple[Arg, ...]
    packs: tuple[Pack, ...]
    problem: Problem
    total: DType
    alignment: tuple[int, ...]
    sums: int = 0


def variants(region: Region) -> list[tuple[str, bool]]:
    """(order, via) that the library takes."""
    orders = ["", "nk"] if packable(region) else [""]
    return [(order, via) for order in orders for via in (False, True) if describe(region, order, via) is not None][:2]


def describe(region: Region, order: str, via: bool) -> Described | None:
    """The region as a product, rows and columns exchanged since cuBLASLt's matrices are column-major:
    D'[n, m] = B'[n, k] A'[k, m]. None where the library does not do that."""
    how = products(region)
    b = second(region, order)
    p = problem(region, b.tensor, b.arg)
    b_type = how.operand if order else region.inputs[1].dtype
    if len(p.batch) > 1 or region.inputs[0].dtype is not how.operand or b_type is not how.operand:
        return None
    first, other = layout(p, ("a", 0), -3), layout(p, ("b", 1), -2)
    if first is None or other is None:
        return None
    if how.operand in (DType.I8, DType.F8E4M3FN) and not (first[1] and other[1]):
        return None  # these are multiplied along the depth alone
    epilogue = Linear() if via else linear(region, p)
    if epilogue is None or (via and _does_it_all(region, p)):
        return None
    result = _result(region, p, how, epilogue, via)
    if result is None:
        return None
    d, c, bias_type, args, packs = result
    batch, m, n, k = (known(d) for d in (p.batch[0] if p.batch else 1, p.m, p.n, p.k))
    kind = TYPES[how.operand]
    compute, scale = computes(how)
    unit = abi_cuda.Matmul(
        a=(kind, k, n, other[0], other[2]) if other[1] else (kind, n, k, other[0], other[2]),
        b=(kind, k, m, first[0], first[2]) if first[1] else (kind, m, k, first[0], first[2]),
        c=c, d=d, transpose_a=other[1], transpose_b=not first[1], compute=compute, scale_type=scale,
        epilogue=_epilogue(epilogue), algo="", workspace=0, batch=batch, alpha=epilogue.alpha, beta=epilogue.beta,
        bias_type=bias_type)
    first_packs = b.packs[: 1 if order else 0]
    shifted = tuple(Packed(len(first_packs)) if isinstance(a, Packed) else a for a in args)
    total = how.total
    arguments = (b.arg or In(1), In(0), *shifted)
    aligned = tuple(_aligned(region, a) for a in arguments[:4])
    return Described(unit, arguments, (*first_packs, *packs), p, total, aligned,
                     optimum(region, p.outputs) * total.size if via else 0)


def _aligned(region: Region, arg: Arg) -> int:
    """Bytes that an argument's address is a multiple of."""
    t = region.inputs[arg.index] if isinstance(arg, In) else region.output if isinstance(arg, Out) else None
    return 16 if t is None or t.aligned else t.dtype.size


def _does_it_all(region: Region, p: Problem) -> bool:
    """True where no second step is needed."""
    found = linear(region, p)
    return found is not None and _result(region, p, products(region), found, False) is not None


Result = tuple[tuple[int, int, int, int, int], tuple[int, int, int, int, int], int, tuple[Arg, ...], tuple[Pack, ...]]


def _result(region: Region, p: Problem, how: Products, e: Linear, via: bool) -> Result | None:
    """(layout of D, of C, type of the bias, arguments from C on, packs) of a result in the output or the workspace."""
    n, m = known(p.n), known(p.m)
    if via:
        whole = (TYPES[how.total], n, m, n, n * m)
        return whole, whole, -1, (Work(0), Work(0)), ()
    out = region.output.dtype
    if out not in {how.total, how.operand if how.operand in (DType.F16, DType.BF16) else how.total,
                   *((DType.F16, DType.BF16) if how.operand is DType.F8E4M3FN else ())}:
        return None
    if how.total is DType.I32 and (e.alpha, e.beta, e.bias, e.act) != (1.0, 0.0, -1, ""):
        return None
    d = _matrix(p, OUT, out)
    c = d if e.residual < 0 else _matrix(p, ("e", e.residual), out)
    if d is None or c is None:
        return None
    args: list[Arg] = [In(e.residual) if e.residual >= 0 else Out(0), Out(0)]
    packs: tuple[Pack, ...] = ()
    bias_type = -1
    if e.bias >= 0:
        bias, allowed = region.inputs[e.bias], DType.BF16 if (how.operand, out) == (DType.F8E4M3FN, DType.F32) else out
        bias_type = TYPES[allowed]
        if bias.dtype is allowed:
            args.append(In(e.bias))
        elif bias.const and (out is DType.F32 or region.compute in ("f16", "bf16", "f8")):
            args.append(Packed(0))
            packs = (Pack((e.bias,), partial(_as_vector, dtype=allowed)),)
        else:
            return None
    return d, c, bias_type, tuple(args), packs


def _matrix(p: Problem, key: tuple[str, int], dtype: DType) -> tuple[int, int, int, int, int] | None:
    """The layout of a tensor like the output; None where its rows are not contiguous."""
    steps = p.strides[key]
    if not all(isinstance(s, int) and s >= 0 for s in steps):
        return None
    row, column, n, m = (known(d) for d in (*steps[-3:-1], p.n, p.m))
    if (column != 1 and n != 1) or (row < n and m != 1):
        return None
    return TYPES[dtype], n, m, max(row, n), known(steps[0]) if p.batch else 0


def _epilogue(e: Linear) -> int:
    kind = (lt.BIAS if e.bias >= 0 else 0) + {"": 0, "relu": lt.RELU, "gelu": lt.GELU}[e.act]
    return kind or lt.DEFAULT


def _as_vector(bias: np.ndarray, dtype: DType) -> np.ndarray:
    return np.ascontiguousarray(bias.reshape(-1).astype(dtype.np))


# -- the library -----------------------------------------------------------------------------------------------


def algorithms(made: Described, machine: Gpu, most: int) -> list[tuple[str, int]]:
    """(64 bytes in hexadecimal, bytes of workspace) of what the library's heuristics propose, the best first; none
    where it does not do the product. DeviceError, MissingExtraError where it cannot be asked."""
    binding, handle = _library()
    d = lt.Descriptors(binding, made.unit)
    preference = int(binding.matmul_preference_create())
    try:
        for name, value, dtype in (("MAX_WORKSPACE_BYTES", WORKSPACE, np.uint64),
                                   *((f"MIN_ALIGNMENT_{x}_BYTES", least, np.uint32)
                                     for x, least in zip("ABCD", made.alignment))):
            raw = np.array([value], dtype)
            binding.matmul_preference_set_attribute(preference, getattr(binding.MatmulPreferenceAttribute, name),
                                                    raw.ctypes.data, raw.nbytes)
        results = np.zeros(most, binding.matmul_heuristic_result_dtype)
        count = np.zeros(1, np.int32)
        try:
            binding.matmul_algo_get_heuristic(handle, d.operation, *d.layouts, preference, most, results.ctypes.data,
                                              count.ctypes.data)
        except binding.cuBLASLtError:  # not supported
            return []
        found = [(r["algo"].tobytes().hex(), int(r["workspace_size"])) for r in results[: int(count[0])]
                 if int(r["state"]) == 0]
        return list(dict.fromkeys(found))
    finally:
        binding.matmul_preference_destroy(preference)
        d.close()


@cache
def _library() -> tuple[Any, int]:
    """The binding and a handle of this process."""
    try:
        from nvmath.bindings import cublasLt as binding
    except ImportError as e:
        raise MissingExtraError("cuBLASLt is called through nvmath-python, which is not installed", why=str(e),
                                do='pip install "whet[cuda]"') from e
    try:
        return binding, int(binding.create())
    except Exception as e:
        raise DeviceError("cuBLASLt cannot be opened", why=" ".join(str(e).split())[:300],
                          do="see `whet doctor`") from e


def to_object(code: str, number: int) -> bytes:
    """The object of a product: its description is all there is."""
    return abi_cuda.pack(msgspec.json.decode(code, type=abi_cuda.Matmul))
