"""The kernel language: Python that emits LLVM IR, as readable as a Triton kernel.

    k = Fn("scale", isa)
    x, y, n = k.arg_ptr(0), k.arg_ptr(1), k.arg_int(2)
    for i in k.range(k.begin, k.end):                 # a run-time loop; the body is emitted once
        v = k.load("float", x + i * 64, lanes=16)
        k.store(v * 2.0, y + i * 64)
    print(k.finish())

A `Val` is an SSA value. Python numbers mix freely with `Val`s and are folded: `n * 4` is a Python
int when n is one, so static sizes vanish from the code by themselves. Pointers advance in BYTES.
Integers are signed i64 unless said otherwise. Comparisons give i1 (or vectors of i1). Local
variables that loops change are `k.var(...)`: stack slots that LLVM promotes to registers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from whet.targets.cpu.isa import Isa


def vec(ty: str, lanes: int) -> str:
    """The type of a vector (of a scalar for lanes == 1)."""
    return ty if lanes == 1 else f"<{lanes} x {ty}>"


class Val:
    """An SSA value of LLVM type `ty`."""

    __slots__ = ("fn", "ref", "ty")

    def __init__(self, fn: Fn, ty: str, ref: str) -> None:
        self.fn, self.ty, self.ref = fn, ty, ref

    @property
    def scalar(self) -> str:
        """The element type."""
        return self.ty.split(" x ")[1][:-1] if self.ty[0] == "<" else self.ty

    @property
    def lanes(self) -> int:
        return int(self.ty[1:].split(" ")[0]) if self.ty[0] == "<" else 1

    @property
    def is_float(self) -> bool:
        return self.scalar in ("float", "double", "half", "bfloat")

    def _bin(self, other: Any, fop: str, iop: str, swap: bool = False) -> Val:
        o = self.fn.coerce(other, self.ty)
        a, b = (o, self) if swap else (self, o)
        return self.fn.op(fop if self.is_float else iop, a, b)

    def __add__(self, o: Any) -> Val:
        if self.ty == "ptr":
            return self.fn.gep(self, o)
        if isinstance(o, int) and o == 0 and not self.is_float:
            return self
        return self._bin(o, "fadd", "add")

    __radd__ = __add__

    def __sub__(self, o: Any) -> Val:
        if isinstance(o, int) and o == 0 and not self.is_float:
            return self
        return self._bin(o, "fsub", "sub")

    def __rsub__(self, o: Any) -> Val:
        return self._bin(o, "fsub", "sub", swap=True)

    def __mul__(self, o: Any) -> Any:
        if isinstance(o, int) and not self.is_float:
            if o == 1:
                return self
            if o == 0 and self.lanes == 1:
                return 0
        return self._bin(o, "fmul", "mul")

    __rmul__ = __mul__

    def __truediv__(self, o: Any) -> Val:
        return self._bin(o, "fdiv", "sdiv")

    def __rtruediv__(self, o: Any) -> Val:
        return self._bin(o, "fdiv", "sdiv", swap=True)

    def __floordiv__(self, o: Any) -> Val:
        """Integer division; operands are taken as non-negative."""
        return self if isinstance(o, int) and o == 1 else self._bin(o, "fdiv", "udiv")

    def __rfloordiv__(self, o: Any) -> Val:
        return self._bin(o, "fdiv", "udiv", swap=True)

    def __mod__(self, o: Any) -> Any:
        """Integer remainder; operands are taken as non-negative."""
        return 0 if isinstance(o, int) and o == 1 else self._bin(o, "frem", "urem")

    def __rmod__(self, o: Any) -> Val:
        return self._bin(o, "frem", "urem", swap=True)

    def __and__(self, o: Any) -> Val:
        return self.fn.op("and", self, self.fn.coerce(o, self.ty))

    def __or__(self, o: Any) -> Val:
        return self.fn.op("or", self, self.fn.coerce(o, self.ty))

    def __xor__(self, o: Any) -> Val:
        return self.fn.op("xor", self, self.fn.coerce(o, self.ty))

    def __lshift__(self, o: Any) -> Val:
        return self.fn.op("shl", self, self.fn.coerce(o, self.ty))

    def __rshift__(self, o: Any) -> Val:
        return self.fn.op("ashr", self, self.fn.coerce(o, self.ty))

    def __neg__(self) -> Val:
        if self.is_float:
            return self.fn.emit(self.ty, f"fneg {self.ty} {self.ref}")
        return self.fn.coerce(0, self.ty) - self

    def _cmp(self, o: Any, f: str, i: str) -> Val:
        return self.fn.cmp(f if self.is_float else i, self, o)

    def __lt__(self, o: Any) -> Val:
        return self._cmp(o, "olt", "slt")

    def __le__(self, o: Any) -> Val:
        return self._cmp(o, "ole", "sle")

    def __gt__(self, o: Any) -> Val:
        return self._cmp(o, "ogt", "sgt")

    def __ge__(self, o: Any) -> Val:
        return self._cmp(o, "oge", "sge")

    def eq(self, o: Any) -> Val:
        return self._cmp(o, "oeq", "eq")

    def ne(self, o: Any) -> Val:
        return self._cmp(o, "une", "ne")

    def __bool__(self) -> bool:
        raise TypeError("a run-time value has no truth at build time; use k.if_ or k.select")


class Var:
    """A mutable local of a fixed type; LLVM keeps it in registers."""

    __slots__ = ("fn", "ref", "ty")

    def __init__(self, fn: Fn, ty: str, ref: str) -> None:
        self.fn, self.ty, self.ref = fn, ty, ref

    def get(self) -> Val:
        return self.fn.emit(self.ty, f"load {self.ty}, ptr {self.ref}")

    def set(self, v: Any) -> None:
        v = self.fn.coerce(v, self.ty)
        self.fn.line(f"store {self.ty} {v.ref}, ptr {self.ref}")


IntLike = int | Val


class Fn:
    """A kernel under construction: `void name(ptr args, i64 begin, i64 end, ptr scratch)`."""

    def __init__(self, name: str, isa: Isa, params: Sequence[tuple[str, str]] | None = None, ret: str = "void") -> None:
        self.name, self.isa, self.ret = name, isa, ret
        self._n = 0
        self._body: list[str] = []
        self._allocas: list[str] = []
        self._declares: dict[str, str] = {}
        self._globals: list[str] = []
        self._block = "entry"
        self.params = params or [("ptr", "args"), ("i64", "begin"), ("i64", "end"), ("ptr", "scratch")]
        self.p = {n: Val(self, t, f"%{n}") for t, n in self.params}

    # -- the kernel's parameters ---------------------------------------------------------------

    @property
    def begin(self) -> Val:
        return self.p["begin"]

    @property
    def end(self) -> Val:
        return self.p["end"]

    @property
    def scratch(self) -> Val:
        return self.p["scratch"]

    def arg_ptr(self, i: int) -> Val:
        """Argument i as a pointer."""
        return self.emit("ptr", f"load ptr, ptr {(self.p['args'] + 8 * i).ref}, !invariant.load !0")

    def arg_int(self, i: int) -> Val:
        """Argument i as an integer."""
        return self.emit("i64", f"load i64, ptr {(self.p['args'] + 8 * i).ref}, !invariant.load !0")

    # -- raw emission ----------------------------------------------------------------------------

    def line(self, text: str) -> None:
        self._body.append("  " + text)

    def emit(self, ty: str, text: str) -> Val:
        self._n += 1
        ref = f"%t{self._n}"
        self.line(f"{ref} = {text}")
        return Val(self, ty, ref)

    def hoist(self, ty: str, text: str) -> Val:
        """Emit at the kernel's very start (operands: the kernel's parameters, or values hoisted before)."""
        self._n += 1
        self._allocas.append(f"  %t{self._n} = {text}")
        return Val(self, ty, f"%t{self._n}")

    def op(self, opcode: str, a: Val, b: Val) -> Val:
        """A two-operand instruction on values of the same type."""
        if a.ty != b.ty:
            raise TypeError(f"{opcode}: {a.ty} against {b.ty}")
        return self.emit(a.ty, f"{opcode} {a.ty} {a.ref}, {b.ref}")

    def cmp(self, pred: str, a: Val, b: Any) -> Val:
        b = self.coerce(b, a.ty)
        kind = "fcmp" if a.is_float else "icmp"
        return self.emit(vec("i1", a.lanes), f"{kind} {pred} {a.ty} {a.ref}, {b.ref}")

    def _label(self, hint: str) -> str:
        self._n += 1
        return f"{hint}{self._n}"

    def _start(self, label: str) -> None:
        self._body.append(f"{label}:")
        self._block = label

    # -- constants and conversions -----------------------------------------------------------------

    def coerce(self, v: Any, ty: str) -> Val:
        """v as a value of type ty: numbers become constants, scalars are splat to vectors."""
        if isinstance(v, Val):
            if v.ty == ty:
                return v
            want = ty.split(" x ")[1][:-1] if ty[0] == "<" else ty
            if v.ty == want:
                return self.splat(v, int(ty[1:].split(" ")[0]))
            raise TypeError(f"a {v.ty} where a {ty} is wanted")
        return self.const(ty, v)

    def const(self, ty: str, v: Any) -> Val:
        """A constant of scalar or vector type (every lane the same)."""
        if ty[0] == "<":
            scalar = ty.split(" x ")[1][:-1]
            return Val(self, ty, f"splat ({scalar} {_literal(scalar, v)})")
        return Val(self, ty, _literal(ty, v))

    def const_vector(self, scalar: str, values: Sequence[Any]) -> Val:
        """A constant vector with these lanes."""
        lanes = ", ".join(f"{scalar} {_literal(scalar, v)}" for v in values)
        return Val(self, vec(scalar, len(values)), f"<{lanes}>")

    def i64(self, v: IntLike) -> Val:
        return self.coerce(v, "i64")

    def splat(self, v: Val, lanes: int) -> Val:
        """A vector with v in every lane."""
        if lanes == 1:
            return v
        ty = vec(v.ty, lanes)
        one = self.emit(ty, f"insertelement {ty} poison, {v.ty} {v.ref}, i64 0")
        return self.emit(ty, f"shufflevector {ty} {one.ref}, {ty} poison, <{lanes} x i32> zeroinitializer")

    def cast(self, opcode: str, v: Val, scalar: str) -> Val:
        """`fpext`, `fptrunc`, `sitofp`, `zext`, `bitcast`... to `scalar` with the same lanes."""
        ty = vec(scalar, v.lanes)
        return self.emit(ty, f"{opcode} {v.ty} {v.ref} to {ty}")

    def bitcast(self, v: Val, ty: str) -> Val:
        return v if v.ty == ty else self.emit(ty, f"bitcast {v.ty} {v.ref} to {ty}")

    # -- memory ------------------------------------------------------------------------------------

    def gep(self, p: Val, nbytes: IntLike) -> Val:
        """p advanced by bytes."""
        if isinstance(nbytes, int) and nbytes == 0:
            return p
        return self.emit("ptr", f"getelementptr i8, ptr {p.ref}, i64 {self.i64(nbytes).ref}")

    def load(self, scalar: str, p: Val, lanes: int = 1, mask: Val | None = None, align: int | None = None,
             other: Any = 0) -> Val:
        """Load a scalar or `lanes` consecutive elements; masked-off lanes are `other`, not touched."""
        ty = vec(scalar, lanes)
        if mask is None:
            return self.emit(ty, f"load {ty}, ptr {p.ref}, align {align or _size(scalar)}")
        fill = self.coerce(other, ty)
        return self.call(f"llvm.masked.load.{_mangle(ty)}.p0", ty,
                         [p, mask, fill], param_attrs={0: f"align {align or _size(scalar)}"})

    def store(self, v: Val, p: Val, mask: Val | None = None, align: int | None = None) -> None:
        """Store a scalar or vector; masked-off lanes are not touched."""
        a = align or _size(v.scalar)
        if mask is not None and mask.ref.startswith("<i1 true") and mask.ref.count("true") == 1:
            v, mask = self.extract(v, 0), None  # LLVM 22 makes a scalar store of this, and forgets to truncate
        if mask is None:
            self.line(f"store {v.ty} {v.ref}, ptr {p.ref}, align {a}")
        else:
            self.call(f"llvm.masked.store.{_mangle(v.ty)}.p0", "void",
                      [v, p, mask], param_attrs={1: f"align {a}"})

    def tail_mask(self, count: IntLike, lanes: int) -> Val:
        """Lanes 0 .. count-1 on; `count` may exceed `lanes` or be <= 0."""
        iota = self.const_vector("i64" if lanes <= 8 else "i32", range(lanes))
        if isinstance(count, int):
            return self.const_vector("i1", [i < count for i in range(lanes)])
        if lanes > 8:
            clamped = self.i64(self.min(self.max(count, 0), lanes))
            if lanes in (32, 64) and self.isa.name == "avx512":  # a mask register's bits, by scalar instructions
                ones = self.op("shl", self.i64(1), clamped & 63) - 1
                bits = self.select(clamped >= 64, -1, ones)
                return self.bitcast(bits if lanes == 64 else self.cast("trunc", bits, "i32"), vec("i1", lanes))
            return self.cmp("slt", iota, self.cast("trunc", clamped, "i32"))
        return self.cmp("slt", iota, count)

    def prefetch(self, p: Val, locality: int = 3, write: bool = False) -> None:
        """Hint; locality 3 is L1, 2 is L2, 1 is L3, 0 is streaming."""
        self._declare("llvm.prefetch.p0", "void", ["ptr", "i32", "i32", "i32"])
        self.line(f"call void @llvm.prefetch.p0(ptr {p.ref}, i32 {int(write)}, i32 {locality}, i32 1)")

    def var(self, ty: str, init: Any = None) -> Var:
        """A mutable local; `init` is set here, in order with the code around."""
        self._n += 1
        ref = f"%v{self._n}"
        self._allocas.append(f"  {ref} = alloca {ty}, align 64")
        v = Var(self, ty, ref)
        if init is not None:
            v.set(init)
        return v

    def local(self, nbytes: int, align: int = 64) -> Val:
        """A fixed stack buffer (small: use scratch for more than a few KB)."""
        self._n += 1
        ref = f"%l{self._n}"
        self._allocas.append(f"  {ref} = alloca [{nbytes} x i8], align {align}")
        return Val(self, "ptr", ref)

    def table(self, data: np.ndarray) -> Val:
        """A constant table in the code's read-only data; its address."""
        self._n += 1
        ref = f"@{self.name}.t{self._n}"
        raw = np.ascontiguousarray(data).tobytes()
        text = "".join(f"\\{b:02X}" for b in raw)
        self._globals.append(f'{ref} = private unnamed_addr constant [{len(raw)} x i8] c"{text}", align 64')
        return Val(self, "ptr", ref)

    # -- vectors -------------------------------------------------------------------------------------

    def extract(self, v: Val, i: IntLike) -> Val:
        return self.emit(v.scalar, f"extractelement {v.ty} {v.ref}, i64 {self.i64(i).ref}")

    def insert(self, v: Val, x: Val, i: IntLike) -> Val:
        return self.emit(v.ty, f"insertelement {v.ty} {v.ref}, {x.ty} {x.ref}, i64 {self.i64(i).ref}")

    def shuffle(self, a: Val, b: Val | None, idx: Sequence[int]) -> Val:
        """Lanes of a (then b) by constant index; -1 is undefined."""
        second = b.ref if b is not None else "poison"
        m = ", ".join(f"i32 {i}" if i >= 0 else "i32 poison" for i in idx)
        return self.emit(vec(a.scalar, len(idx)),
                         f"shufflevector {a.ty} {a.ref}, {a.ty} {second}, <{len(idx)} x i32> <{m}>")

    def select(self, cond: Val, a: Any, b: Any) -> Val:
        """cond ? a : b, lane by lane for vector conditions; at least one of a, b is a Val."""
        ty = a.ty if isinstance(a, Val) else b.ty
        a, b = self.coerce(a, ty), self.coerce(b, ty)
        return self.emit(ty, f"select {cond.ty} {cond.ref}, {ty} {a.ref}, {ty} {b.ref}")

    def min(self, a: IntLike, b: IntLike) -> Any:
        """Integer minimum (signed), folded for Python ints."""
        if isinstance(a, int) and isinstance(b, int):
            return min(a, b)
        a, b = (a, self.i64(b)) if isinstance(a, Val) else (self.i64(a), b)
        return self.select(a < b, a, b)

    def max(self, a: IntLike, b: IntLike) -> Any:
        """Integer maximum (signed), folded for Python ints."""
        if isinstance(a, int) and isinstance(b, int):
            return max(a, b)
        a, b = (a, self.i64(b)) if isinstance(a, Val) else (self.i64(a), b)
        return self.select(a > b, a, b)

    def ceildiv(self, a: IntLike, b: IntLike) -> Any:
        return (a + b - 1) // b

    def fma(self, a: Val, b: Any, c: Any) -> Val:
        """a * b + c, rounded once."""
        return self.call(f"llvm.fma.{_mangle(a.ty)}", a.ty, [a, self.coerce(b, a.ty), self.coerce(c, a.ty)])

    def intrinsic(self, name: str, *args: Val, ty: str | None = None) -> Val:
        """A unary-typed intrinsic such as `llvm.sqrt`: name mangled by the first argument's type."""
        t = ty or args[0].ty
        return self.call(f"{name}.{_mangle(args[0].ty)}", t, list(args))

    def reduce_add(self, v: Val) -> Val:
        """The sum of the lanes (any order)."""
        if v.lanes == 1:
            return v
        if not v.is_float:
            return self.call(f"llvm.vector.reduce.add.{_mangle(v.ty)}", v.scalar, [v])
        zero = self.const(v.scalar, -0.0)
        return self.call(f"llvm.vector.reduce.fadd.{_mangle(v.ty)}", v.scalar, [zero, v], flags="reassoc ")

    def call(self, name: str, ret: str, args: Sequence[Val], flags: str = "",
             param_attrs: dict[int, str] | None = None) -> Val:
        """Call a function by name, declaring it on first use."""
        self._declare(name, ret, [a.ty for a in args])
        attrs = {i: a + " " for i, a in (param_attrs or {}).items()}
        text = f"@{name}({', '.join(f'{a.ty} {attrs.get(i, str())}{a.ref}' for i, a in enumerate(args))})"
        if ret == "void":
            self.line(f"call void {text}")
            return Val(self, "void", "")
        return self.emit(ret, f"call {flags}{ret} {text}")

    def _declare(self, name: str, ret: str, params: list[str]) -> None:
        self._declares[name] = f"declare {ret} @{name}({', '.join(params)})"

    # -- control -------------------------------------------------------------------------------------

    def range(self, start: IntLike, stop: IntLike, step: IntLike = 1) -> Iterator[Any]:
        """A loop: `for i in k.range(0, n): ...` emits the body once (not at all, or without a loop,
        where the trip count is known to be 0 or 1)."""
        if all(isinstance(x, int) for x in (start, stop, step)):
            if start >= stop:  # type: ignore[operator]
                return
            if start + step >= stop:  # type: ignore[operator]
                yield start
                return
        i = self.var("i64", start)
        head, body, done = self._label("head"), self._label("body"), self._label("done")
        self.line(f"br label %{head}")
        self._start(head)
        now = i.get()
        more = now < self.i64(stop)
        self.line(f"br i1 {more.ref}, label %{body}, label %{done}")
        self._start(body)
        yield now
        i.set(now + self.i64(step))
        self.line(f"br label %{head}")
        self._start(done)

    @contextmanager
    def if_(self, cond: Val | bool) -> Iterator[None]:
        """`with k.if_(c): ...`; a Python bool is decided now only if True (else guard with `if`)."""
        if cond is True:
            yield
            return
        assert isinstance(cond, Val)
        yes, done = self._label("then"), self._label("endif")
        self.line(f"br i1 {cond.ref}, label %{yes}, label %{done}")
        self._start(yes)
        yield
        self.line(f"br label %{done}")
        self._start(done)

    def branch(self, cond: Val) -> tuple[Any, Any]:
        """`then, other = k.branch(c)`, then `with then: ...` and `with other: ...`, in that order."""
        yes, no, done = self._label("then"), self._label("else"), self._label("endif")
        self.line(f"br i1 {cond.ref}, label %{yes}, label %{no}")

        @contextmanager
        def arm(label: str, last: bool) -> Iterator[None]:
            self._start(label)
            yield
            self.line(f"br label %{done}")
            if last:
                self._start(done)

        return arm(yes, False), arm(no, True)

    def finish(self) -> str:
        """The module's LLVM IR."""
        ret = "ret void" if self.ret == "void" else "unreachable"
        sig = ", ".join(("ptr noalias " if n in ("args", "scratch") else t + " ") + f"%{n}" for t, n in self.params)
        wide = self.isa.width * 8
        attrs = (f'nounwind "prefer-vector-width"="{wide}" "min-legal-vector-width"="{wide}" '
                 '"frame-pointer"="none" "no-builtins"')
        return "\n".join([f'target triple = "{self.isa.triple}"', *self._globals,
                          *self._declares.values(),
                          f"define {self.ret} @{self.name}({sig}) {{", "entry:", *self._allocas,
                          *self._body, "  " + ret, "}", "",
                          f"attributes #0 = {{ {attrs} }}", "!0 = !{}", ""]).replace(") {\nentry:", ") #0 {\nentry:", 1)


