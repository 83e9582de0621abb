"""Ways to few visual tokens under one face: features ``[t p e]``, seconds ``[t]`` → tokens ``[n e]``, seconds ``[n]``.

``kept`` is a number of tokens a frame, on average where a way keeps more of some frames than of others.
"""

from collections.abc import Callable, Sequence
from functools import partial
from zlib import crc32

import torch
from ablations.grid import Variant
from torch import Tensor
from torch.nn.functional import cosine_similarity

from shapes_world.features import CachedClip
from timetok import SlowFastPooler
from timetok.video import spread
from token_reducers import Pooled, Reducer, WeightedTokenSampler, drop_static, merge_similar, random_tokens

PATCHES = 16  # a frame
Reduce = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def reducer_of(variant: Variant, clips: Sequence[CachedClip]) -> Reduce:
    """What a variant does to a video; ``clips`` are those by which a threshold is set."""
    kept = round(variant.kept)
    pooler = SlowFastPooler(**dict(variant.layout))
    known: dict[str, Callable[[], Reducer]] = {
        "pooled": lambda: Pooled(pooler),
        "longest": lambda: WeightedTokenSampler(kept),
        "random": lambda: partial(_random, num_kept=kept),
        "static dropped": lambda: partial(drop_static, tau=threshold(clips, variant.kept, variant.frames[0])),
        "merged": lambda: partial(merge_similar, num_merged=PATCHES - kept),
    }
    reduce = known[variant.reducer]()

    def one(features: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        ((tokens, seconds),) = reduce(features.unsqueeze(0), times)
        return tokens, seconds

    return one


def threshold(clips: Sequence[CachedClip], kept: float, num_frames: int) -> float:
    """The ``tau`` of `drop_static` that keeps so many patches a frame, on average over whole clips."""
    wanted = (kept * num_frames - PATCHES) / (PATCHES * (num_frames - 1))  # the first frame stays whole
    found = []
    for clip in clips[:200]:
        frames = clip.features[torch.from_numpy(spread(len(clip.features), num_frames))].float()
        found.append(cosine_similarity(frames[1:], frames[:-1], dim=-1).flatten())
    return float(torch.cat(found).quantile(wanted))


def _random(features: Tensor, times: Tensor, *, num_kept: int):
    """Patches drawn anew for every video, and the same for the same one."""
    return random_tokens(features, times, num_kept=num_kept, seed=crc32(features.numpy().data))
