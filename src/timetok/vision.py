"""Frame encoders: a timm model that turns frames into patch features, and the transform in front of it.

Shapes: b batch, t frames, c channels, h w pixels or patch grid, p patches, e vision width, s side of a frame.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from timetok.errors import ArgumentError

Crop = Literal["center", "squash"]

_RESIZED_AT_ONCE = 16  # frames held in float32, so that a long video of large frames fits in memory


@dataclass(frozen=True)
class FrameTransform:
    """Frames of any size → what the encoder reads. No weights, picklable, safe in data-loader workers.

    Attributes:
        image_size: Side of the square the encoder reads, in pixels, at least 1; else ArgumentError is raised.
        mean: Per-channel mean, of values in [0, 1]; ``std`` is the standard deviation.
        crop: ``"center"`` resizes the short side and crops the middle, as LITA and CLIP do;
            ``"squash"`` resizes both sides, so that nothing at the borders is lost.

    Source: LITA's code (FrameTransform.crop = "center", bicubic).

    >>> FrameTransform(image_size=32)(torch.zeros(2, 3, 90, 160, dtype=torch.uint8)).shape
    torch.Size([2, 3, 32, 32])
    """

    image_size: int = 224
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    crop: Crop = "center"

    def __post_init__(self) -> None:
        if self.crop not in get_args(Crop):
            raise ArgumentError(f"crop: expected 'center' or 'squash', got {self.crop!r}")
        if self.image_size < 1:
            raise ArgumentError(f"image_size: expected at least 1, got {self.image_size!r}")

    def __call__(self, frames: Tensor) -> Tensor:
        """Resize, crop and normalise: uint8 ``[t c h w]`` → float32 ``[t c s s]``, s = ``image_size``."""
        return self.normalise(self.resize(frames))

    def resize(self, frames: Tensor) -> Tensor:
        """Resize (bicubic, antialiased) and crop: uint8 ``[t 3 h w]`` → ``[t 3 s s]``; else an ArgumentError."""
        if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[1] != 3:
            raise ArgumentError(f"frames: expected uint8 [t 3 h w], got {frames.dtype} {list(frames.shape)}")
        return torch.cat([self._resize(chunk) for chunk in frames.split(_RESIZED_AT_ONCE)])

    def _resize(self, frames: Tensor) -> Tensor:
        side, (height, width) = self.image_size, frames.shape[-2:]
        short = min(height, width)
        size = (height * side // short, width * side // short) if self.crop == "center" else (side, side)
        pixels = interpolate(frames.float(), size=size, mode="bicubic", antialias=True, align_corners=False)
        top, left = (size[0] - side) // 2, (size[1] - side) // 2
        return pixels[..., top : top + side, left : left + side].clamp(0, 255).round().to(torch.uint8)

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 ``[… c s s]`` → float32 of about zero mean and unit variance."""
        mean, std = (torch.tensor(v, device=pixels.device).view(3, 1, 1) for v in (self.mean, self.std))
        return (pixels / 255 - mean) / std


class FrameEncoder(nn.Module):
    """A timm model read at one of its layers: ``[b t c s s]`` → ``[b t p e]``.

    Prefix tokens (CLS, registers) are dropped, later layers are not computed, and no final norm is
    applied, as LITA reads CLIP. What timm does not know or refuses raises ArgumentError, as other values do.

    Args:
        name: A timm model name.
        image_size: Side of the input frames in pixels, a multiple of the model's stride.
        layer: Which intermediate feature to read, counted as timm's ``forward_intermediates`` counts;
            -2 is LITA's choice for CLIP, -1 the last.
        model_args: Further arguments of ``timm.create_model``.
        pretrained: Let timm fetch or load its weights.
        chunk_size: Frames encoded at once, at least 1, which bounds the memory of a long video.

    Its ``grid`` are the patch rows and columns of a frame, its ``width`` is e, the channels of a patch.

    Source: arXiv 2403.19046 §3.3 and its code (CLIP ViT-L/14, layer -2, no CLS).

    >>> encoder = FrameEncoder("resnet10t", image_size=64)
    >>> encoder(torch.zeros(1, 5, 3, 64, 64)).shape, encoder.grid, encoder.width
    (torch.Size([1, 5, 4, 512]), (2, 2), 512)
    """

    tower: Any  # timm's models share no class that has forward_intermediates

    def __init__(
        self,
        name: str,
        *,
        image_size: int = 224,
        layer: int = -1,
        model_args: Mapping[str, Any] | None = None,
        pretrained: bool = False,
        chunk_size: int = 128,
    ) -> None:
        super().__init__()
        if chunk_size < 1:
            raise ArgumentError(f"chunk_size: expected at least 1, got {chunk_size}")
        args = dict(model_args or {})
        try:
            known = timm.models.get_pretrained_cfg(name)
            if known.fixed_input_size if known else "vit" in name:  # its weights depend on the size
                args["img_size"] = image_size
            self.tower = timm.create_model(name, pretrained=pretrained, num_classes=0, **args)
            stages = list(self.tower.feature_info)
        except (RuntimeError, TypeError, AttributeError, AssertionError) as error:
            raise ArgumentError(f"name, model_args: timm cannot build {name!r} with {args}: {error}") from error
        if not -len(stages) <= layer < len(stages):
            raise ArgumentError(f"layer: {name!r} has {len(stages)}, got {layer}")
        self._layer_index = layer % len(stages)
        self.layer, self.chunk_size, self.image_size = layer, chunk_size, image_size
        stride, self.width = int(stages[layer]["reduction"]), int(stages[layer]["num_chs"])
        if image_size % stride:
            raise ArgumentError(f"image_size: expected a multiple of {stride}, {name!r}'s stride, got {image_size}")
        self.grid: tuple[int, int] = (image_size // stride, image_size // stride)

    def frames(self, pixels: Tensor) -> Tensor:
        """Patch features of independent frames: ``[n c s s]`` → ``[n p e]``."""
        features: Tensor
        options = {"norm": False, "stop_early": True, "intermediates_only": True}
        (features,) = self.tower.forward_intermediates(pixels, indices=[self._layer_index], **options)
        return features.flatten(2).transpose(1, 2)

    def forward(self, pixels: Tensor) -> Tensor:
        """``[b t c s s]`` of a ``FrameTransform`` → ``[b t p e]``, p = ``grid[0] * grid[1]`` in row-major order."""
        side = self.image_size
        if pixels.ndim != 5 or pixels.shape[-2:] != (side, side):
            raise ArgumentError(f"pixels: expected [b t c {side} {side}], got {list(pixels.shape)}")
        chunks = pixels.flatten(0, 1).split(self.chunk_size)
        return torch.cat([self.frames(chunk) for chunk in chunks]).reshape(*pixels.shape[:2], -1, self.width)
