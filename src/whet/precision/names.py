"""Which precisions a target has, and what becomes of those that were asked for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from whet.errors import UnsupportedError

if TYPE_CHECKING:
    from whet.targets.base import Target

NAMES = ("fp32", "tf32", "fp16", "bf16", "int8", "fp8")
OF = {"cpu": ("fp32", "bf16", "int8"), "cuda": NAMES}
CODES = ("int8", "fp8")
# The first compute capability whose tensor cores have it.
SINCE = {"tf32": (8, 0), "fp16": (7, 0), "bf16": (8, 0), "int8": (7, 2), "fp8": (8, 9)}
# What products may be taken in where fp16 does not suit, the most precise first.
WIDER = ("tf32", "bf16")


@dataclass(frozen=True)
class Chosen:
    """What a build does with the precisions it was allowed.

    allowed: their names. compute: of products and activations that are not quantized. wide: of products that fp16 does
    not suit. codes: which 8-bit codes layers may be quantized to, the preferred first. note: what was not followed.
    """

    allowed: frozenset[str]
    compute: str = "fp32"
    wide: str = "fp32"
    codes: tuple[str, ...] = ()
    note: str = ""


def choose(asked: Collection[str], target: Target, force: bool = False) -> Chosen:
    """What these names (`best` among them: all that the target has) mean for a target. fp32 is always allowed.

    force: an error instead of a note where the target lacks one. UnsupportedError for names that there are not.
    """
    names = set(asked)
    there = OF[target.name]
    if "best" in names:
        names = names - {"best"} | set(there)
    unknown = names - set(NAMES)
    if unknown:
        raise UnsupportedError(f"no precision {', '.join(sorted(unknown))} on {_called(target)}",
                               why=f"this version has {', '.join(there)}", do="choose among these, or 'best'")
    names |= {"fp32"}
    return _on_cuda(names, target, force, "best" in asked) if target.name == "cuda" else _on_cpu(names, target, force)


def _called(target: Target) -> str:
    return "the CPU" if target.name == "cpu" else "the GPU"


def _on_cpu(names: set[str], target: Target, force: bool) -> Chosen:
    # Emulated bf16 converts to fp32 and multiplies there: never faster, so it is not chosen by itself.
    native = bool(target.isa.bf16_dot)  # type: ignore[attr-defined]
    compute = "bf16" if "bf16" in names and (native or force) else "fp32"
    notes = []
    if "bf16" in names and not native:
        notes.append("bf16 is emulated in fp32 arithmetic, as --force-precision asked" if force else
                     "bf16 was allowed but not used: this CPU has no bf16 products (--force-precision emulates them)")
    absent = sorted(names - set(OF["cpu"]))
    if absent and force:
        raise UnsupportedError(f"no {' or '.join(absent)} products on the CPU", do="allow bf16, or do not force it")
    if absent:
        notes.append(f"{' and '.join(absent)} was allowed but not used: whet's kernels for the CPU have no such "
                     "products (bf16 and int8 they have)")
    return Chosen(frozenset(names), compute, "fp32", tuple(c for c in ("int8",) if c in names), "; ".join(notes))


def _on_cuda(names: set[str], target: Target, force: bool, best: bool) -> Chosen:
    capability: tuple[int, int] = target.gpu.capability  # type: ignore[attr-defined]
    arch: str = target.gpu.arch  # type: ignore[attr-defined]
    absent = [n for n in NAMES if n in names and capability < SINCE.get(n, (0, 0))]
    since = ", ".join(f"{n} from sm_{SINCE[n][0]}{SINCE[n][1]} on" for n in absent)
    if absent and force and not best:
        raise UnsupportedError(f"no {' or '.join(absent)} products on {arch}", why=f"tensor cores have {since}",
                               do="allow another precision, or do not force it")
    used = names - set(absent)
    compute = next((n for n in ("fp16", "bf16", "tf32") if n in used), "fp32")
    wide = next((n for n in WIDER if n in used), "fp32") if compute == "fp16" else "fp32"
    note = f"{' and '.join(absent)} was allowed but not used: {arch} has no such products ({since})" if absent else ""
    return Chosen(frozenset(names), compute, wide, tuple(c for c in CODES if c in used), note)
