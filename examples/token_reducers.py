"""Other ways to few visual tokens: sampled by attention, dropped where nothing moves, merged where alike.

python examples/token_reducers.py                               # a repeated scene through every one of them

Each tells when its tokens are shown. What is left of a video, [n e], a VideoAdapter takes as pooled features.
Shapes: b batch, t frames, p patches, h w patch grid, e vision width, d language width, n visual tokens.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Protocol, TypeAlias, get_args

import torch
from timm.models.vision_transformer import Attention
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

from timetok import SlowFastPooler
from timetok.errors import ArgumentError, check_count, raised_as
from timetok.pooling import as_grid
from timetok.vision import FrameEncoder

Times: TypeAlias = Tensor | Sequence[float] | Sequence[Sequence[float]]
Ragged: TypeAlias = Tensor | list[Tensor]  # [b n …], or a list of [n …] where videos keep different numbers
Query: TypeAlias = Literal["cls", "mean"]
Heads: TypeAlias = Literal["mean", "max"]
QUERIES = 64  # whose attention is held at once


@dataclass(frozen=True, eq=False)
class Reduced:
    """What is left of a batch of videos, and where it comes from.

    ``tokens`` are [b n e], the rest [b n], or lists of a video each: the float64 second at which each is shown, a mean
    where it is made of several frames; the frame and the patch, row by row, that it comes from, -1 where it is made of
    several; and the number of patches it is the mean of, where patches are merged.
    """

    tokens: Ragged
    times_seconds: Ragged
    frame_index: Ragged
    patch_index: Ragged
    sizes: Ragged | None = None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Tokens [n e] and times [n] of each video."""
        return zip(self.tokens, self.times_seconds, strict=True)


class Reducer(Protocol):
    """Features [b t p e] or [b t h w e], and when their frames are shown, [t] or [b t] → few tokens; ArgumentError."""

    def __call__(self, features: Tensor, times_seconds: Times) -> Reduced: ...


def checked(features: Tensor, times_seconds: Times) -> tuple[Tensor, Tensor]:
    """[b t p e] and float64 [b t]."""
    shape = list(features.shape)
    if features.ndim not in (4, 5) or not features.is_floating_point() or 0 in shape:
        raise ArgumentError(f"features: expected floats [b t p e] or [b t h w e], got {features.dtype} {shape}")
    times = torch.as_tensor(times_seconds, dtype=torch.float64, device=features.device)
    if list(times.shape) not in (shape[1:2], shape[:2]):
        raise ArgumentError(f"times_seconds: expected {shape[1:2]} or {shape[:2]} of them, got {list(times.shape)}")
    return features.flatten(2, -2), times.expand(shape[:2])


def of_frames(tokens: Tensor, times: Tensor, index: Tensor, sizes: Tensor | None = None) -> Reduced:
    """Tokens [b t k e] of frames at times [b t], made of patches [b t k], in a row."""
    frames = torch.arange(times.shape[1], device=times.device).view(1, -1, 1).expand_as(index)
    shown, sizes = times.unsqueeze(2).expand_as(index), None if sizes is None else sizes.flatten(1, 2)
    return Reduced(tokens.flatten(1, 2), shown.flatten(1, 2), frames.flatten(1, 2), index.flatten(1, 2), sizes)


