"""What is compared: every backend in every precision, batch and number of threads that it has."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

from whet.errors import InputError

LOCAL = ("whet", "onnxruntime", "openvino", "torch", "torch-compile", "tensorrt")
PRECISIONS = ("fp32", "tf32", "bf16", "fp16", "int8", "fp8")
MOST = 500  # cells of one comparison

# What each has, by target; whet says itself what a target lacks.
_HAS = {
    "cpu": {"whet": ("fp32", "bf16", "int8"), "onnxruntime": ("fp32", "int8"), "openvino": ("fp32", "bf16", "int8"),
            "torch": ("fp32", "bf16"), "torch-compile": ("fp32", "bf16")},
    "cuda": {"whet": PRECISIONS, "onnxruntime": ("fp32",), "torch": ("fp32", "bf16", "fp16"),
             "torch-compile": ("fp32", "bf16", "fp16"), "tensorrt": ("fp32", "tf32", "bf16", "fp16")},
}
_WHY = {
    ("torch", "int8"): "a quantized module is another module: name it with --torch",
    ("torch-compile", "int8"): "a quantized module is another module: name it with --torch",
}


@dataclass(frozen=True)
class Cell:
    """One thing that is measured. `threads` is None where they are not ours to set (a server's)."""

    backend: str
    precision: str
    batch: int
    threads: int | None

    @property
    def kind(self) -> str:
        """`whet bf16`: what is the same in all batches and numbers of threads."""
        return f"{self.backend} {self.precision}"

    @property
    def key(self) -> str:
        """`whet bf16, batch 8, 2 threads`."""
        threads = "" if self.threads is None else f", {self.threads} threads"
        return f"{self.kind}, batch {self.batch}{threads}"


@dataclass(frozen=True)
class LeftOut:
    """What was asked for and is not measured, and why."""

    kind: str
    why: str


def kinds(backends: Sequence[str], precisions: Sequence[str], *, target: str, quantized: bool,
          calibrated: bool) -> tuple[list[tuple[str, str]], list[LeftOut]]:
    """The pairs (backend, precision) that there are, and those that there are not, each with the reason.

    quantized:  the model has Q/DQ of its own: every backend runs it as it is, as int8, and nothing else.
    calibrated: there are data to calibrate with.

    InputError for names that there are not, and where nothing is left.
    """
    for what, names, known in (("backend", backends, LOCAL), ("precision", precisions, PRECISIONS)):
        for name in names:
            if name not in known:
                raise InputError(f"no {what} {name!r}", why=f"there are {', '.join(known)}", do="choose among these")
    has = _HAS["cpu" if target == "cpu" else "cuda"]
    found, out = [], []
    for backend in dict.fromkeys(backends):
        for precision in dict.fromkeys(("int8",) if quantized else precisions):
            why = ""
            if backend not in has:
                why = f"it does not run on the target {target}"
            elif quantized and backend.startswith("torch"):
                why = "the model is quantized, and PyTorch's module is not"
            elif quantized:
                why = ""
            elif precision not in has[backend]:
                why = _WHY.get((backend, precision), f"it has no {precision} on the target {target}")
            elif backend == "openvino" and precision == "int8" and importlib.util.find_spec("nncf") is None:
                why = "its quantizer is a package of its own: pip install 'whet[nncf]', or give a model with Q/DQ"
            elif backend in ("whet", "openvino") and precision in ("int8", "fp8") and not calibrated:
                why = "it is calibrated with data: give them with --calib"
            if why:
                out.append(LeftOut(f"{backend} {precision}", why))
            else:
                found.append((backend, precision))
    return found, out


def cells(pairs: Sequence[tuple[str, str]], batches: Sequence[int], threads: Sequence[int]) -> list[Cell]:
    """All of them, by batch and threads. InputError for more than 500, and for numbers that are none."""
    if any(n < 1 for n in (*batches, *threads)) or not batches or not threads:
        raise InputError("batches and threads are whole numbers from 1", do="give, for example, --batches 1,8")
    found = [Cell(b, p, n, t) for n in dict.fromkeys(batches) for t in dict.fromkeys(threads) for b, p in pairs]
    if len(found) > MOST:
        raise InputError(f"a comparison of {len(found)} cells", why=f"at most {MOST} are measured",
                         do="give fewer backends, precisions, batches or threads")
    return found
