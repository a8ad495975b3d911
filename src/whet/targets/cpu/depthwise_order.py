"""How `conv_depthwise_dot` cuts channels into blocks, which rows its dot products take, and in what order everything
lies: weights and constants per channel are packed in the order that interleaving leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from whet.targets.cpu.conv_window import Window
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, Val, vec


@dataclass(frozen=True)
class Taps:
    """Which rows of the image a tile of output rows reads.

    rows: offsets from the first window's first row, ascending; groups: at most four of them each (indices);
    uses: (group, output row, for each of the group's rows the window's row or None), of those that have any.
    """

    rows: tuple[int, ...]
    groups: tuple[tuple[int, ...], ...]
    uses: tuple[tuple[int, int, tuple[int | None, ...]], ...]

    @staticmethod
    def of(w: Window, rows: int) -> Taps:
        s, d, kh = w.strides[0], w.dilations[0], w.kernel[0]
        read = tuple(sorted({r * s + i * d for r in range(rows) for i in range(kh)}))
        groups = tuple(tuple(range(i, min(i + 4, len(read)))) for i in range(0, len(read), 4))
        uses = []
        for g, members in enumerate(groups):
            for r in range(rows):
                taps = tuple((y // d if (y := read[m] - r * s) % d == 0 and 0 <= y < kh * d else None) for m in members)
                if any(t is not None for t in taps):
                    uses.append((g, r, taps))
        return Taps(read, groups, tuple(uses))


@dataclass(frozen=True)
class Block:
    """A vector of channels [first, first + size). With `parts` > 1 it holds those channels of so many neighbouring
    stretches of output columns. Of `size` channels, `valid` exist."""

    first: int
    size: int
    valid: int
    parts: int

    def channels(self) -> list[int]:
        """The channel of every byte; -1 where there is none."""
        one = [self.first + i if i < self.valid else -1 for i in range(self.size)]
        return one * self.parts


def blocks_of(c: int, isa: Isa, columns: int) -> list[Block]:
    """The channels as blocks. The last full vector reaches back where channels are left; what fills no more than half
    of a vector takes several stretches of columns at once."""
    n = isa.width
    least = 16
    whole, rest = c // n, c % n
    out = [Block(i * n, n, n, 1) for i in range(whole)]
    if not rest:
        return out
    parts = 1
    while n // (2 * parts) >= max(rest, least) and 2 * parts <= columns:
        parts *= 2
    size = n // parts
    return [*out, Block(c - size, size, size, parts) if c >= size else Block(c - rest, size, rest, parts)]


def order(n: int) -> list[int]:
    """Where the bytes of a vector of n channels come to lie, as channels: by vector of n / 4, lane, element."""
    return [lane * 16 + q * 4 + i for q in range(4) for lane in range(n // 16) for i in range(4)]


def pack_weights(w: np.ndarray, blocks: Sequence[Block], taps: Taps, vnni: bool, flip: bool) -> np.ndarray:
    """[C, 1, kh, kw] -> per block [kw][uses][4 vectors] of four weights per channel (without `vpdpbusd` as two vectors
    of pairs in i16: the even ones, the odd ones), then the sums' starting values in i32."""
    flat = np.vstack([w.reshape(w.shape[0], *w.shape[2:]), np.zeros((1, *w.shape[2:]), w.dtype)]).astype(np.int32)
    parts: list[np.ndarray] = []
    for b in blocks:
        at = np.array(b.channels())[order(b.size * b.parts)]
        for j in range(w.shape[3]):
            for _, _, rows in taps.uses:
                four = np.zeros((len(at), 4), np.int32)
                for slot, i in enumerate(rows):
                    if i is not None:
                        four[:, slot] = flat[at, i, j]
                quarters = four.reshape(4, -1, 4)
                if vnni:
                    parts.append(quarters.astype(np.int8).reshape(-1).view(np.uint8))
                else:
                    pairs = [quarters[:, :, e::2].reshape(4, 1, -1) for e in (0, 1)]
                    parts.append(np.concatenate(pairs, 1).astype(np.int16).reshape(-1).view(np.uint8))
        start = flat[at].sum((1, 2)) * (-128 if flip else 0)
        parts.append(start.astype(np.int32).view(np.uint8))
    return np.concatenate(parts)


def pack_columns(v: np.ndarray, blocks: Sequence[Block], c: int) -> np.ndarray:
    """A constant per channel (or one number) in the kernel's order, a vector's worth for every block."""
    flat = np.append(np.broadcast_to(v.reshape(-1), (c,)), v.dtype.type(0))
    return np.concatenate([flat[np.array(b.channels())[order(b.size * b.parts)]] for b in blocks])


def interleave(k: Fn, rows: Sequence[Val]) -> list[Val]:
    """One to four vectors of bytes woven into four, a byte of each in every 32 bits, within each 128-bit lane; in place
    of missing ones whatever costs least."""
    a, b, c, d = (rows[i] for i in ((0, 0, 0, 0), (0, 1, 0, 1), (0, 1, 2, 2), (0, 1, 2, 3))[len(rows) - 1])
    n = a.lanes

    def unpack(x: Val, y: Val, size: int, high: bool) -> Val:
        per = 16 // size
        idx = [base + i for lane in range(n // 16) for i in range(per // 2 * high, per // 2 * (1 + high))
               for base in (lane * per, n // size + lane * per)]
        wide = vec(f"i{8 * size}", n // size)
        return k.bitcast(k.shuffle(k.bitcast(x, wide), k.bitcast(y, wide), idx), vec("i8", n))

    ab, cd = ([unpack(x, y, 1, high) for high in (False, True)] for x, y in ((a, b), (c, d)))
    return [unpack(ab[h], cd[h], 2, high) for h in (0, 1) for high in (False, True)]


def in_order(k: Fn, vs: Sequence[Val]) -> list[Val]:
    """Four vectors of 32-bit values in the order that `interleave` leaves, as vectors of neighbouring channels."""
    q0, q1, q2, q3 = vs
    lanes = q0.lanes
    if lanes == 8:
        halves = [[0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]]
        return [k.shuffle(a, b, h) for h in halves for a, b in ((q0, q1), (q2, q3))]
    low, high = [*range(8), *range(16, 24)], [*range(8, 16), *range(24, 32)]
    even = [x * 8 + i for x in range(4) for i in range(4)]
    odd = [x * 8 + 4 + i for x in range(4) for i in range(4)]
    firsts, seconds = ([k.shuffle(a, b, half) for half in (low, high)] for a, b in ((q0, q1), (q2, q3)))
    return [k.shuffle(f, s, pick) for f, s in zip(firsts, seconds) for pick in (even, odd)]
