"""Writing channels-last results pixel by pixel, through the epilogue."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from whet.ir.expr import ANCHOR, Expr, Leaf
from whet.ir.region import Region, Tensor
from whet.targets.base import In, Out
from whet.targets.cpu.args import Args
from whet.targets.cpu.epilogue import emit_expr, load_value, store_value
from whet.targets.cpu.llvm import Fn, IntLike, Val

OUT = -2
Place = dict[int, Val]  # address of channel 0 of a pixel: of the output (OUT) and of the epilogue's inputs


class PixelWriter:
    """Stores vectors of channels of output pixels, and loads what the epilogue needs there."""

    def __init__(self, k: Fn, args: Args, region: Region, epilogue: Expr | None) -> None:
        self.k, self.region, self.epilogue = k, region, epilogue
        rank = len(region.output.shape)
        sources = epilogue.leaves if epilogue is not None else ()
        self.tensors: dict[int, Tensor] = {OUT: region.output, **{i: region.inputs[i] for i in sources}}
        self.base: Place = {OUT: args.pointer(Out(0)), **{i: args.pointer(In(i)) for i in sources}}
        self.steps: dict[int, list[IntLike]] = {}  # bytes along each dimension of the output
        for i, t in self.tensors.items():
            own: list[IntLike] = [0 if d == 1 else args.dim(s) * t.dtype.size
                                  for d, s in zip(t.shape, t.strides, strict=True)]
            self.steps[i] = [*([0] * (rank - len(own))), *own]
        if region.output.shape[-1] == 1:
            self.steps[OUT][-1] = region.output.dtype.size

    def at(self, coords: Sequence[IntLike]) -> Place:
        """The place at these leading coordinates (n, spatial..), the others 0."""
        return {i: self._moved(p, coords, self.steps[i]) for i, p in self.base.items()}

    def along(self, at: Place, w: IntLike) -> Place:
        """`w` pixels on along the last spatial dimension."""
        return self.moved(at, -2, w)

    def moved(self, at: Place, dim: int, count: IntLike) -> Place:
        """`count` steps on along a dimension of the output."""
        return {i: p + count * self.steps[i][dim] for i, p in at.items()}

    def put(self, values: Sequence[Val], at: Place, c: IntLike, mask: Val | None) -> None:
        """Store vectors of fp32 at neighbouring pixels (along the last spatial dimension), from channel c on."""
        k, lanes = self.k, values[0].lanes
        shared: dict[int, Val] = {}  # operands that are the same for all these pixels

        def leaf(t: Leaf, w: int, v: Val) -> Val:
            if t.source == ANCHOR:
                return v
            if t.source in shared:
                return shared[t.source]
            tensor, steps = self.tensors[t.source], self.steps[t.source]
            p = at[t.source] + w * steps[-2]
            if isinstance(steps[-1], int) and steps[-1] == 0:
                x = load_value(k, tensor.dtype, p)
            else:
                x = load_value(k, tensor.dtype, p + c * tensor.dtype.size, lanes, mask)
            if isinstance(steps[-2], int) and steps[-2] == 0:
                shared[t.source] = x
            return x

        for w, v in enumerate(values):
            if self.epilogue is not None:
                v = emit_expr(k, self.epilogue, partial(leaf, w=w, v=v), lanes)
            p = at[OUT] + (w * self.steps[OUT][-2] + c * self.region.output.dtype.size)
            store_value(k, v, self.region.output.dtype, p, mask)

    @staticmethod
    def _moved(p: Val, coords: Sequence[IntLike], steps: Sequence[IntLike]) -> Val:
        for i, s in zip(coords, steps, strict=False):
            p = p + i * s
        return p
