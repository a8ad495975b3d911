"""What this machine can do, measured by bare loops just before the models run."""

from __future__ import annotations

import ctypes
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from whet.frontends import load_model
from whet.ir.graph import Node
from whet.targets.base import Kernel
from whet.targets.cpu import limits
from whet.targets.cpu.compile import Jit
from whet.targets.cpu.isa import Isa, host

ARCH_REQ_XCOMP_PERM, TILE_DATA = 0x1023, 18


@dataclass(frozen=True)
class Hardware:
    """Rates of all threads together: floating-point operations and bytes copied (read + written) per second."""

    fp32: float
    bf16: float
    copy: float

    def flops(self, precision: str) -> float:
        """The rate for a precision's products."""
        return self.bf16 if precision == "bf16" else self.fp32


def measure(threads: int, seconds: float = 0.3) -> Hardware:
    """The best of several short runs on `threads` threads; where bf16 has no instruction, fp32's rate stands for it."""
    isa = host()
    fp32 = _rate(isa, *limits.fma_peak(isa), threads, seconds)
    bf16 = [fp32]
    if isa.bf16_dot:
        bf16.append(_rate(isa, *limits.bf16_dot_peak(isa), threads, seconds))
    if isa.amx_bf16 and _permit_amx():
        bf16.append(_rate(isa, *limits.amx_peak(isa), threads, seconds))
    return Hardware(fp32, max(bf16), _rate(isa, *limits.stream(isa, "copy"), threads, seconds, tiles=256))


def _permit_amx() -> bool:
    """Linux gives a process the use of tile registers on request."""
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.syscall(158, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0


def _rate(isa: Isa, kernel: Kernel, amount: int, threads: int, seconds: float, tiles: int = 64) -> float:
    """`amount` per tile, done on all threads at once: the best rate seen per second."""
    jit = Jit(isa, kernel.code)
    function = jit.function(kernel.symbol)
    buffers = [np.zeros(2 * tiles * limits.STREAM + 64, np.uint8) for _ in range(threads)]
    scratch = [np.zeros(max(kernel.scratch_bytes, 64) + 64, np.uint8) for _ in range(threads)]
    arguments = []
    for buffer in buffers:
        source = _aligned(buffer)
        arguments.append(np.array([source, source + tiles * limits.STREAM], np.int64))

    def work(i: int) -> None:
        function(arguments[i].ctypes.data, 0, tiles, _aligned(scratch[i]))

    best, until = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < until:
        workers = [threading.Thread(target=work, args=(i,)) for i in range(1, threads)]
        start = time.perf_counter()
        for w in workers:
            w.start()
        work(0)
        for w in workers:
            w.join()
        best = min(best, time.perf_counter() - start)
    return amount * tiles * threads / best


def _aligned(buffer: np.ndarray) -> int:
    return -(-buffer.ctypes.data // 64) * 64


def model_flops(path: Path, shapes: dict[str, Sequence[int]]) -> int:
    """Floating-point operations of one inference: two for each product of a matmul or convolution, nothing else."""
    return sum(_flops(n) for n in load_model(path, shapes=shapes).nodes)


def _flops(node: Node) -> int:
    if node.op == "matmul":
        return 2 * _size(node.outputs[0].shape) * int(node.inputs[0].shape[-1])  # type: ignore[union-attr, arg-type]
    if node.op == "conv":
        return 2 * _size(node.outputs[0].shape) * _size(node.inputs[1].shape[1:])  # type: ignore[union-attr]
    if node.op == "attention":
        q, k, v = (i.shape for i in node.inputs[:3] if i is not None)
        return 2 * _size(q) * int(k[-2]) + 2 * _size(q[:-1]) * int(k[-2]) * int(v[-1])  # type: ignore[arg-type]
    return 0


def _size(shape: Sequence[object]) -> int:
    return math.prod(int(d) for d in shape)  # type: ignore[call-overload]
