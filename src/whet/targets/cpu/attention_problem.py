"""What the attention kernels share: the loops of a region, its operands by name, and which keys a query sees."""

from __future__ import annotations

from whet.ir.dtypes import DType
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import Dim, lower, product, upper
from whet.targets.base import In
from whet.targets.cpu.args import Args
from whet.targets.cpu.gemm_problem import OUT, Key, Problem, epilogue_inputs
from whet.targets.cpu.llvm import Fn, IntLike, Val
from whet.targets.cpu.vmath import tanh

Q, K, V, MASK, LENGTHS = "q", "k", "v", "mask", "lengths"
OPERANDS = (Q, K, V, MASK, LENGTHS)
WIDEST = 1024  # elements of a head


def operands(region: Region) -> dict[str, int]:
    """The indices of the region's inputs by the operand's name; those that are absent are left out."""
    absent = region.attrs.get("absent", ())
    there = [name for i, name in enumerate(OPERANDS) if i not in absent]
    return {name: i for i, name in enumerate(there[:region.n_anchor])}


def attention_problem(region: Region) -> Problem:
    """Loops of an attention region: rows are queries, columns the elements of a value.

    `batch` is (batch, heads of k and v, query heads for each of those): k and v have stride 0 along the last.
    """
    q, k, v = region.inputs[:3]
    out = region.output
    where = operands(region)
    heads = k.shape[1] if k.shape[1] != 1 else v.shape[1]
    group = _quotient(out.shape[1], heads)
    views: dict[Key, tuple[Dim, ...]] = {OUT: _broadcast(out, out.shape)}
    views |= {i: _broadcast(region.inputs[i], out.shape) for i in epilogue_inputs(region)}
    batch: dict[Key, tuple[Dim, ...]] = {t: _grouped(s[:2], group) for t, s in views.items()}
    batch[Q] = _grouped(_broadcast(_leading(q), out.shape[:2]), group)
    for name, t in ((K, k), (V, v)):
        batch[name] = (*_broadcast(_leading(t), (out.shape[0], heads)), 0)
    mask: tuple[Dim, ...] = (0, 0, 0, 0)
    if MASK in where:
        mask = _broadcast(region.inputs[where[MASK]], (*out.shape[:3], k.shape[2]))
    batch[MASK] = _grouped(mask[:2], group)
    if LENGTHS in where:
        batch[LENGTHS] = (*_broadcast(region.inputs[where[LENGTHS]], out.shape[:1]), 0, 0)
    row = {t: s[2] for t, s in views.items()} | {Q: q.strides[2], K: k.strides[2], V: v.strides[2], MASK: mask[2]}
    col = {t: s[3] for t, s in views.items()} | {MASK: mask[3]}
    return Problem((out.shape[0], heads, group), tuple({t: s[i] for t, s in batch.items()} for i in range(3)),
                   out.shape[2], out.shape[3], k.shape[2], row, 0, 0, col)


def _quotient(heads: Dim, of: Dim) -> Dim:
    return 1 if heads == of else heads // of


def _grouped(strides: tuple[Dim, ...], group: Dim) -> tuple[Dim, Dim, Dim]:
    """Strides along (batch, heads of k, group) of a tensor with these along (batch, heads)."""
    return strides[0], strides[1] * group, strides[1]


def _leading(t: Tensor) -> Tensor:
    return Tensor(t.dtype, t.shape[:2], t.strides[:2])


