"""A video file as FFmpeg presents it: which frames it shows, when, and how to reach them."""

import re
from bisect import bisect_right, insort
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import av
import numpy as np
from av import VideoFrame, VideoStream
from av.container import InputContainer
from av.stream import Disposition
from numpy.typing import NDArray

from timetok.errors import VideoError


class Shown(NamedTuple):
    """The frames a file presents, in time-base ticks."""

    ticks: NDArray[np.int64]  # presentation times in order
    last_ticks: int  # the last frame's own duration, 0 if unknown
    keyframes: tuple[int, ...]  # where decoding can start after a seek
    time_base: Fraction


@contextmanager
def opened(source: Path | BinaryIO, num_threads: int = 0) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its first video stream that is no picture of a cover; else a VideoError. 0 threads: many."""
    # "file:" and the whitelist: a name is never read as a URL, and a playlist inside the file reaches no network.
    address = f"file:{source}" if isinstance(source, Path) else source
    try:
        with av.open(address, "r", options={"protocol_whitelist": "file"}, metadata_errors="replace") as container:
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


def check_whole(path: Path, container: InputContainer, stream: VideoStream) -> None:
    """A VideoError if the file is shorter than it says."""
    if "mp4" in container.format.name:  # one whose index stands in front still opens when its end is missing
        promised = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    else:  # Matroska gives the size of all behind its header, in 7 bytes, unless they are all ones; FFmpeg ignores it
        with path.open("rb") as file:
            header = re.match(rb"\x1aE\xdf\xa3.*?\x18S\x80g\x01(?!\xff{7})(.{7})", file.read(4096), re.DOTALL)
        promised = header.end() + int.from_bytes(header[1]) if header else 0
    if promised > (size := path.stat().st_size):
        raise VideoError(f"{path} is cut off or damaged: of its {promised} bytes {size} are there")


def demux(path: Path) -> Shown:
    """What the packets say, without decoding."""
    found: dict[int, int] = {}
    keyframes = set()
    with opened(path) as (container, stream):
        check_whole(path, container, stream)
        # MPEG-TS and -PS have no index: FFmpeg seeks near a time there, not to the keyframe.
        can_seek = container.format.name not in ("mpegts", "mpeg") and Walk(container, stream).queue is None
        for packet in container.demux(stream):
            if packet.pts is None:
                continue
            if packet.is_keyframe and can_seek:
                keyframes.add(packet.pts)
            if not packet.is_discard:
                found[packet.pts] = packet.duration or 0
        time_base = stream.time_base
    if not found or time_base is None:
        raise VideoError(f"{path} has a video stream, but not one frame with a time")
    ticks = np.array(sorted(found), dtype=np.int64)
    return Shown(ticks, found[int(ticks[-1])], tuple(sorted(keyframes)), time_base)


def duration(path: Path, shown: Shown) -> float:
    """Seconds from the first frame to the end of the last, however long the container says it is."""
    last: Any = shown.last_ticks
    if last <= 0 and len(shown.ticks) > 1:
        last = Fraction(float(np.median(np.diff(shown.ticks))))
    duration = (int(shown.ticks[-1] - shown.ticks[0]) + last) * shown.time_base
    if duration <= 0:
        raise VideoError(f"{path} has a duration of 0 seconds; nothing can be located in it")
    return float(duration)


class Walk:
    """Decodes forwards through a stream, tick and frame; jumps to a keyframe where that saves decoding."""

    def __init__(self, container: InputContainer, stream: VideoStream, keyframes: Sequence[int] = ()) -> None:
        self.container, self.stream = container, stream
        # AVI knows the order of decoding only, which B-frames make another one than that of showing: its ticks are
        # true but stand on the wrong packets, so they queue up and each frame takes the earliest.
        is_reordered = container.format.name == "avi" and stream.codec_context.has_b_frames
        self.queue: list[int] | None = [] if is_reordered else None
        self.keyframes, self.position = keyframes, min(keyframes, default=0)  # the latest tick given to the decoder
        self.wanted = 0
        self.frames = self._forward()

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
        self.wanted = tick
        before = bisect_right(self.keyframes, tick) - 1
        if before >= 0 and self.keyframes[before] > self.position:
            self.position = self.keyframes[before]
            self.container.seek(self.position, stream=self.stream)
            self.frames = self._forward()
        reached, frame = next((found for found in self.frames if found[0] >= tick), (None, None))
        if frame is None or reached != tick:
            raise VideoError(f"{self.container.name} decodes differently each time it is read; re-encode it")
        return frame


def played(source: Path | BinaryIO) -> Iterator[tuple[int, Fraction, VideoFrame]]:
    """Each frame from front to back, its tick, its seconds since the first; a VideoError if the file is damaged."""
    first = None
    with opened(source) as (container, stream):
        if isinstance(source, Path):
            check_whole(source, container, stream)
        for tick, frame in Walk(container, stream).frames:
            first = tick if first is None else first
            yield tick, (tick - first) * Fraction(stream.time_base or 1), frame
    if first is None:
        raise VideoError(f"{source} has a video stream, but not one frame of it decodes")
