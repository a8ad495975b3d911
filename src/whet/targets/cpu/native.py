"""What the native driver is written in: the kernels' language, and atomics, futexes, open loops and returns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from whet import abi
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, Val

_FUTEX = {"x86_64": 202, "aarch64": 98}
_WAIT, _WAKE = 128, 129  # FUTEX_*_PRIVATE


class Native(Fn):
    """A function of the driver: the kernel language, and atomics, open loops and returns."""

    def __init__(self, name: str, isa: Isa, params: list[tuple[str, str]], ret: str = "i64",
                 public: bool = False) -> None:
        super().__init__(name, isa, params, ret)
        self.linkage = "" if public else "internal "
        self.arch = isa.triple.split("-")[0]

    def definition(self) -> str:
        sig = ", ".join(f"{t} %{n}" for n, t in ((n, t) for t, n in self.params))
        return "\n".join([f"define {self.linkage}{self.ret} @{self.name}({sig}) #0 {{", "entry:", *self._allocas,
                          *self._body, "  unreachable", "}", ""])

    def intrinsics(self) -> list[str]:
        return [d for n, d in self._declares.items() if n.startswith("llvm.")]

    def ret_(self, v: Any) -> None:
        """Return v; what follows is emitted into a block that nothing reaches."""
        self.line(f"ret {self.ret} {self.coerce(v, self.ret).ref}")
        self._start(self._label("after"))

    @contextmanager
    def loop(self) -> Iterator[Loop]:
        """An endless loop; leave it by `loop.leave_if(cond)` or a return."""
        head, done = self._label("loop"), self._label("left")
        self.line(f"br label %{head}")
        self._start(head)
        yield Loop(self, head, done)
        self.line(f"br label %{head}")
        self._start(done)

    def get(self, base: Val, offset: int, ty: str = "i64") -> Val:
        return self.load(ty, base + offset)

    def put(self, v: Any, base: Val, offset: int, ty: str = "i64") -> None:
        self.store(self.coerce(v, ty), base + offset)

    def atomic_load(self, p: Val, ty: str = "i64") -> Val:
        return self.emit(ty, f"load atomic {ty}, ptr {p.ref} seq_cst, align {8 if ty == 'i64' else 4}")

    def atomic_store(self, v: Any, p: Val, ty: str = "i64", order: str = "seq_cst") -> None:
        v = self.coerce(v, ty)
        self.line(f"store atomic {ty} {v.ref}, ptr {p.ref} {order}, align {8 if ty == 'i64' else 4}")

    def atomic_add(self, p: Val, v: Any, ty: str = "i64") -> Val:
        """Adds; gives the value before."""
        v = self.coerce(v, ty)
        return self.emit(ty, f"atomicrmw add ptr {p.ref}, {ty} {v.ref} seq_cst")

    def swapped(self, p: Val, old: Val, new: Any) -> Val:
        """Compare and swap of an i64; true if it held `old`."""
        new = self.coerce(new, "i64")
        pair = self.emit("{ i64, i1 }", f"cmpxchg ptr {p.ref}, i64 {old.ref}, i64 {new.ref} seq_cst seq_cst")
        return self.emit("i1", f"extractvalue {{ i64, i1 }} {pair.ref}, 1")

    def pause(self) -> None:
        if self.arch == "x86_64":
            self.call("llvm.x86.sse2.pause", "void", [])
        else:
            self.call("llvm.aarch64.hint", "void", [self.const("i32", 1)])  # yield

    def shift_right(self, v: Val, by: int) -> Val:
        return self.op("lshr", v, self.i64(by))

    def shift_left(self, v: Val, by: int) -> Val:
        return v << by

    def to_int(self, p: Val) -> Val:
        return self.emit("i64", f"ptrtoint ptr {p.ref} to i64")

    def to_ptr(self, v: Val) -> Val:
        return self.emit("ptr", f"inttoptr i64 {v.ref} to ptr")

    def imported(self, pool: Val, name: str, args: list[Any], ret: str = "i64") -> Val:
        """Call a C function of the import table (integers and pointers only)."""
        f = self.load("ptr", pool + (abi.POOL_IMPORTS + 8 * abi.IMPORTS.index(name)))
        text = ", ".join(f"{a.ty} {a.ref}" for a in (self.i64(a) if isinstance(a, int) else a for a in args))
        return self.emit(ret, f"call {ret} {f.ref}({text})")

    def futex_wait(self, pool: Val, word: Val, expected: Any) -> None:
        """Sleep while the u32 at `word` is `expected` (may wake for no reason)."""
        e = expected if isinstance(expected, int) else self.cast("zext", expected, "i64")
        self.imported(pool, "syscall", [_FUTEX[self.arch], word, _WAIT, e, 0, 0, 0])

    def futex_wake(self, pool: Val, word: Val) -> None:
        self.imported(pool, "syscall", [_FUTEX[self.arch], word, _WAKE, 0x7FFFFFFF, 0, 0, 0])

    def kernel(self, step: Val, begin: Any, end: Any, scratch: Val) -> None:
        """Run the tiles [begin, end) of a step."""
        f = self.load("ptr", step + abi.STEP_KERNEL)
        args = self.load("ptr", step + abi.STEP_ARGS)
        b, e = self.i64(begin), self.i64(end)
        self.line(f"call void {f.ref}(ptr {args.ref}, i64 {b.ref}, i64 {e.ref}, ptr {scratch.ref})")

    def stamp(self, run: Val, step: Any) -> None:
        """times[step] = now, where times are wanted."""
        times = self.get(run, abi.RUN_TIMES)
        with self.if_(times.ne(0)):
            now = self.call("whet_now", "i64", [self.load("ptr", run + abi.RUN_POOL)])
            self.store(now, self.to_ptr(times) + step * 8)

    def spinning(self, pool: Val, limit: Val) -> Spin:
        return Spin(self, pool, limit)


class Loop:
    """An endless loop that is being written."""

    def __init__(self, fn: Native, head: str, done: str) -> None:
        self.fn, self.head, self.done = fn, head, done

    def leave_if(self, cond: Val) -> None:
        self._branch(cond, self.done)

    def again_if(self, cond: Val) -> None:
        self._branch(cond, self.head)

    def _branch(self, cond: Val, to: str) -> None:
        on = self.fn._label("on")
        self.fn.line(f"br i1 {cond.ref}, label %{to}, label %{on}")
        self.fn._start(on)


class Spin:
    """Bounded spinning: `step()` pauses, and is true once `limit` ns have passed since the first look at
    the clock (every 64 pauses, for the clock is slower than a pause)."""

    def __init__(self, fn: Native, pool: Val, limit: Val) -> None:
        self.fn, self.pool, self.limit = fn, pool, limit
        self.turns, self.deadline = fn.var("i64", 0), fn.var("i64", 0)

    def step(self) -> Val:
        k = self.fn
        k.pause()
        turn = self.turns.get() + 1
        self.turns.set(turn)
        over = k.var("i1", 0)
        with k.if_((turn & 63).eq(0)):
            now = k.call("whet_now", "i64", [self.pool])
            fresh = self.deadline.get().eq(0)
            self.deadline.set(k.select(fresh, now + self.limit, self.deadline.get()))
            over.set(now >= self.deadline.get())
        return over.get()
