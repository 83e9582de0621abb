"""Reading frames of long videos: seeking against decoding everything, and what an hour takes in memory.

    python benchmarks/video.py     # makes its videos, checks, then times; writes results/video.csv and docs/video.md

The ten-minute videos are 640 x 360, 30 frames a second, H.264 with B-frames, a keyframe every 2, 5 and 10 seconds. The
baseline decodes from front to back on as many threads and converts only the frames that are wanted. `cpu_ratio` is of
processor time, which other programs on the machine leave alone.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
import torch
from harness import ROOT, add_rows, markdown, paired, provenance, read_rows, write_between

from timetok.video import read_frames, spread

NUM_FRAMES, FPS = 100, 30


def film(path: Path, seconds: int, *, height: int, width: int, keyframe_seconds: int) -> Path:
    """A moving picture with texture, so that its frames cost as much to decode as those of a camera."""
    rng = np.random.default_rng(0)
    scene = torch.nn.functional.interpolate(
        torch.from_numpy(rng.uniform(0, 255, (1, 3, height // 4, width // 2))).float(), scale_factor=4, mode="bicubic"
    )[0]
    scene = scene.clamp(0, 255).byte().permute(1, 2, 0).numpy()  # twice as wide as a frame
    options = {"g": str(FPS * keyframe_seconds), "keyint_min": str(FPS * keyframe_seconds), "sc_threshold": "0"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options=options | {"preset": "veryfast", "bf": "3"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_type = "AUTO"
        for number in range(seconds * FPS):
            left = int((1 + np.sin(number / 60)) / 2 * width)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(scene[:, left : left + width]), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def repeated(path: Path, source: Path, times: int) -> Path:
    """The packets of a video, so many times over: an hour costs no more encoding than a minute."""
    with av.open(str(source)) as read, av.open(str(path), "w") as container:
        stream = read.streams.video[0]
        packets = [(packet, packet.pts, packet.dts) for packet in read.demux(stream) if packet.pts is not None]
        copy, length = container.add_stream_from_template(stream), int(stream.duration)
        for number in range(times):
            for packet, pts, dts in packets:
                packet.stream, packet.pts, packet.dts = copy, pts + number * length, dts + number * length
                packet.time_base = stream.time_base
                container.mux(packet)
    return path


def everything(path: Path) -> torch.Tensor:
    """The frames wanted, by decoding all of them in order."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        wanted = set(spread(stream.frames, NUM_FRAMES).tolist())
        stream.codec_context.thread_type = "AUTO"
        found = [
            torch.from_numpy(frame.to_ndarray(format="rgb24", interpolation="BICUBIC")).permute(2, 0, 1)
            for number, frame in enumerate(container.decode(stream))
            if number in wanted
        ]
    return torch.stack(found)


def cpu_seconds(call: Callable[[], object]) -> float:
    """Of all threads: what other programs take of the machine does not count."""
    start = time.process_time()
    call()
    return time.process_time() - start


def seeking(folder: Path, keyframe_seconds: int) -> dict[str, object]:
    part = film(folder / "part.mp4", 20, height=360, width=640, keyframe_seconds=keyframe_seconds)
    path = repeated(folder / "ten.mp4", part, 30)
    assert torch.equal(read_frames(path, NUM_FRAMES).data, everything(path))
    times = paired(lambda: read_frames(path, NUM_FRAMES), lambda: everything(path), rounds=5)
    ours, theirs = cpu_seconds(lambda: read_frames(path, NUM_FRAMES)), cpu_seconds(lambda: everything(path))
    return {
        "case": f"100 frames of 10 minutes, a keyframe every {keyframe_seconds} s / decoding everything",
        "target": "<= 0.333",
        **{name: f"{value:.3f}" for name, value in times.items()},
        "cpu_ratio": f"{ours / theirs:.3f}",
    }


PEAK = """
import sys
from timetok.video import iter_frames, read_frames

def peak():  # of this process alone: getrusage's begins with that of its parent
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))

path, how = sys.argv[1:]
before = peak()
if how == "read_frames":
    assert len(read_frames(path, 100)) == 100
else:
    assert sum(1 for _ in iter_frames(path, every_seconds=0.5)) > 100
print(before, peak())
"""


def peak(path: Path, how: str) -> tuple[float, float]:
    """MiB a fresh process holds at most: after its imports, and after it has read."""
    done = subprocess.run([sys.executable, "-c", PEAK, str(path), how], capture_output=True, text=True, check=True)
    before, after = map(float, done.stdout.split())
    return before, after


def memory(folder: Path, how: str) -> dict[str, object]:
    minute = film(folder / "small.mp4", 60, height=128, width=192, keyframe_seconds=2)
    hour = repeated(folder / "hour.mp4", minute, 60)
    (_, short), (base, long) = peak(minute, how), peak(hour, how)
    return {
        "case": f"peak memory of {how}, an hour / a minute",
        "target": "about 1",
        "ratio": f"{long / short:.3f}",
        "minute_mib": f"{short:.0f}",
        "hour_mib": f"{long:.0f}",
        "imports_mib": f"{base:.0f}",
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases = [partial(memory, folder, how) for how in ("read_frames", "iter_frames")]
        cases += [partial(seeking, folder, keyframe_seconds) for keyframe_seconds in (2, 5, 10)]
        for case in cases:
            row = case() | provenance() | {"av": av.__version__}
            add_rows("video", [row], key=["case"])
            print(row["case"], row["ratio"], f"({row['target']})", flush=True)
    rows = sorted(read_rows("video"), key=lambda row: (row["target"], len(row["case"]), row["case"]))
    table = markdown(["", "ratio", "target"], [[row["case"], row["ratio"], row["target"]] for row in rows])
    write_between(ROOT / "docs" / "video.md", "video table", table)


if __name__ == "__main__":
    main()
