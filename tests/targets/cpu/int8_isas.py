"""The instruction sets that tests of 8-bit kernels run on: the host's own, and less than that."""

from __future__ import annotations

from dataclasses import replace

import llvmlite.binding as llvm
import pytest

from whet.targets.cpu.isa import AVX2, AVX512, named

HOST = named("host")
AVX_VNNI = replace(AVX2, features=AVX2.features | {"avxvnni"})
PLAIN = [pytest.param(AVX512, id="avx512")] if HOST.name == "avx512" else []  # without VNNI
TWO = [pytest.param(HOST, id="host"), pytest.param(AVX2, id="avx2")]
ISAS = [*TWO, *PLAIN]
OTHERS = [*PLAIN, *([pytest.param(AVX_VNNI, id="avx_vnni")] if llvm.get_host_cpu_features().get("avxvnni") else [])]
