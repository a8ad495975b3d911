"""Procedural data sets: glyphs and shapes as images, and a table of features; `reviews.py` has the text.

Every set is a function of (split, count); the splits `train`, `calibration` and `test` are drawn from seeds of their
own. Random numbers come from `RandomState`, whose streams NumPy keeps for ever, and images are made by additions,
multiplications, divisions and square roots alone, which every machine rounds alike; so the same samples come out
everywhere, and `digest` (held by a test) says whether they did. The committed models were trained on exactly these.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import numpy as np

Split = Literal["train", "calibration", "test"]
Samples = tuple[np.ndarray, np.ndarray]
SIZE = 32  # of images, in pixels
_CHUNK = 64  # images drawn at once: their distances stay in the cache

# Strokes over a 3x3 grid, each a walk from node to node:   a b c
#                                                           d e f
#                                                           g h i
GLYPHS = {
    "L": "agi", "T": "ac bh", "X": "ai cg", "plus": "bh df", "Z": "acgi", "N": "gaic", "H": "ag ci df", "E": "cagi de",
    "F": "cag de", "A": "gaci df", "V": "ahc", "Y": "ae ce eh", "box": "aciga", "triangle": "bgib", "diamond": "bfhdb",
    "U": "agic", "S": "cadfig", "K": "ag cd di", "P": "gacfd", "four": "adf ci"}


def random(name: str, split: Split) -> np.random.RandomState:
    """The stream of random numbers of a split of a set."""
    seed = hashlib.sha256(f"{name} {split}".encode()).digest()
    return np.random.RandomState(int.from_bytes(seed[:4], "little"))


def digest(*arrays: np.ndarray) -> str:
    """SHA-256 of the arrays' types, shapes and elements, hexadecimal."""
    state = hashlib.sha256()
    for a in arrays:
        state.update(f"{a.dtype.str} {a.shape}".encode())
        state.update(np.ascontiguousarray(a).tobytes())
    return state.hexdigest()


# Glyphs

def glyphs(split: Split, count: int) -> Samples:
    """Grey images of stroked glyphs, float32 [count, 1, 32, 32] in 0..1 (whole 255ths), and labels, int64 [count].

    Each glyph is bent (its nodes move), sheared, turned by up to 23 degrees, scaled, shifted and drawn with its own
    thickness, light on dark or dark on light, at a contrast that goes down to the noise; up to three stray strokes lie
    about. Adding a stroke or losing one makes many of the glyphs another.
    """
    rng = random("glyphs", split)
    labels = rng.randint(0, len(GLYPHS), count)
    nodes = np.stack(np.meshgrid([-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0]), -1).reshape(9, 2)  # x, y of a..i
    walks = [[(ord(a) - 97, ord(b) - 97) for walk in text.split() for a, b in pairwise(walk)]
             for text in GLYPHS.values()]
    most = max(map(len, walks))
    strokes = np.array([walk + [walk[-1]] * (most - len(walk)) for walk in walks])  # [classes, most, 2] of nodes

    bent = nodes + rng.uniform(-0.2, 0.2, (count, 9, 2))
    bent[:, :, 0] += rng.uniform(-0.25, 0.25, (count, 1)) * bent[:, :, 1]
    placed = _turned(bent, rng.uniform(-0.4, 0.4, count)) * rng.uniform(5.5, 10.5, (count, 1, 1))
    placed += (SIZE - 1) / 2 + rng.uniform(-4, 4, (count, 1, 2))
    ends = placed[np.arange(count)[:, None, None], strokes[labels]].astype(np.float32)  # [count, most, 2 ends, x and y]
    thickness = rng.uniform(0.6, 1.7, count).astype(np.float32)

    start = rng.uniform(0, SIZE, (count, 3, 1, 2))
    stray = np.concatenate([start, start + rng.uniform(-9, 9, (count, 3, 1, 2))], 2).astype(np.float32)
    present = (rng.uniform(0, 1, (count, 3)) < 0.5) * rng.uniform(0.3, 0.8, (count, 3))
    contrast = rng.uniform(0.25, 0.8, count) * rng.choice([-1.0, 1.0], count)
    ground = np.where(contrast > 0, rng.uniform(0, 1 - np.abs(contrast)), rng.uniform(np.abs(contrast), 1))
    noise = rng.uniform(0.02, 0.16, count)

    images = np.empty((count, 1, SIZE, SIZE), np.float32)
    for i in range(0, count, _CHUNK):
        s = slice(i, i + _CHUNK)
        ink = _stroke(ends[s], thickness[s])
        for k in range(3):
            ink = np.maximum(ink, _stroke(stray[s, k:k + 1], thickness[s]) * _each(present[s, k]))
        images[s, 0] = _bytes(_each(ground[s]) + ink * _each(contrast[s]), noise[s], rng)
    return images, labels.astype(np.int64)


