"""Lowerings of linear algebra beyond products: Einsum and Det."""

from __future__ import annotations

from whet.errors import GraphError
from whet.frontends.call import Call, NeedsReferenceError, lowers
from whet.frontends.formulas import Formula, formula, iota
from whet.ir.graph import Value
from whet.ir.symbolic import Dim, product

MAX_DET = 32  # rows of a matrix whose elimination is unrolled


def _letters(text: str, rank: int, c: Call) -> list[str]:
    """One einsum operand's indices; an ellipsis becomes the numbers of the dimensions that it stands for."""
    head, dots, tail = text.partition("...")
    n = rank - len(head) - len(tail)
    if (n != 0 and not dots) or n < 0:
        raise GraphError(f"einsum: {text!r} does not fit rank {rank}", where=c.origin, do="check the equation")
    return [*head, *(f"{i - n}" for i in range(n)), *tail]


@lowers("Einsum")
def _einsum(c: Call) -> Value:
    """Contracts operands two at a time: diagonals, transpose, reshape, matmul, transpose."""
    equation = c.attr("equation").replace(" ", "")
    left, arrow, right = equation.partition("->")
    values = c.operands()
    texts = left.split(",")
    if len(texts) != len(values):
        raise GraphError(f"einsum: {equation!r} is for {len(texts)} operands", where=c.origin, do="check the equation")
    terms = [_letters(t, v.rank, c) for t, v in zip(texts, values)]
    flat = [l for t in terms for l in t]
    dots = sorted({l for l in flat if l.lstrip("-").isdigit()}, key=int)
    if arrow:
        head, has_dots, tail = right.partition("...")
        out = [*head, *(dots if has_dots else []), *tail]
    else:
        out = dots + sorted(l for l in set(flat) - set(dots) if flat.count(l) == 1)
    if not set(out) <= set(flat) or len(set(out)) < len(out):
        raise GraphError(f"einsum: {equation!r} has an output that its operands do not give", where=c.origin,
                         do="check the equation")
    values, terms = _broadcast(c, *_diagonals(c, values, terms))
    x, have = values[0], terms[0]
    for k in range(1, len(values)):
        later = {l for t in terms[k + 1:] for l in t} | set(out)
        x, have = _contract(c, x, have, values[k], terms[k], later)
    summed = tuple(i for i, l in enumerate(have) if l not in out)
    if summed:
        x, have = c.reduce(x, "sum", summed, keepdims=False), [l for l in have if l in out]
    missing = [l for l in out if l not in have]  # of size 1 in every operand
    x, have = c.reshape(x, (*(1 for _ in missing), *x.shape)), missing + have
    return c.transpose(x, (have.index(l) for l in out))


def _diagonals(c: Call, values: list[Value], terms: list[list[str]]) -> tuple[list[Value], list[list[str]]]:
    """Operands in which no index occurs twice: every other element n + 1 of the flattened pair."""
    out: list[Value] = []
    names: list[list[str]] = []
    for x, term in zip(values, terms):
        term = list(term)
        while len(set(term)) < len(term):
            twice = next(l for l in term if term.count(l) > 1)
            i = term.index(twice)
            j = term.index(twice, i + 1)
            rest = [k for k in range(x.rank) if k not in (i, j)]
            n = x.shape[i]
            if not isinstance(n, int) or x.shape[j] != n:
                raise NeedsReferenceError("a diagonal of a dynamic or oblong matrix")
            x = c.transpose(x, (*rest, i, j))
            x = c.slice(c.reshape(x, (*x.shape[:-2], n * n)), x.rank - 2, 0, n, n + 1)
            term = [*(term[k] for k in rest), twice]
        out.append(x)
        names.append(term)
    return out, names


def _broadcast(c: Call, values: list[Value], terms: list[list[str]]) -> tuple[list[Value], list[list[str]]]:
    """Operands without their indices of size 1 where another operand's is larger."""
    large = {l for v, t in zip(values, terms) for d, l in zip(v.shape, t) if d != 1}
    kept = [[i for i, l in enumerate(t) if v.shape[i] != 1 or l not in large] for v, t in zip(values, terms)]
    return ([c.reshape(v, (v.shape[i] for i in k)) for v, k in zip(values, kept)],
            [[t[i] for i in k] for t, k in zip(terms, kept)])


