"""From the user's shapes and profiles, and a model's declared inputs, to symbolic dimensions with ranges."""

from __future__ import annotations

import itertools
import keyword
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx

from whet.errors import InputError, ProfileError, UnsupportedError
from whet.frontends.tensors import element_type
from whet.ir.dtypes import DType
from whet.ir.symbolic import Dim, Shape, Sym, evaluate, is_static, maximum, minimum, names, parse, substitute, symbol

Range = tuple[int, int, int]

BATCH_DEFAULT: Range = (1, 1, 8)  # the first dimension of an input, where no profile is given
LENGTH_DEFAULT: Range = (1, 128, 512)  # any other


@dataclass
class Declared:
    """A model's inputs with their types and shapes, and the ranges of the symbolic dimensions in these."""

    inputs: list[tuple[str, DType, Shape]] = field(default_factory=list)
    types: dict[str, onnx.TypeProto] = field(default_factory=dict)  # of inputs that are no tensors of a known rank
    ranges: dict[str, Range] = field(default_factory=dict)
    contents: dict[str, tuple[Range, ...]] = field(default_factory=dict)  # of the elements of inputs that are sizes


@dataclass
class Learnt:
    """What lowering a model found out about its symbols: what they equal, and how large they may be.

    sizes: the names of data-dependent sizes, in the order in which they are learnt. given: ranges that the profile
    has for such names.
    """

    equal: dict[str, Dim] = field(default_factory=dict)
    most: dict[str, int] = field(default_factory=dict)
    least: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    given: dict[str, Range] = field(default_factory=dict)


def declare(inputs: Sequence[onnx.ValueInfoProto], shapes: Mapping[str, Sequence[Any]] | None,
            profiles: Sequence[Mapping[str, Any]] | None, learnt: Learnt) -> Declared:
    """The inputs' shapes after `shapes` and `profiles`, and a range for each symbol that is left.

    shapes:     {input: dims}; an int fixes a dimension everywhere it occurs, a str names it, None leaves it.
    profiles:   at most one {name: (min, opt, max)}: for an input three shapes, for a symbol three ints; for an integer
                vector or scalar of fixed shape, whose elements are used as sizes, three times its elements; for a
                data-dependent size, by the name that messages and `Graph.dims` have for it, three ints.
    learnt:     symbols known to equal another dimension, or to have a greatest value.

    A symbol without a profile gets BATCH_DEFAULT or LENGTH_DEFAULT; one whose range is one value
    becomes that int. InputError and ProfileError say which name or number does not fit.
    """
    fixed: dict[str, Dim] = dict(learnt.equal)
    fresh = (f"dim{i}" for i in itertools.count())
    taken = {_clean(d.dim_param) for v in inputs for d in v.type.tensor_type.shape.dim if d.dim_param}
    known = [_declared(v, fresh, taken, (shapes or {}).get(v.name)) for v in inputs]
    by_name = {name: shape for name, _, shape in known}
    for name in {**(shapes or {})}:
        if name not in by_name:
            raise InputError(f"the model has no input {name!r}", why="shapes= names it",
                             do=f"its inputs are {', '.join(by_name) or 'none'}")
    for name, wanted in (shapes or {}).items():
        _fix(name, by_name[name], wanted, fixed)

    def settle(shape: Shape) -> Shape:
        for _ in range(8):  # symbols may stand for symbols
            shape = tuple(substitute(d, fixed) for d in shape)
        return shape

    contents = _contents({n: settle(s) for n, t, s in known if t.is_integer}, profiles)
    ranges = _profiled({n: settle(s) for n, s in by_name.items()}, profiles, contents, learnt)
    for symbol_name, (low, _, high) in ranges.items():
        if high > learnt.most.get(symbol_name, high):
            raise ProfileError(f"dimension {symbol_name} ranges to {high}", do="give a profile within it",
                               why=f"the model works up to {learnt.most[symbol_name]}: a table in it has that length")
        if low < learnt.least.get(symbol_name, low):
            raise ProfileError(f"dimension {symbol_name} ranges from {low}", do="give a profile within it",
                               why=f"the model works from {learnt.least[symbol_name]} on: below, nothing would be left")
        if low == high:
            fixed[symbol_name] = low
    out = Declared([(n, t, settle(s)) for n, t, s in known],
                   {v.name: v.type for v, (_, t, _) in zip(inputs, known) if t is DType.OBJECT})
    out.contents = contents
    for name, _, shape in out.inputs:
        for i, d in enumerate(shape):
            if isinstance(d, int) and d < 0:
                raise InputError(f"input {name} has the dimension {d}", do="give shapes that the model can have")
            for s in sorted(names(d)):
                default = BATCH_DEFAULT if i == 0 and len(shape) > 1 else LENGTH_DEFAULT
                least = learnt.least.get(s, 0)
                high = max(default[2], 4 * least)
                most = min(learnt.most.get(s, high), high)
                out.ranges.setdefault(s, ranges.get(s) or (max(min(default[0], most), least),
                                                           max(min(default[1], most), least), most))
    return out