@dataclass(frozen=True, eq=False)
class WeightedTokenSampler:
    """The ``num_kept`` patches of each frame that score highest, in the order of patches; of equal ones the first.

    ``scores`` are [b t p], or what makes them of features, or None for the length of features; `attention_scores` has
    those of an encoder. With ``weigh``, a token is multiplied by its score over the mean score of those kept in its
    frame. Gradients reach the tokens kept, and scores that weigh. All patches kept, none weighed, is the identity.

    Source: Fewer Tokens and Fewer Videos (arXiv 2406.08024), K of 16 to 256, before the projector. Which layer's
    attention, order and weights could not be verified, so they are arguments.
    """

    num_kept: int
    scores: Tensor | Callable[[Tensor], Tensor] | None = None
    weigh: bool = False

    def sample(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """[b t p e] → those kept, [b t k e], and which they are, [b t k]."""
        if check_count("num_kept", self.num_kept) > features.shape[2]:
            raise ArgumentError(f"num_kept: expected at most {features.shape[2]}, a frame's, got {self.num_kept}")
        scores = self.scores(features) if callable(self.scores) else self.scores
        scores = features.norm(dim=-1) if scores is None else scores
        if scores.shape != features.shape[:3] or not scores.is_floating_point() or scores.isnan().any():
            raise ArgumentError(f"scores: expected floats {list(features.shape[:3])}, got {list(scores.shape)} or NaN")
        index = scores.argsort(dim=-1, descending=True, stable=True)[..., : self.num_kept].sort(dim=-1).values
        tokens = features.gather(2, index.unsqueeze(-1).expand(*index.shape, features.shape[-1]))
        if self.weigh:
            kept = scores.gather(2, index)
            if kept.amin() < 0 or not (mean := kept.mean(-1, keepdim=True)).isfinite().all() or mean.amin() <= 0:
                raise ArgumentError("scores: those that weigh must be finite, none negative, and not all of a frame 0")
            tokens = tokens * (kept / mean).unsqueeze(-1).to(tokens.dtype)
        return tokens, index

    def __call__(self, features: Tensor, times_seconds: Times) -> Reduced:
        features, times = checked(features, times_seconds)
        tokens, index = self.sample(features)
        return of_frames(tokens, times, index)


def random_tokens(features: Tensor, times_seconds: Times, *, num_kept: int, seed: int | torch.Generator = 0) -> Reduced:
    """Any ``num_kept`` patches of each frame, the same for the same seed: what scores have to beat.

    A generator goes on from call to call, as a video in pieces needs it.
    """
    b, t, p, _ = checked(features, times_seconds)[0].shape
    generator = torch.Generator().manual_seed(seed) if isinstance(seed, int) else seed
    chance = torch.stack([torch.rand(b, p, generator=generator) for _ in range(t)], 1)
    return WeightedTokenSampler(num_kept, chance.to(features.device))(features, times_seconds)


@dataclass(frozen=True, eq=False)
class Pooled:
    """A pooler, its tokens at the mean time of their frames; after a sampler, of what that one keeps.

    Patches that are kept stand in one row: paths of means over whole frames and of single patches, as with
    ``SlowFastPooler(slow_pool=1)``, make sense of it; squares of patches there are none.
    """

    pooler: SlowFastPooler
    sampler: WeightedTokenSampler | None = None

    def __call__(self, features: Tensor, times_seconds: Times) -> Reduced:
        flat, times = checked(features, times_seconds)
        kept, index = self.sampler.sample(flat) if self.sampler else (flat, None)
        grid = as_grid(features) if index is None else kept.unsqueeze(2)
        layout = self.pooler.plan.tokens(grid.shape[1], (grid.shape[2], grid.shape[3]))
        shown = times.new_tensor([[token.seconds(row) for token in layout] for row in times.tolist()])
        frame, patch = [], []
        for token in layout:
            (row, end), (column, stop) = token.rows or (0, 0), token.columns or (0, 0)
            frame.append(token.frames[0] if len({*token.frames}) == 1 else -1)
            patch.append(row * grid.shape[3] + column if end - row == stop - column == 1 else -1)
        frames, patches = (torch.tensor(each, device=times.device).expand(len(flat), -1) for each in (frame, patch))
        if index is not None:  # which of those kept → which of all
            chosen = index[:, frames[0].clamp(0), patches[0].clamp(0)]
            patches = torch.where((frames < 0) | (patches < 0), -1, chosen)
        return Reduced(self.pooler(grid), shown, frames, patches)


def encode(
    encoder: FrameEncoder, pixels: Tensor, *, block: int = -1, query: Query = "cls", heads: Heads = "mean"
) -> tuple[Tensor, Tensor]:
    """Frames [n c s s] → features [n p e] and the attention that each patch receives, float32 [n p], in one pass.

    The encoder is a timm ViT, ``block`` one of those up to its layer, -1 the last. ``query`` asks the class token, or
    all patches and averages; ``heads`` makes one number of them. The softmax is over all tokens, so scores of a frame
    sum to less than 1 where there are others. No more than `QUERIES` rows of attention exist at a time.
    """
    if query not in get_args(Query) or heads not in get_args(Heads):
        raise ArgumentError(f"query, heads: expected {get_args(Query)}, {get_args(Heads)}, got {query!r}, {heads!r}")
    with raised_as(ArgumentError, f"encoder, block: there is no attention {block}", AttributeError, IndexError):
        tower, attention = encoder.tower, encoder.tower.blocks[block].attn
    if type(attention) is not Attention or (query == "cls" and not tower.has_class_token):
        lacks = "class token: query='mean'" if type(attention) is Attention else "plain attention of timm's"
        raise ArgumentError(f"encoder, query: there is no {lacks}")
    prefix, received = tower.num_prefix_tokens, list[Tensor]()

    def listen(_: nn.Module, __: object, qkv: Tensor) -> None:
        q, k, _v = qkv.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = attention.q_norm(q).float() * attention.scale, attention.k_norm(k).float().mT
        asking = q[:, :, :1] if query == "cls" else q[:, :, prefix:]
        total = torch.zeros_like(k[:, :, 0, prefix:])
        for part in asking.split(QUERIES, 2):
            total += (part @ k).softmax(-1)[..., prefix:].sum(2)
        received.append((total.mean(1) if heads == "mean" else total.amax(1)) / asking.shape[2])

    with torch.no_grad(), attention.qkv.register_forward_hook(listen):
        features = torch.cat([encoder.frames(chunk) for chunk in pixels.split(encoder.chunk_size)])
    return features, torch.cat(received)


def attention_scores(
    encoder: FrameEncoder, pixels: Tensor, block: int = -1, query: Query = "cls", heads: Heads = "mean"
) -> Tensor:
    """The scores of `encode` alone, [n c s s] → [n p]."""
    return encode(encoder, pixels, block=block, query=query, heads=heads)[1]


Against: TypeAlias = Literal["previous", "kept"]


@dataclass(eq=False)
class StaticDropper:
    """`drop_static` of a video that comes in pieces: a call goes on from ``seen`` [b p e], what the last one left."""

    tau: float
    against: Against = "previous"
    seen: Tensor | None = None

    def __call__(self, features: Tensor, times_seconds: Times) -> Reduced:
        features, times = checked(features, times_seconds)
        if not -1 <= self.tau <= 1 or self.against not in get_args(Against):
            told = f"got {self.tau!r}, {self.against!r}"
            raise ArgumentError(f"tau, against: expected -1 to 1, 'previous' or 'kept', {told}")
        kept = []
        for frame in features.detach().unbind(1):
            seen = frame if self.seen is None else self.seen
            if seen.shape != frame.shape:
                raise ArgumentError(f"features: expected frames {list(seen.shape)} as before, got {list(frame.shape)}")
            moved = ~(cosine_similarity(frame.float(), seen.float(), dim=-1) > self.tau)
            kept.append(torch.ones_like(moved) if self.seen is None else moved)
            self.seen = frame if self.against == "previous" else torch.where(kept[-1].unsqueeze(-1), frame, seen)
        found = [tuple(mask.nonzero().T) for mask in torch.stack(kept, 1)]  # frames and patches of each video
        tokens = [video[index] for video, index in zip(features, found, strict=True)]
        shown = [video[frame] for video, (frame, _) in zip(times, found, strict=True)]
        return Reduced(tokens, shown, [frame for frame, _ in found], [patch for _, patch in found])


def drop_static(features: Tensor, times_seconds: Times, *, tau: float, against: Against = "previous") -> Reduced:
    """Drop a patch whose cosine with the same patch of the frame before exceeds ``tau``; the first frame stays whole.

    ``against="kept"`` compares with what was kept last in that place, so that slow changes are seen; not the paper's.

    Source: TimeChat-Online (arXiv 2504.17343), its differential token drop by features.
    """
    return StaticDropper(tau, against)(features, times_seconds)


def merge(tokens: Tensor, sizes: Tensor, num: int) -> tuple[Tensor, Tensor, Tensor]:
    """One bipartite step: [b n e] and their sizes [b n] → those of ``n - num`` tokens, and where each went, [b n].

    A token at an even place is matched with the most similar one at an odd place. Of these pairs the ``num`` most
    similar, at most n // 2, become their mean, weighted by sizes, in the odd place; several may join one.
    """
    unit = normalize(tokens.detach(), dim=-1)
    fit, partner = (unit[:, ::2] @ unit[:, 1::2].mT).max(-1)
    source = fit.argsort(dim=-1, descending=True, stable=True)[:, :num]
    stays = torch.ones_like(sizes, dtype=torch.bool).scatter(1, 2 * source, False)
    place = torch.arange(tokens.shape[1], device=tokens.device).expand_as(sizes)
    went = (stays.cumsum(1) - 1).gather(1, place.scatter(1, 2 * source, 2 * partner.gather(1, source) + 1))
    grown = torch.zeros_like(sizes[:, num:]).scatter_add(1, went, sizes)
    weighed, index = tokens * sizes.unsqueeze(-1), went.unsqueeze(-1).expand_as(tokens)
    return torch.zeros_like(tokens[:, num:]).scatter_add(1, index, weighed) / grown.unsqueeze(-1), grown, went


def merge_similar(features: Tensor, times_seconds: Times, *, num_merged: int) -> Reduced:
    """``num_merged`` tokens less in each frame, by as few steps of `merge` as that takes, in float32 or better.

    Source: ToMe (arXiv 2210.09461), which matches by keys inside a ViT; AIM (arXiv 2412.03248), by features as here,
    and within frames, so that each token keeps its time.
    """
    features, times = checked(features, times_seconds)
    b, t, p, _ = features.shape
    if check_count("num_merged", num_merged, 0) >= p:
        raise ArgumentError(f"num_merged: expected fewer than {p}, the patches of a frame, got {num_merged}")
    tokens, left = features.flatten(0, 1).to(torch.promote_types(features.dtype, torch.float32)), num_merged
    patches = torch.arange(p, device=tokens.device).expand(b * t, p)
    sizes, went = tokens.new_ones(b * t, p), patches
    while left:
        num = min(left, tokens.shape[1] // 2)
        tokens, sizes, moved = merge(tokens, sizes, num)
        went, left = moved.gather(1, went), left - num
    single = torch.where(sizes == 1, torch.zeros_like(sizes, dtype=torch.int64).scatter(1, went, patches), -1)
    tokens, single, sizes = (each.unflatten(0, (b, t)) for each in (tokens.to(features.dtype), single, sizes))
    return of_frames(tokens, times, single, sizes)


def stream(reduce: Reducer, chunks: Iterable[tuple[Tensor, Times]]) -> Iterator[Reduced]:
    """Reduce videos whose frames and their times come in pieces: together, what the whole gives.

    For what looks at each frame alone, and for a `StaticDropper`. ArgumentError is raised where scores are given, which
    are those of one piece, and for a ``Pooled``: ``SlowFastPooler.stream`` pools pieces, also what ``sample`` keeps.
    """
    if isinstance(reduce, Pooled) or (isinstance(reduce, WeightedTokenSampler) and isinstance(reduce.scores, Tensor)):
        raise ArgumentError("reduce: expected no Pooled, for which use SlowFastPooler.stream, and no scores of a whole")
    begun = reduce.func if isinstance(reduce, partial) else reduce
    if begun is drop_static or (begun is random_tokens and isinstance(reduce.keywords.get("seed", 0), int)):
        raise ArgumentError("reduce: begins anew with each piece; use StaticDropper, or a generator as seed")
    start = 0
    for features, times in chunks:
        found = reduce(features, times)
        index = [frames + start for frames in found.frame_index]
        yield replace(found, frame_index=torch.stack(index) if isinstance(found.frame_index, Tensor) else index)
        start += features.shape[1]


def time_markers_text(times_seconds: Sequence[float], num_together: int = 1) -> list[str]:
    """What to write before each frame, or group of ``num_together`` of which the last is filled up by its last frame.

    Source: Qwen3-VL as in transformers: ``<0.5 seconds>``, the middle between a group's first and last time.
    """
    last, starts = len(times_seconds) - 1, range(0, len(times_seconds), check_count("num_together", num_together))
    ends = [times_seconds[min(start + num_together - 1, last)] for start in starts]
    return [f"<{(times_seconds[start] + end) / 2:.1f} seconds>" for start, end in zip(starts, ends, strict=True)]


def main() -> None:
    torch.manual_seed(0)
    small = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    encoder = FrameEncoder("vit_tiny_patch16_224", image_size=64, model_args=small).eval()
    scenes = torch.randn(2, 3, 64, 64)
    pixels = scenes[[0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0]]  # one scene, another, the first again
    pixels[6, :, :16, :16] = 0.0  # something happens
    times = [0.5 * frame for frame in range(12)]
    features, scores = (each.unsqueeze(0) for each in encode(encoder, pixels))
    sampler = WeightedTokenSampler(4, scores)
    reducers: dict[str, Reducer] = {
        "SlowFastPooler": Pooled(SlowFastPooler(num_slow_frames=2)),
        "sampled by attention": sampler,
        "sampled, then pooled": Pooled(SlowFastPooler(num_slow_frames=2, slow_pool=1), sampler),
        "random": partial(random_tokens, num_kept=4),
        "static dropped": partial(drop_static, tau=0.99),
        "merged": partial(merge_similar, num_merged=12),
    }
    print(f"{features.shape[1]} frames of {features.shape[2]} patches")
    for name, reduce in reducers.items():
        ((tokens, shown),) = reduce(features, times)
        moments, counts = shown.unique(return_counts=True)
        told = " ".join(f"{moment:.2f}x{count}" for moment, count in zip(moments, counts, strict=True))
        print(f"{name:20} {len(tokens):3} tokens, seconds x number: {told}")
    print("markers:", *time_markers_text(times, 2))


if __name__ == "__main__":
    main()
