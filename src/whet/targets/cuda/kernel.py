"""Kernels in Triton's language, written as text: one specialized function per region.

A tactic makes a `Source`, adds arguments and lines, and gets a `Kernel` whose `code` is the JSON of a `Recipe`:
the text and what to compile it with. Nothing here needs Triton; `compile.py` does.

    s = Source("scale")
    x, y = s.pointer(In(0), DType.F16), s.pointer(Out(0), DType.F16)
    n = s.integer(rows * 64)                     # a Python int stays a number in the text
    s.line(f"i = tl.program_id(0) * 256 + tl.arange(0, 256)")
    s.line(f"tl.store({y} + i, tl.load({x} + i, mask=i < {n}) * 2, mask=i < {n})")
    step = s.step(tiles=ceildiv(n, 256), warps=4)
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any

import msgspec

from whet.ir.dtypes import DType
from whet.ir.symbolic import Dim
from whet.targets.base import Arg, Int, Kernel, Step

# How a type lies in memory, as Triton names it. Types of fewer than 8 bits lie in a byte each.
MEMORY = {
    DType.F32: "fp32", DType.F64: "fp64", DType.F16: "fp16", DType.BF16: "bf16", DType.I8: "i8", DType.I16: "i16",
    DType.I32: "i32", DType.I64: "i64", DType.U8: "u8", DType.U16: "u16", DType.U32: "u32", DType.U64: "u64",
    DType.BOOL: "u8", DType.F8E4M3FN: "fp8e4nv", DType.F8E5M2: "fp8e5",
    DType.F8E4M3FNUZ: "u8", DType.F8E5M2FNUZ: "u8", DType.F8E8M0FNU: "u8", DType.F6E2M3FN: "u8", DType.F6E3M2FN: "u8",
    DType.F4E2M1FN: "u8", DType.I4: "i8", DType.U4: "u8", DType.I2: "i8", DType.U2: "u8",
}
# What a value of the type is in registers, as `tl.` names it.
REGISTER = {
    DType.F32: "float32", DType.F64: "float64", DType.F16: "float16", DType.BF16: "bfloat16", DType.I8: "int8",
    DType.I16: "int16", DType.I32: "int32", DType.I64: "int64", DType.U8: "uint8", DType.U16: "uint16",
    DType.U32: "uint32", DType.U64: "uint64", DType.BOOL: "int1", DType.F8E4M3FN: "float8e4nv",
    DType.F8E5M2: "float8e5",
}


class Recipe(msgspec.Struct, frozen=True, tag="triton"):
    """What `compile` needs. `types`: of the parameters in order, as Triton's signatures name them (`*fp16`, `i32`);
    `aligned`: the indices of those that are multiples of 16."""

    text: str
    name: str
    types: list[str]
    aligned: list[int]
    warps: int
    stages: int
    options: dict[str, Any] = {}


def kernel_of(recipe: Recipe) -> Kernel:
    """The kernel of a recipe; its symbol names the whole of it."""
    code = msgspec.json.encode(recipe, order="sorted").decode()
    return Kernel(f"{recipe.name}_{hashlib.sha256(code.encode()).hexdigest()[:16]}", code)


class Source:
    """The text of one kernel."""

    def __init__(self, name: str, fp8: bool = True) -> None:
        """`fp8`: the GPU converts f8e4m3fn itself (`Gpu.has_fp8`); without it such values are bytes to Triton."""
        self.name = name
        self.fp8 = fp8
        self.params: list[tuple[str, str, bool]] = []  # name, type, multiple of 16
        self.args: list[Arg] = []
        self.lines: list[str] = []
        self.helpers: dict[str, str] = {}  # text of other @triton.jit functions, by name
        self._indent = 1
        self._serial = 0

    def pointer(self, arg: Arg, dtype: DType, aligned: bool = True) -> str:
        """The name of a parameter that points to elements of the type; `aligned`: to a multiple of 16 bytes."""
        return self._param(arg, f"*{self.memory(dtype)}", "p", aligned)

    def memory(self, dtype: DType) -> str:
        """What an element in memory is to this kernel, as Triton names it."""
        return "u8" if dtype is DType.F8E4M3FN and not self.fp8 else MEMORY[dtype]

    def integer(self, value: Dim, wide: bool = False, aligned: bool = False) -> str:
        """Text of an integer: the number itself where it is known, else a parameter (i32, or `wide`: i64).
        `aligned`: it is a multiple of 16."""
        if isinstance(value, int):
            return str(value)
        for (name, kind, _), a in zip(self.params, self.args):
            if isinstance(a, Int) and a.value == value and kind == ("i64" if wide else "i32"):
                return name
        return self._param(Int(value), "i64" if wide else "i32", "n", aligned)

    def _param(self, arg: Arg, kind: str, letter: str, aligned: bool) -> str:
        name = f"{letter}{len(self.params)}"
        self.params.append((name, kind, aligned))
        self.args.append(arg)
        return name

    def line(self, text: str) -> None:
        """A line (or several) at the current indentation."""
        for t in text.splitlines():
            self.lines.append("    " * self._indent + t)

    def name_of(self, text: str, hint: str = "t") -> str:
        """A fresh variable that holds this expression."""
        self._serial += 1
        name = f"{hint}_{self._serial}"
        self.line(f"{name} = {text}")
        return name

    @contextlib.contextmanager
    def block(self, head: str) -> Iterator[None]:
        """Lines under `head` (a `for`, `if` or `while` with its colon)."""
        self.line(head)
        self._indent += 1
        before = len(self.lines)
        yield
        if len(self.lines) == before:
            self.line("pass")
        self._indent -= 1

    def helper(self, name: str, text: str) -> str:
        """Another function of the module (its `@triton.jit` is added), by a name of its own; the name."""
        self.helpers[name] = text
        return name

    def text(self) -> str:
        """The module."""
        parts = ["import triton", "import triton.language as tl", "from triton.language.extra import libdevice", ""]
        for h in self.helpers.values():
            parts += ["", "@triton.jit", h.rstrip(), ""]
        head = f"def {self.name}({', '.join(p for p, _, _ in self.params)}):"
        return "\n".join([*parts, "", "@triton.jit", head, *(self.lines or ["    pass"]), ""])

    def step(self, tiles: Dim, warps: int = 4, stages: int = 3, **options: Any) -> Step:
        """The launch on `tiles` programs (`tl.program_id(0)`). `options`: further ones of Triton's compiler
        (`maxnreg`, `num_ctas`, `launch_pdl`)."""
        recipe = Recipe(self.text(), self.name, [t for _, t, _ in self.params],
                        [i for i, (_, _, a) in enumerate(self.params) if a], warps, stages, options)
        return Step(kernel_of(recipe), tuple(self.args), tiles)
