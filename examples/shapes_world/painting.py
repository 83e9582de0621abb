"""Drawing: moving things with antialiased outlines, before drifting backgrounds; NumPy only, made to be fast.

Outlines are signed distances. Positions are quantised to quarters of a pixel, so that a thing that stays or comes
back is drawn from a cached mask; painting touches its bounding box only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from timetok.recipes.records import Event

RGB: TypeAlias = tuple[int, int, int]
Pixels: TypeAlias = NDArray[np.uint8]
Floats: TypeAlias = NDArray[np.float64]

_DRIFT_PIXELS = 24


@dataclass(frozen=True)
class Motion:
    """Position in [0, 1]² over time: a line plus an oscillation, folded back at the borders."""

    origin: tuple[float, float]
    velocity: tuple[float, float] = (0.0, 0.0)
    amplitude: tuple[float, float] = (0.0, 0.0)
    phase: tuple[float, float] = (0.0, 0.0)
    rate: float = 0.0

    def at(self, seconds: Floats) -> Floats:
        """[t] → [t 2]."""
        t = seconds[:, None]
        line = np.array(self.origin) + np.array(self.velocity) * t
        free = line + np.array(self.amplitude) * np.sin(self.rate * t + np.array(self.phase))
        return np.asarray(1.0 - np.abs(free % 2.0 - 1.0))


@dataclass(frozen=True)
class Track:
    """One thing drawn, visible in frames ``start_index .. stop_index - 1``."""

    shape: str
    colour: RGB
    radius: float
    angle: float
    start_index: int
    stop_index: int
    motion: Motion

    def centres(self, seconds: Floats, size: tuple[int, int]) -> Floats:
        """Where it is, in pixels: [t] → [t 2] as (x, y), its whole disc inside the frame."""
        margin = int(self.radius) + 3.0  # the reach of a mask and a pixel of rounding
        return margin + self.motion.at(seconds) * (np.array(size) - 1.0 - 2.0 * margin)


@dataclass(frozen=True)
class Background:
    """A colour plus waves (pixel frequencies, phase, RGB amplitudes), seen through a drifting window."""

    colour: RGB
    waves: tuple[tuple[float, float, float, RGB], ...]
    motion: Motion
    noise: float


@dataclass(frozen=True)
class Scene:
    """Everything there is to know about one clip of ``size`` (width, height) in pixels.

    Frame i stands at ``i / fps`` seconds. Events are sorted by start, tracks of events and distractors as drawn.
    """

    seed: int
    size: tuple[int, int]
    fps: int
    num_frames: int
    events: tuple[Event, ...]
    tracks: tuple[Track, ...]
    background: Background


def render_frames(scene: Scene, indices: Sequence[int] | NDArray[np.integer[Any]]) -> Pixels:
    """Paint some frames, in any order: uint8 [t h w 3], later tracks over earlier ones."""
    index, (width, height) = np.asarray(indices, dtype=np.int64), scene.size
    seconds, texture = index / scene.fps, _texture(scene.background, height, width)
    shifts = np.rint(scene.background.motion.at(seconds) * _DRIFT_PIXELS).astype(int)
    out = np.array([texture[y : y + height, x : x + width] for x, y in shifts], np.uint8).reshape(-1, height, width, 3)
    for track in scene.tracks:
        visible = np.flatnonzero((index >= track.start_index) & (index < track.stop_index))
        quarters = np.rint(4 * track.centres(seconds[visible], scene.size)).astype(int)
        for at, (x, y) in zip(visible, quarters, strict=True):
            keep, add = _mask(track, x % 4, y % 4)
            left, top, reach = x // 4, y // 4, len(keep) // 2
            box = out[at, top - reach : top + reach, left - reach : left + reach]
            box[:] = box * keep + add
    noise = _noise(height, width, scene.background.noise)
    for frame, i in zip(out, index, strict=True):
        x, y = 7 * i % _DRIFT_PIXELS, 11 * i % (_DRIFT_PIXELS - 1)
        frame += noise[y : y + height, x : x + width]  # negative values as uint8 wrap to the right sum
    return out


def draw_motion(rng: np.random.Generator) -> Motion:
    """Standing still, straight with bounces, or around a curve; slow enough to follow."""
    kind = rng.integers(3)
    x, y = rng.uniform(0.0, 1.0, 2)
    angle, period = rng.uniform(0.0, 2 * np.pi), rng.uniform(4.0, 12.0)
    if kind == 0:
        return Motion((x, y))
    if kind == 1:
        speed = rng.uniform(0.05, 0.25)
        return Motion((x, y), velocity=(speed * np.cos(angle), speed * np.sin(angle)))
    wide, high = rng.uniform(0.1, 0.3, 2)
    phase = (angle, angle + rng.choice([-0.5, 0.0, 0.5]) * np.pi)
    origin = (wide + x * (1 - 2 * wide), high + y * (1 - 2 * high))
    return Motion(origin, amplitude=(wide, high), phase=phase, rate=2 * np.pi / period)


def draw_distractor(rng: np.random.Generator, num_frames: int, small_side: int) -> Track:
    """A thin line or a small dot, grey or brownish."""
    grey = int(rng.integers(70, 165))
    colour = (grey, grey, grey) if rng.random() < 0.6 else (grey, int(grey * 0.82), int(grey * 0.62))
    shape, radius = ("line", rng.uniform(0.15, 0.3)) if rng.random() < 0.5 else ("circle", rng.uniform(0.02, 0.045))
    start, stop = np.sort(rng.integers(-num_frames // 2, num_frames * 3 // 2, 2))
    return Track(shape, colour, radius * small_side, rng.uniform(0.0, np.pi), start, stop, draw_motion(rng))


def draw_background(rng: np.random.Generator, size: tuple[int, int]) -> Background:
    """Plain, one long wave (a gradient) or several (a texture); dark or light, never near a named colour."""
    base = rng.integers(35, 65) if rng.random() < 0.55 else rng.integers(105, 140)
    colour = tuple(np.clip(base + rng.integers(-14, 15, 3), 15, 150))
    waves: list[tuple[float, float, float, RGB]] = []
    for _ in range((0, 1, 4)[rng.integers(3)]):
        length = rng.uniform(1.2, 2.0) if not waves else rng.uniform(0.3, 0.9)
        angle, phase = rng.uniform(0.0, 2 * np.pi, 2)
        k = 2 * np.pi / (length * max(size))
        amplitude = tuple(rng.integers(2, 8, 3) + (4 if length > 1 else 0))
        waves.append((k * np.cos(angle), k * np.sin(angle), phase, amplitude))
    velocity = tuple(rng.uniform(-0.15, 0.15, 2))
    motion = Motion((rng.random(), rng.random()), velocity)
    return Background(colour, tuple(waves), motion, rng.uniform(0.5, 3.0))


@lru_cache(maxsize=128)
def _mask(track: Track, quarter_x: int, quarter_y: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What stays of the picture and what is added to it, float32 [2r 2r 3], at one quarter-pixel offset."""
    reach = int(track.radius) + 2
    offsets = np.arange(-reach, reach, dtype=np.float64)
    x, y = offsets[None, :] - quarter_x / 4, offsets[:, None] - quarter_y / 4
    cos, sin = np.cos(track.angle), np.sin(track.angle)
    u, v = x * cos + y * sin, y * cos - x * sin
    alpha = np.clip(0.5 - _DISTANCES[track.shape](u, v, np.abs(u), np.abs(v), track.radius), 0.0, 1.0)[..., None]
    keep = np.broadcast_to(1.0 - alpha, (*alpha.shape[:2], 3))
    return np.ascontiguousarray(keep, dtype=np.float32), (alpha * track.colour + 0.5).astype(np.float32)


