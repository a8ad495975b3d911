"""What the CPU can do: the instruction set that kernels are generated for."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from functools import cache


@dataclass(frozen=True)
class Isa:
    """A vector instruction set, as kernels see it.

    `width` is bytes per vector, `registers` how many there are. `features` are LLVM feature names
    that the code may use; `name` is `avx512`, `avx2` or `neon`.
    """

    name: str
    width: int
    registers: int
    triple: str
    cpu: str
    features: frozenset[str]

    @property
    def arch(self) -> str:
        """`x86_64` or `aarch64`."""
        return self.triple.split("-", 1)[0]

    @property
    def lanes(self) -> int:
        """fp32 lanes per vector."""
        return self.width // 4

    @property
    def bf16_dot(self) -> bool:
        """vdpbf16ps: pairs of bf16 products added to fp32."""
        return self.name == "avx512" and "avx512bf16" in self.features

    @property
    def vnni(self) -> bool:
        return self.name == "avx512" and "avx512vnni" in self.features

    @property
    def avx_vnni(self) -> bool:
        """vpdpbusd on 256 bits, of CPUs without AVX-512."""
        return self.name == "avx2" and "avxvnni" in self.features

    @property
    def amx_bf16(self) -> bool:
        """Tile products of bf16 into fp32."""
        return "amx-bf16" in self.features and "amx-tile" in self.features and self.name == "avx512"

    @property
    def amx_int8(self) -> bool:
        """Tile products of 8-bit integers into i32."""
        return "amx-int8" in self.features and "amx-tile" in self.features and self.name == "avx512"

    @property
    def feature_string(self) -> str:
        """For LLVM's target machine."""
        return ",".join(f"+{f}" for f in sorted(self.features))


_AVX2 = {"sse4.1", "sse4.2", "ssse3", "avx", "avx2", "fma", "f16c", "bmi", "bmi2", "popcnt", "lzcnt", "movbe"}
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_EXTRA = {"avx512bf16", "avx512vnni", "avx512vbmi", "avx512vbmi2", "amx-tile", "amx-bf16", "amx-int8",
          "prefetchi", "avx512bitalg", "avx512vpopcntdq", "avx512ifma"}

AVX2 = Isa("avx2", 32, 16, "x86_64-unknown-linux-gnu", "x86-64-v3", frozenset(_AVX2))
AVX512 = Isa("avx512", 64, 32, "x86_64-unknown-linux-gnu", "x86-64-v4", frozenset(_AVX512))
AVX512_VNNI = replace(AVX512, features=AVX512.features | {"avx512vnni"})
AVX2_VNNI = replace(AVX2, features=AVX2.features | {"avxvnni"})
NEON = Isa("neon", 16, 32, "aarch64-unknown-linux-gnu", "generic", frozenset({"neon", "fp-armv8"}))


@cache
def host() -> Isa:
    """The best instruction set of this machine. UnsupportedError if it has none of ours."""
    import llvmlite.binding as llvm

    from whet.errors import UnsupportedError

    if platform.machine() in ("aarch64", "arm64"):
        return NEON
    have = {k for k, v in llvm.get_host_cpu_features().items() if v}
    if have >= _AVX512:
        return Isa("avx512", 64, 32, AVX512.triple, "x86-64-v4", frozenset(_AVX512 | (_EXTRA & have)))
    if have >= _AVX2:
        return AVX2_VNNI if "avxvnni" in have else AVX2
    raise UnsupportedError("this CPU is too old for whet", where=platform.processor(),
                           why=f"it lacks {', '.join(sorted(_AVX2 - have))}", do="use a CPU with AVX2 or NEON")


def named(name: str) -> Isa:
    """`host`, or less: `avx512_vnni`, `avx512`, `avx2_vnni`, `avx2`, `neon`. For tests that mask features, and for
    looking at code."""
    return host() if name == "host" else {"avx512_vnni": AVX512_VNNI, "avx512": AVX512, "avx2_vnni": AVX2_VNNI,
                                          "avx2": AVX2, "neon": NEON}[name]
