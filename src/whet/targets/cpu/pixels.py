"""Writing channels-last results pixel by pixel, through the epilogue."""

from __future__ import annotations

from collections.abc import Sequence

from whet.ir.expr import Expr
from whet.ir.region import Region, Tensor
from whet.targets.base import In, Out
from whet.targets.cpu.args import Args
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
            own: list[IntLike] = [0 if d == 1 else args.dim(s) * t.dtype.size for d, s in zip(t.shape, t.strides, strict=True)]
            self.steps[i] = [*([0] * (rank - len(own))), *own]
        if region.output.shape[-1] == 1:
            self.steps[OUT][-1] = region.output.dtype.size

    def at(self, coords: Sequence[IntLike]) -> Place:
        """The place at these leading coordinates (n, spatial..), the others 0."""
        return {i: self._moved(p, coords, self.steps[i]) for i, p in self.base.items()}

    def along(self, at: Place, w: IntLike) -> Place:
        """`w` pixels on along the last spatial dimension."""
        return {i: p + w * self.steps[i][-2] for i, p in at.items()}

    def put(self, v: Val, at: Place, w: IntLike, c: IntLike, mask: Val | None) -> None:
        """Store a vector of fp32 at pixel w of the row, from channel c on."""
        p = at[OUT] + (w * self.steps[OUT][-2] + c * self.region.output.dtype.size)
        self.k.store(v, p, mask)

    @staticmethod
    def _moved(p: Val, coords: Sequence[IntLike], steps: Sequence[IntLike]) -> Val:
        for i, s in zip(coords, steps, strict=False):
            p = p + i * s
        return p
