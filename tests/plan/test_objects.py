"""A plan for a GPU whose steps do not name whole objects, or give them other arguments than theirs, is refused."""

from __future__ import annotations

import contextlib
import random
import struct
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from whet import abi_cuda
from whet.errors import FingerprintError, PlanFormatError
from whet.plan import Plan, fingerprint
from whet.plan.data import ArenaArg, InputArg, IntArg, NativeStep, OutputArg, PlanData, WeightArg
from whet.plan.manifest import Device, Target
from whet.plan.program import Tensor, straight

# An ELF header of GPU code, and one section without contents.
CUBIN = struct.pack("<16sHHIQQQI6H", b"\x7fELF\2\1\1", 2, 190, 1, 0, 0, 64, 0, 64, 0, 0, 64, 1, 0) + bytes(64)
KERNEL = abi_cuda.Cubin("scale", "pppi", 4, 0, [0, 0])
CALL = abi_cuda.Matmul((0, 4, 4, 4, 0), (0, 4, 4, 4, 0), (0, 4, 4, 4, 0), (0, 4, 4, 4, 0), False, False, 68, 0, 1,
                       "0" * 128, 1024)
ARGS = (InputArg(0), WeightArg("w"), OutputArg(0), IntArg(7))
H100 = Device("NVIDIA H100", (9, 0), "580.65.06", {"cublas": "13.1.0", "cudnn": "9.19.0"})


def put(at: int, kind: str, value: int) -> bytes:
    """CUBIN with a number changed."""
    out = bytearray(CUBIN)
    struct.pack_into("<" + kind, out, at, value)
    return bytes(out)


def data(unit: abi_cuda.Unit = KERNEL, args: tuple[Any, ...] = ARGS, payload: bytes = CUBIN,
         raw: bytes | None = None, after: list[list[int]] | None = None, at: int = 0) -> PlanData:
    steps = [NativeStep("k", args, 3, 1, "layer")]
    t = Tensor("x", "float32", [8])
    program = straight([t], [Tensor("y", "float32", [8])], {}, ["layer"], 64)
    if after is not None:
        segment = msgspec.structs.replace(program.segments[0], after=after)
        program = msgspec.structs.replace(program, segments=[segment])
    code = bytes(at) + (abi_cuda.pack(unit, payload) if raw is None else raw)
    return PlanData([program], steps, {"w": np.arange(8, dtype=np.float32)}, code, {"k": at}, 0, 1, "cuda", "sm_90", [],
                    device=H100)


def test_a_plan_for_a_gpu_is_read_as_it_was_written(tmp_path: Path) -> None:
    Plan.from_data(data(after=[[]])).save(tmp_path / "p.plan")
    plan = Plan.open(tmp_path / "p.plan")
    assert plan.manifest.target == Target("linux", "cuda", "sm_90", [], H100)
    assert plan.manifest.programs[0].segments[0].after == [[]]
    assert plan.summary()["target"]["device"]["name"] == "NVIDIA H100"


WORKSPACE = ArenaArg(0)


@pytest.mark.parametrize("given", [
    (CALL, (InputArg(0), InputArg(0), OutputArg(0), OutputArg(0), WORKSPACE)),
    (abi_cuda.Graph([1, 2], 0, 91900), (InputArg(0), OutputArg(0), WORKSPACE)),
    (abi_cuda.Fill(32), (OutputArg(0),)),
    (abi_cuda.Cubin("k", "pl", 1, 0, []), (OutputArg(0), IntArg(1 << 40))),
])
def test_every_kind_of_object_is_taken_with_its_arguments(given: tuple[abi_cuda.Unit, tuple[Any, ...]]) -> None:
    Plan.from_data(data(*given))


