"""Frames of a video with their true times.

What a container says about itself (frame count, duration, first timestamp) is often wrong or absent, so both
are taken from the packets of the video stream, which costs no decoding. Only the frames asked for are decoded,
with what must be decoded before them.
"""

import heapq
import math
import operator
import os
import re
import warnings
from array import array
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

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
from PIL import Image, ImageOps

from timetok.errors import ArgumentError, VideoError, VideoNotFoundError

Size = int | tuple[int, int] | Callable[[torch.Tensor], torch.Tensor]
Backend = Literal["auto", "pyav", "torchcodec"]

_NONE = np.empty(0, dtype=np.int64)


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
    source: str | os.PathLike[str] | torch.Tensor | NDArray[np.uint8],
    num_frames: int = 100,
    *,
    size: Size | None = None,
    fps: float | None = None,
    allow_truncated: bool = False,
    backend: Backend = "auto",
) -> Frames:
    """Read frames spread evenly over a video, the first and the last included: ``[t 3 h w]``, t = ``num_frames``.

    Frame indices are ``round(linspace(0, N - 1, num_frames))``, half to even, where N is the number of frames the
    video presents; one with fewer frames than asked for repeats some. They are turned as the file's metadata says.
    ``source`` is a video file; or, with ``fps``, a folder of jpg and png files in the natural order of their names, or
    an array uint8 ``[n 3 h w]``: picture i is shown at i / fps and the video ends at n / fps. ``size`` is the
    ``(height, width)`` of the returned frames, the length of the shorter side, or a function such as
    ``FrameTransform.resize`` that each frame passes once decoded, uint8 ``[1 3 h w]`` → ``[1 3 s s]``; None keeps the
    video's own. By default a damaged or cut-off file is refused; ``allow_truncated`` warns and samples the frames that
    still decode, as if the video ended with the last. ``backend="auto"`` is PyAV; torchcodec gives the same frames.

    Raises:
        VideoNotFoundError: There is nothing at ``source``.
        VideoError: ``source`` is no video, shows no frame, has no duration, or is damaged; torchcodec cannot read it.
        ArgumentError: ``num_frames``, ``size`` or ``fps`` is not positive, or an argument has the wrong type.

    Source: The sampling of LITA's released code (arXiv 2403.19046).

    Example::

        frames = read_frames("clip.mp4", num_frames=8, size=(224, 224))
        frames.data.shape          # [8, 3, 224, 224]
        frames.times_seconds[-1]   # one frame before frames.duration_seconds
    """
    num_frames, picture = _positive("num_frames", num_frames), _Picture(size)
    if backend not in get_args(Backend):
        raise ArgumentError(f"backend must be one of {', '.join(get_args(Backend))}, got {backend!r}")
    if fps is not None or isinstance(source, torch.Tensor | np.ndarray):
        return _stills(source, num_frames, picture, fps)
    path = _file(source)
    shown = _demux(path)
    data = None if shown.num_lost else _decode(path, shown, num_frames, picture, backend)
    if data is None:  # something did not decode: find out what does
        shown = _decodable(path, shown, allow_truncated=allow_truncated)
        data = _decode(path, shown, num_frames, picture, backend)
    if data is None:
        raise VideoError(f"{path} decodes differently each time it is read; re-encode it")
    times = torch.from_numpy(shown.seconds()[spread(len(shown), num_frames)])
    return Frames(data, times, _duration(path, shown))