def settle(a: Dim, b: Dim, learnt: Learnt) -> bool:
    """Learn under what condition two dimensions that must be equal are so. False if there is no simple one.

    Prefers to replace the data-dependent size that is learnt last (nothing may depend on a later one), then a name
    that stands alone (t by p + 1, not p by t - 1), then one that whet made up. min(s, 64) equals s where s is at
    most 64, and max(s//20 - 1, 0) equals s//20 - 1 where s is at least 20.
    """
    floor = _floor(a, b) or _floor(b, a)
    if floor is not None and floor[0] not in learnt.sizes and floor[1] > learnt.least.get(floor[0], 0):
        learnt.least[floor[0]] = floor[1]
        return True
    a, b = _cancelled(a, b)

    def latest(d: Dim) -> int:
        return max((learnt.sizes.get(n, -1) for n in names(d)), default=-1)

    def rank(pair: tuple[Dim, Dim]) -> tuple[int, bool, bool]:
        found = names(pair[0])
        return (-latest(pair[0]), not any(pair[0] == symbol(n) for n in found),
                not any(n.startswith("dim") for n in found))

    for x, y in sorted(((a, b), (b, a)), key=rank):
        for name in names(x):
            bound = _bound(x, y) if x == symbol(name) else None
            if bound is not None and bound < learnt.most.get(name, 1 << 62):
                learnt.most[name] = bound
                return True
        found = solve(x, y)
        if found is not None and found[0] not in learnt.equal and latest(found[1]) <= latest(symbol(found[0])):
            learnt.equal[found[0]] = found[1]
            return True
    return False


def _cancelled(a: Dim, b: Dim) -> tuple[Dim, Dim]:
    """Two dims that are equal where a and b are, without what both have: p and q for p + s and q + s."""
    sides: list[Dim] = [0, 0]
    difference = a - b
    if isinstance(difference, int):
        return a, b
    for mono, c in difference.terms:
        sides[c < 0] += Sym(((mono, abs(c)),)) if mono else abs(c)
    return (a, b) if any(isinstance(x, int) and x == 0 for x in sides) else (sides[0], sides[1])


def _bound(x: Dim, y: Dim) -> int | None:
    """c where y is min(c, x) for an int c."""
    for c in (a for d in (y,) if isinstance(d, Sym) for mono, _ in d.terms for atom in mono if atom[0] == "min"
              for a in atom[1:] if isinstance(a, int)):
        if minimum(c, x) == y:
            return c
    return None


def _floor(x: Dim, y: Dim) -> tuple[str, int] | None:
    """(name, n) where y is max(c, x) for an int c and x, of one name, is at least c from n on."""
    found = names(x)
    if len(found) != 1 or not isinstance(y, Sym):
        return None
    (name,) = found
    for c in (a for mono, _ in y.terms for atom in mono if atom[0] == "max" for a in atom[1:] if isinstance(a, int)):
        if maximum(c, x) == y:
            n = next((1 << k for k in range(30) if evaluate(x, {name: 1 << k}) >= c), None)
            while n and evaluate(x, {name: n - 1}) >= c:
                n -= 1
            return (name, n) if n else None
    return None


def _clean(text: str) -> str:
    """A name that can stand in a dimension expression."""
    name = re.sub(r"\W", "_", text.strip())
    return f"d_{name}" if not name or name[0].isdigit() or keyword.iskeyword(name) or name in ("min", "max") else name


