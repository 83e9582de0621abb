"""The feature cache: computed once, the same files however often it is stopped, refused where it is stale."""

import os
import pickle
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from timetok.errors import DataError
from timetok.recipes.cache import FeatureCache, fingerprint, weights_digest

SETTINGS = {"encoder": "a", "num_frames": 4, "mean": (0.5, 0.5)}


def encode(path: Path) -> torch.Tensor:
    """A few numbers that depend on the whole file."""
    data = path.read_bytes()
    return torch.tensor([len(data), sum(data)], dtype=torch.float32).expand(3, 2)


@pytest.fixture
def media(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "media"
    folder.mkdir()
    rng = random.Random(0)
    for k in range(150):
        (folder / f"{k}.mp4").write_bytes(rng.randbytes(rng.randrange(1, 3000)))
    return sorted(folder.iterdir())


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.startswith(".")}


def test_each_video_is_encoded_once_and_read_back(media: list[Path], tmp_path: Path) -> None:
    calls: list[Path] = []

    def counted(path: Path) -> torch.Tensor:
        calls.append(path)
        return encode(path)

    cache = FeatureCache(tmp_path / "cache", SETTINGS)
    cache.fill(media, counted)
    assert sorted(calls) == media
    again = FeatureCache(tmp_path / "cache", SETTINGS)
    again.fill(media, counted)
    assert len(calls) == len(media)
    worker = pickle.loads(pickle.dumps(again))
    assert all(torch.equal(worker[path], encode(path)) for path in media)
    assert len(files(tmp_path / "cache")) == 150 + 1  # shards and the settings


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_bits_survive(media: list[Path], tmp_path: Path, dtype: torch.dtype) -> None:
    values = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    cache = FeatureCache(tmp_path / "cache", SETTINGS)
    cache.fill(media[:1], lambda _: values)
    assert cache[media[0]].dtype == dtype and torch.equal(cache[media[0]], values)


def test_several_processes_write_what_one_writes(media: list[Path], tmp_path: Path) -> None:
    FeatureCache(tmp_path / "one", SETTINGS).fill(media, encode)
    caches = [FeatureCache(tmp_path / "three", SETTINGS) for _ in range(3)]
    for process, cache in enumerate(caches):
        cache.fill(media, encode, part=(process, 3))
    assert all(torch.equal(cache[path], encode(path)) for cache in caches for path in media)
    assert files(tmp_path / "three") == files(tmp_path / "one")
    first = FeatureCache(tmp_path / "three", SETTINGS)
    first.fill(media, lambda path: pytest.fail(f"{path} was encoded again"))
    assert torch.equal(first[media[7]], encode(media[7]))


def test_more_videos_leave_what_is_there(media: list[Path], tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "cache", SETTINGS)
    cache.fill(media[:100], encode)
    before = files(tmp_path / "cache")
    cache.fill(media, encode)
    assert before.items() <= files(tmp_path / "cache").items()
    assert all(torch.equal(cache[path], encode(path)) for path in media)


def test_a_changed_video_is_encoded_again(media: list[Path], tmp_path: Path) -> None:
    FeatureCache(tmp_path / "cache", SETTINGS).fill(media, encode)
    data = media[3].read_bytes()
    media[3].write_bytes(bytes([data[0] ^ 1]) + data[1:])  # of the same size
    cache = FeatureCache(tmp_path / "cache", SETTINGS)
    cache.fill(media, encode)
    assert torch.equal(cache[media[3]], encode(media[3]))


def test_other_settings_are_refused(media: list[Path], tmp_path: Path) -> None:
    FeatureCache(tmp_path / "cache", SETTINGS)
    with pytest.raises(DataError, match=r"other settings \(cache.json\)"):
        FeatureCache(tmp_path / "cache", SETTINGS | {"num_frames": 5})


def test_a_video_that_was_not_filled_in_is_named(media: list[Path], tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "cache", SETTINGS)
    cache.fill(media[:2], encode)
    with pytest.raises(DataError, match=f"{media[5].name}.*not in"):
        cache[media[5]]
    with pytest.raises(DataError, match=r"nosuch\.mp4"):
        cache.fill([tmp_path / "nosuch.mp4"], encode)


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_shard_is_named(media: list[Path], tmp_path: Path, damage: str) -> None:
    cache = FeatureCache(tmp_path / "cache", SETTINGS)
    cache.fill(media[:1], encode)
    (shard,) = (tmp_path / "cache").glob("*.safetensors")
    data = shard.read_bytes()
    shard.write_bytes(data[:-5] if damage == "cut" else data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(DataError, match=f"{shard.name}: missing or damaged"):
        cache[media[0]]


def test_fingerprints_see_size_and_both_ends(tmp_path: Path) -> None:
    long = bytes(200_000)
    kinds = {"a": long, "b": long + b"\0", "c": b"\1" + long[1:], "d": long[:-1] + b"\1", "e": b"", "f": b"\0"}
    for name, data in kinds.items():
        (tmp_path / name).write_bytes(data)
    found = [fingerprint(tmp_path / name) for name in kinds]
    assert len(set(found)) == len(kinds) and found == [fingerprint(tmp_path / name) for name in kinds]
    assert fingerprint(tmp_path) not in found


def test_digests_see_every_weight() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2)
    before = weights_digest(layer)
    with torch.no_grad():
        layer.bias[1] = torch.nextafter(layer.bias[1], torch.tensor(9.0))
    assert weights_digest(layer) != before != weights_digest(layer.half())


FILLING = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from recipes.test_cache import SETTINGS, encode
from timetok.recipes.cache import FeatureCache

def slowly(path):
    time.sleep(0.002)
    return encode(path)

print("ready", flush=True)
FeatureCache(sys.argv[1], SETTINGS).fill(sorted(Path(sys.argv[2]).iterdir()), slowly)
"""


@pytest.mark.slow  # 20 processes that import torch
def test_killed_at_random_moments_it_ends_at_the_same_bytes(media: list[Path], tmp_path: Path) -> None:
    FeatureCache(tmp_path / "whole", SETTINGS).fill(media, encode)
    rng = random.Random(1)
    command = [sys.executable, "-c", FILLING.format(tests=str(Path(__file__).parents[1]))]
    for _ in range(20):
        arguments = [*command, str(tmp_path / "killed"), str(media[0].parent)]
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        time.sleep(rng.uniform(0.0, 0.3))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    cache = FeatureCache(tmp_path / "killed", SETTINGS)
    cache.fill(media, encode)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