def iter_frames(
    source: str | os.PathLike[str] | BinaryIO,
    *,
    size: Size | None = None,
    every_seconds: float = 0,
    allow_truncated: bool = False,
) -> Generator[tuple[float, torch.Tensor], None, None]:
    """Frames and their seconds since the first, uint8 ``[3 h w]``, as they are decoded; none is kept.

    ``source`` is a video file or a binary file object, which may be a pipe without end and stays open. Of each
    ``every_seconds`` only the earliest frame is given; 0 gives them all. ``size`` is that of ``read_frames``. Damage
    raises where it is met; ``allow_truncated`` passes over what does not decode and warns at the end.

    Raises:
        VideoNotFoundError, VideoError, ArgumentError: As ``read_frames``, with the first frame or later.

    Example::

        for seconds, picture in iter_frames(sys.stdin.buffer, size=224, every_seconds=0.5): ...
    """
    if not 0 <= every_seconds < math.inf:
        raise ArgumentError(f"every_seconds must be 0 or more, got {every_seconds!r}")
    step = Fraction(every_seconds).limit_denominator(10**6)  # 0.1 means 1/10: its double is more and would miss frames
    picture, first, seconds, before = _Picture(size), None, Fraction(0), None
    opened: Any = source if hasattr(source, "read") else _file(source)
    with _opened(opened) as (container, stream):
        walk = _Walk(container, stream)
        for tick, frame in walk.frames:
            if walk.is_damaged and not allow_truncated:
                break
            first = tick if first is None else first
            seconds = (tick - first) * Fraction(stream.time_base or 1)
            if (interval := seconds // step if step else tick) != before:
                before = interval
                yield float(seconds), picture(frame)
        num_lost = _num_lost(opened, container, stream, walk.num_whole)
    if walk.is_damaged or num_lost > 0 or first is None:
        found = f"{source} is cut off or damaged at {float(seconds):.2f} seconds"
        if not allow_truncated or first is None:
            raise VideoError(f"{found}; pass allow_truncated=True to use what decodes")
        warnings.warn(f"{found}; only what decodes was used", stacklevel=2)


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
    if path.is_dir():
        raise VideoError(f"{path} is a directory; give a video file, or fps as well for a folder of pictures")
    if not path.is_file() or not path.stat().st_size:
        raise VideoError(f"{path} is {'an empty' if path.is_file() else 'not a regular'} file; give a video file")
    return path


def spread(num_available: int, num_frames: int) -> NDArray[np.int64]:
    """Indices of ``num_frames`` frames spread evenly over those there are, both ends included, halves to even."""
    return np.round(np.linspace(0, num_available - 1, num_frames)).astype(np.int64)


class _Picture:
    """Turns decoded frames into pictures uint8 [3 h w]: RGB, upright, all of one size."""

    def __init__(self, size: Size | None) -> None:
        if isinstance(size, Sequence) and len(size) == 2:
            size = _positive("size[0] (height)", size[0]), _positive("size[1] (width)", size[1])
        elif size is not None and not callable(size):
            size = _positive("size, unless it is (height, width) or a function,", size)
        self.size, self.shape = size, size if isinstance(size, tuple) else None
        self.scaler = VideoReformatter()  # kept: setting one up costs several times what scaling a small frame does

    def __call__(self, frame: VideoFrame) -> torch.Tensor:
        matrix: Any = frame.side_data.get("DISPLAYMATRIX")  # begins with a b _ c d: x' = a x + c y, y' = b x + d y
        a, b, _, c, d = np.frombuffer(bytes(matrix)[:20], np.int32).tolist() if matrix else (1, 0, 0, 0, 1)
        is_turned = abs(b) > abs(a)
        shape = (frame.width, frame.height) if is_turned else (frame.height, frame.width)
        if isinstance(self.size, int) and self.shape is None:
            self.shape = shape[0] * self.size // min(shape), shape[1] * self.size // min(shape)
        self.shape = self.shape or shape  # a stream that changes its size later is scaled to that of its first frame
        height, width = self.shape[::-1] if is_turned else self.shape
        pixels = self.scaler.reformat(frame, width, height, "rgb24", interpolation="BICUBIC", threads=1).to_ndarray()
        picture = torch.from_numpy(pixels).permute((2, 1, 0) if is_turned else (2, 0, 1))
        down, right = (b, c) if is_turned else (d, a)
        if down < 0 or right < 0:
            picture = picture.flip([axis for axis, sign in ((1, down), (2, right)) if sign < 0])
        if not callable(self.size):
            return picture
        resized = self.size(picture[None])
        if resized.dtype != torch.uint8 or resized.ndim != 4 or resized.shape[:2] != (1, 3):
            raise ArgumentError(f"size must return uint8 [1 3 s s], got {resized.dtype} {list(resized.shape)}")
        return resized[0]


def _sampled(
    num_available: int, num_frames: int, frame_at: Callable[[int], VideoFrame | None], picture: _Picture
) -> torch.Tensor | None:
    """Pictures [t 3 h w] of frames spread evenly, or None when one of them does not decode."""
    data, row = torch.empty(0), 0
    for index, count in zip(*np.unique(spread(num_available, num_frames), return_counts=True), strict=True):
        if (frame := frame_at(int(index))) is None:
            return None
        pixels = picture(frame)
        if row == 0:
            data = torch.empty(num_frames, *pixels.shape, dtype=torch.uint8)
        data[row : row + int(count)] = pixels
        row += int(count)
    return data


def _stills(source: object, num_frames: int, picture: _Picture, fps: float | None) -> Frames:
    """Frames of an array or of a folder of pictures, which stand 1 / fps apart."""
    if fps is None or not 0 < fps < math.inf:
        raise ArgumentError(f"fps must be positive and finite, since an array has no times, got {fps!r}")
    stills: Sequence[Path] | NDArray[np.uint8]
    if isinstance(source, torch.Tensor | np.ndarray):
        pixels = source.numpy(force=True) if isinstance(source, torch.Tensor) else source
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3 or 0 in pixels.shape:
            raise ArgumentError(f"source must be uint8 [n 3 h w], none of them 0, got {pixels.dtype} {pixels.shape}")
        stills = pixels.transpose(0, 2, 3, 1)
    elif isinstance(source, str | os.PathLike) and (folder := Path(source)).is_dir():
        names = sorted(file.name for file in folder.iterdir() if re.fullmatch(r"[^.].*\.(jpe?g|png)", file.name, re.I))
        names.sort(key=lambda name: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)])
        if not names:
            raise VideoError(f"{folder} is a folder without jpg or png files")
        stills = [folder / name for name in names]
    else:
        raise ArgumentError(f"fps: a video knows its own times, leave it out for {_file(source)}")
    data = _sampled(len(stills), num_frames, lambda index: _still(stills[index]), picture)
    assert data is not None
    return Frames(data, torch.from_numpy(spread(len(stills), num_frames) / float(fps)), len(stills) / float(fps))


