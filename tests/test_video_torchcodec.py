"""The torchcodec backend, by a stand-in everywhere, by itself where it loads: the frames of PyAV at the same times."""

import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from timetok.errors import ArgumentError, VideoError
from timetok.video import read_frames
from tiny_videos import decode_everything, expected_indices, numbers, write

FPS, NUM = 8, 44


class StandIn:
    """What torchcodec's VideoDecoder offers, from decoding everything in order; its clock may be wrong."""

    late_seconds = 0.0

    def __init__(self, path: Path, *, num_ffmpeg_threads: int) -> None:
        assert num_ffmpeg_threads >= 1
        self.pictures, self.times = decode_everything(path)
        self.asked: list[int] = []

    def get_frame_at(self, index: int) -> Any:
        assert index not in self.asked
        self.asked.append(index)
        return SimpleNamespace(data=self.pictures[index], pts_seconds=float(self.times[index]) + self.late_seconds)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    monkeypatch.setitem(sys.modules, "torchcodec", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", SimpleNamespace(VideoDecoder=StandIn))
    return StandIn


def test_pixels_are_torchcodecs_and_times_ours(stand_in: type[StandIn], tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", NUM, fps=FPS)
    for num_frames in (1, 7, NUM, 100):
        ours, theirs = read_frames(path, num_frames), read_frames(path, num_frames, backend="torchcodec")
        assert torch.equal(theirs.data, ours.data)
        assert torch.equal(theirs.times_seconds, ours.times_seconds)
        assert theirs.duration_seconds == ours.duration_seconds == NUM / FPS
    assert read_frames(path, 2, backend="torchcodec", size=(32, 48)).data.shape == (2, 3, 32, 48)


def test_a_frame_at_another_time_is_refused(
    stand_in: type[StandIn], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(stand_in, "late_seconds", 1 / FPS)
    path = write(tmp_path / "a.mp4", NUM, fps=FPS)
    with pytest.raises(VideoError, match=r"torchcodec cannot read .*a\.mp4: it shows frame 0 at 0\.125 seconds"):
        read_frames(path, 4, backend="torchcodec")


def test_a_backend_asked_for_runs_or_says_why_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", 4)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)  # as if it were not installed
    with pytest.raises(VideoError, match=r"backend: torchcodec cannot read .*No module named|import of"):
        read_frames(path, 4, backend="torchcodec")
    with pytest.raises(ArgumentError, match="backend must be one of pyav, torchcodec, got 'decord'"):
        read_frames(path, 4, backend="decord")  # type: ignore[arg-type]
    assert numbers(read_frames(path, 4, backend="pyav")) == [0, 1, 2, 3]


def b_frames(path: Path) -> Path:
    return write(path, NUM, fps=FPS, gop=9)


def variable(path: Path) -> Path:
    ticks = [40 * k + (700 if k > 20 else 0) + k % 3 for k in range(NUM)]
    return write(path, NUM, ticks=ticks, time_base=Fraction(1, 1000), gop=6)


def late(path: Path) -> Path:
    return write(path, NUM, fps=FPS, first=2 * FPS)


@pytest.mark.parametrize("make", [b_frames, variable, late], ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_torchcodec_itself_finds_the_same_frames(tmp_path: Path, make: Callable[[Path], Path], name: str) -> None:
    path = make(tmp_path / name)
    try:
        from torchcodec.decoders import VideoDecoder

        VideoDecoder(path)
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchcodec does not load: {str(error).splitlines()[0]}")
    for num_frames in (1, 13, NUM):
        ours, theirs = read_frames(path, num_frames), read_frames(path, num_frames, backend="torchcodec")
        assert numbers(theirs) == expected_indices(NUM, num_frames)
        assert torch.equal(theirs.times_seconds, ours.times_seconds)
        assert theirs.duration_seconds == ours.duration_seconds
        assert (theirs.data.int() - ours.data.int()).abs().float().mean() < 2  # of 255: colours are rounded otherwise


def test_a_damaged_file_is_refused_as_ever(stand_in: type[StandIn], tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", 60, gop=10, muxer={"movflags": "+faststart"})
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 8 // 10])
    with pytest.raises(VideoError, match="cut off or damaged"):
        read_frames(path, 4, backend="torchcodec")
