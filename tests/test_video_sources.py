"""Folders, arrays and streams; sizes while decoding."""

import io
import os
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from timetok.errors import ArgumentError, VideoError, VideoNotFoundError
from timetok.video import iter_frames, read_frames
from timetok.vision import FrameTransform
from tiny_videos import HEIGHT, WIDTH, decode_everything, draw, expected_indices, numbers, read_number, write

# ----------------------------------------------------------------------------------------------------------- folders


def folder(path: Path, num_pictures: int, *, kind: str = "png") -> Path:
    path.mkdir()
    for number in range(num_pictures):
        Image.fromarray(draw(number)).save(path / f"frame{number}.{kind}")
    return path


@pytest.mark.parametrize("kind", ["png", "jpg", "JPEG"])
def test_a_folder_is_read_in_the_natural_order_of_its_names(tmp_path: Path, kind: str) -> None:
    path = folder(tmp_path / "clip", 12, kind=kind)  # frame10 before frame2 in the order of letters
    (path / "notes.txt").write_text("5 fps")
    (path / f"._frame3.{kind}").write_bytes(b"what macOS leaves behind")
    frames = read_frames(path, 12, fps=5)
    assert numbers(frames) == list(range(12))
    files = [path / f"frame{number}.{kind}" for number in range(12)]
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])  # what LITA's code reads
    assert torch.equal(frames.data, torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert frames.times_seconds.tolist() == [k / 5 for k in range(12)]
    assert frames.duration_seconds == 12 / 5


def test_few_pictures_are_repeated_and_sizes_apply(tmp_path: Path) -> None:
    frames = read_frames(str(folder(tmp_path / "clip", 3)), 8, fps=Fraction(30000, 1001), size=(32, 48))
    assert frames.data.shape == (8, 3, 32, 48)
    assert numbers(frames) == expected_indices(3, 8)
    assert frames.times_seconds.tolist() == [k / (30000 / 1001) for k in expected_indices(3, 8)]


def test_a_photograph_is_turned_upright(tmp_path: Path) -> None:
    path = tmp_path / "clip"
    path.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter to the right
    Image.fromarray(draw(77)).save(path / "a.png", exif=exif)
    upright = torch.rot90(torch.from_numpy(draw(77)).permute(2, 0, 1), -1, (1, 2))
    assert torch.equal(read_frames(path, 1, fps=1).data[0], upright)


def test_a_folder_needs_fps_and_pictures(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"is a directory; give .* fps"):
        read_frames(folder(tmp_path / "clip", 2))
    (tmp_path / "none").mkdir()
    with pytest.raises(VideoError, match="without jpg or png"):
        read_frames(tmp_path / "none", fps=5)
    with pytest.raises(VideoNotFoundError, match="does not exist"):
        read_frames(tmp_path / "nowhere", fps=5)


@pytest.mark.parametrize(("keep", "kind"), [(0.5, "png"), (0.5, "jpg"), (0.0, "png")])
def test_a_broken_picture_is_refused(tmp_path: Path, keep: float, kind: str) -> None:
    path = folder(tmp_path / "clip", 3, kind=kind)
    broken = path / f"frame1.{kind}"
    os.truncate(broken, int(broken.stat().st_size * keep))
    with pytest.raises(VideoError, match=f"frame1.{kind} is no picture that can be read"):
        read_frames(path, 3, fps=5)


@pytest.mark.parametrize("kind", ["torch", "numpy", "read-only, channels last", "backwards"])
def test_pictures_of_an_array_stand_an_equal_time_apart(kind: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 3, 20, 31), dtype=np.uint8)
    array: Any = {
        "torch": torch.from_numpy(pixels),
        "numpy": pixels,
        "read-only, channels last": np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
        "backwards": pixels[::-1, :, ::-1].copy()[::-1, :, ::-1],  # torch knows no such strides
    }[kind]
    if kind.startswith("read-only"):
        array.flags.writeable = False
    for num_frames in (1, 4, 7, 20):
        frames, indices = read_frames(array, num_frames, fps=2.5), expected_indices(7, num_frames)
        assert torch.equal(frames.data, torch.from_numpy(pixels[indices]))
        assert frames.times_seconds.tolist() == [k / 2.5 for k in indices]
        assert frames.duration_seconds == 7 / 2.5
    resize = FrameTransform(image_size=16).resize
    assert torch.equal(read_frames(array, 7, fps=1, size=resize).data, resize(torch.from_numpy(pixels)))
    assert read_frames(array, 2, fps=1, size=10).data.shape == (2, 3, 10, 15)


