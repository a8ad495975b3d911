"""Does this machine have what a plan's code needs? Asked of the operating system, without LLVM; what GPU there is, the
caller says."""

from __future__ import annotations

import platform
import sys
from functools import cache

from whet.errors import FingerprintError
from whet.plan.manifest import Device, Target

# LLVM's name of a feature -> the flag in /proc/cpuinfo. "" where code with it runs everywhere (hints).
_X86 = {
    "sse4.1": "sse4_1", "sse4.2": "sse4_2", "ssse3": "ssse3", "avx": "avx", "avx2": "avx2", "fma": "fma",
    "f16c": "f16c", "bmi": "bmi1", "bmi2": "bmi2", "popcnt": "popcnt", "lzcnt": "abm", "movbe": "movbe",
    "avx512f": "avx512f", "avx512bw": "avx512bw", "avx512cd": "avx512cd", "avx512dq": "avx512dq",
    "avx512vl": "avx512vl", "avx512bf16": "avx512_bf16", "avx512fp16": "avx512_fp16", "avx512vnni": "avx512_vnni",
    "avx512vbmi": "avx512vbmi", "avx512vbmi2": "avx512_vbmi2", "avx512bitalg": "avx512_bitalg",
    "avx512vpopcntdq": "avx512_vpopcntdq", "avx512ifma": "avx512ifma", "amx-tile": "amx_tile",
    "amx-bf16": "amx_bf16", "amx-int8": "amx_int8", "avxvnni": "avx_vnni", "prefetchi": "",
}
_ARM = {"neon": "asimd", "fp-armv8": "fp", "dotprod": "asimddp", "bf16": "bf16", "i8mm": "i8mm", "fullfp16": "asimdhp"}


def check(target: Target, here: Device | None = None) -> None:
    """FingerprintError if code for `target` cannot run here. `here`: the GPU that it is to run on."""
    do = "build the plan on this machine, or load it with recompile=True"
    if target.os != sys.platform:
        raise FingerprintError(f"the plan is for {target.os}", why=f"this is {sys.platform}", do=do)
    if target.device is not None:
        _check_device(target.device, here)
        return
    arch = platform.machine()
    if target.arch != arch:
        raise FingerprintError(f"the plan is for {target.arch}", why=f"this machine is {arch}", do=do)
    table = _X86 if arch == "x86_64" else _ARM
    have = cpu_flags()
    missing = [f for f in target.features if f not in table or (table[f] and table[f] not in have)]
    if missing:
        raise FingerprintError(f"the plan's code needs {target.isa}", do=do,
                               why=f"this CPU lacks {', '.join(f'{m:.30}' for m in missing[:12])}")


def _check_device(built: Device, here: Device | None) -> None:
    """A plan for one GPU runs on GPUs of that name, with the libraries that its steps call in the versions that they
    were chosen for; one for a capability on every GPU of that. The driver may be newer than at build."""
    what = f"the plan is for {built.name or 'GPUs'} ({built.arch})"
    if here is None:
        raise FingerprintError(what, why="this machine has no GPU that whet can use", do="load it where there is one")
    again = built.rebuild.replace(f"cuda:{built.arch}", f"cuda:{here.arch}")
    do = f"build it anew for this GPU: {again:.400}" if again else "build the plan on this machine"
    if here.capability != built.capability:
        raise FingerprintError(what, why=f"this GPU is {here.name} ({here.arch})", do=do)
    if built.name and built.compat != "same-cc" and here.name != built.name:
        raise FingerprintError(what, why=f"this GPU is {here.name}; the plan was tuned for the other one alone",
                               do=f"{do} --hardware-compat same-cc gives plans for every {built.arch}")
    for library in built.uses:
        want, have = built.libraries.get(library, ""), here.libraries.get(library, "")
        if not have:
            raise FingerprintError(f"the plan calls {library:.20} {want:.20}", why="it is not installed here",
                                   do='pip install "whet[cuda]", or ' + do)
        if have != want:
            raise FingerprintError(f"the plan calls {library:.20} {want:.20}", why=f"here it is {have}", do=do)
    if 0 < _major(here.driver) < _major(built.driver):
        raise FingerprintError(f"the plan was built with the driver {built.driver:.20}",
                               why=f"here it is {here.driver}", do=f"update the driver, or {do}")


def _major(version: str) -> int:
    """580 of a driver's `580.65.06`; 0 where it is not known (or only which CUDA version it knows)."""
    first = version.partition(".")[0]
    return int(first) if first.isdigit() and 3 <= len(first) < 9 else 0


@cache
def cpu_flags() -> frozenset[str]:
    """The features of this CPU that the kernel has switched on (of the first core: they are all alike)."""
    try:
        with open("/proc/cpuinfo") as f:
            for line in f:
                if line.startswith(("flags", "Features")):
                    return frozenset(line.partition(":")[2].split())
    except OSError:
        pass
    return frozenset()
