"""Small videos that carry their frame numbers in their pixels, and the slow, obvious way to read them."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from timetok.video import Frames

HEIGHT, WIDTH, BLOCK, BITS = 64, 96, 16, 12
NTSC = Fraction(30000, 1001)


def draw(number: int) -> np.ndarray:
    """A picture whose 16 x 16 blocks are the bits of ``number``, black or white: compression leaves them legible."""
    columns = WIDTH // BLOCK
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for bit in range(BITS):
        row, column = divmod(bit, columns)
        picture[row * BLOCK : (row + 1) * BLOCK, column * BLOCK : (column + 1) * BLOCK] = 255 * (number >> bit & 1)
    return picture


def read_number(picture: torch.Tensor) -> int:
    """The number drawn on one frame [c h w], whatever its size."""
    _, height, width = picture.shape
    centres = [
        ((row + 0.5) * BLOCK / HEIGHT * height, (column + 0.5) * BLOCK / WIDTH * width)
        for row, column in (divmod(bit, WIDTH // BLOCK) for bit in range(BITS))
    ]
    return sum(int(picture[1, int(y), int(x)] > 127) << bit for bit, (y, x) in enumerate(centres))


def numbers(frames: Frames) -> list[int]:
    return [read_number(picture) for picture in frames.data]


def write(
    path: Path,
    num_frames: int,
    *,
    fps: Fraction | int = 8,
    gop: int = 10,
    codec: str = "libx264",
    ticks: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    first: int = 0,
    muxer: Mapping[str, str] | None = None,
    encoder: Mapping[str, str] | None = None,
    pix_fmt: str = "yuv420p",
) -> Path:
    """A video of so many drawn frames, at ``ticks`` of ``time_base`` or one after the other from ``first`` on."""
    with av.open(str(path), "w", options=dict(muxer or {})) as container:
        options = {"g": str(gop), "bf": "3", "sc_threshold": "0"} | dict(encoder or {})
        stream = container.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        if time_base is not None:
            stream.codec_context.time_base = time_base
        container.start_encoding()
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(draw(number), format="rgb24")
            frame.pts = ticks[number] if ticks is not None else first + number
            frame.time_base = time_base or 1 / Fraction(fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def decode_everything(path: Path) -> tuple[list[torch.Tensor], list[Fraction]]:
    """The slow, obvious truth: every frame from front to back, sorted by its time."""
    with av.open(str(path)) as container:
        shown = sorted(((f.pts * f.time_base, f) for f in container.decode(video=0)), key=lambda pair: pair[0])
        pictures = [
            torch.from_numpy(f.to_ndarray(format="rgb24", interpolation="BICUBIC")).permute(2, 0, 1) for _, f in shown
        ]
    return pictures, [time - shown[0][0] for time, _ in shown]


def expected_indices(num_available: int, num_frames: int) -> list[int]:
    """round(linspace(0, N - 1, T)), half to even, in exact fractions."""
    steps = max(num_frames - 1, 1)
    return [round(Fraction(i * (num_available - 1), steps)) for i in range(num_frames)]
