"""Frame encoders: a timm model that turns frames into patch features, and the transform in front of it.

Shapes: b batch, t frames, c channels, h w pixels or patch grid, p patches, e vision width, s side of a frame.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import interpolate

from timetok.errors import ArgumentError, ModelFolderError, check_count, raised_as

Crop = Literal["center", "squash"]
Interpolation = Literal["bicubic", "bilinear"]

_FROM_HF = {  # transformers' names of CLIP's weights → timm's
    "vision_model.": "", "embeddings.class_embedding": "cls_token", "embeddings.position_embedding.weight": "pos_embed",
    "embeddings.patch_embedding": "patch_embed.proj", "pre_layrnorm": "norm_pre", "encoder.layers": "blocks",
    "layer_norm": "norm", "self_attn.out_proj": "attn.proj",
}  # fmt: skip
_HEADS = ("head", "fc", "classifier", "logit_")  # what timm's and CLIP's weights have that an encoder never does


@dataclass(frozen=True)
class FrameTransform:
    """Frames of any size → what the encoder reads, antialiased. No weights, picklable, safe in data-loader workers.

    ``image_size`` is the side, in pixels, of the square that the encoder reads; ``mean`` and ``std`` are those of the
    channels, of values in [0, 1]. ``crop="center"`` resizes the short side and keeps the middle, ``crop_pct`` of it;
    ``"squash"`` resizes both, and loses no border. Values that cannot be are an ArgumentError.

    Source: LITA's code and CLIP's (crop = "center", bicubic).

    >>> FrameTransform(image_size=32)(torch.zeros(2, 3, 90, 160, dtype=torch.uint8)).shape
    torch.Size([2, 3, 32, 32])
    """

    image_size: int = 224
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    crop: Crop = "center"
    crop_pct: float = 1.0
    interpolation: Interpolation = "bicubic"

    def __post_init__(self) -> None:
        for name, choices in (("crop", get_args(Crop)), ("interpolation", get_args(Interpolation))):
            if (value := getattr(self, name)) not in choices:
                raise ArgumentError(f"{name}: expected {' or '.join(map(repr, choices))}, got {value!r}")
        if self.image_size < 1 or not 0 < self.crop_pct <= 1:
            raise ArgumentError(f"image_size, crop_pct: expected >0 and (0, 1], got {self.image_size}, {self.crop_pct}")

    @classmethod
    def of(cls, name: str) -> Self:
        """What a timm model was trained to see; ArgumentError if that is not offered here."""
        with raised_as(ArgumentError, f"name: timm does not know what {name!r} sees", RuntimeError):
            known: Any = timm.models.get_pretrained_cfg(name, allow_unregistered=False)
        return cls(known.input_size[-1], known.mean, known.std, known.crop_mode, known.crop_pct, known.interpolation)

    def __call__(self, frames: Tensor) -> Tensor:
        """Resize, crop and normalise: uint8 ``[t c h w]`` → float32 ``[t c s s]``, s = ``image_size``."""
        return self.normalise(self.resize(frames))

    def resize(self, frames: Tensor) -> Tensor:
        """Resize and crop as CLIPImageProcessor does: uint8 ``[t 3 h w]`` → ``[t 3 s s]``; else an ArgumentError."""
        kept, frames = self.image_size, self.scale(frames)
        top, left = ((side - kept) // 2 for side in frames.shape[-2:])
        return frames[..., top : top + kept, left : left + kept]

    def scale(self, frames: Tensor) -> Tensor:
        """Resize but crop nothing: uint8 ``[t 3 h w]`` → the size that `resize` crops; what has it stays as it is."""
        if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[1] != 3:
            raise ArgumentError(f"frames: expected uint8 [t 3 h w], got {frames.dtype} {list(frames.shape)}")
        side, (height, width) = int(self.image_size / self.crop_pct), frames.shape[-2:]
        short = min(height, width)
        size = (height * side // short, width * side // short) if self.crop == "center" else (side, side)
        for step in ((height, size[1]), size):  # rows, then columns, with bytes between: so did the Pillow of LITA
            pixels = frames if frames.device.type == "cpu" else frames.float()  # no other device resizes bytes
            pixels = interpolate(pixels, size=step, mode=self.interpolation, antialias=True)
            frames = pixels.clamp(0, 255).round().byte()
        return frames

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 ``[… c s s]`` → float32 of about zero mean and unit variance."""
        mean, std = (torch.tensor(v, device=pixels.device).view(3, 1, 1) for v in (self.mean, self.std))
        return (pixels / 255 - mean) / std


