"""Frames of a video with their true times.

What a container says about itself (frame count, duration, first timestamp) is often wrong or absent, so both
are taken from the packets of the video stream, which costs no decoding. Only the frames asked for are decoded,
with what must be decoded before them.
"""

import operator
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np
import torch
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from timetok.errors import ArgumentError, VideoError, VideoNotFoundError


@dataclass(frozen=True, eq=False)
class Frames:
    """Frames sampled from a video, with the moments at which they are shown; else an ArgumentError.

    Args:
        data: RGB pixels, uint8 ``[t c h w]`` with c = 3.
        times_seconds: Presentation times, float64 ``[t]``, never decreasing; the video's first frame stands at 0.
            The last frame stands before the end: at ``duration_seconds`` minus its own duration.
        duration_seconds: Length of the whole video, positive and finite.
    """

    data: torch.Tensor
    times_seconds: torch.Tensor
    duration_seconds: float

    def __post_init__(self) -> None:
        data, times = self.data, self.times_seconds
        if data.dtype != torch.uint8 or data.ndim != 4 or data.shape[1] != 3 or 0 in data.shape:
            raise ArgumentError(f"data must be uint8 [t 3 h w], none of them 0, got {data.dtype} {list(data.shape)}")
        if times.dtype != torch.float64 or times.shape != data.shape[:1]:
            raise ArgumentError(f"times_seconds must be float64 [{len(data)}], got {times.dtype} {list(times.shape)}")
        if not 0 < self.duration_seconds < float("inf"):
            raise ArgumentError(f"duration_seconds must be positive and finite, got {self.duration_seconds!r}")
        if not bool((times.diff() >= 0).all() and times[0] >= 0 and times[-1] <= self.duration_seconds):
            bounds = f"within [0, {self.duration_seconds}]"
            raise ArgumentError(f"times_seconds must never decrease and stay {bounds}, got {times.tolist()}")

    def __len__(self) -> int:
        return len(self.data)


def read_frames(
    source: str | os.PathLike[str],
    num_frames: int = 100,
    *,
    size: tuple[int, int] | None = None,
    allow_truncated: bool = False,
) -> Frames:
    """Read frames spread evenly over a video file, the first and the last included: ``[t 3 h w]``, t = ``num_frames``.

    Frame indices are ``round(linspace(0, N - 1, num_frames))``, half to even, where N is the number of frames the
    file presents; a video with fewer frames than asked for repeats some. Rotation metadata is not applied. ``size`` is
    the ``(height, width)`` of the returned frames; None keeps the video's own. By default a damaged or cut-off file is
    refused; ``allow_truncated`` warns and samples the frames that still decode, as if the video ended with the last.

    Raises:
        VideoNotFoundError: There is nothing at ``source``.
        VideoError: ``source`` is no video, shows no frame, has no duration, or is damaged.
        ArgumentError: ``num_frames`` or ``size`` is not positive, or an argument has the wrong type.

    Source: The sampling of LITA's released code (arXiv 2403.19046).

    Example::

        frames = read_frames("clip.mp4", num_frames=8, size=(224, 224))
        frames.data.shape          # [8, 3, 224, 224]
        frames.times_seconds[-1]   # one frame before frames.duration_seconds
    """
    num_frames = _positive("num_frames", num_frames)
    if size is not None:
        if not isinstance(size, Sequence) or len(size) != 2:
            raise ArgumentError(f"size must be (height, width) in pixels, got {size!r}")
        size = _positive("size[0] (height)", size[0]), _positive("size[1] (width)", size[1])
    path = _file(source)
    try:
        shown = _demux(path)
        pictures = None if shown.num_lost else _pictures(path, shown, num_frames, size)
        if pictures is None:  # something did not decode: find out what does
            shown = _decodable(path, shown, allow_truncated=allow_truncated)
            pictures = _pictures(path, shown, num_frames, size)
    except av.error.FFmpegError as error:
        raise VideoError(f"{path} cannot be read ({error.strerror}): most likely {_guess(path)}") from error
    if pictures is None:
        raise VideoError(f"{path} decodes differently each time it is read; re-encode it")
    times = torch.from_numpy(shown.seconds()[spread(len(shown), num_frames)])
    return Frames(pictures, times, _duration(path, shown))


def _positive(name: str, value: object) -> int:
    if not hasattr(value, "__index__") or isinstance(value, bool) or operator.index(value) < 1:
        raise ArgumentError(f"{name} must be a whole number of at least 1, got {value!r}")
    return operator.index(value)