def _contract(c: Call, a: Value, ia: list[str], b: Value, ib: list[str], later: set[str]) -> tuple[Value, list[str]]:
    """The product of two operands, summed over the indices that nothing needs later."""
    lone = tuple(i for i, l in enumerate(ia) if l not in ib and l not in later)
    if lone:
        a, ia = c.reduce(a, "sum", lone, keepdims=False), [l for i, l in enumerate(ia) if i not in lone]
    lone = tuple(i for i, l in enumerate(ib) if l not in ia and l not in later)
    if lone:
        b, ib = c.reduce(b, "sum", lone, keepdims=False), [l for i, l in enumerate(ib) if i not in lone]
    batch = [l for l in ia if l in ib and l in later]
    inner = [l for l in ia if l in ib and l not in later]
    rows, cols = [l for l in ia if l not in ib], [l for l in ib if l not in ia]
    a = c.transpose(a, (ia.index(l) for l in batch + rows + inner))
    b = c.transpose(b, (ib.index(l) for l in batch + inner + cols))
    nb, nr, ni = len(batch), len(rows), len(inner)
    lead, m, n = a.shape[:nb], a.shape[nb:nb + nr], b.shape[nb + ni:]
    if not inner:  # an outer product
        tall, wide = c.reshape(a, (*a.shape, *(1 for _ in cols))), c.reshape(b, (*lead, *(1 for _ in rows), *n))
        return c.emit("mul", tall, wide), batch + rows + cols
    k = product(a.shape[nb + nr:])
    y = c.emit("matmul", c.reshape(a, (*lead, product(m), k)), c.reshape(b, (*lead, k, product(n))))
    return c.reshape(y, (*lead, *m, *n)), batch + rows + cols


@lowers("Det")
def _det(c: Call) -> Value:
    """Up to three rows by the definition, more by Gaussian elimination with the greatest pivot of each column."""
    x = formula(c, 0)
    *batch, rows, n = x.shape
    if not isinstance(n, int) or rows != n or n > MAX_DET or not x.dtype.is_float:
        raise NeedsReferenceError("of matrices so large, dynamic, or of integers")
    count: Dim = product(batch)
    a = x.reshape(count, n, n)
    return (_small_det(a, n) if n <= 3 else _eliminated(a, n)).reshape(*batch).value


def _small_det(a: Formula, n: int) -> Formula:
    def at(i: int, j: int) -> Formula:
        return a.pick(1, i).pick(1, j)

    if n == 1:
        return at(0, 0)
    if n == 2:
        return at(0, 0) * at(1, 1) - at(0, 1) * at(1, 0)
    minors = [at(1, (j + 1) % 3) * at(2, (j + 2) % 3) - at(1, (j + 2) % 3) * at(2, (j + 1) % 3) for j in range(3)]
    return at(0, 0) * minors[0] + at(0, 1) * minors[1] + at(0, 2) * minors[2]


def _eliminated(a: Formula, n: int) -> Formula:
    """The product of the pivots of [B, n, n], negated for every exchange of rows."""
    c, count = a.call, a.shape[0]
    det: Formula | None = None
    while n > 1:
        where = a.pick(2, 0).abs().apply("arg", kind="max", axis=1, keepdims=True)  # [B, 1]
        first = a.slice(1, 0, 1)
        top = a.apply("gather_nd", where.reshape(count, 1, 1), batch_dims=1)  # [B, 1, n]
        pivot = top.slice(2, 0, 1)
        sign = where.eq(0).to(a.dtype) * 2 - 1
        factor = pivot.reshape(count, 1) * sign
        det = factor if det is None else det * factor
        taken = iota(c, n).reshape(1, n, 1).eq(where.reshape(count, 1, 1))
        rest = taken.where(first, a).slice(1, 1, n - 1)
        safe = pivot.eq(0).where(pivot * 0 + 1, pivot)
        a = rest.slice(2, 1, n - 1) - rest.slice(2, 0, 1) / safe * top.slice(2, 1, n - 1)
        n -= 1
    last = a.reshape(count, 1)
    return last if det is None else det * last
