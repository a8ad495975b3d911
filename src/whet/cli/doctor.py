"""`whet doctor`: this machine as whet sees it, and what is missing."""

from __future__ import annotations

import ctypes.util
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from whet.errors import InputError, UnsupportedError, WhetError
from whet.measure.device import this_device
from whet.runtime.cuda.driver import INSTALL
from whet.tuning.cache import default_path

# extra -> (what it is for, the modules that it brings)
EXTRAS: dict[str, tuple[str, tuple[str, ...]]] = {
    "onnxruntime": ("comparing with ONNX Runtime", ("onnxruntime",)),
    "openvino": ("comparing with OpenVINO", ("openvino",)),
    "cuda": ("building for and running on NVIDIA GPUs", ("cuda", "triton", "nvmath", "cudnn")),
    "models": ("building from PyTorch modules; the benchmark models", ("torch", "transformers", "onnxscript")),
    "sign": ("signing plans", ("cryptography",)),
}
# Modules whose distribution has another name.
_DISTRIBUTIONS = {"cuda": "cuda-bindings", "nvmath": "nvmath-python", "cudnn": "nvidia-cudnn-frontend"}
_PACKAGES = ("numpy", "onnx", "onnx-ir", "llvmlite", "msgspec", "ml_dtypes", "pyelftools", "pyyaml", "typer", "rich")
GIB, MIB, KIB = 1 << 30, 1 << 20, 1 << 10


def run(as_json: bool, require: str = "") -> int:
    """Print the report; 1 if `require` (cpu or cuda) is not usable, else 0.

    UnsupportedError is not raised for an old CPU: it is what the report says. InputError for a target there is not.
    """
    if require not in ("", "cpu", "cuda"):
        raise InputError(f"--require {require}", why="there are cpu and cuda", do="choose one of them")
    found = examine()
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        _print(found)
    problem = lacks(found, require) if require else ""
    if problem:
        Console(stderr=True, highlight=False).print(f"{require}: {problem}", style="red", markup=False, soft_wrap=True)
    return 1 if problem else 0


def lacks(found: Mapping[str, Any], target: str) -> str:
    """What `examine` found that keeps this machine from building for a target and running there; "": nothing."""
    if missing := [name for name, version in found["packages"].items() if not version]:
        return f"missing: {', '.join(missing)}"
    if not found["cache"]["writable"]:
        return f"the cache {found['cache']['folder']} is not writable"
    if target == "cpu":
        return str(found["cpu"]["kernels"].get("why", ""))
    usable = found["gpu"]["usable"]
    if not usable["devices"]:
        return f"{usable['why']} ({usable['do']})"
    return f"missing: {', '.join(usable['missing'])}: {INSTALL}" if usable["missing"] else ""


def examine() -> dict[str, Any]:
    """Everything that `whet doctor` tells, as JSON values. Sizes are in bytes."""
    device = this_device()
    return {
        "whet": metadata.version("whet"), "python": platform.python_version(), "platform": platform.platform(),
        "cpu": {"name": device.name, "fingerprint": device.fingerprint, "arch": device.arch, "cores": device.cores,
                "features": list(device.features), "caches": [
                    {"level": c.level, "kind": c.kind, "bytes": c.bytes} for c in device.caches],
                "kernels": _kernels()},
        "memory": {"bytes": device.memory_bytes, "available": _available_memory()},
        "gpu": _gpu(),
        "packages": {p: _version(p) for p in _PACKAGES},
        "extras": [_extra(name, purpose, modules) for name, (purpose, modules) in EXTRAS.items()],
        "cache": _cache(),
    }


def _kernels() -> dict[str, Any]:
    """The instruction set that kernels are generated for here, or why none can be."""
    from whet.targets.cpu.isa import host

    try:
        isa = host()
    except UnsupportedError as error:
        return {"isa": None, "why": f"{error.what}: {error.why}"}
    return {"isa": isa.name, "vector_bytes": isa.width,
            "bf16": "amx" if isa.amx_bf16 else "avx512-bf16" if isa.bf16_dot else "computed in fp32"}


def _available_memory() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * KIB
    except (OSError, ValueError, IndexError):
        pass
    return None


