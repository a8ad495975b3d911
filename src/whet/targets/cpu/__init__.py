"""The CPU target: kernels emitted as LLVM IR for AVX-512, AVX2 and NEON.

`TACTICS`: for each kind of region, the tactics that may implement it.
"""

from collections.abc import Mapping, Sequence

from whet.targets.base import Tactic
from whet.targets.cpu import conv, movement
from whet.targets.cpu.attention import Attention
from whet.targets.cpu.attention_amx import AttentionAmx
from whet.targets.cpu.attention_int8 import AttentionInt8
from whet.targets.cpu.gemm import GemmBatched, GemmPacked
from whet.targets.cpu.gemm_amx import GemmAmx
from whet.targets.cpu.gemm_int8 import GemmInt8
from whet.targets.cpu.gemm_int8_batched import GemmInt8Batched
from whet.targets.cpu.gemm_simple import GemmSimple
from whet.targets.cpu.gemm_tiles import GemmTiles
from whet.targets.cpu.grouped_amx import GroupedAmx
from whet.targets.cpu.grouped_bytes import GroupedBytes
from whet.targets.cpu.grouped_panels import GroupedPanels
from whet.targets.cpu.grouped_rows import GroupedRows
from whet.targets.cpu.groupnorm import GroupNorm
from whet.targets.cpu.linear_attention import LinearAttention
from whet.targets.cpu.norm import RowNorm
from whet.targets.cpu.pointwise import Pointwise
from whet.targets.cpu.recurrent import Recurrent
from whet.targets.cpu.reduce import ArgExtreme, Reduce
from whet.targets.cpu.softmax import Softmax

TACTICS: Mapping[str, Sequence[Tactic]] = {
    **conv.TACTICS,
    **movement.TACTICS,
    "attention": (AttentionInt8(), AttentionAmx(), Attention()),
    "matmul": (GemmAmx(), GemmTiles(), GemmPacked(), GemmBatched(), GemmInt8(), GemmInt8Batched(), GemmSimple()),
    "matmul_grouped": (GroupedRows(), GroupedBytes(), GroupedAmx(), GroupedPanels()),
    "groupnorm": (GroupNorm(),),
    "layernorm": (RowNorm(),),
    "linear_attention": (LinearAttention(),),
    "pointwise": (Pointwise(),),
    "arg": (ArgExtreme(),),
    "recurrent": (Recurrent(),),
    "reduce": (Reduce(),),
    "rmsnorm": (RowNorm(),),
    "softmax": (Softmax(),),
}