def _size(scalar: str) -> int:
    return {"float": 4, "double": 8, "half": 2, "bfloat": 2, "ptr": 8, "i1": 1}.get(scalar) or int(scalar[1:]) // 8


def _mangle(ty: str) -> str:
    """LLVM's name of a type inside an intrinsic's name."""
    names = {"float": "f32", "double": "f64", "half": "f16", "bfloat": "bf16", "ptr": "p0"}
    if ty[0] == "<":
        return f"v{ty[1:].split(' ')[0]}{_mangle(ty.split(' x ')[1][:-1])}"
    return names.get(ty, ty)


def _literal(ty: str, v: Any) -> str:
    """A scalar constant as LLVM writes it; floats as exact hexadecimal."""
    if ty == "i1":
        return "true" if v else "false"
    if ty in ("float", "double"):
        x = float(np.float32(v)) if ty == "float" else float(v)
        return f"0x{struct.unpack('<Q', struct.pack('<d', x))[0]:016X}"
    if ty == "half":
        return f"0xH{np.float16(v).view(np.uint16):04X}"
    if ty == "bfloat":
        import ml_dtypes

        return f"0xR{np.asarray(v, ml_dtypes.bfloat16).view(np.uint16):04X}"
    if ty == "ptr":
        return "null"
    return str(int(v))