def _declared(v: onnx.ValueInfoProto, fresh: Any, taken: set[str],
              given: Sequence[Any] | None) -> tuple[str, DType, Shape]:
    where = f"input {v.name}"
    kind = v.type.WhichOneof("value")
    if kind in ("sequence_type", "optional_type", "map_type"):
        if given is not None:
            raise InputError(f"{where} is no tensor", why="shapes= gives it a shape", do="leave it out of shapes=")
        return v.name, DType.OBJECT, ()
    if kind != "tensor_type":
        raise UnsupportedError(f"an input of {kind or 'unknown'} type", where=where,
                               why="whet takes dense tensors, sequences and optionals as inputs",
                               do="pass the parts as tensors of their own")
    t = v.type.tensor_type
    dtype = element_type(t.elem_type, where)
    if not t.HasField("shape"):
        if given is None:
            return v.name, DType.OBJECT, ()
        return v.name, dtype, tuple(symbol(_next(fresh, taken)) for _ in given)
    dims: list[Dim] = []
    for d in t.shape.dim:
        if d.HasField("dim_value") and d.dim_value >= 0:
            dims.append(d.dim_value)
        elif d.HasField("dim_param") and d.dim_param.strip(" ?"):
            dims.append(_expression(d.dim_param))
        else:
            dims.append(symbol(_next(fresh, taken)))
    return v.name, dtype, tuple(dims)


def _next(fresh: Any, taken: set[str]) -> str:
    return next(n for n in fresh if n not in taken)


def _expression(text: str) -> Dim:
    try:
        d = parse(text) if len(text) < 200 else symbol(_clean(text))
    except (ValueError, RecursionError, ZeroDivisionError):
        return symbol(_clean(text))
    return d


def _fix(name: str, shape: Shape, wanted: Sequence[Any], fixed: dict[str, Dim]) -> None:
    """Learn from the user's shape of one input what its symbols are."""
    wanted = tuple(wanted)
    if len(wanted) != len(shape):
        raise InputError(f"input {name} has rank {len(shape)}, shapes= gives {len(wanted)} dimensions: {wanted}",
                         why=f"the model declares {shape}", do=f"give {len(shape)} dimensions")
    for d, w in zip(shape, wanted):
        if w is None:
            continue
        if not isinstance(w, (int, str)) or isinstance(w, bool) or (isinstance(w, int) and w < 0):
            raise InputError(f"{w!r} is not a dimension of input {name}", do="give an int >= 0, a name, or None")
        want: Dim = _expression(w) if isinstance(w, str) else w
        have = substitute(d, fixed)
        if have == want:
            continue
        solved = solve(have, want)
        if solved is None:
            raise InputError(f"input {name} cannot have shape {wanted}", why=f"the model declares {shape}, and "
                             f"its dimension {d} cannot be {w}", do="give a shape that fits the model")
        fixed[solved[0]] = solved[1]