@pytest.mark.parametrize(("changes", "why"), [
    ({"args": ARGS[:3]}, "not those of its kernel"),
    ({"args": (*ARGS[:2], IntArg(1), IntArg(7))}, "not those of its kernel"),
    ({"args": (*ARGS[:3], InputArg(0))}, "not those of its kernel"),
    ({"args": (*ARGS[:3], IntArg(1 << 40))}, "cannot hold"),
    ({"unit": abi_cuda.Cubin("k", "pp?i", 4, 0, [])}, "unknown kind"),
    ({"unit": abi_cuda.Cubin("k", "pppi", 0, 0, [])}, "no GPU can launch"),
    ({"unit": abi_cuda.Cubin("k", "pppi", 4, 1 << 30, [])}, "no GPU can launch"),
    ({"unit": abi_cuda.Cubin("k", "pppi", 4, 0, [-1])}, "no possible size"),
    ({"unit": abi_cuda.Cubin("", "pppi", 4, 0, [])}, "no GPU can launch"),
    ({"payload": b""}, "no GPU can launch"),
    ({"payload": b"cubin"}, "machine code is cut"),
    ({"payload": b".version 8.0\n.target sm_90\n" + bytes(200)}, "not a GPU's"),
    ({"payload": put(18, "H", 62)}, "not a GPU's"),  # x86-64
    ({"payload": CUBIN[:-1]}, "machine code is cut"),
    ({"payload": put(40, "Q", 1 << 63)}, "machine code is cut"),  # the sections' headers
    ({"payload": put(58, "H", 40)}, "machine code is cut"),  # the size of one
    ({"payload": put(60, "H", 0)}, "no names"),
    ({"payload": put(64 + 24, "Q", 129)}, "machine code is cut"),  # where the section lies
    ({"payload": put(64 + 32, "Q", (1 << 64) - 1)}, "machine code is cut"),  # its size
    ({"payload": put(56, "H", 2)}, "machine code is cut"),  # the segments' headers
    ({"unit": CALL}, "not those of its kernel"),
    ({"unit": msgspec.structs.replace(CALL, algo="00"), "args": (InputArg(0),) * 5}, "algorithm is cut"),
    ({"unit": msgspec.structs.replace(CALL, scales="x"), "args": (InputArg(0),) * 5}, "scale"),
    ({"unit": msgspec.structs.replace(CALL, workspace=-1), "args": (InputArg(0),) * 5}, "no possible size"),
    ({"unit": msgspec.structs.replace(CALL, scale_type=14), "args": (InputArg(0),) * 5}, "types that are none"),
    ({"unit": msgspec.structs.replace(CALL, a=(-1, 4, 4, 4, 0)), "args": (InputArg(0),) * 5}, "types that are none"),
    ({"unit": msgspec.structs.replace(CALL, batch=0), "args": (InputArg(0),) * 5}, "types that are none"),
    ({"unit": msgspec.structs.replace(CALL, epilogue=4), "args": (InputArg(0),) * 6}, "half a bias"),
    ({"unit": CALL, "args": (InputArg(0),) * 4}, "not those of its kernel"),
    ({"unit": abi_cuda.Graph([1], 0, 1), "args": ARGS[:3]}, "not those of its kernel"),
    ({"unit": abi_cuda.Graph([1, 1], 0, 1), "args": (InputArg(0),) * 3}, "tensors that are none"),
    ({"unit": abi_cuda.Graph([1, -2], 0, 1), "args": (InputArg(0),) * 3}, "tensors that are none"),
    ({"unit": abi_cuda.Graph([], 0, 1), "args": ()}, "without tensors"),
    ({"unit": abi_cuda.Fill(-1), "args": ARGS[:1]}, "no possible size"),
    ({"unit": abi_cuda.Fill(4), "args": ARGS[:2]}, "not those of its kernel"),
    ({"raw": b""}, "outside the code"),
    ({"raw": b"\xff\xff\xff\xff"}, "header is cut"),
    ({"raw": struct.pack("<I", 2) + b"[]" + struct.pack("<Q", 0)}, "malformed"),
    ({"raw": abi_cuda.pack(KERNEL, CUBIN)[:-1]}, "payload is cut"),
    ({"at": 8}, "where none may"),
    ({"after": [[0]]}, "waits for a later"),
    ({"after": [[-1]]}, "waits for a later"),
    ({"after": []}, "more or fewer"),
])
def test_hostile_objects_are_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(PlanFormatError) as e:
        Plan.from_data(data(**changes))
    assert why in e.value.why


def test_no_damage_of_the_code_gets_past_as_another_error(tmp_path: Path) -> None:
    rng = random.Random(1)
    good = abi_cuda.pack(KERNEL, CUBIN)
    for _ in range(400):
        raw = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            raw[rng.randrange(len(raw))] = rng.choice((0, 1, 0x22, 0x7B, 0xFF, rng.randrange(256)))
        with contextlib.suppress(PlanFormatError):
            Plan.from_data(data(raw=bytes(raw[: rng.choice((len(raw), rng.randrange(len(raw) + 1)))])), hashed=False)


# -- fingerprints ---------------------------------------------------------------------------------------


def device(**changes: Any) -> Device:
    return msgspec.structs.replace(H100, **changes)


def check(built: Device, here: Device | None) -> None:
    fingerprint.check(Target("linux", "cuda", built.arch, [], built), here)


@pytest.mark.parametrize("here", [H100, device(driver="590.1"), device(driver="13.0"), device(driver=""),
                                  device(libraries={"cublas": "13.2.0", "cudnn": "1"})])
def test_the_same_gpu_passes_with_a_newer_driver_and_libraries_that_the_plan_does_not_call(here: Device) -> None:
    check(H100, here)


def test_a_plan_for_a_capability_runs_on_every_gpu_of_it() -> None:
    check(Device("", (9, 0)), H100)
    check(device(compat="same-cc"), device(name="NVIDIA H200"))


@pytest.mark.parametrize(("built", "here", "why"), [
    (H100, None, "no GPU"),
    (H100, device(name="NVIDIA H200"), "NVIDIA H200"),
    (H100, device(capability=(8, 0)), "sm_80"),
    (Device("", (9, 0)), device(capability=(8, 0)), "sm_80"),
    (device(uses=["cudnn"]), device(libraries={"cudnn": "9.20.0"}), "9.20.0"),
    (device(uses=["cudnn"]), device(libraries={}), "not installed"),
    (H100, device(driver="570.1"), "570.1"),
])
def test_another_gpu_library_or_older_driver_is_an_error(built: Device, here: Device | None, why: str) -> None:
    with pytest.raises(FingerprintError) as e:
        check(built, here)
    assert why in e.value.why
    assert e.value.do


def test_the_error_says_the_command_that_builds_it_for_this_gpu() -> None:
    built = Device("", (9, 0), rebuild="whet build m.onnx -o m.plan --target cuda:sm_90 --fp16")
    with pytest.raises(FingerprintError) as e:
        check(built, device(capability=(8, 0)))
    assert "whet build m.onnx -o m.plan --target cuda:sm_80 --fp16" in e.value.do
