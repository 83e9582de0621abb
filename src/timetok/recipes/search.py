"""Where to look in hours of video: frames and a question put into one space by a CLIP, or by a matcher of your own.

That has ``frames``, uint8 ``[n 3 h w]`` → ``[n e]``, and ``text``, a question → ``[e]``, whose products are large where
they fit; the ``size`` of its frames, as in `read_frames`; and a ``name`` that tells its embeddings from others on disk.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm
from transformers import AutoModel, AutoProcessor

from timetok.lita.answer import find_folder, load_weights, telling_which
from timetok.recipes.cache import FeatureCache, weights_digest
from timetok.video import iter_frames


class TwoTowers:
    """A CLIP, a SigLIP or a relative, in a folder of transformers or downloaded, as a matcher; ModelFolderError."""

    def __init__(self, folder: str | Path, *, device: str = "cpu") -> None:
        path = find_folder(folder)
        with telling_which(path):
            self._processor = AutoProcessor.from_pretrained(path, local_files_only=True)
            self._model = load_weights(AutoModel, path).to(device)
            self.size = min(dict(self._processor.image_processor.size).values())
            self.name = f"{weights_digest(self._model)} {self._processor.image_processor}"  # and how it is shown frames

    @torch.inference_mode()
    def frames(self, pixels: Tensor) -> Tensor:
        """Frames uint8 ``[n 3 h w]`` → ``[n e]``, rows of length 1."""
        inputs = self._processor.image_processor(list(pixels), return_tensors="pt").to(self._model.device)
        return normalize(self._model.get_image_features(**inputs).pooler_output)

    @torch.inference_mode()
    def text(self, question: str) -> Tensor:
        """A question, cut where it is too long → ``[e]`` of length 1."""
        told: Any = {"max_length": self._model.config.text_config.max_position_embeddings, "return_tensors": "pt"}
        inputs = self._processor.tokenizer([question], padding="max_length", truncation=True, **told)
        return normalize(self._model.get_text_features(**inputs.to(self._model.device)).pooler_output)[0]


def embedded(shown: Iterable[tuple[float, Tensor]], matcher: Any) -> Iterator[tuple[float, Tensor, Tensor]]:
    """Seconds and frames, such as `iter_frames` gives, and the embedding ``[e]`` of each, in constant memory."""
    frames = iter(shown)
    while chunk := list(islice(frames, 64)):
        rows = matcher.frames(torch.stack([pixels for _, pixels in chunk])).float().cpu()
        yield from ((seconds, pixels, row) for (seconds, pixels), row in zip(chunk, rows, strict=True))


def index(video: str | Path, matcher: Any, folder: str | Path, *, every_seconds: float = 0.5) -> tuple[Tensor, Tensor]:
    """Seconds ``[n]`` and embeddings ``[n e]`` of one frame in each ``every_seconds`` of a file; kept in ``folder``."""
    cache = FeatureCache(folder, {"matcher": matcher.name, "every_seconds": every_seconds})
    shown = embedded(iter_frames(video, size=matcher.size, every_seconds=every_seconds), matcher)
    rows = (torch.cat([torch.tensor([seconds]), row]) for seconds, _, row in shown)  # nothing is decoded yet
    cache.fill([Path(video)], lambda _: torch.stack([*tqdm(rows, "frames searched")]))
    table = cache[Path(video)]
    return table[:, 0].double(), table[:, 1:]


def fits(times_seconds: Tensor, embeddings: Tensor, matcher: Any, question: str) -> tuple[Any, Any]:
    """What `localize_long` takes, of an `index`: moments, and how well each fits a question, over about a second."""
    products = (embeddings @ matcher.text(question).float().cpu()).double()
    apart = float(times_seconds.diff().median()) if len(times_seconds) > 1 else 1.0
    return times_seconds.numpy(), gaussian_filter1d(products.numpy(), 1 / max(apart, 1e-3))