def _read_weights(source: Path, held: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a file or folder, mapped, so that only what is used is read; those of HF's CLIP in timm's names."""
    kinds = ("model*.safetensors", "open_clip*.safetensors", "pytorch_model*.bin", "open_clip*.bin")
    found = {}
    for file in next(filter(None, (sorted(source.glob(kind)) for kind in kinds)), [source]):
        safe = file.suffix == ".safetensors"
        for name, value in (load_file(file) if safe else torch.load(file, "cpu", weights_only=True, mmap=True)).items():
            for theirs, ours in _FROM_HF.items():
                name = name.replace(theirs, ours)
            lacks_axes = name in ("cls_token", "pos_embed") and value.ndim < 3
            found[name] = value.view(1, -1, value.shape[-1]) if lacks_axes else value
    for name in held.keys() - found.keys():
        parts = [name.replace("attn.qkv", f"self_attn.{part}_proj") for part in "qkv"]
        if all(part in found for part in parts):
            found[name] = torch.cat([found[part] for part in parts])
    return found


class FrameEncoder(nn.Module):
    """A timm model read at one of its layers: ``[b t c s s]`` → ``[b t p e]``.

    Prefix tokens (CLS, registers) are dropped, later layers do not exist, and no final norm is applied,
    as LITA reads CLIP. What timm does not know or refuses raises ArgumentError, as other values do.

    Args:
        name, model_args: What ``timm.create_model`` takes; where ``pretrained``, timm fetches or loads the weights.
        image_size: Side of the input frames in pixels, a multiple of the model's stride.
        layer: The intermediate feature to read, as timm's ``forward_intermediates`` counts: -1 the last, -2 LITA's.
        chunk_size: Frames encoded at once, at least 1, which bounds the memory of a long video.
        deduplicate: Encode a frame that equals the one before it only once, as in a still image.

    Its ``grid`` are the patch rows and columns of a frame, its ``width`` is e, the channels of a patch;
    ``FrameEncoder(**encoder.arguments)`` is another of its kind, without its weights.

    Source: arXiv 2403.19046 §3.3 and its code (CLIP ViT-L/14, layer -2, no CLS).

    >>> encoder = FrameEncoder("resnet10t", image_size=64)
    >>> encoder(torch.zeros(1, 5, 3, 64, 64)).shape, encoder.grid, encoder.width
    (torch.Size([1, 5, 4, 512]), (2, 2), 512)
    """

    tower: Any  # timm's models share no class that has forward_intermediates

    def __init__(
        self, name: str, *, image_size: int = 224, layer: int = -1, model_args: Mapping[str, Any] | None = None,
        pretrained: bool = False, chunk_size: int = 128, deduplicate: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        check_count("chunk_size", chunk_size)
        args = dict(model_args or {})
        self.arguments = {"name": name, "image_size": image_size, "layer": layer, "model_args": dict(args)}
        self.arguments |= {"chunk_size": chunk_size, "deduplicate": deduplicate}
        built = f"name, layer, model_args: timm cannot build {name!r} with {args} up to layer {layer}"
        with raised_as(ArgumentError, built, RuntimeError, TypeError, AttributeError, AssertionError):
            known = timm.models.get_pretrained_cfg(name)
            if known.fixed_input_size if known else "vit" in name:  # its weights depend on the size
                args["img_size"] = image_size
            self.tower = timm.create_model(name, pretrained=pretrained, num_classes=0, **args)
            stages, self._whole = list(self.tower.feature_info), set(self.tower.state_dict())
            self._layers = self.tower.prune_intermediate_layers([layer], prune_norm=True)  # counted from the first
        self.chunk_size, self.image_size, self.deduplicate = chunk_size, image_size, deduplicate
        stride, self.width = int(stages[layer]["reduction"]), int(stages[layer]["num_chs"])
        if image_size % stride:
            raise ArgumentError(f"image_size: expected a multiple of {stride}, {name!r}'s stride, got {image_size}")
        self.grid: tuple[int, int] = (image_size // stride, image_size // stride)

    @classmethod
    def from_clip(cls, folder: str | os.PathLike[str], *, layer: int = -2) -> Self:
        """The tower of a CLIPModel or CLIPVisionModel of transformers at ``hidden_states[layer]``; ModelFolderError."""
        from transformers import CLIPVisionConfig  # here alone, since the room does without transformers

        expected = "a CLIP with (quick_)gelu and a layer_norm_eps of 1e-05"
        with raised_as(ModelFolderError, f"folder: expected {expected}, {os.fspath(folder)!r} has", Exception):
            clip: Any = CLIPVisionConfig.from_pretrained(folder, local_files_only=True)
            kind = {("quick_gelu", 1e-5): "quickgelu_", ("gelu", 1e-5): ""}[clip.hidden_act, clip.layer_norm_eps]
            name = f"vit_large_patch14_clip_{kind}{336 if int(clip.image_size) == 336 else 224}"
            ratio = (clip.intermediate_size + 0.5) / clip.hidden_size  # of which timm drops the fraction
            args = {"patch_size": clip.patch_size, "embed_dim": clip.hidden_size, "mlp_ratio": ratio}
            args |= {"depth": clip.num_hidden_layers, "num_heads": clip.num_attention_heads}
        encoder = cls(name, image_size=clip.image_size, layer=layer, model_args=args)
        encoder.load_weights(folder)
        return encoder

    def load_weights(self, source: str | os.PathLike[str]) -> None:
        """Take the weights of a file or folder: safetensors or pickled tensors of timm, open_clip or HF's CLIP.

        Layers that are not held are neither read nor missed; open_clip's positions on another grid timm resamples.
        What else is missing, surplus, of another shape or unreadable is a ModelFolderError, and nothing is loaded.
        """
        held, modules = self.tower.state_dict(), dict(self.tower.named_modules())
        with raised_as(ModelFolderError, f"source: {os.fspath(source)!r} cannot be loaded", Exception):
            found = _read_weights(Path(source), held)
            convert = getattr(sys.modules[type(self.tower).__module__], "checkpoint_filter_fn", None)
            if convert and not held.keys() <= found.keys():
                found = convert(found, self.tower)
            wrong = [name for name in held if name not in found or found[name].shape != held[name].shape]
            surplus = (name for name in found if name not in self._whole and name.rpartition(".")[0] in modules)
            if wrong := wrong + [name for name in surplus if not name.startswith(_HEADS)]:
                raise ValueError(f"{len(wrong)} weights are missing, surplus or of another shape, such as {wrong[0]}")
        self.tower.load_state_dict({name: found[name] for name in held})

    def frames(self, pixels: Tensor) -> Tensor:
        """Patch features of independent frames, in the dtype of the weights: ``[n c s s]`` → ``[n p e]``."""
        pixels = pixels.to(next(self.tower.parameters()).dtype)
        options = {"norm": False, "stop_early": True, "intermediates_only": True}
        features: Tensor = self.tower.forward_intermediates(pixels, indices=self._layers, **options)[0]
        return features.flatten(2).transpose(1, 2)

    def chunks(self, pixels: Tensor) -> Iterator[Tensor]:
        """Features of one video piece by piece: ``[t c s s]`` → ``[k p e]`` of at most ``chunk_size`` frames each."""
        if not self.deduplicate:
            yield from map(self.frames, pixels.split(self.chunk_size))
            return
        pixels, counts = torch.unique_consecutive(pixels, dim=0, return_counts=True)
        for chunk, repeats in zip(pixels.split(self.chunk_size), counts.split(self.chunk_size), strict=True):
            features = self.frames(chunk)
            yield from (features[rows] for rows in torch.repeat_interleave(repeats).split(self.chunk_size))

    def forward(self, pixels: Tensor) -> Tensor:
        """``[b t c s s]`` of a ``FrameTransform`` → ``[b t p e]``, p = ``grid[0] * grid[1]`` in row-major order."""
        side = self.image_size
        if pixels.ndim != 5 or pixels.shape[-2:] != (side, side):
            raise ArgumentError(f"pixels: expected [b t c {side} {side}], got {list(pixels.shape)}")
        return torch.cat(list(self.chunks(pixels.flatten(0, 1)))).reshape(*pixels.shape[:2], -1, self.width)