def _file(source: object) -> Path:
    if not isinstance(source, str | os.PathLike):
        raise ArgumentError(f"source must be the path of a video file, got {type(source).__name__}")
    path = Path(source)
    if not path.exists():
        raise VideoNotFoundError(f"{path} does not exist; give the path of a video file")
    if not path.is_file():
        raise VideoError(f"{path} is {'a directory' if path.is_dir() else 'not a regular file'}; give a video file")
    if not path.stat().st_size:
        raise VideoError(f"{path} is an empty file; give a video file")
    return path


def spread(num_available: int, num_frames: int) -> NDArray[np.int64]:
    """Indices of ``num_frames`` frames spread evenly over those there are, both ends included, halves to even."""
    return np.round(np.linspace(0, num_available - 1, num_frames)).astype(np.int64)


@dataclass(frozen=True)
class _Shown:
    """The frames a file presents, in time-base ticks.

    ``ticks`` are the presentation times in order, ``last_ticks`` the last frame's own duration (0 if unknown),
    ``keyframes`` where decoding can start after a seek, ``num_lost`` frames the index lists beyond the end of the file.
    ``is_counted``: the ticks are true but stand on the wrong packets, so frames are counted as they are decoded.
    """

    ticks: NDArray[np.int64]
    last_ticks: int
    keyframes: tuple[int, ...]
    time_base: Fraction
    rate: Fraction | None
    num_lost: int = 0
    is_counted: bool = False

    def __len__(self) -> int:
        return len(self.ticks)

    def seconds(self) -> NDArray[np.float64]:
        return np.asarray((self.ticks - self.ticks[0]) * self.time_base.numerator / self.time_base.denominator)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    # "file:" and the whitelist: a name is never read as a URL, and a playlist inside the file reaches no network.
    with av.open(f"file:{path}", options={"protocol_whitelist": "file"}) as container:
        if (kind := container.format.name) in ("tty", "image2") or kind.endswith("_pipe"):
            raise VideoError(f"{path} is {'text' if kind == 'tty' else 'a still image'}, not a video")
        for stream in container.streams.video:
            if not stream.disposition & Disposition.attached_pic:  # the cover of a song
                stream.codec_context.thread_type = "AUTO"
                yield container, stream
                return
        if not container.streams:
            raise VideoError(f"{path} holds no streams: most likely {_guess(path)}")
        found = ", ".join(sorted({stream.type for stream in container.streams}))
        raise VideoError(f"{path} has no video stream, only {found}; give a file that shows something")


def _guess(path: Path) -> str:
    with path.open("rb") as file:
        is_mp4 = file.read(8)[4:] == b"ftyp"
    return "an mp4 cut off or never finished, so that its index is missing or empty" if is_mp4 else "not a video"


def _demux(path: Path) -> _Shown:
    durations: dict[int, int] = {}
    keyframes: list[int] = []
    with _opened(path) as (container, stream):
        # An mp4 whose index stands in front still opens when its end is missing; other formats list no single frames.
        listed = stream.index_entries if "mp4" in container.format.name else ()
        num_lost = sum(entry.pos + entry.size > container.size and not entry.is_discard for entry in listed)
        for packet in container.demux(stream):
            if packet.pts is None:
                continue
            if packet.is_keyframe:
                keyframes.append(packet.pts)
            if not packet.is_discard and not (num_lost and packet.is_corrupt):  # such a one is counted as lost
                durations[packet.pts] = packet.duration or 0
        time_base, rate = stream.time_base, stream.average_rate
        # AVI knows the order of decoding only, which B-frames make another one than that of showing.
        is_counted = container.format.name == "avi" and stream.codec_context.has_b_frames
        # MPEG-TS and -PS have no index: FFmpeg seeks near a time there, not to the keyframe.
        can_seek = not is_counted and container.format.name not in ("mpegts", "mpeg")
    if not durations or time_base is None:
        raise VideoError(f"{path} has a video stream, but not one frame with a time")
    ticks = np.array(sorted(durations), dtype=np.int64)
    starts = tuple(sorted(keyframes)) if can_seek else ()
    return _Shown(ticks, durations[int(ticks[-1])], starts, time_base, rate, num_lost, is_counted)


