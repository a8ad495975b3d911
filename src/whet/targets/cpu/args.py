"""Kernel arguments, gathered while the kernel is written, and the kernel's final name."""

from __future__ import annotations

import hashlib

from whet.ir.symbolic import Dim
from whet.targets.base import Arg, Int, Kernel
from whet.targets.cpu.llvm import Fn, IntLike, Val

NAME = "whet_kernel"  # what a kernel is called until its code is complete


class Args:
    """The argument table of a kernel: asks for the same thing twice share a slot.

    Values are loaded at the kernel's start, so they may be asked for anywhere in its code.
    """

    def __init__(self, k: Fn) -> None:
        self.k = k
        self._slots: dict[Arg, Val] = {}

    def pointer(self, arg: Arg) -> Val:
        """The address of an input, output, packed constant or workspace."""
        return self._load(arg, "ptr")

    def dim(self, d: Dim) -> IntLike:
        """A dimension or stride: itself where it is static."""
        return d if isinstance(d, int) else self._load(Int(d), "i64")

    @property
    def table(self) -> tuple[Arg, ...]:
        """For `Step.args`."""
        return tuple(self._slots)

    def _load(self, arg: Arg, ty: str) -> Val:
        if arg not in self._slots:
            at = self.k.hoist("ptr", f"getelementptr i8, ptr {self.k.p['args'].ref}, i64 {8 * len(self._slots)}")
            self._slots[arg] = self.k.hoist(ty, f"load {ty}, ptr {at.ref}, !invariant.load !0")
        return self._slots[arg]


def finish(k: Fn, prefix: str, scratch_bytes: int = 0) -> Kernel:
    """The kernel written by `k` (made as `Fn(NAME, isa)`), named `<prefix>_<hash of its code>`."""
    code = k.finish()
    symbol = f"{prefix}_{hashlib.sha256(code.encode()).hexdigest()[:16]}"
    return Kernel(symbol, code.replace(f"@{NAME}", f"@{symbol}"), scratch_bytes)