def _stroke(ends: np.ndarray, thickness: np.ndarray) -> np.ndarray:
    """How much of each pixel the segments `ends` [n, segments, 2, 2] (in pixels) cover: float32 [n, 32, 32]."""
    grid = np.arange(SIZE, dtype=np.float32)
    nearest = np.full((len(ends), SIZE, SIZE), 1e9, np.float32)
    for k in range(ends.shape[1]):
        (x, y), (ux, uy) = ends[:, k, 0].T, (ends[:, k, 1] - ends[:, k, 0]).T
        dx, dy = grid - x[:, None], grid - y[:, None]  # [n, 32]
        length = np.maximum(ux * ux + uy * uy, np.float32(1e-6))[:, None]
        along = (dx * ux[:, None] / length)[:, None, :] + (dy * uy[:, None] / length)[:, :, None]
        np.clip(along, 0, 1, out=along)
        off = dx[:, None, :] - along * _each(ux)
        down = dy[:, :, None] - along * _each(uy)
        np.minimum(nearest, off * off + down * down, out=nearest)
    return np.clip(_each(thickness) + np.float32(0.5) - np.sqrt(nearest), 0, 1)


# Shapes

Field = Callable[[np.ndarray, np.ndarray], np.ndarray]  # signed distance, negative inside, of points (u, v)