def solve(have: Dim, want: Dim) -> tuple[str, Dim] | None:
    """(name, value) with have == want, where have is linear in one name that want does not have."""
    found = names(have)
    if len(found) != 1:
        return None
    (name,) = found
    zero, one = substitute(have, {name: 0}), substitute(have, {name: 1})
    if not isinstance(zero, int) or not isinstance(one, int) or have != symbol(name) * (one - zero) + zero:
        return None
    if name in names(want):
        return None
    rest, slope = want - zero, one - zero
    if isinstance(rest, int):
        return (name, rest // slope) if rest % slope == 0 and rest // slope >= 0 else None
    return (name, rest) if slope == 1 else None


def _contents(shapes: Mapping[str, Shape],
              profiles: Sequence[Mapping[str, Any]] | None) -> dict[str, tuple[Range, ...]]:
    """Ranges that the profile gives the elements of integer inputs (which are used as sizes), not their shapes: for
    a scalar three ints, for a vector of fixed length n three times n ints that are not its shape."""
    out: dict[str, tuple[Range, ...]] = {}
    for name, bounds in (profiles[0] if profiles else {}).items():
        shape = shapes.get(name)
        if shape is None or len(shape) > 1 or not is_static(shape):
            continue
        rows: Sequence[Any] = _bounds(name, bounds)
        if all(isinstance(r, (tuple, list)) and tuple(r) == shape for r in rows):
            continue
        if not shape:
            rows = [[r] if isinstance(r, int) else r for r in rows]
        n = shape[0] if shape else 1
        if not all(isinstance(r, (tuple, list)) and len(r) == n for r in rows):
            raise ProfileError(f"the profile of {name!r} is {bounds!r}", where=f"input {name}",
                               why=f"the input has {n} numbers",
                               do="give (min, opt, max), each with a number for every element (one for a scalar)")
        out[name] = tuple(_ordered((r[0], r[1], r[2]), f"input {name}", negative=True) for r in zip(*rows))
    return out


def _profiled(shapes: Mapping[str, Shape], profiles: Sequence[Mapping[str, Any]] | None,
              contents: Mapping[str, Any], learnt: Learnt) -> dict[str, Range]:
    """Ranges that the profile gives to symbols. Those of data-dependent sizes (`size_...`) go to `learnt`."""
    if not profiles:
        return {}
    if len(profiles) > 1:
        raise UnsupportedError(f"{len(profiles)} optimization profiles", why="this version takes one",
                               do="give one profile that covers all shapes")
    symbols = {s for shape in shapes.values() for s in names(*shape)}
    ranges: dict[str, Range] = {}

    def learn(s: str, r: Range, where: str) -> None:
        if ranges.setdefault(s, r) != r:
            raise ProfileError(f"dimension {s} is given two ranges: {ranges[s]} and {r}", where=where,
                               do="give it one range for all inputs")

    for name, bounds in profiles[0].items():
        if name in contents:
            continue
        low, opt, high = _bounds(name, bounds)
        if name in shapes:
            for i, d in enumerate(shapes[name]):
                _learn_dim(name, shapes[name], i, d, (low, opt, high), learn)
        elif name in symbols:
            learn(name, _ordered(_plain(low, opt, high), f"dimension {name}"), f"dimension {name}")
        elif name.startswith("size_"):
            learnt.given[name] = _ordered(_plain(low, opt, high), f"dimension {name}")
        else:
            raise ProfileError(f"the model has no input or dimension {name!r}", why="a profile names it",
                               do=f"its inputs are {', '.join(shapes)}; its free dimensions "
                               f"{', '.join(sorted(symbols)) or 'none'}")
    return ranges


def _bounds(name: str, bounds: Any) -> tuple[Any, Any, Any]:
    try:
        low, opt, high = bounds
    except (TypeError, ValueError):
        raise ProfileError(f"the profile of {name!r} is not (min, opt, max): {bounds!r}") from None
    return low, opt, high


def _plain(*bounds: Any) -> Any:
    """A dimension's bounds as ints: command lines and configurations give them as shapes of one dimension."""
    return tuple(b[0] if isinstance(b, (tuple, list)) and len(b) == 1 else b for b in bounds)


def _ordered(r: tuple[Any, Any, Any], where: str, negative: bool = False) -> Range:
    least = -(1 << 40) if negative else 0
    ints = all(isinstance(x, int) and not isinstance(x, bool) for x in r)
    if not ints or not least <= r[0] <= r[1] <= r[2] < 1 << 40:
        raise ProfileError(f"the range {r} is not min <= opt <= max", where=where,
                           do=f"give three ints {'' if negative else '>= 0 '}in order")
    return r


def _learn_dim(name: str, shape: Shape, i: int, d: Dim, bounds: tuple[Any, Any, Any], learn: Any) -> None:
    where = f"input {name}"
    for b in bounds:
        if not isinstance(b, (tuple, list)) or len(b) != len(shape):
            raise ProfileError(f"the profile gives {b!r} for an input of rank {len(shape)}", where=where,
                               why=f"the model declares {shape}", do="give (min, opt, max), each a shape")
    low, opt, high = _ordered((bounds[0][i], bounds[1][i], bounds[2][i]), where)
    if isinstance(d, int):
        if not low == opt == high == d:
            raise ProfileError(f"the profile gives dimension {i} the range {low} to {high}", where=where,
                               why=f"in the model it is {d}", do="export the model with that dimension dynamic")
        return
    solved = [solve(d, v) for v in (low, opt, high)]
    if any(s is None for s in solved):
        if not isinstance(d, Sym) or len(names(d)) < 2:
            raise ProfileError(f"dimension {i}, which is {d}, cannot range from {low} to {high}", where=where)
        return  # of several symbols: their own ranges decide
    values = [s[1] for s in solved if s is not None]
    learn(solved[0][0], tuple(values), where)  # type: ignore[index]