def _still(source: Path | NDArray[np.uint8]) -> VideoFrame:
    if isinstance(source, np.ndarray):
        return VideoFrame.from_ndarray(np.ascontiguousarray(source), "rgb24")
    try:
        with Image.open(source) as image:
            return _still(np.asarray(ImageOps.exif_transpose(image).convert("RGB")))
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for broken files
        raise VideoError(f"{source} is no picture that can be read: {error}") from error


@dataclass(frozen=True)
class _Shown:
    """The frames a file presents, in time-base ticks.

    ``ticks`` are the presentation times in order, ``last_ticks`` the last frame's own duration (0 if unknown),
    ``keyframes`` where decoding can start after a seek, ``num_lost`` frames beyond the end of the file, at least.
    """

    ticks: NDArray[np.int64]
    last_ticks: int
    keyframes: NDArray[np.int64]
    time_base: Fraction
    rate: Fraction | None
    num_lost: int = 0

    def __len__(self) -> int:
        return len(self.ticks)

    def seconds(self) -> NDArray[np.float64]:
        return np.asarray((self.ticks - self.ticks[0]) * self.time_base.numerator / self.time_base.denominator)


@contextmanager
def _opened(source: Path | BinaryIO) -> Iterator[tuple[InputContainer, VideoStream]]:
    # "file:" and the whitelist: a name is never read as a URL, and a playlist inside the file reaches no network.
    address = f"file:{source}" if isinstance(source, Path) else source
    try:
        with av.open(address, "r", options={"protocol_whitelist": "file"}, metadata_errors="replace") as container:
            if (kind := container.format.name) in ("tty", "image2") or kind.endswith("_pipe"):
                raise VideoError(f"{source} is {'text' if kind == 'tty' else 'a still image'}, not a video")
            for stream in container.streams.video:
                if not stream.disposition & Disposition.attached_pic:  # the cover of a song
                    stream.codec_context.thread_type = "AUTO"
                    yield container, stream
                    return
            if not container.streams:
                raise VideoError(f"{source} holds no streams: most likely {_guess(source)}")
            found = ", ".join(sorted({stream.type for stream in container.streams}))
            raise VideoError(f"{source} has no video stream, only {found}; give a file that shows something")
    except av.error.FFmpegError as error:
        raise VideoError(f"{source} cannot be read ({error.strerror}): most likely {_guess(source)}") from error


