"""Symbolic dimensions: integers, names, and exact arithmetic over them.

A `Dim` is a Python int or a `Sym`. A `Sym` is a polynomial with integer coefficients over atoms:
a name (`batch`), or an opaque `floordiv`, `mod`, `min`, `max` of two dims. Polynomials are kept in
canonical form, so equal expressions compare and hash equal, and `(b + 1) - b` is the int 1.
All names stand for integers >= 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Atom = tuple[Any, ...]  # ("name", n) | ("floordiv"|"mod"|"min"|"max", Dim, Dim)
Monomial = tuple[Atom, ...]


class Sym:
    """An immutable symbolic integer. Build with `symbol(name)` and the ordinary operators."""

    __slots__ = ("_hash", "terms")

    def __init__(self, terms: tuple[tuple[Monomial, int], ...]) -> None:
        self.terms = terms
        self._hash = hash(terms)

    def __reduce__(self) -> tuple[Any, ...]:
        return Sym, (self.terms,)  # the hash of a string differs between processes

    def __add__(self, other: Dim) -> Dim:
        return _make(_sum(_terms(self), _terms(other), 1))

    __radd__ = __add__

    def __sub__(self, other: Dim) -> Dim:
        return _make(_sum(_terms(self), _terms(other), -1))

    def __rsub__(self, other: Dim) -> Dim:
        return _make(_sum(_terms(other), _terms(self), -1))

    def __neg__(self) -> Dim:
        return 0 - self

    def __mul__(self, other: Dim) -> Dim:
        out: dict[Monomial, int] = {}
        for ma, ca in _terms(self).items():
            for mb, cb in _terms(other).items():
                m = tuple(sorted(ma + mb, key=repr))
                out[m] = out.get(m, 0) + ca * cb
        return _make(out)

    __rmul__ = __mul__

    def __floordiv__(self, other: Dim) -> Dim:
        return _floordiv(self, other)

    def __rfloordiv__(self, other: Dim) -> Dim:
        return _floordiv(other, self)

    def __mod__(self, other: Dim) -> Dim:
        return _mod(self, other)

    def __rmod__(self, other: Dim) -> Dim:
        return _mod(other, self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sym) and self.terms == other.terms

    def __hash__(self) -> int:
        return self._hash

    def __bool__(self) -> bool:
        raise TypeError(f"truth value of the symbolic dimension {self} is not known")

    def __repr__(self) -> str:
        return _show(self)


Dim = int | Sym
Shape = tuple[Dim, ...]


def symbol(name: str) -> Sym:
    """The dimension called `name`."""
    return Sym((((("name", name),), 1),))


def minimum(a: Dim, b: Dim) -> Dim:
    """min(a, b), folded where the order is known for all values of the names."""
    return _extreme("min", a, b)


def maximum(a: Dim, b: Dim) -> Dim:
    """max(a, b), folded where the order is known for all values of the names."""
    return _extreme("max", a, b)


def ceildiv(a: Dim, b: Dim) -> Dim:
    """a / b rounded up, for b > 0."""
    return (a + b - 1) // b


def product(dims: Iterable[Dim]) -> Dim:
    """The product of dims (1 for none)."""
    out: Dim = 1
    for d in dims:
        out = out * d
    return out


def is_static(dims: Iterable[Dim]) -> bool:
    """True if every dim is an int."""
    return all(isinstance(d, int) for d in dims)


def names(*dims: Dim) -> set[str]:
    """The names that occur in dims."""
    out: set[str] = set()
    for d in dims:
        if isinstance(d, Sym):
            for mono, _ in d.terms:
                for atom in mono:
                    out |= {atom[1]} if atom[0] == "name" else names(atom[1], atom[2])
    return out


def evaluate(d: Dim, env: Mapping[str, int]) -> int:
    """The value of d; KeyError for a name that env lacks, ZeroDivisionError as in Python."""
    if isinstance(d, int):
        return d
    total = 0
    for mono, coef in d.terms:
        for atom in mono:
            coef *= _eval_atom(atom, env)
        total += coef
    return total


def substitute(d: Dim, env: Mapping[str, Dim]) -> Dim:
    """d with names replaced by dims."""
    if isinstance(d, int):
        return d
    total: Dim = 0
    for mono, coef in d.terms:
        term: Dim = coef
        for atom in mono:
            if atom[0] == "name":
                term = term * env.get(atom[1], symbol(atom[1]))
            else:
                a, b = substitute(atom[1], env), substitute(atom[2], env)
                term = term * _apply(atom[0], a, b)
        total = total + term
    return total


def upper(d: Dim, ranges: Mapping[str, tuple[int, int]]) -> int:
    """An upper bound of d for names within `ranges` (inclusive), by interval arithmetic."""
    return _interval(d, ranges)[1]


def lower(d: Dim, ranges: Mapping[str, tuple[int, int]]) -> int:
    """A lower bound of d for names within `ranges` (inclusive), by interval arithmetic."""
    return _interval(d, ranges)[0]


def to_json(d: Dim) -> Any:
    """A JSON value: an int, or [[coef, [atom...]]...] where an atom is a name or [op, dim, dim]."""
    if isinstance(d, int):
        return d
    return [[c, [a[1] if a[0] == "name" else [a[0], to_json(a[1]), to_json(a[2])] for a in m]]
            for m, c in d.terms]


def from_json(j: Any) -> Dim:
    """The inverse of `to_json`. ValueError for anything malformed."""
    if isinstance(j, int) and not isinstance(j, bool):
        return j
    if not isinstance(j, list):
        raise ValueError(f"not a dimension: {j!r}")
    total: Dim = 0
    for row in j:
        if not (isinstance(row, list) and len(row) == 2 and isinstance(row[1], list)):
            raise ValueError(f"not a dimension: {j!r}")
        term = from_json(row[0])
        for a in row[1]:
            if isinstance(a, str):
                term = term * symbol(a)
            elif isinstance(a, list) and len(a) == 3 and a[0] in _OPS:
                term = term * _apply(a[0], from_json(a[1]), from_json(a[2]))
            else:
                raise ValueError(f"not a dimension: {j!r}")
        total = total + term
    return total


def parse(text: str) -> Dim:
    """A dim from text such as `2*batch + 1` or `(seq + 7)//8`. ValueError if it is anything else."""
    import ast

    def walk(n: ast.AST) -> Dim:
        match n:
            case ast.Constant(value=int() as v) if not isinstance(v, bool):
                return v
            case ast.Name(id=name):
                return symbol(name)
            case ast.UnaryOp(op=ast.USub(), operand=a):
                return 0 - walk(a)
            case ast.BinOp(left=a, op=op, right=b):
                x, y = walk(a), walk(b)
                match op:
                    case ast.Add():
                        return x + y
                    case ast.Sub():
                        return x - y
                    case ast.Mult():
                        return x * y
                    case ast.FloorDiv():
                        return x // y
                    case ast.Mod():
                        return x % y
            case ast.Call(func=ast.Name(id="min" | "max" as f), args=[a, b]):
                return _extreme(f, walk(a), walk(b))
        raise ValueError(f"not a dimension expression: {text!r}")

    try:
        return walk(ast.parse(text.strip(), mode="eval").body)
    except SyntaxError as e:
        raise ValueError(f"not a dimension expression: {text!r}") from e


# ---- inside ---------------------------------------------------------------------------------

_OPS = ("floordiv", "mod", "min", "max")


def _terms(d: Dim) -> dict[Monomial, int]:
    if isinstance(d, Sym):
        return dict(d.terms)
    return {(): d} if d else {}


def _sum(a: dict[Monomial, int], b: dict[Monomial, int], sign: int) -> dict[Monomial, int]:
    for m, c in b.items():
        a[m] = a.get(m, 0) + sign * c
    return a


def _make(terms: dict[Monomial, int]) -> Dim:
    kept = {m: c for m, c in terms.items() if c}
    if not kept:
        return 0
    if len(kept) == 1 and () in kept:
        return kept[()]
    return Sym(tuple(sorted(kept.items(), key=lambda t: (-len(t[0]), repr(t[0])))))


def _atom(op: str, a: Dim, b: Dim) -> Dim:
    return Sym((((((op, a, b)),), 1),))


def _apply(op: str, a: Dim, b: Dim) -> Dim:
    if op == "floordiv":
        return _floordiv(a, b)
    if op == "mod":
        return _mod(a, b)
    return _extreme(op, a, b)


def _split(a: Dim, b: int) -> tuple[Dim, Dim]:
    """a = b * q + r with every coefficient of r in [0, b)."""
    q: dict[Monomial, int] = {}
    r: dict[Monomial, int] = {}
    for m, c in _terms(a).items():
        q[m], r[m] = divmod(c, b)
    return _make(q), _make(r)


def _divide_exact(a: Dim, b: Dim) -> Dim | None:
    """a / b as a polynomial, or None where b does not divide a: long division by the leading terms."""
    divisor, rest = _terms(b), _terms(a)
    if not divisor:
        return None
    lead = max(divisor, key=_degree)
    out: dict[Monomial, int] = {}
    while rest:
        top = max(rest, key=_degree)
        left = list(top)
        for atom in lead:
            if atom not in left:
                return None
            left.remove(atom)
        if rest[top] % divisor[lead]:
            return None
        factor, c = tuple(left), rest[top] // divisor[lead]
        out[factor] = c
        for m, d in divisor.items():
            key = tuple(sorted(factor + m, key=repr))
            rest[key] = rest.get(key, 0) - c * d
            if not rest[key]:
                del rest[key]
    return _make(out)


def _degree(m: Monomial) -> tuple[int, tuple[str, ...]]:
    """Graded order of monomials: products keep it, so that the leading term of a product is that of its factors."""
    return len(m), tuple(map(repr, m))


def _floordiv(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    if b == 1:
        return a
    exact = _divide_exact(a, b)
    if exact is not None:
        return exact
    if isinstance(b, int) and b > 0:
        q, r = _split(a, b)
        if isinstance(r, int):
            return q
        inner = _single_atom(r)
        if inner and inner[0] == "floordiv" and isinstance(inner[2], int) and inner[2] > 0:
            return q + _floordiv(inner[1], inner[2] * b)
        return q + _atom("floordiv", r, b)
    return _atom("floordiv", a, b)


def _mod(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return a % b
    if _divide_exact(a, b) is not None:
        return 0
    if isinstance(b, int) and b > 0:
        _, r = _split(a, b)
        return r if isinstance(r, int) else _atom("mod", r, b)
    return _atom("mod", a, b)


def _single_atom(d: Dim) -> Atom | None:
    if isinstance(d, Sym) and len(d.terms) == 1 and d.terms[0][1] == 1 and len(d.terms[0][0]) == 1:
        return d.terms[0][0][0]
    return None


def _extreme(op: str, a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return min(a, b) if op == "min" else max(a, b)
    diff = a - b
    wide = dict.fromkeys(names(diff), (0, 1 << 40))
    lo, hi = _interval(diff, wide)
    if lo >= 0:
        return b if op == "min" else a
    if hi <= 0:
        return a if op == "min" else b
    first, second = sorted((a, b), key=repr)
    return _atom(op, first, second)


def _eval_atom(atom: Atom, env: Mapping[str, int]) -> int:
    if atom[0] == "name":
        return env[atom[1]]
    a, b = evaluate(atom[1], env), evaluate(atom[2], env)
    match atom[0]:
        case "floordiv":
            return a // b
        case "mod":
            return a % b
        case "min":
            return min(a, b)
        case _:
            return max(a, b)


def _interval(d: Dim, ranges: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    if isinstance(d, int):
        return d, d
    lo = hi = 0
    for mono, coef in d.terms:
        l, h = coef, coef
        for atom in mono:
            al, ah = _atom_interval(atom, ranges)
            corners = (l * al, l * ah, h * al, h * ah)
            l, h = min(corners), max(corners)
        lo, hi = lo + l, hi + h
    return lo, hi


def _atom_interval(atom: Atom, ranges: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    if atom[0] == "name":
        return ranges[atom[1]]
    (al, ah), (bl, bh) = _interval(atom[1], ranges), _interval(atom[2], ranges)
    match atom[0]:
        case "min":
            return min(al, bl), min(ah, bh)
        case "max":
            return max(al, bl), max(ah, bh)
        case "mod" if bl > 0:
            return 0, min(bh - 1, ah) if al >= 0 else bh - 1
        case "floordiv" if bl > 0:
            corners = (al // bl, al // bh, ah // bl, ah // bh)
            return min(corners), max(corners)
        case _:
            return -(1 << 62), 1 << 62


def _show(d: Dim) -> str:
    if isinstance(d, int):
        return str(d)
    out = ""
    for mono, c in d.terms:
        factors = [a[1] if a[0] == "name"
                   else f"({_show(a[1])})//({_show(a[2])})" if a[0] == "floordiv"
                   else f"({_show(a[1])})%({_show(a[2])})" if a[0] == "mod"
                   else f"{a[0]}({_show(a[1])}, {_show(a[2])})" for a in mono]
        mag = abs(c)
        body = "*".join(([str(mag)] if mag != 1 or not factors else []) + factors)
        out += (" - " if c < 0 else " + ") + body if out else ("-" if c < 0 else "") + body
    return out
