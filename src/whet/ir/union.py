"""Disjoint sets of values."""

from __future__ import annotations

from whet.ir.graph import Value


class Union:
    """Values in sets that can be joined (union-find with path halving)."""

    def __init__(self) -> None:
        self._parent: dict[Value, Value] = {}

    def find(self, v: Value) -> Value:
        """The value that stands for v's set; a value that was not met before is a set of its own."""
        parent = self._parent
        parent.setdefault(v, v)
        while parent[v] is not v:
            parent[v] = parent[parent[v]]
            v = parent[v]
        return v

    def join(self, a: Value, b: Value) -> None:
        """Make one set of a's and b's; what stands for b's then stands for both."""
        self._parent[self.find(a)] = self.find(b)

    def representatives(self) -> dict[Value, Value]:
        """For every value that was met, the one that stands for its set."""
        return {v: self.find(v) for v in list(self._parent)}