def _polygon(*directions: tuple[float, float], at: float) -> Field:
    def field(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        far = np.full_like(u, -1e9)
        for a, b in directions:
            np.maximum(far, u * np.float32(a) + v * np.float32(b), out=far)
        return far - np.float32(at)

    return field


def _radius(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.sqrt(u * u + v * v)


_TRIANGLE = _polygon((0, 1), (0.8660254, -0.5), (-0.8660254, -0.5), at=0.55)
SHAPES: dict[str, Field] = {
    "disc": lambda u, v: _radius(u, v) - np.float32(0.85),
    "ring": lambda u, v: np.abs(_radius(u, v) - np.float32(0.65)) - np.float32(0.25),
    "square": _polygon((1, 0), (-1, 0), (0, 1), (0, -1), at=0.75),
    "bar": lambda u, v: np.maximum(np.abs(u) - np.float32(1), np.abs(v) - np.float32(0.5)),
    "ellipse": lambda u, v: (_radius(u, v * np.float32(1.8)) - np.float32(1)) * np.float32(0.7),
    "triangle": _TRIANGLE,
    "pentagon": _polygon((0, 1), (0.9510565, 0.3090170), (-0.9510565, 0.3090170), (0.5877853, -0.8090170),
                         (-0.5877853, -0.8090170), at=0.75),
    "cross": lambda u, v: np.minimum(np.maximum(np.abs(u) - np.float32(1), np.abs(v) - np.float32(0.35)),
                                     np.maximum(np.abs(v) - np.float32(1), np.abs(u) - np.float32(0.35))),
    "half": lambda u, v: np.maximum(_radius(u, v) - np.float32(1), v),
    "crescent": lambda u, v: np.maximum(_radius(u, v) - np.float32(1),
                                        np.float32(0.75) - _radius(u - np.float32(0.45), v)),
    "star": lambda u, v: np.minimum(_TRIANGLE(u, v), _TRIANGLE(-u, -v)),
    "corner": lambda u, v: np.minimum(
        np.maximum(np.abs(u + np.float32(0.5)) - np.float32(0.35), np.abs(v) - np.float32(0.9)),
        np.maximum(np.abs(u) - np.float32(0.85), np.abs(v - np.float32(0.55)) - np.float32(0.35)))}


def shapes(split: Split, count: int) -> Samples:
    """Colour images of filled shapes, float32 [count, 3, 32, 32] in 0..1 (whole 255ths), and labels, int64 [count].

    Any angle, stretched by up to 15 percent, 4 to 10 pixels in radius, over a ground that runs from one colour to
    another; up to three small discs lie about, also over the shape; noise of its own strength in each image.
    """
    rng = random("shapes", split)
    fields = tuple(SHAPES.values())
    labels = rng.randint(0, len(fields), count)
    angle = rng.uniform(0, 2 * np.pi, count)
    radius = rng.uniform(5.5, 10.5, count)
    stretch = rng.uniform(0.87, 1.15, count)
    place = (SIZE - 1) / 2 + rng.uniform(-4.5, 4.5, (count, 2))
    colour = rng.uniform(0, 1, (count, 3))
    ground = colour + np.where(colour > 0.5, -1, 1) * rng.uniform(0.1, 0.5, (count, 3))
    slope = rng.uniform(-0.012, 0.012, (count, 3, 2))
    discs = rng.uniform(0, SIZE, (count, 3, 2)), rng.uniform(0.7, 2.4, (count, 3)), rng.uniform(0, 1, (count, 3, 3))
    present = rng.uniform(0, 1, (count, 3)) < 0.6
    noise = rng.uniform(0.02, 0.16, count)

    across, down = np.meshgrid(np.arange(SIZE, dtype=np.float32), np.arange(SIZE, dtype=np.float32))
    images = np.empty((count, 3, SIZE, SIZE), np.float32)
    for i in range(0, count, _CHUNK):
        s = slice(i, i + _CHUNK)
        cos, sin, r = (_each(a) for a in (np.cos(angle[s]), np.sin(angle[s]), radius[s]))
        x, y = across - _each(place[s, 0]), down - _each(place[s, 1])
        u, v = (x * cos + y * sin) / r * _each(stretch[s]), (y * cos - x * sin) / r
        distance = np.empty_like(u)
        for label, field in enumerate(fields):
            of = labels[s] == label
            distance[of] = field(u[of], v[of])
        inside = np.clip(np.float32(0.5) - distance * r, 0, 1)
        covers = []
        for k in range(3):
            (cx, cy), size = discs[0][s, k].T, np.where(present[s, k], discs[1][s, k], -9)
            covers.append(np.clip(_each(size) + np.float32(0.5) - _radius(across - _each(cx), down - _each(cy)), 0, 1))
        for c in range(3):
            back = _each(ground[s, c]) + x * _each(slope[s, c, 0]) + y * _each(slope[s, c, 1])
            plane = back + inside * (_each(colour[s, c]) - back)
            for k, cover in enumerate(covers):
                plane = plane + cover * (_each(discs[2][s, k, c]) - plane)
            images[s, c] = _bytes(plane, noise[s], rng)
    return images, labels.astype(np.int64)


def _turned(points: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Points [n, k, 2], each set turned by its angle [n] in radians."""
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    x, y = points[..., 0], points[..., 1]
    return np.stack([x * cos - y * sin, x * sin + y * cos], -1)


def _each(values: np.ndarray) -> np.ndarray:
    """One number an image: float32 [n, 1, 1]."""
    return values.astype(np.float32)[:, None, None]


def _bytes(images: np.ndarray, strength: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Images [n, 32, 32] with triangular noise of a standard deviation `strength` [n], as 255ths in 0..1."""
    drawn = np.frombuffer(rng.bytes(2 * images.size), np.uint8).reshape(2, *images.shape).astype(np.float32)
    noisy = images + (drawn[0] - drawn[1]) * _each(strength / (255 / np.sqrt(6)))
    return np.rint(np.clip(noisy, 0, 1) * np.float32(255)) / np.float32(255)


# A table

FEATURES, CATEGORIES = 24, 8


def table(split: Split, count: int) -> Samples:
    """Rows of features, float32 [count, 24], and one of 8 categories, int64 [count].

    Each category is three clusters in ten latent dimensions. Features are mixtures of these, on scales from hundredths
    to thousands; some are skewed (exponentials), some saturate, four are noise, as columns of real tables are.
    """
    world = np.random.RandomState(24)  # the same for every split
    centres = world.uniform(-2.1, 2.1, (CATEGORIES, 3, 10))
    mixing = world.standard_normal((10, FEATURES - 4)) / np.sqrt(10)
    scale = 10.0 ** world.uniform(-2, 3, FEATURES)
    offset = world.uniform(-2, 2, FEATURES)

    rng = random("table", split)
    labels = rng.randint(0, CATEGORIES, count)
    latent = centres[labels, rng.randint(0, 3, count)] + rng.standard_normal((count, 10)) * 0.8
    features = np.empty((count, FEATURES))
    features[:, FEATURES - 4:] = rng.standard_normal((count, 4))
    mixed = np.zeros((count, FEATURES - 4))
    for k in range(10):  # in this order on every machine, as a matrix product would not be
        mixed += latent[:, k:k + 1] * mixing[k]
    mixed[:, 0:6] = np.exp(mixed[:, 0:6] * 0.9)
    mixed[:, 6:10] = np.tanh(mixed[:, 6:10])
    features[:, :FEATURES - 4] = mixed
    return ((features + offset) * scale).astype(np.float32), labels.astype(np.int64)