def _head(source: object) -> bytes:
    if not isinstance(source, Path):
        return b""  # a stream is read once
    with source.open("rb") as file:
        return file.read(4096)


def _guess(source: object) -> str:
    is_mp4 = _head(source)[4:8] == b"ftyp"
    return "an mp4 cut off or never finished, so that its index is missing or empty" if is_mp4 else "not a video"


def _num_lost(source: Any, container: InputContainer, stream: VideoStream, num_whole: int) -> int:
    """Frames the file promises beyond the ``num_whole`` read from it: their number in an mp4, 1 in a Matroska file."""
    if "mp4" in container.format.name:  # opens when its index stands in front; other formats list no single frames
        return sum(entry.size > 0 and not entry.is_discard for entry in stream.index_entries) - num_whole
    # A Matroska file is named "segment" all that follows its header, with a size, which FFmpeg passes over.
    head = _head(source)
    start = head.find(b"\x18\x53\x80\x67") + 4
    if "matroska" not in container.format.name or not 4 <= start < len(head):
        return 0
    length = 9 - head[start].bit_length()  # a size of n bytes begins with n - 1 zero bits and a one
    unknown = (1 << 7 * length) - 1
    size = int.from_bytes(head[start : start + length]) & unknown
    return int(size != unknown and start + length + size > source.stat().st_size)


def _demux(path: Path) -> _Shown:
    found, keyframes = array("q"), array("q")
    last: tuple[float, int] = (-math.inf, 0)
    with _opened(path) as (container, stream):
        is_mp4 = "mp4" in container.format.name
        for packet in container.demux(stream):
            if packet.pts is None:
                continue
            if packet.is_keyframe:
                keyframes.append(packet.pts)
            if not packet.is_discard and not (is_mp4 and packet.is_corrupt):  # such a one is counted as lost
                found.append(packet.pts)
                last = max(last, (packet.pts, packet.duration or 0))
        time_base, rate = stream.time_base, stream.average_rate
        num_lost = _num_lost(path, container, stream, len(found))
    if not found or time_base is None:
        raise VideoError(f"{path} has a video stream, but not one frame with a time")
    return _Shown(_unique(found), last[1], _unique(keyframes), time_base, rate, max(num_lost, 0))


