"""Broken videos: a clear error or a right result each time; no hang, no crash."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import av
import pytest
import torch

from tiny_videos import decode_everything, write

NUM, GOP, FPS = 48, 8, 8
KINDS = ["truncated"] * 10 + ["payload"] * 14 + ["header"] * 8 + ["start"] * 6 + ["empty"] * 2
BASES = ["a.mp4", "a.mkv", "a.avi", "a.ts", "a.webm"]
SECONDS_EACH = 20

Case = tuple[str, Path, Path, list[int]]

CHILD = f"""
import faulthandler, json, sys
import torch
from timetok.errors import TimetokError
from timetok.video import iter_frames, read_frames

for path in sys.argv[1:]:
    faulthandler.dump_traceback_later({SECONDS_EACH}, exit=True)
    results = {{}}
    try:
        frames = read_frames(path, 24)
        torch.save([frames.times_seconds, frames.data], f"{{path}}.read")
        results["read"] = ""
    except TimetokError as error:
        results["read"] = str(error)
    try:
        for count, _ in enumerate(iter_frames(path)):
            assert count < 1000
        results["played"] = ""
    except TimetokError as error:
        results["played"] = str(error)
    print(json.dumps(results), flush=True)
"""


def bases(folder: Path) -> dict[str, Path]:
    folder.mkdir()
    encoder = {"deadline": "realtime", "cpu-used": "8", "auto-alt-ref": "0"}
    made = {
        name: write(folder / name, NUM, fps=FPS, gop=GOP, encoder={"bf": "0"} if name == "a.avi" else None)
        for name in BASES[:-1]
    }
    return made | {"a.webm": write(folder / "a.webm", NUM, fps=FPS, gop=GOP, codec="libvpx", encoder=encoder)}


def payloads(path: Path) -> list[tuple[int, int, float, bool]]:
    """Where the packets stand in the file, their times in seconds, and whether they are keyframes."""
    with av.open(str(path)) as container:
        found = [p for p in container.demux(video=0) if p.pts is not None and p.pos is not None]
        return [(p.pos, p.pos + p.size, float(p.pts * p.time_base), p.is_keyframe) for p in found]


def mutate(content: bytearray, kind: str, packets: list[tuple[int, int, float, bool]], rng: random.Random) -> list[int]:
    """Damage a video in place; returns the places of changed bytes."""
    if kind == "truncated":
        del content[rng.randrange(len(content)) :]
        return []
    if kind == "start":
        places = list(range(rng.choice([4, 16, 64])))
    elif kind == "payload":
        start, end, *_ = rng.choice(packets)
        places = rng.sample(range(start + 4, end), min(5, end - start - 4))
    else:
        held = {place for start, end, *_ in packets for place in range(start, end)}
        places = rng.sample(sorted(set(range(len(content))) - held), 4)
    for place in places:
        content[place] ^= rng.randrange(1, 256)
    return places


@pytest.fixture(scope="module")
def broken(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[list[tuple[str, Path, Path, list[int]]], list[dict[str, str]]]:
    """The broken files as (kind, path, intact path, changed places), and what came of each."""
    folder, rng = tmp_path_factory.mktemp("fuzz"), random.Random(7)
    intact, cases = bases(folder / "intact"), []
    for number, kind in enumerate(KINDS):
        name = BASES[number % len(BASES)]
        path = folder / f"{number}-{name}"
        if kind == "empty":
            cases.append((kind, write(path.with_suffix(".mp4"), 0), intact[name], []))
            continue
        content = bytearray(intact[name].read_bytes())
        places = mutate(content, kind, payloads(intact[name]), rng)
        path.write_bytes(content)
        cases.append((kind, path, intact[name], places))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", CHILD, *(str(path) for _, path, _, _ in cases)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=SECONDS_EACH * 20, check=False
    )
    assert done.returncode == 0, done.stderr
    return cases, [json.loads(line) for line in done.stdout.splitlines()]


def test_each_gives_a_clear_error_or_frames(broken: tuple[list[Case], list[dict[str, str]]]) -> None:
    cases, results = broken
    assert len(results) == len(cases) == 40
    for (kind, path, _, _), result in zip(cases, results, strict=True):
        for message in result.values():
            assert message == "" or (str(path) in message and "\n" not in message), (kind, message)
        if kind == "empty":
            assert all("it holds nothing" in message for message in result.values())
    outcomes = {
        kind: {result["read"] == "" for (k, *_), result in zip(cases, results, strict=True) if k == kind}
        for kind in KINDS
    }
    assert False in outcomes["truncated"]
    assert False in outcomes["start"]


def test_frames_away_from_the_damage_are_those_of_the_intact_file(
    broken: tuple[list[Case], list[dict[str, str]]],
) -> None:
    cases, results = broken
    num_compared = 0
    for (kind, path, intact, places), result in zip(cases, results, strict=True):
        if kind not in ("truncated", "payload"):
            continue
        pictures, times = decode_everything(intact)
        packets = payloads(intact)
        starts = [seconds for *_, seconds, is_key in packets if is_key]
        first = min(seconds for *_, seconds, _ in packets)
        hit = {
            max(s for s in starts if s <= max(seconds, starts[0]))
            for a, b, seconds, _ in packets
            if any(a <= p < b for p in places)
        }
        if result["read"]:
            continue
        for seconds, picture in zip(*torch.load(f"{path}.read"), strict=True):
            index = min(range(len(times)), key=lambda k: abs(float(times[k]) - float(seconds)))
            group = max(s for s in starts if s <= float(times[index]) + first + 1e-6)
            if group not in hit:
                assert abs(float(times[index]) - float(seconds)) < 1e-3
                assert torch.equal(picture, pictures[index]), (path, index)
                num_compared += 1
    assert num_compared > 100
