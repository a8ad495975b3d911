"""The machine that a measurement was taken on."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import msgspec

from whet.measure.record import Cache, Device, Gpu
from whet.plan.fingerprint import cpu_flags

# The features that decide which kernels can run, and so how fast a model is.
_RELEVANT = ("sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512cd", "avx512dq",
             "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8",
             "asimd", "asimddp", "asimdhp", "bf16", "i8mm", "sve", "sve2")
_CPU = Path("/sys/devices/system/cpu/cpu0/cache")


@cache
def this_device() -> Device:
    """This machine; what the system does not tell is left empty."""
    flags = cpu_flags()
    features = tuple(f for f in _RELEVANT if f in flags)
    name, arch = cpu_name(), platform.machine()
    identity = "\n".join((name, arch, *_family(), *features))
    return Device(
        fingerprint=hashlib.sha256(identity.encode()).hexdigest()[:12], name=name, arch=arch, cores=usable_cores(),
        features=features, caches=caches(), memory_bytes=memory_bytes(),
        kernel=f"{platform.system()} {platform.release()}",
    )


def with_gpus(gpus: Sequence[Gpu]) -> Device:
    """This machine, and those of its GPUs that did the work; the fingerprint tells both."""
    host = this_device()
    if not gpus:
        return host
    identity = "\n".join((host.fingerprint, *(f"{g.name} {g.arch}" for g in gpus)))
    fingerprint = hashlib.sha256(identity.encode()).hexdigest()[:12]
    return msgspec.structs.replace(host, gpus=tuple(gpus), fingerprint=fingerprint)


def gpus(indices: Sequence[int]) -> tuple[Gpu, ...]:
    """The GPUs of these numbers (as CUDA counts). DeviceError or MissingExtraError where they cannot be opened."""
    from whet.runtime.cuda.driver import Device as Opened

    out = []
    for i in indices:
        p = Opened.open(i).properties
        out.append(Gpu(name=p.name, arch=p.arch, memory_bytes=p.memory_bytes, driver=p.driver or p.cuda,
                       sm_clock=p.sm_clock, memory_clock=p.memory_clock))
    return tuple(out)


def usable_cores() -> int:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name() -> str:
    """The processor's name, else its architecture."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _family() -> tuple[str, ...]:
    """What tells processors of one name apart (virtual machines often give a generic name)."""
    return tuple(_cpuinfo(k) for k in ("cpu family", "model", "CPU implementer", "CPU part"))


def _cpuinfo(key: str) -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            k, _, value = line.partition(":")
            if k.strip() == key:
                return value.strip()
    except OSError:
        pass
    return ""


@cache
def caches(folder: Path = _CPU) -> tuple[Cache, ...]:
    """The caches of the first core, by level; empty where the system does not say."""
    out = []
    for index in sorted(folder.glob("index*")):
        try:
            kind = (index / "type").read_text().strip().lower()
            size = (index / "size").read_text().strip()
            level = int((index / "level").read_text())
            scale = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(size[-1:], 1)
            amount = int(size.rstrip("KMG")) * scale
        except (OSError, ValueError):
            continue
        if kind in ("data", "instruction", "unified"):
            out.append(Cache(level=level, kind=kind, bytes=amount))  # type: ignore[arg-type]
    return tuple(out)


def memory_bytes() -> int:
    """Installed memory; 0 if the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0
