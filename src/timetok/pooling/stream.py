"""Pooling of videos in pieces: tokens are kept, no frame is. Shapes: t frames, h w patch grid, e width, n tokens."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from typing import TypeAlias

import torch
from torch import Tensor

from timetok.errors import ArgumentError
from timetok.pooling.plan import Path, PoolingPlan
from timetok.pooling.reference import over_space, over_time, separated

_Pieces: TypeAlias = list[tuple[int, Tensor]]  # a frame, and the tokens [n e] that belong to it


def stream(
    chunks: Iterable[Tensor], plan: PoolingPlan, separators: Mapping[str, Tensor], num_frames: int | None, max_kept: int
) -> Iterator[Tensor]:
    """Tokens ``[n e]``, piece by piece, of chunks ``[t h w e]``: see ``SlowFastPooler.stream``."""
    paths = [_PathStream(path, separators, num_frames, max_kept) for path in plan.paths]
    waiting: list[_Pieces] = [[] for _ in paths]
    total = 0
    for chunk in chunks:
        for pieces, path in zip(waiting, paths, strict=True):
            pieces += path.take(chunk, total)
        total += len(chunk)
        if not plan.by_frame:  # what comes first need not wait
            yield from (tokens for _, tokens in waiting[0])
            waiting[0].clear()
    if not total or num_frames not in (None, total):
        raise ArgumentError(f"chunks: expected {num_frames or 'at least 1'} frames in all, got {total}")
    for pieces, path in zip(waiting, paths, strict=True):
        pieces += path.finish(total)
    last = sorted(chain(*waiting), key=lambda piece: piece[0]) if plan.by_frame else chain(*waiting)
    yield from (tokens for _, tokens in last)


class _PathStream:
    """One path of a plan, fed with the frames of a video in order."""

    def __init__(self, path: Path, separators: Mapping[str, Tensor], num_frames: int | None, max_kept: int) -> None:
        self._chooses = path.frames in ("even", "floor") or isinstance(path.frames, tuple)
        if (self._chooses and path.window[0] != 1) or (path.frames != "all" and not path.window[0]):
            raise ArgumentError(f"stream: path {path.name!r} groups some of the frames, which needs them all at once")
        whole = {place: separators[name].unsqueeze(0) for place, name in path.separators}
        self._start, self._end = whole.get("start"), whole.get("end")
        inner = tuple(pair for pair in path.separators if pair[0] not in ("start", "end"))
        self._path, self._separators, self._max_kept = replace(path, separators=inner), separators, max_kept
        known = num_frames is not None or isinstance(path.frames, tuple)
        self._wanted = set(path.frame_indices(num_frames or 1 << 62)) if self._chooses and known else None
        self._dtype = torch.float32
        self._kept: dict[int, Tensor] = {}  # tokens that may be chosen
        self._stride = 1  # between them
        self._open: list[tuple[int, Tensor]] = []  # frames of the group that is not complete

    def take(self, chunk: Tensor, first: int) -> _Pieces:
        """Tokens that are complete with a chunk whose first frame has the number ``first``."""
        path, frames = self._path, list(enumerate(chunk, first))
        if self._chooses:
            for number, frame in frames:
                if number in self._wanted if self._wanted is not None else number % self._stride == 0:
                    self._keep(number, frame)
            self._open = frames[-1:]  # may prove to be the last
            return []
        if path.frames != "all":
            frames = [pair for pair in frames if (pair[0] % path.num == 0) == (path.frames == "every")]
        self._open += frames
        if not path.window[0]:  # one group of all frames, of which their sum is kept
            both = torch.stack([frame for _, frame in self._open])
            exact = torch.promote_types(chunk.dtype, torch.float32)
            self._open = [(0, both.amax(0) if path.reduction == "max" else both.sum(0, dtype=exact))]
            self._dtype = chunk.dtype
            return []
        whole = len(self._open) // path.window[0] * path.window[0]
        ready, self._open = self._open[:whole], self._open[whole:]
        return self._pooled(ready)

    def finish(self, total: int) -> _Pieces:
        """Tokens that are complete with the end of the video."""
        if not self._chooses:
            if not self._path.window[0] and self._path.reduction != "max":
                self._open = [(0, (self._open[0][1] / total).to(self._dtype))]
            pieces = self._pooled(self._open)
        else:
            if self._wanted is None:
                self._keep(*self._open[0])
            nearest = [min(self._kept, key=lambda k: abs(k - number)) for number in self._path.frame_indices(total)]
            pieces = self._started([(number, self._kept[number]) for number in nearest])
        return pieces if self._end is None else [*pieces, (total - 1, self._end)]

    def _keep(self, number: int, frame: Tensor) -> None:
        self._kept[number] = self._tokens(frame[None])[0]
        if self._wanted is None and len(self._kept) > self._max_kept:
            self._stride *= 2
            self._kept = {k: tokens for k, tokens in self._kept.items() if k % self._stride == 0}

    def _tokens(self, frames: Tensor) -> Tensor:
        """``[t h w e]`` → ``[g n e]``."""
        return separated(over_space(over_time(frames[None], self._path), self._path), self._path, self._separators)[0]

    def _pooled(self, frames: list[tuple[int, Tensor]]) -> _Pieces:
        if not frames:
            return []
        tokens = self._tokens(torch.stack([frame for _, frame in frames]))
        first = [number for number, _ in frames[:: self._path.window[0] or None]]
        return self._started(list(zip(first, tokens, strict=True)))

    def _started(self, pieces: _Pieces) -> _Pieces:
        """With the path's own start in front of its first tokens."""
        if self._start is None or not pieces:
            return pieces
        start, self._start = (pieces[0][0], self._start), None
        return [start, *pieces]
