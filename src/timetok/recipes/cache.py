"""Features of videos, computed once by a frozen encoder, so that later epochs neither decode nor encode."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from tqdm import tqdm

from timetok.atomic import read_json, replacing, write_json
from timetok.errors import DataError, raised_as

_END = 2**16  # bytes of either end of a file that its fingerprint covers
_PER_SHARD = 64


def claim(path: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings a folder is made with; DataError where the file tells of others, which must not be mixed."""
    stored = json.loads(json.dumps(settings))  # where tuples are lists
    if path.exists() and read_json(path, dict, "the settings of a run") != stored:
        raise DataError(f"out: {str(path.parent)!r} holds files of other settings ({path.name}); choose another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, stored)


def fingerprint(path: Path) -> str:
    """What tells a video from others and from what it was: its size, its first and last 64 KiB; of a folder, all files.

    DataError is raised where it cannot be read.
    """
    with raised_as(DataError, f"media: {str(path)!r} cannot be read", OSError):
        if path.is_dir():
            return sha256("".join(map(fingerprint, sorted(path.iterdir()))).encode()).hexdigest()
        with path.open("rb") as file:
            start, size = file.read(_END), file.seek(0, os.SEEK_END)
            file.seek(max(size - _END, 0))
            return sha256(f"{size} ".encode() + start + file.read()).hexdigest()


def weights_digest(module: nn.Module) -> str:
    """What tells weights from others: a hash of their names, types and bytes."""
    return sha256(save({name: weight.contiguous() for name, weight in module.state_dict().items()})).hexdigest()


class FeatureCache:
    """Tensors by the video they were computed of, in safetensors shards of one folder.

    A video is known by its `fingerprint`: one that has changed is computed anew. ``settings`` are what else its
    features depend on, such as `weights_digest` of the encoder, frames and pooling; the folder keeps them, and
    DataError is raised where it was filled under others. Picklable, for data-loader workers.

    >>> cache = FeatureCache(folder, {"encoder": weights_digest(encoder), "num_frames": 100})  # doctest: +SKIP
    >>> cache.fill(videos, encode); cache[videos[0]].shape                                      # doctest: +SKIP
    torch.Size([356, 1024])
    """

    def __init__(self, folder: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        claim(self.folder / "cache.json", settings)
        self._keys: dict[Path, str] = {}
        self._shards: dict[str, Path] = {}

    def fill(
        self, media: Iterable[Path], encode: Callable[[Path], Tensor], *, process: int = 0, num_processes: int = 1
    ) -> None:
        """Compute what is missing, shard by shard, each of which appears whole; a call goes on where one was stopped.

        Which video is in which shard follows from all of them, so that any number of interruptions and processes, of
        which this is number ``process``, ends at the same files. Call again, after all are done, to find their shards.
        """
        self._keys |= {path: fingerprint(path) for path in media}
        for file in sorted(self.folder.glob("*.safetensors")):
            with self._opened(file) as shard:
                self._shards |= dict.fromkeys(shard.keys(), file)
        paths = {key: path for path, key in self._keys.items()}
        num_shards = len(paths) // _PER_SHARD + 1
        shards = groupby(sorted(paths.keys() - self._shards.keys()), lambda key: int(key[:8], 16) * num_shards >> 32)
        mine = [list(keys) for number, keys in shards if number % num_processes == process]
        with tqdm(total=sum(map(len, mine)), desc="features", unit="videos", disable=not mine) as progress:
            for keys in mine:
                tensors, file = {}, self.folder / f"{sha256(''.join(keys).encode()).hexdigest()[:16]}.safetensors"
                for key in keys:
                    tensors[key] = encode(paths[key]).detach().cpu().contiguous()
                    progress.update()
                sums = {key: crc32(each.view(torch.uint8).numpy().data) for key, each in tensors.items()}
                with replacing(file) as partial:
                    partial.write_bytes(
                        save(tensors, metadata={"crc32": json.dumps(sums)})
                    )  # save_file's are the owner's alone
                self._shards |= dict.fromkeys(keys, file)

    def __getitem__(self, path: Path) -> Tensor:
        """What ``encode`` gave for a video that `fill` was called with; DataError where it is missing or damaged."""
        key = self._keys.get(path, "")
        if key not in self._shards:
            raise DataError(f"media: the features of {str(path)!r} are not in {str(self.folder)!r}; call fill() again")
        with self._opened(self._shards[key]) as shard:
            tensor: Tensor = shard.get_tensor(key)
            if crc32(tensor.view(torch.uint8).numpy().data) != json.loads(shard.metadata()["crc32"])[key]:
                raise SafetensorError(f"{path.name} has changed since it was written")
        return tensor

    @contextmanager
    def _opened(self, file: Path) -> Iterator[Any]:
        told = f"{file}: damaged; remove it, and its features are computed again"
        with raised_as(DataError, told, OSError, SafetensorError), safe_open(file, "pt") as shard:
            yield shard
