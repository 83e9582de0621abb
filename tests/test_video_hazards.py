"""Containers and what goes wrong in them: whatever is asked for equals what decoding everything in order shows."""

import struct
from collections.abc import Callable
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import VideoReformatter

from timetok import video
from timetok.errors import VideoError
from timetok.video import iter_frames, read_frames
from tiny_videos import decode_everything, expected_indices, numbers, read_number, write

FPS, NUM = 8, 44


def as_gif(path: Path) -> Path:
    return write(path, NUM, fps=10, codec="gif", pix_fmt="rgb8")


def as_webm(path: Path) -> Path:
    return write(path, NUM, fps=FPS, codec="libvpx-vp9", encoder={"deadline": "realtime", "cpu-used": "8"})


def open_gop(path: Path) -> Path:
    """Frames before a keyframe in time, after it in the file, are predicted from the group before."""
    return write(path, NUM, fps=FPS, gop=8, encoder={"x264-params": "open-gop=1:bframes=3:b-adapt=0:scenecut=0"})


def fragmented(path: Path) -> Path:
    """No frame counts: each fragment has its own index."""
    return write(path, NUM, fps=FPS, muxer={"movflags": "frag_keyframe+empty_moov+default_base_moof"})


class OneWay(BytesIO):
    """What a muxer cannot return in, to fill in counts, durations and an index."""

    def seekable(self) -> bool:
        return False

    seek = None  # type: ignore[assignment]


def live(path: Path) -> Path:
    """Matroska without duration and index, as a camera sends it."""
    target, whole = OneWay(), write(path.with_name("whole.mp4"), NUM, fps=FPS, gop=8)
    with av.open(str(whole)) as source, av.open(target, "w", format="matroska", options={"live": "1"}) as container:
        copy = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = copy
                container.mux(packet)
    path.write_bytes(target.getvalue())
    return path


def negative(path: Path) -> Path:
    """An mp4 whose first frames have negative times: an edit list keeps them from being shown."""
    return write(path, NUM, fps=FPS, first=-5, muxer={"use_editlist": "1", "avoid_negative_ts": "disabled"})


def late(path: Path) -> Path:
    """An empty edit in front: the picture starts two seconds after the file."""
    return write(path, NUM, fps=FPS, first=2 * FPS)


def patched(path: Path, boxes: tuple[bytes, ...], before: int, change: Callable[[int], int]) -> Path:
    """An mp4 in which the 32-bit number so far behind the name of each box was changed."""
    content = bytearray(write(path, NUM, fps=FPS, gop=8).read_bytes())
    for box in boxes:
        place = content.index(box) + 4 + before
        content[place : place + 4] = struct.pack(">I", change(struct.unpack_from(">I", content, place)[0]))
    path.write_bytes(content)
    return path


def wrong_duration(path: Path) -> Path:
    """Movie and media headers that claim a tenth of the true duration."""
    return patched(path, (b"mvhd", b"mdhd"), 16, lambda duration: duration // 10)


def wrong_matroska_duration(path: Path) -> Path:
    content = bytearray(write(path, NUM, fps=FPS, gop=8).read_bytes())
    place = content.index(b"\x44\x89\x88") + 3  # Duration, a double of eight bytes
    content[place : place + 8] = struct.pack(">d", struct.unpack_from(">d", content, place)[0] * 100)
    path.write_bytes(content)
    return path


def halves_missing(path: Path) -> Path:
    """Variable frame rate: every other frame, and longer gaps in the middle."""
    ticks = [40 * k + (700 if k > 20 else 0) + (k % 3) for k in range(NUM)]
    return write(path, NUM, ticks=ticks, time_base=Fraction(1, 1000), gop=6)


def intra(path: Path) -> Path:
    return write(path, NUM, fps=FPS, codec="mjpeg", pix_fmt="yuvj420p", encoder={"bf": "0"})


HAZARDS: list[tuple[str, Callable[[Path], Path]]] = [
    *((f"b_frames.{kind}", lambda path: write(path, NUM, fps=FPS, gop=9)) for kind in ("mp4", "mkv", "mov", "avi")),
    ("plain.gif", as_gif),
    ("vp9.webm", as_webm),
    ("open_gop.mp4", open_gop),
    ("open_gop.mkv", open_gop),
    ("open_gop.avi", open_gop),
    ("fragmented.mp4", fragmented),
    ("live.mkv", live),
    ("negative.mp4", negative),
    ("late.mp4", late),
    ("late.mkv", late),
    ("wrong_duration.mp4", wrong_duration),
    ("wrong_duration.mkv", wrong_matroska_duration),
    ("variable.mp4", halves_missing),
    ("variable.mkv", halves_missing),
    ("mpeg4.avi", lambda path: write(path, NUM, fps=FPS, codec="mpeg4")),
    ("mpeg2.ts", lambda path: write(path, NUM, fps=25, codec="mpeg2video")),
    ("hevc.mp4", lambda path: write(path, NUM, fps=FPS, codec="libx265", encoder={"x265-params": "log-level=none"})),
    ("mjpeg.avi", intra),
]


@pytest.mark.parametrize(("name", "make"), HAZARDS, ids=[name for name, _ in HAZARDS])
def test_frames_and_times_equal_those_of_decoding_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, make: Callable[[Path], Path]
) -> None:
    path = make(tmp_path / name)
    pictures, times = decode_everything(path)
    if name.endswith(".avi"):  # decoded in order, the frames are right; FFmpeg puts wrong times on them
        times = [Fraction(k, FPS) for k in range(len(pictures))]
        pictures = in_order(path)
    num_cut = 5 if name == "negative.mp4" else 0
    assert [read_number(picture) for picture in pictures] == list(range(num_cut, NUM))
    for num_frames, num_threads in ((1, 2), (5, 1), (5, 2), (13, 3), (NUM, 1), (100, 16)):
        monkeypatch.setattr(torch, "get_num_threads", lambda num_threads=num_threads: num_threads)
        frames = read_frames(path, num_frames)
        indices = expected_indices(NUM - num_cut, num_frames)
        assert torch.equal(frames.data, torch.stack([pictures[index] for index in indices]))
        assert frames.times_seconds.tolist() == [float(times[index]) for index in indices]
        assert times[-1] < frames.duration_seconds <= times[-1] + Fraction(1, FPS) + Fraction(1, 1000)
    played = list(iter_frames(path))
    assert [seconds for seconds, _ in played] == [float(time) for time in times]
    assert torch.equal(torch.stack([picture for _, picture in played]), torch.stack(pictures))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_tags_that_are_no_utf_8(tmp_path: Path, name: str) -> None:
    """PyAV 18 fails on them unless it is told what to do, which 19 must not be."""
    path = write(tmp_path / name, 5)
    content = path.read_bytes()
    assert b"Lavf" in content
    path.write_bytes(content.replace(b"Lavf", b"\xe9avf"))
    assert numbers(read_frames(path, 5)) == [0, 1, 2, 3, 4]


