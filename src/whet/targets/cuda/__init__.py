"""The target of NVIDIA GPUs: kernels in Triton's language, cuBLASLt and cuDNN, chosen by measurement.

`TACTICS`: for each kind of region, the tactics that may implement it.
"""

from collections.abc import Mapping, Sequence

from whet.targets.base import Tactic
from whet.targets.cuda.attention import Attention
from whet.targets.cuda.attention_decode import AttentionDecode
from whet.targets.cuda.conv import ConvImplicit, ConvMatmul
from whet.targets.cuda.conv_depthwise import ConvDepthwise
from whet.targets.cuda.conv_first import ConvFirst
from whet.targets.cuda.conv_pixels import ConvPixels
from whet.targets.cuda.conv_transpose import ConvTransposePhases
from whet.targets.cuda.cublaslt import CublasLt
from whet.targets.cuda.cudnn import CudnnConv, CudnnMatmul
from whet.targets.cuda.cudnn_attention import CudnnAttention
from whet.targets.cuda.gather import Gather
from whet.targets.cuda.generate import DimValues, Iota
from whet.targets.cuda.linear_attention import LinearAttention
from whet.targets.cuda.lrn import Lrn
from whet.targets.cuda.matmul import MatmulTiles
from whet.targets.cuda.matmul_blocks import MatmulBlocks
from whet.targets.cuda.matmul_grouped import GroupedRows, GroupedTiles
from whet.targets.cuda.matmul_persistent import MatmulPersistent
from whet.targets.cuda.matmul_rows import MatmulRows
from whet.targets.cuda.matmul_splitk import MatmulSplitK
from whet.targets.cuda.moving import BitCast
from whet.targets.cuda.nms import Nms
from whet.targets.cuda.pad import Pad
from whet.targets.cuda.pointwise import Pointwise
from whet.targets.cuda.pool import Pool
from whet.targets.cuda.recurrent import Recurrent, RecurrentSteps
from whet.targets.cuda.reduce import ArgExtreme, Reduce
from whet.targets.cuda.resize import Resize
from whet.targets.cuda.rownorm import GroupNorm, RowNorm
from whet.targets.cuda.scan import CumProd, CumSum
from whet.targets.cuda.scatter import Scatter
from whet.targets.cuda.softmax import Softmax
from whet.targets.cuda.topk import TopK

_PRODUCTS: tuple[Tactic, ...] = (CublasLt(), MatmulRows(), MatmulSplitK(), MatmulPersistent(), MatmulBlocks(),
                                 MatmulTiles())

TACTICS: Mapping[str, Sequence[Tactic]] = {
    "arg": (ArgExtreme(),),
    "attention": (Attention(), AttentionDecode(), CudnnAttention()),
    "bitcast": (BitCast(),),
    "conv": (ConvImplicit(), ConvFirst(), ConvDepthwise(), ConvPixels(), *(ConvMatmul(t) for t in _PRODUCTS),
             CudnnConv()),
    "conv_transpose": (ConvTransposePhases(),),
    "cumprod": (CumProd(),),
    "cumsum": (CumSum(),),
    "dims": (DimValues(),),
    "gather": (Gather(),),
    "gather_elements": (Gather(),),
    "gather_nd": (Gather(),),
    "groupnorm": (GroupNorm(),),
    "iota": (Iota(),),
    "layernorm": (RowNorm(),),
    "linear_attention": (LinearAttention(),),
    "lrn": (Lrn(),),
    "matmul": (*_PRODUCTS, CudnnMatmul()),
    "matmul_grouped": (GroupedRows(), GroupedTiles()),
    "nms": (Nms(),),
    "pad": (Pad(),),
    "pointwise": (Pointwise(),),
    "pool": (Pool(),),
    "recurrent": (RecurrentSteps(), Recurrent()),
    "reduce": (Reduce(),),
    "resize": (Resize(),),
    "rmsnorm": (RowNorm(),),
    "scatter_elements": (Scatter(),),
    "scatter_nd": (Scatter(),),
    "softmax": (Softmax(),),
    "topk": (TopK(),),
}