def _duration(path: Path, shown: _Shown) -> float:
    last: Fraction | int = shown.last_ticks
    if last <= 0 and len(shown) > 1:
        last = Fraction(float(np.median(np.diff(shown.ticks))))
    elif last <= 0 and shown.rate:
        last = 1 / (shown.rate * shown.time_base)
    duration = (int(shown.ticks[-1] - shown.ticks[0]) + last) * shown.time_base
    if duration <= 0:
        raise VideoError(f"{path} has {len(shown)} frame(s) and a duration of 0 seconds; nothing can be located in it")
    return float(duration)


class _Walk:
    """Decodes forwards through a stream; jumps to a keyframe where that saves decoding."""

    def __init__(self, container: InputContainer, stream: VideoStream, shown: _Shown) -> None:
        self.container, self.stream, self.keyframes = container, stream, shown.keyframes
        self.position = shown.keyframes[0] if shown.keyframes else 0  # latest tick given to the decoder
        self.damaged = False
        self.counted = iter(shown.ticks.tolist()) if shown.is_counted else None
        self.frames = self._forward()

    def _forward(self) -> Iterator[VideoFrame]:
        for packet in self.container.demux(self.stream):
            if packet.pts is not None:
                self.position = max(self.position, packet.pts)
            try:
                found = [] if packet.is_corrupt else self.stream.codec_context.decode(packet)
                self.damaged |= packet.is_corrupt
            except av.error.InvalidDataError:
                found, self.damaged = [], True
            for frame in found:
                if frame.pts is not None and not frame.is_corrupt:
                    if self.counted is not None:
                        frame.pts = next(self.counted, None)
                    yield frame

    def find(self, tick: int) -> VideoFrame | None:
        """The frame shown at ``tick``, which must not lie before one already found; None where there is none."""
        before = int(np.searchsorted(self.keyframes, tick, side="right")) - 1
        if before >= 0 and self.keyframes[before] > self.position:
            self.container.seek(self.keyframes[before], stream=self.stream)
            self.position, self.frames = self.keyframes[before], self._forward()
        for frame in self.frames:
            if frame.pts is not None and frame.pts >= tick:
                return frame if frame.pts == tick else None
        return None


def _pictures(path: Path, shown: _Shown, num_frames: int, size: tuple[int, int] | None) -> torch.Tensor | None:
    """Pixels [t 3 h w], or None when a wanted frame does not decode."""
    indices, positions = np.unique(spread(len(shown), num_frames), return_inverse=True)
    pictures: torch.Tensor | None = None
    scaler = VideoReformatter()  # kept: setting one up costs several times what scaling a small frame does
    with _opened(path) as (container, stream):
        walk = _Walk(container, stream, shown)
        for number, tick in enumerate(shown.ticks[indices]):
            if (frame := walk.find(int(tick))) is None:
                return None
            height, width = size or (frame.height, frame.width)
            if pictures is None:  # a stream that changes its size later is scaled to that of its first frame
                size, pictures = (height, width), torch.empty(len(indices), 3, height, width, dtype=torch.uint8)
            pixels = scaler.reformat(frame, width, height, "rgb24", interpolation="BICUBIC", threads=1).to_ndarray()
            pictures[number] = torch.from_numpy(pixels).permute(2, 0, 1)
    return pictures if pictures is None or len(indices) == num_frames else pictures[torch.from_numpy(positions)]


def _decodable(path: Path, shown: _Shown, *, allow_truncated: bool) -> _Shown:
    """What is left of a file when only the frames that decode count, read from front to back."""
    with _opened(path) as (container, stream):
        walk = _Walk(container, stream, replace(shown, keyframes=()))
        ticks = np.array(sorted({frame.pts for frame in walk.frames if frame.pts is not None}), dtype=np.int64)
    if len(ticks) == 0:
        raise VideoError(f"{path} holds {len(shown)} frame(s), but not one of them decodes")
    last_ticks = shown.last_ticks if ticks[-1] == shown.ticks[-1] else 0
    left = replace(shown, ticks=ticks, last_ticks=last_ticks, keyframes=(), num_lost=0)
    if walk.damaged or shown.num_lost:  # else the file is whole and merely holds packets that show nothing
        found = f"{path} is cut off or damaged: {len(left)} of its {len(shown) + shown.num_lost} frames decode"
        found += f", the last at {left.seconds()[-1]:.2f} seconds"
        if not allow_truncated:
            raise VideoError(f"{found}; pass allow_truncated=True to use those")
        warnings.warn(f"{found}; only those are used", stacklevel=3)
    return left
