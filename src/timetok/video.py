"""Frames of a video with their true times.

What a container says of times and duration is often wrong or absent, so both are taken from the packets of its stream,
which costs no decoding. Only the frames asked for are decoded, with what must be decoded before them.
"""

import math
import os
import re
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import chain, groupby, repeat
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, get_args

import av
import numpy as np
import torch
from av import VideoFrame, VideoStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from PIL import Image, ImageOps

from timetok.errors import ArgumentError, VideoError, VideoNotFoundError, check_count, raised_as
from timetok.timegrid import Span


class Part(NamedTuple):
    """A part of a video file, to be read as a video of its own: times count from where it starts in the file."""

    path: str | os.PathLike[str]
    span: Span


Source = str | os.PathLike[str]
Array = torch.Tensor | NDArray[np.uint8]
Media = Source | Part | Array
Backend = Literal["pyav", "torchcodec"]
_FramesAt = Callable[[NDArray[np.int64]], Iterator[VideoFrame]]
Size = int | tuple[int, int] | Callable[[torch.Tensor], torch.Tensor] | None


@dataclass(frozen=True, eq=False)
class Frames:
    """Frames sampled from a video, with the moments at which they are shown; else an ArgumentError.

    ``data`` are RGB pixels, uint8 ``[t c h w]`` with c = 3; ``times_seconds``, float64 ``[t]``, never decreasing, when
    they are shown: the video's first frame at 0, its last before the end, at ``duration_seconds``, the length of the
    whole video, positive and finite, minus its own duration.
    """

    data: torch.Tensor
    times_seconds: torch.Tensor
    duration_seconds: float

    def __post_init__(self) -> None:
        data, times, end = self.data, self.times_seconds, self.duration_seconds
        if data.dtype != torch.uint8 or data.ndim != 4 or data.shape[1] != 3 or 0 in data.shape:
            raise ArgumentError(f"data must be uint8 [t 3 h w], none of them 0, got {data.dtype} {list(data.shape)}")
        if times.dtype != torch.float64 or times.shape != data.shape[:1]:
            raise ArgumentError(f"times_seconds must be float64 [{len(data)}], got {times.dtype} {list(times.shape)}")
        if not 0 < end < math.inf:
            raise ArgumentError(f"duration_seconds must be positive and finite, got {end!r}")
        if not bool((times.diff() >= 0).all() and times[0] >= 0 and times[-1] <= end):
            raise ArgumentError(f"times_seconds must never decrease and stay within [0, {end}], got {times.tolist()}")

    def __len__(self) -> int:
        return len(self.data)


def read_frames(
    source: Media, num_frames: int = 100, *, size: Size = None, fps: float | None = None, backend: Backend = "pyav"
) -> Frames:
    """Read frames spread evenly over a video, the first and the last included: ``[t 3 h w]``, t = ``num_frames``.

    Frame indices are ``round(linspace(0, N - 1, num_frames))``, half to even, where N is the number of frames the video
    presents; one with fewer frames than asked for repeats some. They are turned as the file's metadata says. ``source``
    is a video file, or a `Part` of one, at whose start the frame shown then stands; or, with ``fps``, a uint8 array
    ``[n 3 h w]``, torch or numpy, a jpg or png file, or a folder of n in the natural order of their names: picture i is
    shown at i / fps and the video ends at n / fps. ``size`` is the ``(height, width)`` of the returned frames, the
    length of the shorter side, or a function such as ``FrameTransform.resize`` that each frame passes once decoded, in
    any thread, uint8 ``[1 3 h w]`` → ``[1 3 s s]``; None keeps the video's own. ``backend="torchcodec"`` takes pixels
    from there; it must be installed, with an FFmpeg, may overlook damage, and turns videos but mirrors none.

    Raises:
        VideoNotFoundError: There is nothing at ``source``.
        VideoError: ``source`` is no video, shows no frame, has no duration, or is damaged; torchcodec cannot read it.
        ArgumentError: ``num_frames``, ``size`` or ``fps`` is not positive, a part is none, or a type is wrong.

    Source: The sampling of LITA's released code (arXiv 2403.19046).
    """
    num_frames, picture = check_count("num_frames", num_frames), _Picture(size)
    if backend not in get_args(Backend):
        raise ArgumentError(f"backend must be one of {', '.join(get_args(Backend))}, got {backend!r}")
    if fps is not None:
        return _stills(source, num_frames, picture, fps)
    path, part = (_file(source.path), source.span) if isinstance(source, Part) else (_file(source), None)
    shown = _demux(path, path.stat().st_mtime_ns)
    with suppress(VideoError) if backend == "pyav" else nullcontext():
        return _decode(path, shown, part, num_frames, picture, backend)
    # Either the file is damaged, which reading on will tell, or some of its packets show nothing.
    left = shown._replace(ticks=np.unique([tick for tick, *_ in _played(path)]), keyframes=())
    return _decode(path, left, part, num_frames, picture, backend)