# Signed distance to the outline of a shape of circumradius r, negative inside, at (u, v); a and b are |u| and |v|.
_DISTANCES: dict[str, Callable[[Floats, Floats, Floats, Floats, float], Floats]] = {
    "circle": lambda u, v, a, b, r: np.hypot(u, v) - r,
    "square": lambda u, v, a, b, r: np.maximum(a, b) - r / np.sqrt(2),
    "triangle": lambda u, v, a, b, r: np.maximum(v, a * np.sqrt(0.75) - v / 2) - r / 2,
    "cross": lambda u, v, a, b, r: np.maximum(np.minimum(a, b) - 0.28 * r, np.maximum(a, b) - 0.95 * r),
    "ring": lambda u, v, a, b, r: np.abs(np.hypot(u, v) - 0.79 * r) - 0.21 * r,
    "line": lambda u, v, a, b, r: np.hypot(np.maximum(a - r + 1.0, 0.0), v) - 1.0,
}


@lru_cache(maxsize=16)
def _texture(background: Background, height: int, width: int) -> Pixels:
    """The background with a margin to drift in: uint8 [h+24 w+24 3]."""
    y, x = np.ogrid[: height + _DRIFT_PIXELS, : width + _DRIFT_PIXELS]
    picture = np.full((*np.broadcast_shapes(y.shape, x.shape), 3), background.colour, dtype=np.float32)
    for kx, ky, phase, amplitude in background.waves:
        wave = np.cos(kx * x + ky * y + phase).astype(np.float32)
        picture += wave[..., None] * np.array(amplitude, dtype=np.float32)
    return np.clip(picture, 12, 170).astype(np.uint8)


@lru_cache(maxsize=16)
def _noise(height: int, width: int, deviation: float) -> Pixels:
    rng = np.random.default_rng([height, width])
    values = rng.normal(0.0, deviation, (height + _DRIFT_PIXELS, width + _DRIFT_PIXELS, 3))
    return np.clip(np.rint(values), -12, 12).astype(np.int8).view(np.uint8)