@pytest.mark.parametrize(
    "array",
    [
        torch.zeros(2, 3, 4, 4),
        np.zeros((2, 3, 4, 4), np.int8),
        torch.zeros(2, 4, 4, 3, dtype=torch.uint8),
        np.zeros((3, 4, 4), np.uint8),
        torch.zeros(0, 3, 4, 4, dtype=torch.uint8),
        np.zeros((2, 3, 0, 4), np.uint8),
        np.zeros((), np.uint8),
    ],
)
def test_arrays_that_are_no_video_are_refused(array: Any) -> None:
    with pytest.raises(ArgumentError, match=r"source must be uint8 \[t 3 h w\], none of them 0, got (u?int8|float32)"):
        read_frames(array, fps=1)


def test_an_array_knows_no_times() -> None:
    with pytest.raises(ArgumentError, match="source must be the path of a video file, got Tensor; arrays need fps"):
        read_frames(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_fps_is_positive(tmp_path: Path, fps: float) -> None:
    with pytest.raises(ArgumentError, match="fps must be positive"):
        read_frames(tmp_path, fps=fps)


def test_a_video_knows_its_own_times(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="fps: a video knows its own times"):
        read_frames(write(tmp_path / "a.mp4", 4), fps=8)


# ------------------------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize(("side", "shape"), [(32, (32, 48)), (1, (1, 1)), (33, (33, 49)), (128, (128, 192))])
def test_one_length_is_that_of_the_shorter_side(tmp_path: Path, side: int, shape: tuple[int, int]) -> None:
    assert read_frames(write(tmp_path / "a.mp4", 3), 3, size=side).data.shape == (3, 3, *shape)


@pytest.mark.parametrize("num_threads", [1, 3])
def test_a_function_sees_each_frame_once_and_its_results_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_threads: int
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: num_threads)
    path, seen = write(tmp_path / "a.mp4", 20, gop=6), []
    resize = FrameTransform(image_size=32).resize

    def counted(picture: torch.Tensor) -> torch.Tensor:
        seen.append(picture.shape)
        return resize(picture)

    frames = read_frames(path, 30, size=counted)
    assert seen == [(1, 3, HEIGHT, WIDTH)] * 20
    assert torch.equal(frames.data, resize(read_frames(path, 30).data))


@pytest.mark.parametrize("wrong", [lambda p: p.float(), lambda p: p[0], lambda p: p[:, :1]])
def test_a_function_must_return_a_picture(tmp_path: Path, wrong: Any) -> None:
    with pytest.raises(ArgumentError, match=r"size must return uint8 \[1 3 s s\]"):
        read_frames(write(tmp_path / "a.mp4", 2), 2, size=wrong)


# ----------------------------------------------------------------------------------------------------------- streams


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.avi"])
def test_a_file_object_is_played_in_order_and_stays_open(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, 30, fps=8)
    with path.open("rb") as file:
        played = list(iter_frames(file))
        assert not file.closed
    assert [read_number(picture) for _, picture in played] == list(range(30))
    assert [seconds for seconds, _ in played] == pytest.approx([k / 8 for k in range(30)], abs=1e-3)
    assert [seconds for seconds, _ in iter_frames(path)] == [seconds for seconds, _ in played]


@pytest.mark.parametrize(("every", "expected"), [(0.1, range(40)), (0.3, range(0, 40, 3)), (0.25, None), (100, [0])])
def test_of_each_interval_the_first_frame_is_given(tmp_path: Path, every: float, expected: Any) -> None:
    path = write(tmp_path / "a.mp4", 40, fps=10)
    found = [(seconds, read_number(picture)) for seconds, picture in iter_frames(path, every_seconds=every, size=32)]
    if expected is None:  # quarters of a second at 10 frames a second: 0, 3 (0.3 s), 5, 8 (0.8 s), 10, …
        expected = [next(k for k in range(40) if k * 100 >= quarter * 250) for quarter in range(16)]
    assert found == [(k / 10, k) for k in expected]