def iter_frames(
    source: Source | BinaryIO, *, size: Size = None, every_seconds: float = 0
) -> Generator[tuple[float, torch.Tensor], None, None]:
    """Frames and their seconds since the first, uint8 ``[3 h w]``, as they are decoded; none is kept.

    ``source`` is a video file or a binary file object, which may be a pipe without end and stays open. Of each
    ``every_seconds`` only the earliest frame is given; 0 gives them all. ``size`` and what is raised are those of
    ``read_frames``: a file that is cut off raises at once, other damage where it is met.
    """
    if not 0 <= every_seconds < math.inf:
        raise ArgumentError(f"every_seconds must be 0 or more, got {every_seconds!r}")
    step = Fraction(every_seconds).limit_denominator(10**6)  # 0.1 means 1/10: its double is more and would miss frames
    picture, scaler = _Picture(size), VideoReformatter()
    given: Any = source if hasattr(source, "read") else _file(source)
    for _, shown in groupby(_played(given), lambda each: each[1] // step if step else each[1]):
        _, seconds, frame = next(shown)
        yield float(seconds), picture(frame, scaler)


def _file(source: object) -> Path:
    if not isinstance(source, str | os.PathLike):
        raise ArgumentError(f"source must be the path of a video file, got {type(source).__name__}; arrays need fps")
    path = Path(source)
    if not path.exists():
        raise VideoNotFoundError(f"{path} does not exist; give the path of a video file")
    if not path.is_file():
        found = "a directory" if path.is_dir() else "not a regular file"
        raise VideoError(f"{path} is {found}; give a video file, or fps as well for a folder of pictures")
    return path


def spread(num_available: int, num_frames: int) -> NDArray[np.int64]:
    """Indices of ``num_frames`` frames spread evenly over those there are, both ends included, halves to even."""
    return np.round(np.linspace(0, num_available - 1, num_frames)).astype(np.int64)


class _Picture:
    """Turns decoded frames into pictures uint8 [3 h w]: RGB, upright, all of one size."""

    def __init__(self, size: Size) -> None:
        if isinstance(size, Sequence) and len(size) == 2:
            size = check_count("size[0] (height)", size[0]), check_count("size[1] (width)", size[1])
        elif size is not None and not callable(size):
            size = check_count("size, unless it is (height, width) or a function", size)
        self.size, self.shape = size, size if isinstance(size, tuple) else None

    def __call__(self, frame: VideoFrame, scaler: VideoReformatter) -> torch.Tensor:
        matrix: Any = frame.side_data.get("DISPLAYMATRIX")  # begins with a b _ c d: x' = a x + c y, y' = b x + d y
        a, b, _, c, d = np.frombuffer(bytes(matrix)[:20], np.int32).tolist() if matrix else (1, 0, 0, 0, 1)
        is_turned = abs(b) > abs(a)
        shape = (frame.width, frame.height) if is_turned else (frame.height, frame.width)
        if isinstance(self.size, int) and self.shape is None:
            self.shape = shape[0] * self.size // min(shape), shape[1] * self.size // min(shape)
        self.shape = self.shape or shape  # a stream that changes its size later is scaled to that of its first frame
        height, width = self.shape[::-1] if is_turned else self.shape
        pixels = scaler.reformat(frame, width, height, "rgb24", interpolation="BICUBIC", threads=1).to_ndarray()
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

    def sample(self, indices: NDArray[np.int64], frames_at: _FramesAt, starts: Sequence[int] = ()) -> torch.Tensor:
        """Pictures [t 3 h w] at never decreasing indices, each asked for once, from each of ``starts`` by a thread."""
        parts = np.split(np.unique(indices), starts)
        # A scaler for each: setting one up costs several times what scaling a small frame does.
        pictures = [map(self, frames_at(part), repeat(VideoReformatter())) for part in parts]
        first = next(pictures[0])  # which tells all parts their size
        data = torch.empty(len(indices), *first.shape, dtype=torch.uint8)

        def fill(part: NDArray[np.int64], pictures: Iterator[torch.Tensor]) -> None:
            for index, picture in zip(part, pictures, strict=True):
                data[torch.from_numpy(indices == index)] = picture

        with ThreadPoolExecutor(len(parts)) as pool:
            list(pool.map(fill, parts, [chain([first], pictures[0]), *pictures[1:]]))
        return data


def _stills(source: object, num_frames: int, picture: _Picture, fps: float) -> Frames:
    is_picture = re.compile(r"(?i)[^.].*\.(jpe?g|png)").fullmatch
    if not 0 < fps < math.inf:
        raise ArgumentError(f"fps must be positive and finite, got {fps!r}")
    if isinstance(source, torch.Tensor | np.ndarray):
        kind, shape = str(source.dtype).removeprefix("torch."), list(source.shape)
        if kind != "uint8" or len(shape) != 4 or shape[1] != 3 or 0 in shape:
            raise ArgumentError(f"source must be uint8 [t 3 h w], none of them 0, got {kind} {shape}")
        stills: Any = source.numpy(force=True) if isinstance(source, torch.Tensor) else source
    elif isinstance(source, str | os.PathLike) and (Path(source).is_dir() or is_picture(Path(source).name)):
        found = sorted(Path(source).iterdir()) if Path(source).is_dir() else [Path(source)]
        stills = [file for file in found if is_picture(file.name)]
        stills.sort(key=lambda file: [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", file.name)])
        if not stills:
            raise VideoError(f"{source} is a folder without jpg or png files")
    else:
        raise ArgumentError(f"fps: a video knows its own times, leave it out for {_file(source)}")
    indices = spread(len(stills), num_frames)
    data = picture.sample(indices, lambda part: (_still(stills[index]) for index in part))
    return Frames(data, torch.from_numpy(indices / float(fps)), len(stills) / float(fps))


def _still(source: Path | NDArray[np.uint8]) -> VideoFrame:
    causes = OSError, SyntaxError, ValueError, Image.DecompressionBombError
    made: Any = Image.open if isinstance(source, Path) else lambda array: Image.fromarray(array.transpose(1, 2, 0))
    with raised_as(VideoError, f"{source} is no picture that can be read", *causes), made(source) as image:
        return VideoFrame.from_ndarray(np.asarray(ImageOps.exif_transpose(image).convert("RGB")), "rgb24")


class _Shown(NamedTuple):
    """The frames a file presents, in time-base ticks."""

    ticks: NDArray[np.int64]  # presentation times in order
    last_ticks: int  # the last frame's own duration, 0 if unknown
    keyframes: tuple[int, ...]  # where decoding can start after a seek
    time_base: Fraction


@contextmanager
def _opened(source: Path | BinaryIO, num_threads: int = 0) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its first video stream that is no picture of a cover; else a VideoError. 0 threads: many."""
    # "file:" and the whitelist: a name is never read as a URL, and a playlist inside the file reaches no network.
    address = f"file:{source}" if isinstance(source, Path) else source
    tags: Any = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}  # 19 always does
    try:
        with av.open(address, "r", options={"protocol_whitelist": "file"}, **tags) as container:
            if (kind := container.format.name) in ("tty", "image2") or kind.endswith("_pipe"):
                raise VideoError(f"{source} is {'text' if kind == 'tty' else 'a still image'}, not a video")
            for stream in container.streams.video:
                if stream.codec_context and not stream.disposition & Disposition.attached_pic:  # the cover of a song
                    stream.codec_context.thread_type, stream.codec_context.thread_count = "AUTO", num_threads
                    yield container, stream
                    return
            kinds = ", ".join(sorted({stream.type for stream in container.streams}))
            raise VideoError(f"{source} has no video to decode, it holds {kinds or 'nothing: its index is missing'}")
    except av.FFmpegError as error:
        causes = "not a video, damaged, or its index is missing"
        raise VideoError(f"{source} cannot be read ({error.strerror}): {causes}") from error


def _check_whole(path: Path, container: InputContainer, stream: VideoStream) -> None:
    if "mp4" in container.format.name:  # one whose index stands in front still opens when its end is missing
        promised = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    else:  # Matroska gives the size of all behind its header, in 7 bytes, unless they are all ones; FFmpeg ignores it
        with path.open("rb") as file:
            header = re.match(rb"\x1aE\xdf\xa3.*?\x18S\x80g\x01(?!\xff{7})(.{7})", file.read(4096), re.DOTALL)
        promised = header.end() + int.from_bytes(header[1]) if header else 0
    if promised > (size := path.stat().st_size):
        raise VideoError(f"{path} is cut off or damaged: of its {promised} bytes {size} are there")


@lru_cache(4)  # parts of one file are read one after the other
def _demux(path: Path, _changed: int) -> _Shown:
    found, keyframes = dict[int, int](), set[int]()
    with _opened(path) as (container, stream):
        _check_whole(path, container, stream)
        # MPEG-TS and -PS have no index: FFmpeg seeks near a time there, not to the keyframe.
        can_seek = container.format.name not in ("mpegts", "mpeg") and _Walk(container, stream).queue is None
        for packet in container.demux(stream):
            if packet.pts is None:
                continue
            if packet.is_keyframe and can_seek:
                keyframes.add(packet.pts)
            if not packet.is_discard:
                found[packet.pts] = packet.duration or 0
        if not found or stream.time_base is None:
            raise VideoError(f"{path} has a video stream, but not one frame with a time")
        ticks = np.array(sorted(found), dtype=np.int64)
        return _Shown(ticks, found[max(found)], tuple(sorted(keyframes)), stream.time_base)


def _duration(path: Path, shown: _Shown) -> float:
    """Seconds from the first frame to the end of the last, however long the container says it is."""
    last: Any = shown.last_ticks
    if last <= 0 and len(shown.ticks) > 1:
        last = Fraction(float(np.median(np.diff(shown.ticks))))
    duration = (int(shown.ticks[-1] - shown.ticks[0]) + last) * shown.time_base
    if duration <= 0:
        raise VideoError(f"{path} has a duration of 0 seconds; nothing can be located in it")
    return float(duration)


class _Walk:
    """Decodes forwards through a stream, tick and frame; jumps to a keyframe where that saves decoding."""

    def __init__(self, container: InputContainer, stream: VideoStream, keyframes: Sequence[int] = ()) -> None:
        self.container, self.stream = container, stream
        # AVI knows the order of decoding only, which B-frames make another one than that of showing: its ticks are
        # true but stand on the wrong packets, so they queue up and each frame takes the earliest.
        is_reordered = container.format.name == "avi" and stream.codec_context.has_b_frames
        self.queue: list[int] | None = [] if is_reordered else None
        self.keyframes, self.position = keyframes, min(keyframes, default=0)  # the latest tick given to the decoder
        self.wanted, self.frames = 0, self._forward()

    def _forward(self) -> Iterator[tuple[int, VideoFrame]]:
        decoder = self.stream.codec_context
        # On the way, frames that no other is predicted from need no decoding; H.264 says for certain which these are.
        can_skip = bool(self.keyframes) and decoder.name == "h264"
        for packet in self.container.demux(self.stream):
            if packet.is_corrupt:
                raise VideoError(f"{self.container.name} is cut off or damaged")
            if packet.pts is not None:
                self.position = max(self.position, packet.pts)
                if self.queue is not None:
                    insort(self.queue, packet.pts)
            if can_skip:
                decoder.skip_frame = "NONREF" if (packet.pts or self.wanted) < self.wanted else "DEFAULT"
            for frame in decoder.decode(packet):
                tick = frame.pts if self.queue is None else self.queue.pop(0) if self.queue else None
                if tick is not None and not frame.is_corrupt:
                    yield tick, frame

    def find(self, tick: int) -> VideoFrame:
        """The frame shown at ``tick``, which must not lie before one already found; a VideoError if it is lost."""
        self.wanted, before = tick, bisect_right(self.keyframes, tick) - 1
        if before >= 0 and self.keyframes[before] > self.position:
            self.position = self.keyframes[before]
            self.container.seek(self.position, stream=self.stream)
            self.frames = self._forward()
        reached, frame = next((found for found in self.frames if found[0] >= tick), (None, None))
        if frame is None or reached != tick:
            raise VideoError(f"{self.container.name} decodes differently each time it is read; re-encode it")
        return frame


def _played(source: Path | BinaryIO) -> Iterator[tuple[int, Fraction, VideoFrame]]:
    """Each frame from front to back, its tick, its seconds since the first; a VideoError if the file is damaged."""
    first = None
    with _opened(source) as (container, stream):
        if isinstance(source, Path):
            _check_whole(source, container, stream)
        for tick, frame in _Walk(container, stream).frames:
            first = tick if first is None else first
            yield tick, (tick - first) * Fraction(stream.time_base or 1), frame
    if first is None:
        raise VideoError(f"{source} has a video stream, but not one frame of it decodes")


def _decode(path: Path, shown: _Shown, part: Span | None, num: int, picture: _Picture, backend: Backend) -> Frames:
    end, begin, base = _duration(path, shown), int(shown.ticks[0]), shown.time_base
    start, stop = part or (0.0, end)
    if not 0 <= start < stop <= end:
        raise ArgumentError(f"source: expected a part of {end} seconds that has a length, got {start} to {stop}")
    if part:  # a file may begin with packets that show nothing, which the fallback leaves out
        next(_pyav(path, shown, np.array([0]), 1))
    first = bisect_right(shown.ticks, begin + math.floor(Fraction(start) / base)) - 1
    indices = first + spread(max(bisect_left(shown.ticks, begin + math.ceil(Fraction(stop) / base)) - first, 1), num)
    # Threads within a decoder start anew at each seek, so most decode from keyframes of their own instead. They are no
    # more than eight: what each has to keep takes 0.1 GB in 4K.
    groups = np.searchsorted(shown.keyframes, shown.ticks[np.unique(indices)], "right")
    begins, num_threads = np.unique(groups, return_index=True)[1], min(torch.get_num_threads(), 8)
    starts = [part[0] for part in np.array_split(begins, min(num_threads, len(begins)))[1:]]
    decode, each = (_torchcodec if backend == "torchcodec" else _pyav), num_threads // (len(starts) + 1)
    data = picture.sample(indices, lambda part: decode(path, shown, part, each), starts)
    seconds = (shown.ticks[indices] - begin) * base.numerator / base.denominator - start
    return Frames(data, torch.from_numpy(seconds.clip(0)), stop - start)


def _pyav(path: Path, shown: _Shown, indices: NDArray[np.int64], num_threads: int) -> Iterator[VideoFrame]:
    with _opened(path, num_threads) as (container, stream):
        yield from map(_Walk(container, stream, shown.keyframes).find, shown.ticks[indices].tolist())


def _torchcodec(path: Path, shown: _Shown, indices: NDArray[np.int64], num_threads: int) -> Iterator[VideoFrame]:
    causes = ImportError, LookupError, RuntimeError, ValueError
    with raised_as(VideoError, f"backend: torchcodec cannot read {path}", *causes):
        from torchcodec.decoders import VideoDecoder

        decoder = VideoDecoder(path, num_ffmpeg_threads=num_threads)
        for index in indices.tolist():
            found = decoder.get_frame_at(index)
            if round(found.pts_seconds / shown.time_base) != shown.ticks[index]:
                raise RuntimeError(f"it shows frame {index} at {found.pts_seconds} seconds")
            yield VideoFrame.from_ndarray(found.data.permute(1, 2, 0).numpy(), "rgb24")