def _gpu() -> dict[str, Any]:
    """NVIDIA GPUs as the driver's own tool lists them, and as whet can use them."""
    driver_library = ctypes.util.find_library("cuda")
    tool = shutil.which("nvidia-smi")
    found: dict[str, Any] = {"devices": [], "driver": None, "libcuda": driver_library, "problem": None,
                             "usable": _usable()}
    if tool is None:
        if driver_library:
            found["problem"] = "libcuda is there, nvidia-smi is not"
        return found
    try:
        done = subprocess.run([tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"],
                              capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        found["problem"] = f"nvidia-smi does not answer: {error}"
        return found
    if done.returncode:
        found["problem"] = (done.stdout + done.stderr).strip().splitlines()[0][:200] if done.stdout + done.stderr else \
            f"nvidia-smi ended with {done.returncode}"
        return found
    for line in done.stdout.strip().splitlines():
        name, memory, driver = (part.strip() for part in line.rsplit(",", 2))
        size = int(memory) * MIB if memory.isdigit() else None
        found["devices"].append({"name": name, "memory_bytes": size})
        found["driver"] = driver
    return found


def _usable() -> dict[str, Any]:
    """The GPUs that whet builds for and runs on, or why there is none and what to do; the libraries that plans call."""
    from whet.runtime.cuda import libraries
    from whet.targets.cuda import device

    found: dict[str, Any] = {"devices": [], "libraries": {}, "missing": [], "why": None, "do": None}
    try:
        device.require()
    except WhetError as error:
        return found | {"why": f"{error.what}: {error.why}", "do": error.do}
    found["devices"] = [{"name": g.name, "arch": g.arch, "memory_bytes": g.memory_bytes, "driver": g.driver}
                        for g in device.visible()]
    found["libraries"] = libraries.versions()
    found["missing"] = [name for name in ("cublas", "cudnn") if name not in found["libraries"]]
    if importlib.util.find_spec("triton") is None:
        found["missing"].append("triton (to build)")
    return found


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _extra(name: str, purpose: str, modules: tuple[str, ...]) -> dict[str, Any]:
    missing = [m for m in modules if importlib.util.find_spec(m) is None]
    return {"name": name, "purpose": purpose, "present": not missing, "missing": missing,
            "versions": {m: _version(_DISTRIBUTIONS.get(m, m)) for m in modules if m not in missing},
            "install": f"pip install 'whet[{name}]'"}


def _cache() -> dict[str, Any]:
    folder = default_path().parent
    size = files = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                size += (Path(root) / name).lstat().st_size
                files += 1
            except OSError:
                continue
    nearest = next(p for p in (folder, *folder.parents) if p.exists())
    return {"folder": str(folder), "exists": folder.is_dir(), "files": files, "bytes": size,
            "writable": nearest.is_dir() and os.access(nearest, os.W_OK)}


def _size(n: int | None) -> str:
    if n is None:
        return "unknown"
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if n >= unit:
            return f"{n / unit:.1f} {name}".replace(".0 ", " ")
    return f"{n} bytes"


def _gpu_line(gpu: dict[str, Any]) -> str:
    usable = gpu["usable"]
    if usable["devices"]:
        names = ", ".join(f"{d['name']} ({d['arch']}, {_size(d['memory_bytes'])})" for d in usable["devices"])
        having = ", ".join(f"{n} {v}" for n, v in usable["libraries"].items())
        lacks = ", ".join(usable["missing"])
        missing = f"; [yellow]missing: {lacks}: {escape(INSTALL)}[/yellow]" if lacks else ""
        return f"{names}, driver {usable['devices'][0]['driver']}; {having}{missing}"
    seen = ", ".join(f"{d['name']} ({_size(d['memory_bytes'])})" for d in gpu["devices"])
    if seen:
        reason = f"[red]not usable: {escape(usable['why'])}[/red] ({escape(usable['do'])})"
        return f"{seen}, driver {gpu['driver']}; {reason}"
    return f"none ({gpu['problem'] or 'no NVIDIA driver found'})"


def _print(found: dict[str, Any]) -> None:
    out = Console(highlight=False, width=None if sys.stdout.isatty() else 110)
    cpu, kernels, gpu, cache = found["cpu"], found["cpu"]["kernels"], found["gpu"], found["cache"]
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    table.add_row("whet", f"{found['whet']}, Python {found['python']}, {found['platform']}")
    table.add_row("processor", f"{cpu['name']} ({cpu['arch']}), fingerprint {cpu['fingerprint']}")
    table.add_row("cores", f"{cpu['cores']} that this process may use")
    if kernels["isa"]:
        table.add_row("kernels", f"{kernels['isa']}, {kernels['vector_bytes'] * 8}-bit vectors; "
                                 f"bf16: {kernels['bf16']}")
    else:
        table.add_row("kernels", f"[red]none: {kernels['why']}[/red]")
    table.add_row("features", " ".join(cpu["features"]) or "unknown")
    caches = ", ".join(f"L{c['level']} {c['kind']} {_size(c['bytes'])}" for c in cpu["caches"])
    table.add_row("caches", caches or "unknown")
    available = found["memory"]["available"]
    table.add_row("memory", _size(found["memory"]["bytes"]) + (f", {_size(available)} available" if available else ""))
    table.add_row("GPU", _gpu_line(gpu))
    table.add_row("packages", ", ".join(f"{p} {v}" if v else f"[red]{p} missing[/red]"
                                        for p, v in found["packages"].items()))
    writable = "" if cache["writable"] else "; [red]not writable: name another with WHET_CACHE[/red]"
    held = f"{cache['files']} files, {_size(cache['bytes'])}" if cache["exists"] else "not made yet"
    table.add_row("cache", f"{cache['folder']}: {held}{writable}")
    out.print(table)
    out.print()

    extras = Table("extra", "for", "state", box=None, padding=(0, 2, 0, 0))
    extras.add_column("install", no_wrap=True)  # to be copied in one piece
    for e in found["extras"]:
        present = ", ".join(f"{m} {v or ''}".strip() for m, v in e["versions"].items())
        state = present if e["present"] else f"[yellow]missing: {', '.join(e['missing'])}[/yellow]"
        extras.add_row(e["name"], e["purpose"], state, "" if e["present"] else escape(e["install"]))
    out.print(extras)
