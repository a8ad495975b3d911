"""The target of NVIDIA GPUs: kernels in Triton's language, cuBLASLt and cuDNN, chosen by measurement.

`TACTICS`: for each kind of region, the tactics that may implement it.
"""

from collections.abc import Mapping, Sequence

from whet.targets.base import Tactic
from whet.targets.cuda import convolution, matmuls, movement, sequences
from whet.targets.cuda.lrn import Lrn
from whet.targets.cuda.pointwise import Pointwise
from whet.targets.cuda.reduce import ArgExtreme, Reduce
from whet.targets.cuda.rownorm import GroupNorm, RowNorm
from whet.targets.cuda.softmax import Softmax

TACTICS: Mapping[str, Sequence[Tactic]] = {
    **convolution.TACTICS,
    **matmuls.TACTICS,
    **movement.TACTICS,
    **sequences.TACTICS,
    "arg": (ArgExtreme(),),
    "groupnorm": (GroupNorm(),),
    "layernorm": (RowNorm(),),
    "lrn": (Lrn(),),
    "pointwise": (Pointwise(),),
    "reduce": (Reduce(),),
    "rmsnorm": (RowNorm(),),
    "softmax": (Softmax(),),
}
