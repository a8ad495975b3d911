"""The tactics of matrix products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from whet.targets.base import Tactic
from whet.targets.cuda.cublaslt import CublasLt
from whet.targets.cuda.cudnn import CudnnMatmul
from whet.targets.cuda.matmul import MatmulTiles
from whet.targets.cuda.matmul_grouped import GroupedRows, GroupedTiles
from whet.targets.cuda.matmul_persistent import MatmulPersistent
from whet.targets.cuda.matmul_rows import MatmulRows
from whet.targets.cuda.matmul_splitk import MatmulSplitK

TACTICS: Mapping[str, Sequence[Tactic]] = {
    "matmul": (CublasLt(), MatmulRows(), MatmulSplitK(), MatmulPersistent(), MatmulTiles(), CudnnMatmul()),
    "matmul_grouped": (GroupedRows(), GroupedTiles()),
}
