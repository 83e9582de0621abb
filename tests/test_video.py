"""Frames are the right frames: each test video carries its frame numbers in its pixels."""

import itertools
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch

from timetok import video
from timetok.errors import ArgumentError, VideoError, VideoNotFoundError
from timetok.video import Frames, read_frames
from tiny_videos import HEIGHT, NTSC, WIDTH, decode_everything, draw, expected_indices, numbers, read_number, write


@pytest.fixture
def packets_decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one element for each packet handed to the decoder."""
    seen: list[int] = []

    class Counted(video._Walk):
        def __init__(self, container: Any, stream: Any, shown: Any = ()) -> None:
            def demux(stream: Any) -> Iterator[Any]:
                for packet in container.demux(stream):
                    seen.append(1)
                    yield packet

            super().__init__(SimpleNamespace(demux=demux, seek=container.seek, format=container.format), stream, shown)

    monkeypatch.setattr(video, "_Walk", Counted)
    return seen


@pytest.mark.parametrize("fps", [8, 25, NTSC])
@pytest.mark.parametrize("gop", [1, 7, 12, 250])
def test_frames_times_and_duration_are_exact(tmp_path: Path, fps: Fraction | int, gop: int) -> None:
    path = write(tmp_path / "a.mp4", 61, fps=fps, gop=gop)
    pictures, _ = decode_everything(path)
    for num_frames in (1, 2, 7, 61):
        frames = read_frames(path, num_frames)
        indices = expected_indices(61, num_frames)
        assert numbers(frames) == indices
        assert torch.equal(frames.data, torch.stack([pictures[i] for i in indices]))
        assert frames.times_seconds.tolist() == [float(i / Fraction(fps)) for i in indices]
        assert frames.duration_seconds == float(61 / Fraction(fps))


def test_halves_round_to_even(tmp_path: Path) -> None:
    # linspace(0, 9, 7) = 0, 1.5, 3, 4.5, 6, 7.5, 9
    assert numbers(read_frames(write(tmp_path / "a.mp4", 10), 7)) == [0, 2, 3, 4, 6, 8, 9]


def test_fewer_frames_than_asked_for_are_repeated(tmp_path: Path) -> None:
    frames = read_frames(write(tmp_path / "a.mp4", 5, fps=25))
    assert len(frames) == 100
    assert numbers(frames) == expected_indices(5, 100)
    assert frames.times_seconds.tolist() == [i / 25 for i in expected_indices(5, 100)]


def test_a_single_frame_has_a_duration(tmp_path: Path) -> None:
    frames = read_frames(str(write(tmp_path / "a.mp4", 1, fps=8)), 4)
    assert numbers(frames) == [0] * 4
    assert frames.times_seconds.tolist() == [0.0] * 4
    assert frames.duration_seconds == 1 / 8


def test_variable_frame_rate_keeps_true_times(tmp_path: Path) -> None:
    gaps = [40, 40, 500, 33, 34, 1000, 41, 7, 120, 40, 40, 39]
    ticks = [0, *itertools.accumulate(gaps)]
    path = write(tmp_path / "a.mp4", len(ticks), ticks=ticks, time_base=Fraction(1, 1000), gop=5)
    frames = read_frames(path, len(ticks))
    assert numbers(frames) == list(range(len(ticks)))
    assert frames.times_seconds.tolist() == [tick / 1000 for tick in ticks]


@pytest.mark.parametrize("name", ["a.mkv", "a.ts", "a.mov"])
def test_other_containers(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, 40, fps=8)
    pictures, times = decode_everything(path)
    frames = read_frames(path, 9)
    indices = expected_indices(len(pictures), 9)
    assert numbers(frames) == [read_number(pictures[i]) for i in indices]
    assert frames.times_seconds.tolist() == [float(times[i]) for i in indices]
    assert frames.duration_seconds == pytest.approx(40 / 8, abs=1 / 8)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_avi_which_stores_no_presentation_times(tmp_path: Path, codec: str) -> None:
    frames = read_frames(write(tmp_path / "a.avi", 40, fps=8, codec=codec), 14)
    assert numbers(frames) == expected_indices(40, 14)
    assert frames.times_seconds.tolist() == [i / 8 for i in expected_indices(40, 14)]
    assert frames.duration_seconds == 40 / 8


def test_time_starts_at_the_first_frame(tmp_path: Path) -> None:
    frames = read_frames(write(tmp_path / "a.mp4", 24, fps=8, first=16), 24)
    assert frames.times_seconds.tolist() == [i / 8 for i in range(24)]
    assert frames.duration_seconds == 24 / 8


def test_frames_cut_away_by_an_edit_list_are_not_shown(tmp_path: Path) -> None:
    whole, cut = write(tmp_path / "a.mp4", 60, fps=8, gop=10), tmp_path / "cut.mp4"
    with av.open(str(whole)) as source, av.open(str(cut), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.pts is None:
                continue
            shift = int(Fraction(15, 8) / packet.time_base)
            packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
            target.mux(packet)
    frames = read_frames(cut, 45)
    assert numbers(frames) == list(range(15, 60))
    assert frames.times_seconds.tolist() == [i / 8 for i in range(45)]
    assert frames.duration_seconds == 45 / 8


def test_size_scales_while_converting(tmp_path: Path) -> None:
    frames = read_frames(write(tmp_path / "a.mp4", 30), 5, size=(33, 50))
    assert frames.data.shape == (5, 3, 33, 50)
    assert numbers(frames) == expected_indices(30, 5)


@pytest.mark.parametrize("num_threads", [1, 3])
def test_seeking_skips_what_is_not_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packets_decoded: list[int], num_threads: int
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: num_threads)
    num_available, gop, num_frames = 1200, 40, 4
    frames = read_frames(write(tmp_path / "a.mp4", num_available, gop=gop), num_frames)
    assert numbers(frames) == expected_indices(num_available, num_frames)
    look_ahead = 8 + num_threads  # reordering, and frames in flight in the decoder's threads
    assert len(packets_decoded) <= num_frames * (gop + look_ahead)


@pytest.mark.parametrize(("name", "gop"), [("a.mp4", 1000), ("a.ts", 10), ("a.avi", 10)])
def test_without_places_to_seek_to_nothing_is_decoded_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packets_decoded: list[int], name: str, gop: int
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    read_frames(write(tmp_path / name, 200, gop=gop), 50)
    assert len(packets_decoded) <= 200 + 1  # one more empties the decoder


def test_the_last_frame_without_a_duration_lasts_the_median_gap() -> None:
    shown = video._Shown(np.array([0, 10, 20, 35, 45]), 0, (), Fraction(1, 100))
    assert video._duration(Path("a.mp4"), shown) == 0.55


# ------------------------------------------------------------------------------------------------------ bad input


def one_line(error: pytest.ExceptionInfo[VideoError], path: Path) -> str:
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(VideoNotFoundError) as error:
        read_frames(tmp_path / "none.mp4")
    assert isinstance(error.value, FileNotFoundError)
    assert "does not exist" in one_line(error, tmp_path / "none.mp4")


def test_directory(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="is a directory"):
        read_frames(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.mp4", b"", "not a video"),
        ("text.mp4", b"when does it happen?\n" * 50, "not a video"),
        ("text.txt", b"when does it happen?\n" * 50, "is text, not a video"),
        ("noise.mkv", bytes(range(256)) * 8, "not a video"),
        ("list.mp4", b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n", ""),
    ],
)
def test_not_a_video(tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, content: bytes, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(VideoError) as error:
        read_frames(path)
    assert says in one_line(error, path)
    assert capfd.readouterr() == ("", "")


def test_still_image(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with av.open(str(path), "w", format="image2") as container:
        stream = container.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "rgb24"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(draw(3), format="rgb24")))
        container.mux(stream.encode())
    with pytest.raises(VideoError, match="still image"):
        read_frames(path)


def test_audio_only(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(VideoError, match="no video to decode, it holds audio"):
        read_frames(path)


def test_an_unknown_codec(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", 4)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"none"))
    with pytest.raises(VideoError, match="no video to decode, it holds video"):
        read_frames(path)


def test_no_frame(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="it holds nothing"):
        read_frames(write(tmp_path / "a.mp4", 0))


def test_no_duration() -> None:
    still = video._Shown(np.array([5]), 0, (), Fraction(1, 8))
    with pytest.raises(VideoError, match="duration of 0 seconds"):
        video._duration(Path("a.mp4"), still)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.6, 0.8, 0.95])
def test_cut_off_before_the_index(tmp_path: Path, capfd: pytest.CaptureFixture[str], share: float) -> None:
    path = write(tmp_path / "a.mp4", 60)
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(VideoError, match="index is missing") as error:
        read_frames(path)
    one_line(error, path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("share", [0.6, 0.8, 0.999])
def test_cut_off_after_the_index(tmp_path: Path, capfd: pytest.CaptureFixture[str], share: float) -> None:
    path = write(tmp_path / "a.mp4", 60, fps=8, gop=10, muxer={"movflags": "+faststart"})
    whole = path.stat().st_size
    os.truncate(path, int(whole * share))
    with pytest.raises(VideoError, match=f"cut off or damaged: of its {whole} bytes {int(whole * share)}") as error:
        read_frames(path, 4)
    one_line(error, path)
    assert capfd.readouterr() == ("", "")


def test_damage_in_the_middle(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.mp4", 60, gop=1)
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.pts is not None]
    content = bytearray(path.read_bytes())
    for packet in packets[20:40]:
        content[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    path.write_bytes(content)
    with pytest.raises(VideoError, match=r"Invalid data .* damaged") as error:
        read_frames(path, 60)
    one_line(error, path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("num_frames", [0, -3, 2.0, "4", None, True])
def test_num_frames_must_count(tmp_path: Path, num_frames: object) -> None:
    with pytest.raises(ArgumentError, match="num_frames: expected an integer of at least 1"):
        read_frames(tmp_path / "a.mp4", num_frames)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, (0, 4), (4,), (4, 4.0), "12"])
def test_size_must_be_two_lengths(tmp_path: Path, size: object) -> None:
    with pytest.raises(ArgumentError, match="size"):
        read_frames(tmp_path / "a.mp4", size=size)  # type: ignore[arg-type]


@pytest.mark.parametrize("source", [None, 3, b"a.mp4", torch.zeros(2, 3, 4, 4, dtype=torch.uint8)])
def test_source_must_be_a_path(source: object) -> None:
    with pytest.raises(ArgumentError, match="source must be the path"):
        read_frames(source)  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------------------------- Frames

PIXELS = torch.zeros(3, 3, 4, 5, dtype=torch.uint8)
TIMES = torch.tensor([0.0, 0.5, 0.5], dtype=torch.float64)


def test_frames_hold_what_they_are_given() -> None:
    frames = Frames(PIXELS, TIMES, 1.0)
    assert len(frames) == 3
    with pytest.raises(AttributeError):
        frames.duration_seconds = 2.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("data", "times", "duration", "names"),
    [
        (PIXELS.float(), TIMES, 1.0, "data"),
        (PIXELS[0], TIMES, 1.0, "data"),
        (PIXELS[:, :1], TIMES, 1.0, "data"),
        (PIXELS[:0], TIMES[:0], 1.0, "data"),
        (PIXELS, TIMES.float(), 1.0, "times_seconds"),
        (PIXELS, TIMES[:2], 1.0, "times_seconds"),
        (PIXELS, TIMES.flip(0), 1.0, "times_seconds"),
        (PIXELS, TIMES - 0.1, 1.0, "times_seconds"),
        (PIXELS, TIMES * float("nan"), 1.0, "times_seconds"),
        (PIXELS, TIMES, 0.4, "times_seconds"),
        (PIXELS, TIMES, 0.0, "duration_seconds"),
        (PIXELS, TIMES, float("inf"), "duration_seconds"),
        (PIXELS, TIMES, float("nan"), "duration_seconds"),
    ],
)
def test_frames_check_themselves(data: torch.Tensor, times: torch.Tensor, duration: float, names: str) -> None:
    with pytest.raises(ArgumentError, match=f"^{names}"):
        Frames(data, times, duration)