class Camera(io.RawIOBase):
    """An MPEG-TS stream without end, which cannot be rewound and makes its frames as they are read."""

    def __init__(self) -> None:
        self.made, self.pending, self.frames = io.BytesIO(), b"", self._record()
        self.num_made = 0

    def _record(self) -> Iterator[None]:
        container = av.open(self.made, "w", format="mpegts")
        stream = container.add_stream("mpeg2video", rate=25, options={"g": "5"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        while True:
            frame = av.VideoFrame.from_ndarray(draw(self.num_made % 4096), format="rgb24")
            frame.pts, self.num_made = self.num_made, self.num_made + 1
            container.mux(stream.encode(frame))
            yield

    def seekable(self) -> bool:
        return False

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while len(self.pending) < size:
            next(self.frames)
            self.pending += self.made.getvalue()
            self.made.seek(0)
            self.made.truncate()
        found, self.pending = self.pending[:size], self.pending[size:]
        return found


def test_a_stream_without_end() -> None:
    camera = Camera()
    stream = iter_frames(camera, every_seconds=0.2)
    found = [next(stream) for _ in range(20)]
    assert [(round(seconds, 6), read_number(picture)) for seconds, picture in found] == [
        (k / 5, 5 * k) for k in range(20)
    ]
    stream.close()
    made = camera.num_made
    assert list(stream) == []
    assert camera.num_made == made
    assert not camera.closed


@pytest.mark.parametrize("missing", [0, 300])
def test_a_pipe(tmp_path: Path, missing: int) -> None:
    content = write(tmp_path / "a.mp4", 30, fps=8, muxer={"movflags": "+faststart"}).read_bytes()
    reading, writing = os.pipe()
    assert os.write(writing, content[: len(content) - missing]) == len(content) - missing  # which a pipe's buffer holds
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        played = iter_frames(file)
        if missing:
            with pytest.raises(VideoError, match="cut off or damaged"):
                list(played)
        else:
            assert [read_number(picture) for _, picture in played] == list(range(30))


def test_the_consumer_may_stop(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", 30, fps=8)
    opened = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    frames = iter_frames(path)
    next(frames)
    frames.close()
    with pytest.raises(StopIteration):
        next(frames)
    assert opened == (len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_file_that_is_cut_off_is_refused_at_once(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, 60, fps=8, muxer={"movflags": "+faststart"} if name == "a.mp4" else None)
    os.truncate(path, path.stat().st_size * 8 // 10)
    with pytest.raises(VideoError, match="cut off or damaged"):
        next(iter_frames(path))


def test_damage_raises_where_it_is_met(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", 60, fps=8, gop=1)
    whole = decode_everything(path)[0]
    with av.open(str(path)) as container:
        packet = [p for p in container.demux(video=0) if p.pts is not None][30]
    content = bytearray(path.read_bytes())
    content[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    path.write_bytes(content)
    frames, seen = iter_frames(path), []
    with pytest.raises(VideoError, match=r"Invalid data .* damaged"):
        seen.extend(picture for _, picture in iter(lambda: next(frames), None))
    assert 10 < len(seen) <= 30
    assert all(torch.equal(seen[k], whole[k]) for k in range(len(seen)))


def test_what_cannot_be_played(tmp_path: Path) -> None:
    with pytest.raises(VideoNotFoundError, match="does not exist"):
        next(iter_frames(tmp_path / "none.mp4"))
    with pytest.raises(VideoError, match="cannot be read"):
        next(iter_frames(io.BytesIO(b"when does it happen?" * 99)))
    with pytest.raises(ArgumentError, match="source must be"):
        next(iter_frames(3))  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="every_seconds"):
        next(iter_frames(tmp_path, every_seconds=-1))


def test_a_side_may_be_a_number_of_numpy(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", 3)
    assert torch.equal(read_frames(path, 2, size=np.int64(24)).data, read_frames(path, 2, size=24).data)
