"""Features of videos, computed once by a frozen encoder, so that later epochs neither decode nor encode."""

import os
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from tqdm import tqdm

from timetok.atomic import plain, read_json, replacing, write_json
from timetok.errors import DataError, raised_as


def claim(path: Path, settings: Mapping[str, Any], *, anew: bool = False) -> None:
    """Write the settings of a folder; DataError where it was not made ``anew`` and tells of others: never mixed."""
    stored = plain(settings)  # where tuples are lists
    if not anew and path.exists() and read_json(path, dict, "the settings of a run") != stored:
        raise DataError(f"out: {str(path.parent)!r} holds files of other settings ({path.name}); choose another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, stored)


def fingerprint(path: Path) -> str:
    """A file by its size, its first and last 64 KiB, a folder by all its files; DataError where one cannot be read."""
    with raised_as(DataError, f"media: {str(path)!r} cannot be read", OSError):
        if path.is_dir():
            return sha256("".join(map(fingerprint, sorted(path.iterdir()))).encode()).hexdigest()
        with path.open("rb") as file:
            start, size = file.read(2**16), file.seek(0, os.SEEK_END)
            file.seek(max(size - 2**16, 0))
            return sha256(f"{size} ".encode() + start + file.read()).hexdigest()


def weights_digest(module: nn.Module) -> str:
    """What tells weights from others: a hash of their names, types and bytes."""
    return sha256(save({name: weight.contiguous() for name, weight in module.state_dict().items()})).hexdigest()


class FeatureCache:
    """Tensors by the video they were computed of, each in a safetensors shard of one folder.

    A video is known by its `fingerprint`: one that has changed is computed anew. ``settings`` are what else features
    depend on, such as `weights_digest` of the encoder; DataError: the folder has others. Picklable, for workers.
    """

    def __init__(self, folder: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        claim(self.folder / "cache.json", settings)
        self._shards: dict[Path, Path] = {}

    def fill(self, media: Iterable[Path], encode: Callable[[Path], Tensor], *, part: tuple[int, int] = (0, 1)) -> None:
        """Compute what is missing of ``part`` k of n; a shard appears whole, a call goes on where one was stopped."""
        self._shards |= {path: self.folder / f"{fingerprint(path)}.safetensors" for path in media}
        paths = {shard: path for path, shard in self._shards.items()}
        missing = [shard for shard in sorted(paths)[part[0] :: part[1]] if not shard.exists()]
        for shard in tqdm(missing, desc="features", unit="videos", disable=not missing):
            features = encode(paths[shard]).detach().cpu().contiguous()
            data = save({"features": features}, metadata={"crc32": str(crc32(features.view(torch.uint8).numpy().data))})
            with replacing(shard) as partial:
                partial.write_bytes(data)  # save_file's are the owner's alone

    def __getitem__(self, path: Path) -> Tensor:
        """What ``encode`` gave for a video that `fill` was called with; DataError where it is missing or damaged."""
        if path not in self._shards:
            raise DataError(f"media: the features of {str(path)!r} are not in {str(self.folder)!r}; call fill() again")
        told = f"{self._shards[path]}: missing or damaged; remove it, and fill() computes its features again"
        with raised_as(DataError, told, OSError, SafetensorError), safe_open(self._shards[path], "pt") as shard:
            features: Tensor = shard.get_tensor("features")
            if str(crc32(features.view(torch.uint8).numpy().data)) != shard.metadata()["crc32"]:
                raise SafetensorError("it has changed since it was written")
        return features