def _broadcast(t: Tensor, shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
    missing = len(shape) - len(t.shape)
    return (0,) * missing + tuple(0 if d == 1 else s for d, s in zip(t.shape, t.strides, strict=True))


FLOATS = (DType.F32, DType.BF16, DType.F16)


def attention_reason(region: Region, types: tuple[DType, ...] = FLOATS) -> str:
    """Why no fused attention tactic whose q, k and v are of these types takes this region; "" if one may."""
    where = operands(region)
    if region.prologue:
        return "operands computed on load are not supported"
    for name, t in zip("qkv", region.inputs[:3]):
        if t.dtype not in types:
            return f"{name} is {t.dtype.value}, not {' or '.join(d.value for d in types)}"
        if t.shape[3] != 1 and t.strides[3] != 1:
            return f"{name}'s last dimension is not contiguous"
        if not isinstance(t.shape[3], int):
            return f"{name}'s last dimension is symbolic"
        if t.shape[3] > WIDEST:
            return f"heads wider than {WIDEST}"
    if MASK in where:
        mask = region.inputs[where[MASK]]
        if mask.dtype not in (*FLOATS, DType.BOOL):
            return f"the mask is {mask.dtype.value}"
        if mask.shape and mask.shape[-1] != 1 and mask.strides[-1] not in (0, 1):
            return "the mask's last dimension is not contiguous"
    if region.output.shape[3] != 1 and region.output.strides[3] != 1:
        return "the output's last dimension is not contiguous"
    for i in epilogue_inputs(region):
        t = region.inputs[i]
        if t.shape and t.shape[-1] != 1 and t.strides[-1] not in (0, 1):
            return f"epilogue input {i} is not contiguous in its last dimension"
    return ""


def widths(region: Region) -> tuple[int, int]:
    """Elements of a query (and key), and of a value; `applies` has seen to it that they are static."""
    d, e = region.inputs[0].shape[3], region.inputs[2].shape[3]
    assert isinstance(d, int)
    assert isinstance(e, int)
    return d, e


def query_range(region: Region) -> tuple[int, int]:
    """The least and the greatest number of queries."""
    ranges = {n: (r[0], r[2]) for n, r in region.dims.items()}
    s = region.output.shape[2]
    return lower(s, ranges), upper(s, ranges)


def longest(region: Region) -> int:
    """The greatest number of keys."""
    return upper(region.inputs[1].shape[2], {n: (r[0], r[2]) for n, r in region.dims.items()})


def base_address(args: Args, region: Region, p: Problem, name: str, index: list[IntLike]) -> Val:
    """Address of an operand's first element for a batch element and head."""
    i = operands(region)[name]
    at = args.pointer(In(i))
    for x, strides in zip(index, p.batch_strides, strict=True):
        at = at + x * args.dim(strides[name]) * region.inputs[i].dtype.size
    return at


class Sight:
    """Which keys each query sees, for the batch element in hand: attributes causal, offset, window; lengths."""

    def __init__(self, k: Fn, args: Args, region: Region, p: Problem) -> None:
        self.k, self.args, self.region, self.p = k, args, region, p
        self.causal = bool(region.attrs.get("causal"))
        self.window = int(region.attrs.get("window", 0))
        self.limited = LENGTHS in operands(region)
        self.keys: IntLike = args.dim(p.k)
        self.offset: IntLike = args.dim(region.attrs.get("offset", 0))

    @property
    def whole(self) -> bool:
        """True if every query sees every key."""
        return not (self.causal or self.limited)

    def batch(self, index: list[IntLike]) -> None:
        """Speak of this batch element from now on."""
        if not self.limited:
            return
        k, args = self.k, self.args
        dtype = self.region.inputs[operands(self.region)[LENGTHS]].dtype
        at = base_address(args, self.region, self.p, LENGTHS, index)
        length = k.load("i64", at) if dtype is DType.I64 else k.cast("sext", k.load("i32", at), "i64")
        self.keys = k.max(k.min(args.dim(self.p.k), length), 0)
        self.offset = length - args.dim(self.p.m) + args.dim(self.region.attrs.get("offset", 0))

    def end(self, query: IntLike) -> IntLike:
        """The first key that this query does not see, nor any after it."""
        if not self.causal:
            return self.keys
        return self.k.max(self.k.min(self.keys, query + self.offset + 1), 0)

    def start(self, query: IntLike) -> IntLike:
        """The first key that this query sees."""
        if not self.causal or not self.window:
            return 0
        return self.k.max(query + self.offset - (self.window - 1), 0)


def capped(k: Fn, s: Val, scale: float, cap: float) -> Val:
    """Scores times scale, and softly capped: cap * tanh(s / cap) (Gemma 2, arXiv:2408.00118)."""
    if not cap:
        return s * scale
    return tanh(k, s * (scale / cap)) * cap


def heads(p: Problem) -> Dim:
    """Query heads over the whole batch."""
    return product(p.batch)