def test_packets_before_the_first_keyframe_show_nothing(tmp_path: Path) -> None:
    whole, cut = write(tmp_path / "whole.mp4", NUM, fps=FPS, gop=8), tmp_path / "cut.mp4"
    with av.open(str(whole)) as source, av.open(str(cut), "w") as target:
        copy = target.add_stream_from_template(source.streams.video[0])
        _, *rest = (packet for packet in source.demux(video=0) if packet.pts is not None)
        for packet in rest:
            packet.stream = copy
            target.mux(packet)
    assert numbers(read_frames(cut, NUM - 8)) == list(range(8, NUM))
    assert [read_number(picture) for _, picture in iter_frames(cut)] == list(range(8, NUM))


def in_order(path: Path) -> list[torch.Tensor]:
    with av.open(str(path)) as container:
        return [
            torch.from_numpy(f.to_ndarray(format="rgb24", interpolation="BICUBIC")).permute(2, 0, 1)
            for f in container.decode(video=0)
        ]


# The display matrix: x' = a x + c y, y' = b x + d y, here with what it makes of a picture [3 h w].
MATRICES = {
    "a quarter to the right": ((0, 1, -1, 0), lambda p: torch.rot90(p, -1, (1, 2))),
    "upside down": ((-1, 0, 0, -1), lambda p: torch.rot90(p, 2, (1, 2))),
    "a quarter to the left": ((0, -1, 1, 0), lambda p: torch.rot90(p, 1, (1, 2))),
    "mirrored": ((-1, 0, 0, 1), lambda p: p.flip(2)),
    "transposed": ((0, 1, 1, 0), lambda p: p.transpose(1, 2)),
}


@pytest.mark.parametrize("name", MATRICES)
def test_frames_are_shown_as_the_display_matrix_says(tmp_path: Path, name: str) -> None:
    (a, b, c, d), turn = MATRICES[name]
    path = write(tmp_path / "a.mp4", 12, fps=FPS)
    pictures, _ = decode_everything(path)
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 44  # version, flags, seven numbers, 8 bytes reserved, layer, group, volume
    assert struct.unpack_from(">9i", content, place) == (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    struct.pack_into(">9i", content, place, a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    turned = torch.stack([turn(picture) for picture in pictures])
    assert torch.equal(read_frames(path, 12).data, turned)
    assert torch.equal(torch.stack([picture for _, picture in iter_frames(path)]), turned)
    small = read_frames(path, 12, size=(36, 30)).data  # of the turned picture
    assert small.shape == (12, 3, 36, 30)
    expected = torch.nn.functional.interpolate(turned.float(), (36, 30), mode="bicubic", antialias=True)
    assert (small.float() - expected).abs().mean() < 4
    assert read_frames(path, 1, size=16).data.shape[2:] == ((24, 16) if a == 0 else (16, 24))


@pytest.mark.parametrize("name", ["a.mkv", "a.webm"])
def test_a_matroska_file_that_ends_early_is_refused(tmp_path: Path, name: str) -> None:
    # FFmpeg plays it to where it ends and reports nothing
    path = as_webm(tmp_path / name) if name == "a.webm" else write(tmp_path / name, NUM, fps=FPS)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    with pytest.raises(VideoError, match="cut off or damaged"):
        read_frames(path)
    assert 10 < len(decode_everything(path)[0]) < NUM
    path.write_bytes(content)
    assert numbers(read_frames(path, NUM)) == list(range(NUM))


def test_a_stream_that_changes_its_size_keeps_that_of_its_first_frame() -> None:
    first, later = (av.VideoFrame(width, height, "rgb24") for width, height in ((96, 64), (50, 50)))
    parts = {0: [first, later], 2: [later, later], 4: [later]}  # by their first index; a thread each
    for size, shape in ((None, (3, 64, 96)), (32, (3, 32, 48)), ((20, 10), (3, 20, 10)), (lambda p: p, (3, 64, 96))):
        picture, scaler = video._Picture(size), VideoReformatter()
        assert picture(first, scaler).shape == picture(later, scaler).shape == shape
        data = video._Picture(size).sample(np.array([0, 1, 1, 2, 3, 4]), lambda part: iter(parts[part[0]]), [2, 4])
        assert data.shape == (6, *shape)