def _unique(ticks: Iterable[int]) -> NDArray[np.int64]:
    return np.unique(np.array(ticks, dtype=np.int64))


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
    """Decodes forwards through a stream, tick and frame; jumps to a keyframe where that saves decoding."""

    def __init__(self, container: InputContainer, stream: VideoStream, keyframes: NDArray[np.int64] = _NONE) -> None:
        self.container, self.stream = container, stream
        # AVI knows the order of decoding only, which B-frames make another one than that of showing: its ticks are
        # true but stand on the wrong packets, so they queue up and each frame takes the earliest.
        is_reordered = container.format.name == "avi" and stream.codec_context.has_b_frames
        self.queue: list[int] | None = [] if is_reordered else None
        # MPEG-TS and -PS have no index: FFmpeg seeks near a time there, not to the keyframe.
        self.keyframes = _NONE if is_reordered or container.format.name in ("mpegts", "mpeg") else keyframes
        self.position = int(self.keyframes[0]) if len(self.keyframes) else 0  # latest tick given to the decoder
        self.wanted: float = -math.inf
        self.num_whole, self.is_damaged = 0, False
        self.frames = self._forward()

    def _forward(self) -> Iterator[tuple[int, VideoFrame]]:
        decoder = self.stream.codec_context
        # On the way, frames that no other is predicted from need no decoding; H.264 says for certain which these are.
        can_skip = len(self.keyframes) > 0 and decoder.name == "h264"
        for packet in self.container.demux(self.stream):
            if packet.pts is not None:
                self.position = max(self.position, packet.pts)
                self.num_whole += not packet.is_discard and not packet.is_corrupt
                if self.queue is not None:
                    heapq.heappush(self.queue, packet.pts)
            if can_skip:
                decoder.skip_frame = "NONREF" if (packet.pts or self.wanted) < self.wanted else "DEFAULT"
            try:
                found = [] if packet.is_corrupt else decoder.decode(packet)
                self.is_damaged |= packet.is_corrupt
            except av.error.InvalidDataError:
                found, self.is_damaged = [], True
            for frame in found:
                tick = frame.pts if self.queue is None else heapq.heappop(self.queue) if self.queue else None
                if tick is not None and not frame.is_corrupt:
                    yield tick, frame

    def find(self, tick: int) -> VideoFrame | None:
        """The frame shown at ``tick``, which must not lie before one already found; None where there is none."""
        self.wanted = tick
        before = int(np.searchsorted(self.keyframes, tick, side="right")) - 1
        if before >= 0 and self.keyframes[before] > self.position:
            self.position = int(self.keyframes[before])
            self.container.seek(self.position, stream=self.stream)
            self.frames = self._forward()
        for reached, frame in self.frames:
            if reached >= tick:
                return frame if reached == tick else None
        return None


def _decode(path: Path, shown: _Shown, num_frames: int, picture: _Picture, backend: Backend) -> torch.Tensor | None:
    """Pixels [t 3 h w], or None when a wanted frame does not decode."""
    if backend == "torchcodec":
        return _sampled(len(shown), num_frames, _torchcodec(path, len(shown)), picture)
    with _opened(path) as (container, stream):
        walk = _Walk(container, stream, shown.keyframes)
        return _sampled(len(shown), num_frames, lambda index: walk.find(int(shown.ticks[index])), picture)


def _torchcodec(path: Path, num_shown: int) -> Callable[[int], VideoFrame]:
    try:
        from torchcodec.decoders import VideoDecoder

        decoder = VideoDecoder(path)
        if len(decoder) != num_shown:
            raise RuntimeError(f"it finds {len(decoder)} frames, of {num_shown}")
    except (ImportError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise VideoError(f"backend: torchcodec cannot read {path}: {reason}; PyAV is the default") from error
    return lambda index: VideoFrame.from_ndarray(decoder[index].permute(1, 2, 0).numpy(), "rgb24")


def _decodable(path: Path, shown: _Shown, *, allow_truncated: bool) -> _Shown:
    """What is left of a file when only the frames that decode count, read from front to back."""
    with _opened(path) as (container, stream):
        walk = _Walk(container, stream)
        ticks = _unique([tick for tick, _ in walk.frames])
    if len(ticks) == 0:
        raise VideoError(f"{path} holds {len(shown)} frame(s), but not one of them decodes")
    last_ticks = shown.last_ticks if ticks[-1] == shown.ticks[-1] else 0
    left = replace(shown, ticks=ticks, last_ticks=last_ticks, keyframes=_NONE, num_lost=0)
    if walk.is_damaged or shown.num_lost:  # else the file is whole and merely holds packets that show nothing
        found = f"{path} is cut off or damaged: {len(left)} of its {len(shown) + shown.num_lost} frames decode"
        found += f", the last at {left.seconds()[-1]:.2f} seconds"
        if not allow_truncated:
            raise VideoError(f"{found}; pass allow_truncated=True to use those")
        warnings.warn(f"{found}; only those are used", stacklevel=3)
    return left
