"""What a context keeps between runs: growing buffers (key-value caches) and values that are handed on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from whet.errors import InputError
from whet.plan import dims
from whet.plan.manifest import np_dtype
from whet.plan.program import Tensor
from whet.runtime.binding import evaluate
from whet.runtime.feeds import Borrowed, borrow
from whet.runtime.program import Loaded


class States:
    """A context's states; empty until the first run."""

    def __init__(self, programs: Sequence[Loaded]) -> None:
        self.programs = programs
        self.inputs = set(programs[0].states)
        self.outputs = {s.output for s in programs[0].states.values()}
        self._values: dict[str, np.ndarray] = {}  # buffers, or the values handed on
        self._lengths: dict[str, int] = {}  # of the growing dimension of states in place
        self._fixed: dict[str, int] = {}  # the other dimensions of those: as long as they hold anything
        self.reset()

    def reset(self, length: int = 0) -> None:
        """Forget all but the first `length` elements of what grows, and, where that is 0, everything else too."""
        if length == 0:
            self._values = {n: v for n, v in self._values.items() if self.programs[0].states[n].in_place}
            self._fixed = {}
        elif not 0 < length <= min(self._lengths.values(), default=0):
            raise InputError(f"the states cannot be cut to the length {length}",
                             why=f"they have {min(self._lengths.values(), default=0)}", do="give at most that")
        elif any(not s.in_place for s in self.programs[0].states.values()):
            raise InputError("only states that grow in place can be cut", do="reset to 0")
        self._lengths = {n: length for n, s in self.programs[0].states.items() if s.in_place and s.length}
        for n, s in self.programs[0].states.items():
            if length == 0 and s.in_place and not s.length:
                self._values.pop(n, None)  # begins as zeros again

    def known(self) -> dict[str, int]:
        """The dimensions that the states tell before a run."""
        out = dict(self._fixed)
        for n, s in self.programs[0].states.items():
            if s.in_place and s.length:
                out[s.length] = self._lengths[n]
        return out

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Of a value that was handed on; None where the run's other inputs tell it."""
        v = self._values.get(name)
        return v.shape if v is not None and not self.programs[0].states[name].in_place else None

    def lend(self, loaded: Loaded, t: Tensor, env: dict[str, int]) -> Borrowed:
        """The state that is the input `t` of a run with these dimensions. Those that nothing tells are its least, or
        the greatest of a buffer whose rows are replaced."""
        state, dtype = loaded.states[t.name], np_dtype(t.dtype)
        shape = self.lent_shape(loaded, t, env)
        if not state.in_place:
            value = self._values.get(t.name)
            return borrow(np.zeros(shape, dtype) if value is None else value, dtype, t.name)
        if t.name not in self._values:
            self._values[t.name] = np.zeros(state.capacity, dtype)
        buffer = self._values[t.name]
        return Borrowed(buffer.ctypes.data, shape, buffer, dtype)

    def lent_shape(self, loaded: Loaded, t: Tensor, env: dict[str, int]) -> tuple[int, ...]:
        """The shape of the state that is the input `t`; dimensions that nothing tells are added to `env`."""
        state = loaded.states[t.name]
        for d in t.shape:
            for n in dims.names(d) - env.keys():
                env[n] = loaded.program.dims[n][2 if state.in_place and not state.length else 0]
        return tuple(evaluate(d, env) for d in t.shape)

    def keep(self, loaded: Loaded, results: dict[str, Any], env: Mapping[str, int]) -> None:
        """After a run: take its states out of the results."""
        for n, s in loaded.states.items():
            if s.in_place:
                if s.length:
                    self._lengths[n] = evaluate(s.grown, env)
                t = next(t for t in loaded.program.inputs if t.name == n)
                self._fixed |= {k: env[k] for d in t.shape for k in dims.names(d) if k != s.length}
            else:
                self._values[n] = results.pop(s.output)

    def read(self, name: str) -> np.ndarray | None:
        """A copy of a state's value, None before the first run."""
        if name not in self.inputs:
            raise InputError(f"there is no state {name!r}", why=f"the plan's are {sorted(self.inputs)}", do="name one")
        v, s = self._values.get(name), self.programs[0].states[name]
        if v is None or not s.in_place:
            return None if v is None else v.copy()
        t = next(t for t in self.programs[0].program.inputs if t.name == name)
        env = {**self._fixed, **({s.length: self._lengths[name]} if s.length else {})}
        if not all(dims.names(d) <= env.keys() for d in t.shape):
            return None
        return v[tuple(slice(evaluate(d, env)) for d in t.shape)].copy()
