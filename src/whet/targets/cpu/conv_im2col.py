"""Gathering convolution windows: a block of output pixels as rows of a matrix, in a thread's scratch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from whet.ir.dtypes import DType
from whet.targets.cpu.conv_common import Conv
from whet.targets.cpu.epilogue import load_value
from whet.targets.cpu.llvm import Fn, IntLike, Val, vec

Convert = Callable[[Val], Val]


class Im2col:
    """Rows of `conv.depth` elements: the windows of consecutive output pixels, padding where they leave the image.

    Elements are ordered (outer taps, last tap, channel). Where the taps of a window row are adjacent in memory
    (no dilation along the last dimension, one group, dense pixels) they are copied as one run.
    """

    def __init__(self, k: Fn, conv: Conv, sizes: dict[str, list[IntLike]], strides: list[IntLike], src_type: DType,
                 dst_type: DType, convert: Convert | None = None, multiple: int = 1, pad_value: int = 0) -> None:
        """sizes: `spatial` and `out` extents as the kernel sees them; strides: of x in BYTES (n, spatial..).

        convert: fp32 lanes to lanes of dst (None: as they are); multiple: zeros are added to every row until its
        length is one (at most 64 bytes). pad_value: what padding holds, where elements are copied as they are.
        """
        self.k, self.conv, self.convert, self.pad_value = k, conv, convert, pad_value
        self.spatial, self.out, self.strides = sizes["spatial"], sizes["out"], strides
        self.src_type, self.dst_type = src_type, dst_type
        self.s_size, self.d_size = src_type.size, dst_type.size
        self.plain = src_type == dst_type and convert is None  # copy bits
        self.lanes = k.isa.width // self.s_size if self.plain else k.isa.lanes
        self.padded = conv.depth % multiple != 0
        step = strides[-1]
        self.merged = conv.groups == 1 and conv.dilations[-1] == 1 and (
            conv.kernel[-1] == 1 or (isinstance(step, int) and step == conv.cg * self.s_size))
        if self.plain:  # short runs by short vectors, which cross fewer cache lines
            run = conv.cg * (conv.kernel[-1] if self.merged else 1) * self.s_size
            self.lanes = min(self.lanes, max(16, 1 << (run - 1).bit_length()) // self.s_size)

    def rows(self, x: Val, first: IntLike, count: IntLike, dst: Val, dst_stride: int) -> None:
        """Windows of the flat pixels [first, first + count) to dst, dst + dst_stride, ... (bytes).

        x: address of the first channel (of the group) of pixel 0. Up to a vector past a row's end is written:
        rows must be made in order, and `dst_stride` and the end of dst leave room.
        """
        k, c = self.k, self.conv
        for r in k.range(0, count):
            coords: list[IntLike] = []
            rest = k.i64(first) + r
            for size in reversed(self.out):
                coords.append(rest % size)
                rest = rest // size
            coords.reverse()
            starts = [k.i64(o * s - p) for o, s, p in zip(coords, c.strides, c.pads, strict=True)]
            row, image = dst + r * dst_stride, x + rest * self.strides[0]
            inside: Val | None = None
            for start, size, n, d in zip(starts, self.spatial, c.kernel, c.dilations, strict=True):
                ok = (start >= 0) & (start + ((n - 1) * d + 1) <= k.i64(size))
                inside = ok if inside is None else inside & ok
            assert inside is not None
            first_pixel = image
            for start, step in zip(starts, self.strides[1:], strict=True):
                first_pixel = first_pixel + start * step
            fast, slow = k.branch(inside)
            with fast:
                self._whole(first_pixel, row, 0, 0)
            with slow:
                self._outer(image, row, starts, 0, 0, None)
            if self.padded:
                for i in range(0, 64, k.isa.width):
                    k.store(k.const(vec("i8", k.isa.width), 0), row + (c.depth * self.d_size + i), align=1)

    def _whole(self, src: Val, dst: Val, dim: int, tap: IntLike) -> None:
        """A window inside the image: straight code where its taps are few."""
        k, c = self.k, self.conv
        n, cg = c.kernel[dim], c.cg
        if dim == len(c.kernel) - 1:
            dst = dst + tap * (n * cg * self.d_size)
            if self.merged:
                self._vectors(src, dst, n * cg, None)
                return
            step = c.dilations[dim] * self.strides[1 + dim]
            for t in range(n) if n <= 8 else k.range(0, n):
                self._vectors(src + t * step, dst + t * (cg * self.d_size), cg, None)
            return
        for t in range(n) if c.taps // c.kernel[-1] <= 12 else k.range(0, n):
            self._whole(src + t * (c.dilations[dim] * self.strides[1 + dim]), dst, dim + 1, tap * n + t)

    def _outer(self, src: Val, dst: Val, starts: Sequence[IntLike], dim: int, tap: IntLike, inside: Val | None) -> None:
        """Loops over the taps of the leading spatial dimensions."""
        k, c = self.k, self.conv
        if dim == len(c.kernel) - 1:
            self._run(src, dst + tap * (c.kernel[-1] * c.cg * self.d_size), starts[-1], inside)
            return
        for t in k.range(0, c.kernel[dim]):
            at = starts[dim] + t * c.dilations[dim]
            ok = self._within(at, self.spatial[dim])
            both = ok if inside is None else inside & ok
            self._outer(src + at * self.strides[1 + dim], dst, starts, dim + 1, tap * c.kernel[dim] + t, both)

    def _within(self, at: IntLike, size: IntLike) -> Val:
        """0 <= at < size."""
        return self.k.cmp("ult", self.k.i64(at), size)

    def _run(self, src: Val, dst: Val, start: IntLike, inside: Val | None) -> None:
        """The taps of the last dimension: one run, or one of cg elements per tap."""
        k, c = self.k, self.conv
        width, step = self.spatial[-1], self.strides[-1]
        if not self.merged:
            for t in k.range(0, c.kernel[-1]):
                at = k.i64(start + t * c.dilations[-1])
                ok = self._within(at, width)
                ok = ok if inside is None else inside & ok
                count = k.select(ok, k.i64(c.cg), 0)
                self._copy(src + at * step, dst + t * (c.cg * self.d_size), c.cg, 0, count, ok)
            return
        kw = c.kernel[-1]
        start = k.i64(start)
        whole = (start >= 0) & (start + kw <= k.i64(width))
        low = k.min(k.max(0 - start, 0), kw)
        high = k.max(k.min(k.i64(width) - start, kw), low)
        if inside is not None:
            whole = whole & inside
            high = k.select(inside, high, low)
        self._copy(src + start * step, dst, kw * c.cg, low * c.cg, high * c.cg, whole)

    def _copy(self, src: Val, dst: Val, length: int, low: IntLike, high: IntLike, whole: Val) -> None:
        """dst[0:length] = src where low <= i < high, else 0; `whole` says that low == 0 and high == length."""
        k = self.k
        fast, slow = k.branch(whole)
        with fast:
            self._vectors(src, dst, length, None)
        with slow:
            self._vectors(src, dst, length, (low, high))

    def _vectors(self, src: Val, dst: Val, length: int, clip: tuple[IntLike, IntLike] | None) -> None:
        k, lanes = self.k, self.lanes

        def one(i: IntLike, mask: Val | None) -> None:
            if clip is not None:
                iota = k.const_vector("i32", range(lanes))
                low, high = (k.cast("trunc", k.i64(v) - i, "i32") for v in clip)
                ends = k.cmp("sge", iota, low) & k.cmp("slt", iota, high)
                mask = ends
            if self.plain:
                v = k.load(f"i{8 * self.s_size}", src + i * self.s_size, lanes, mask, other=self.pad_value)
            else:
                v = load_value(k, self.src_type, src + i * self.s_size, lanes, mask)
                v = self.convert(v) if self.convert else v
            k.store(v, dst + i * self.d_size, align=min(2, self.d_size))

        unroll = 4 if clip is None else 1
        whole = length - length % (lanes * unroll)
        for i in k.range(0, whole, lanes * unroll):
            for u in range(unroll):
                one(i + u * lanes, None)
        for i in range(whole, length, lanes):
            if clip is None and i > 0 and length - i < lanes:
                one(length - lanes, None)  # again, rather than masked
            else:
                one(i, k.tail_mask(length - i, lanes) if length - i < lanes else None)
