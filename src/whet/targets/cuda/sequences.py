"""Tactics of attention and of recurrences."""

from collections.abc import Mapping, Sequence

from whet.targets.base import Tactic
from whet.targets.cuda.attention import Attention
from whet.targets.cuda.attention_decode import AttentionDecode
from whet.targets.cuda.cudnn_attention import CudnnAttention
from whet.targets.cuda.linear_attention import LinearAttention
from whet.targets.cuda.recurrent import Recurrent, RecurrentSteps

TACTICS: Mapping[str, Sequence[Tactic]] = {
    "attention": (Attention(), AttentionDecode(), CudnnAttention()),
    "linear_attention": (LinearAttention(),),
    "recurrent": (RecurrentSteps(), Recurrent()),
}
