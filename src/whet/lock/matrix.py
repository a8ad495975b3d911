"""The matrix of tool versions, `whet.lock`: JSON, sorted, without dates, the same bytes for the same environment.

`lock-1.schema.json` beside this file is the contract (JSON Schema 2020-12); a test holds it equal to the types here.
"""

from __future__ import annotations

import json
import platform
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from whet.errors import InputError
from whet.measure import contract
from whet.measure.device import this_device
from whet.measure.tools import tools

SCHEMA = 1
SCHEMA_FILE = f"lock-{SCHEMA}.schema.json"
MOST_BYTES = 1 << 20

# No more than names and versions have: both end up in a line that is pasted into a shell.
Name = Annotated[str, Meta(pattern="^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$", max_length=100)]
Version = Annotated[str, Meta(pattern="^[A-Za-z0-9][A-Za-z0-9.+!_-]*$", max_length=100)]
Text = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f-\x9f]*$", max_length=300)]


class _Locked(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Machine(_Locked, frozen=True, kw_only=True):
    """What the machine adds; `fingerprint` as in records: equal on processors with equal name and features."""

    arch: Text = ""
    cpu: Text = ""
    fingerprint: Text = ""
    kernel: Text = ""
    libc: Text = ""
    system: Text = ""


class Lock(_Locked, frozen=True, kw_only=True):
    """One environment."""

    schema: Annotated[int, Meta(ge=1)] = SCHEMA
    python: Version
    packages: Annotated[dict[Name, Version], Meta(description="installed by pip: name -> version")]
    libraries: Annotated[dict[Name, Version], Meta(description="what packages bring, and the driver")] = {}
    machine: Machine = Machine()

    def encode(self) -> bytes:
        """The file's bytes."""
        return (json.dumps(msgspec.to_builtins(self), indent=1, sort_keys=True) + "\n").encode()

    def constraints(self) -> str:
        """The packages as a constraints file of pip: `pip install -c FILE ...`."""
        return "".join(f"{name}=={version}\n" for name, version in sorted(self.packages.items()))


def here() -> Lock:
    """The lock of this environment. Opens LLVM and, where there is one, asks for NVIDIA's driver."""
    found = dict(tools())
    python, driver = found.pop("python"), found.pop("nvidia-driver", "")
    libraries = {"nvidia-driver": driver} if driver else {}
    if find_spec("llvmlite") is not None:
        from llvmlite import binding

        libraries["llvm"] = ".".join(map(str, binding.llvm_version_info))
    device = this_device()
    machine = Machine(arch=device.arch, cpu=device.name, fingerprint=device.fingerprint, kernel=platform.release(),
                      libc=" ".join(platform.libc_ver()).strip(), system=_system())
    return Lock(python=python, packages=found, libraries=libraries, machine=machine)


def read(path: Path) -> Lock:
    """A lock from its file. InputError if it cannot be read, is none, or is of a newer whet."""
    try:
        with path.open("rb") as f:
            data = f.read(MOST_BYTES + 1)
    except OSError as e:
        raise InputError("the lock cannot be read", where=str(path), why=e.strerror or str(e),
                         do=f"whet lock -o {path} writes one") from e
    try:
        if len(data) > MOST_BYTES:
            raise InputError("not a lock", where=str(path), why=f"over {MOST_BYTES >> 20} MiB", do="see docs/lock.md")
        raw = msgspec.json.decode(data)
        schema = raw.get("schema") if isinstance(raw, dict) else None
        if isinstance(schema, int) and schema > SCHEMA:
            raise InputError("the lock is of a newer whet", where=str(path),
                             why=f"schema {schema}, this whet reads up to {SCHEMA}", do="update whet")
        return msgspec.convert(raw, Lock)
    except (msgspec.DecodeError, RecursionError) as e:
        raise InputError("not a lock", where=str(path), why=str(e), do=f"whet lock -o {path} writes one") from e


def _system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return f"{platform.system()} {platform.mac_ver()[0]}".strip()


def schema() -> dict[str, Any]:
    """The JSON Schema of a lock, as packaged."""
    return contract.packaged("whet.lock", SCHEMA_FILE)


def generate_schema() -> dict[str, Any]:
    """The JSON Schema that the types say; what is packaged must equal it."""
    return contract.generated(f"whet lock {SCHEMA}", Lock)


if __name__ == "__main__":  # python -m whet.lock.matrix > src/whet/lock/lock-1.schema.json
    print(json.dumps(generate_schema(), indent=1))
