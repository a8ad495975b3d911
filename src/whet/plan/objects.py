"""Checking the code section of a plan for a GPU: every step's entry is an object whose arguments are the step's."""

from __future__ import annotations

import numpy as np

from whet import abi_cuda
from whet.plan import layout

MAX_SHARED = 1 << 20  # bytes of shared memory; devices have less, and say so at load
MAX_WARPS = 64
MAX_CLUSTER = 16
BIAS = 4  # the bit of cublasLtEpilogue_t's values that says that a bias is added
I32 = (-(1 << 31), (1 << 31) - 1)
MOST_TENSORS = 1024  # of a graph
SCALE_TYPES = (0, 1, 10)  # cudaDataType of f32, f64, i32

# Elf64_Ehdr, Elf64_Shdr and Elf64_Phdr (System V ABI, "Object files"), as far as they tell where things lie.
_EHDR = np.dtype([("ident", "S7"), ("", "V9"), ("type", "<u2"), ("machine", "<u2"), ("", "V4"), ("entry", "<u8"),
                  ("phoff", "<u8"), ("shoff", "<u8"), ("flags", "<u4"), ("ehsize", "<u2"), ("phentsize", "<u2"),
                  ("phnum", "<u2"), ("shentsize", "<u2"), ("shnum", "<u2"), ("shstrndx", "<u2")])
_SHDR = np.dtype([("name", "<u4"), ("type", "<u4"), ("", "V16"), ("offset", "<u8"), ("size", "<u8"), ("", "V24")])
_PHDR = np.dtype([("type", "<u4"), ("flags", "<u4"), ("offset", "<u8"), ("", "V16"), ("size", "<u8"), ("", "V16")])
_CUDA, _NOBITS = 190, 8  # e_machine of GPU code; a section without bytes in the file


def check(steps: np.ndarray, args: np.ndarray, code: bytes) -> str:
    """"" if it is well formed, else what is wrong. The tables' own bounds have been checked (`plan.reader`)."""
    known: dict[tuple[int, bytes, bytes], str] = {}
    units: dict[int, abi_cuda.Unit] = {}
    kinds, fixed, values = args["kind"], args["expr"] == layout.NONE, args["value"]
    for entry, first, count in zip(steps["entry"].tolist(), steps["first_arg"].tolist(), steps["n_args"].tolist()):
        part = slice(first, first + count)
        numbers = kinds[part] == layout.ARG_INT
        large = numbers & fixed[part] & ((values[part] < I32[0]) | (values[part] > I32[1]))
        key = entry, numbers.tobytes(), large.tobytes()
        if key not in known:
            try:
                if entry not in units:
                    units[entry] = _unit(code, entry)
                known[key] = _arguments(units[entry], numbers, large)
            except ValueError as e:
                known[key] = str(e)
        if known[key]:
            return known[key]
    return ""


