"""Integers that depend on shapes, in their JSON form: checking and evaluating.

A dim is an int, or `[[coefficient, [atom...]]...]`: a sum of products; an atom is a name or
`["floordiv" | "mod" | "min" | "max", dim, dim]`. (What `whet.ir.symbolic.to_json` writes; the runtime
does not need the IR to read it.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from whet.plan.data import DimJson

MAX_DEPTH = 32
MAX_NODES = 100_000
_LIMIT = 1 << 62
_OPS = ("floordiv", "mod", "min", "max")


def check(d: Any, known: Iterable[str]) -> str:
    """"" if d is a dim over `known` names of a sensible size, else what is wrong with it."""
    budget = [MAX_NODES]
    return _check(d, frozenset(known), 0, budget)


def _check(d: Any, known: frozenset[str], depth: int, budget: list[int]) -> str:
    budget[0] -= 1
    if budget[0] < 0:
        return "an expression is too large"
    if isinstance(d, int) and not isinstance(d, bool):
        return "" if -_LIMIT < d < _LIMIT else f"the integer {d} is too large"
    if depth > MAX_DEPTH:
        return "an expression is too large"
    if not isinstance(d, list):
        return f"{d!r:.60} is not a dimension"
    for row in d:
        if not (isinstance(row, list) and len(row) == 2 and isinstance(row[0], int) and isinstance(row[1], list)):
            return f"{row!r:.60} is not a product"
        if wrong := _check(row[0], known, depth, budget):
            return wrong
        for atom in row[1]:
            budget[0] -= 1
            if budget[0] < 0:
                return "an expression is too large"
            if isinstance(atom, str):
                if atom not in known:
                    return f"the dimension {atom!r:.60} is not in the profile"
            elif isinstance(atom, list) and len(atom) == 3 and atom[0] in _OPS:
                for part in atom[1:]:
                    if wrong := _check(part, known, depth + 1, budget):
                        return wrong
            else:
                return f"{atom!r:.60} is not a factor"
    return ""


def evaluate(d: DimJson, env: Mapping[str, int]) -> int:
    """The value of a checked dim. KeyError: a name not in env; ZeroDivisionError as in Python."""
    if isinstance(d, int):
        return d
    total = 0
    for coefficient, atoms in d:
        term = coefficient
        for atom in atoms:
            term *= env[atom] if isinstance(atom, str) else _apply(atom, env)
        total += term
    return total


def _apply(atom: list[Any], env: Mapping[str, int]) -> int:
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


def plain_name(d: DimJson) -> str | None:
    """The name, where d is just a name."""
    match d:
        case [[1, [str() as name]]]:
            return name
    return None


def tellers(shapes: Sequence[Sequence[DimJson]], known: Iterable[str]) -> list[tuple[int, int, str]]:
    """(which shape, which axis, name): the dimensions that tell names which are not `known`, in an order in which each
    has one unknown name at most. Dimensions that are just a name come first, then those that are linear in one."""
    told = set(known)
    places = [(i, k, d) for i, shape in enumerate(shapes) for k, d in enumerate(shape) if not isinstance(d, int)]
    places.sort(key=lambda p: plain_name(p[2]) is None)
    found: list[tuple[int, int, str]] = []
    while more := next(((i, k, n) for i, k, d in places if (n := _unknown(d, told))), None):
        found.append(more)
        told.add(more[2])
    return found


def _unknown(d: DimJson, known: set[str]) -> str | None:
    """The one name that is not known, where d is linear in it."""
    open_ = names(d) - known
    if isinstance(d, int) or len(open_) != 1:
        return None
    (name,) = open_
    return name if [atoms for c, atoms in d if name in names([[c, atoms]])] == [[name]] else None


def solve(d: DimJson, name: str, size: int, env: Mapping[str, int]) -> int | None:
    """The value of `name` for which d, which is linear in it, is `size`; None if no whole number >= 0 is."""
    assert not isinstance(d, int)
    slope = next(c for c, atoms in d if atoms == [name])
    value, rest = divmod(size - evaluate(d, {**env, name: 0}), slope)
    return None if rest or value < 0 else value


def names(d: DimJson) -> set[str]:
    """The names that occur in d."""
    if isinstance(d, int):
        return set()
    out: set[str] = set()
    for _, atoms in d:
        for atom in atoms:
            out |= {atom} if isinstance(atom, str) else names(atom[1]) | names(atom[2])
    return out


def show(d: DimJson) -> str:
    """For people: `batch`, `2*seq + 1`, `(seq + 7)//8`."""
    if isinstance(d, int):
        return str(d)
    out = ""
    for coefficient, atoms in d:
        factors = [a if isinstance(a, str) else _show_atom(a) for a in atoms]
        size = abs(coefficient)
        body = "*".join(([str(size)] if size != 1 or not factors else []) + factors)
        sign = "-" if coefficient < 0 else "+"
        out += f" {sign} {body}" if out else ("-" if coefficient < 0 else "") + body
    return out or "0"


def _show_atom(atom: list[Any]) -> str:
    a, b = show(atom[1]), show(atom[2])
    match atom[0]:
        case "floordiv":
            return f"{_wrap(a)}//{_wrap(b)}"
        case "mod":
            return f"{_wrap(a)}%{_wrap(b)}"
        case op:
            return f"{op}({a}, {b})"


def _wrap(text: str) -> str:
    return text if text.isalnum() else f"({text})"