def _unit(code: bytes, entry: int) -> abi_cuda.Unit:
    if entry % abi_cuda.ALIGN:
        raise ValueError("an object lies where none may")
    unit, payload = abi_cuda.unpack(code, entry)
    match unit:
        case abi_cuda.Cubin():
            if not (1 <= unit.warps <= MAX_WARPS and 0 <= unit.shared <= MAX_SHARED
                    and 1 <= unit.ctas <= MAX_CLUSTER and 0 < len(unit.name) <= 4096 and len(payload) > 0):
                raise ValueError("a kernel that no GPU can launch")
            if set(unit.args) - set("pil"):
                raise ValueError("a kernel's argument of an unknown kind")
            if any(not 0 <= h <= layout.MAX_BYTES for h in unit.hidden) or len(unit.hidden) > 16:
                raise ValueError("a kernel's scratch of no possible size")
            _check_cubin(payload)
        case abi_cuda.Matmul():
            if len(unit.algo) != 128 or set(unit.algo.lower()) - set("0123456789abcdef"):
                raise ValueError("a product's algorithm is cut")
            if set(unit.scales) - set("abcd"):
                raise ValueError("a product's scale of an unknown operand")
            sizes = [n for side in (unit.a, unit.b, unit.c, unit.d) for n in side[1:]]
            if any(not 0 <= n <= layout.MAX_BYTES for n in (*sizes, unit.workspace, unit.batch)):
                raise ValueError("a product of no possible size")
            kinds = (unit.a[0], unit.b[0], unit.c[0], unit.d[0], unit.compute, unit.epilogue)
            if any(not 0 <= k <= 0xFFFF for k in kinds) or unit.scale_type not in SCALE_TYPES or \
                    not -1 <= unit.bias_type <= 0xFFFF or not 1 <= unit.batch <= I32[1]:
                raise ValueError("a product of types that are none")
            if bool(unit.epilogue & BIAS) != (unit.bias_type >= 0):
                raise ValueError("a product with half a bias")
        case abi_cuda.Graph():
            if not 0 <= unit.workspace <= layout.MAX_BYTES or not unit.uids or len(payload) == 0:
                raise ValueError("a graph without tensors or contents")
            if len(unit.uids) > MOST_TENSORS or len(set(unit.uids)) != len(unit.uids) or \
                    any(not 0 <= u <= 1 << 62 for u in (*unit.uids, unit.version)):
                raise ValueError("a graph of tensors that are none")
        case abi_cuda.Fill():
            if not (0 <= unit.bytes <= layout.MAX_BYTES and 0 <= unit.value <= 255):
                raise ValueError("a fill of no possible size")
    return unit


def _check_cubin(payload: memoryview) -> None:
    """ValueError unless it is an ELF file of GPU code, all of which is there: the driver is given its address alone,
    and reads what the headers tell."""
    size = len(payload)
    if size < _EHDR.itemsize:
        raise ValueError("a kernel's machine code is cut")
    h = np.frombuffer(payload, _EHDR, 1)[0]
    if h["ident"] != b"\x7fELF\2\1\1" or h["machine"] != _CUDA:
        raise ValueError("a kernel's machine code is not a GPU's")
    for kind, at, count, entry in ((_SHDR, int(h["shoff"]), int(h["shnum"]), int(h["shentsize"])),
                                   (_PHDR, int(h["phoff"]), int(h["phnum"]), int(h["phentsize"]))):
        if count and (entry != kind.itemsize or at > size - count * kind.itemsize):
            raise ValueError("a kernel's machine code is cut")
        rows = np.frombuffer(payload, kind, count, at) if count else np.zeros(0, kind)
        there = rows if kind is _PHDR else rows[rows["type"] != _NOBITS]
        if np.any((there["size"] > size) | (there["offset"] > size - np.minimum(there["size"], size))):
            raise ValueError("a kernel's machine code is cut")
    if h["shnum"] == 0 or h["shstrndx"] >= h["shnum"]:
        raise ValueError("a kernel's machine code has no names")


def _arguments(unit: abi_cuda.Unit, numbers: np.ndarray, large: np.ndarray) -> str:
    """`numbers`: for each of the step's arguments, whether it is an integer; `large`: one that is no i32."""
    wrong = "a step's arguments are not those of its kernel"
    if isinstance(unit, abi_cuda.Cubin):
        letters = np.frombuffer(unit.args.encode(), "S1")
        if len(letters) != len(numbers) or np.any((letters != b"p") != numbers):
            return wrong
        return "an integer that its kernel's argument cannot hold" if np.any(large & (letters == b"i")) else ""
    if np.any(numbers):
        return wrong
    match unit:
        case abi_cuda.Matmul():
            least = 4 + bool(unit.epilogue & BIAS) + len(unit.scales)
        case abi_cuda.Graph():
            least = len(unit.uids)
        case _:
            return wrong if len(numbers) != 1 else ""
    return "" if len(numbers) == least + 1 else wrong  # the workspace is always told
