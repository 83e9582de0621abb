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
    for total, frame in enumerate(chain.from_iterable(chunks), 1):
        for pieces, path in zip(waiting, paths, strict=True):
            pieces += path.take(total - 1, frame)
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
        self._kept: dict[int, Tensor] = {}  # tokens that may be chosen
        self._stride = 1  # between them
        self._open: list[tuple[int, Tensor]] = []  # frames of the group that is not complete

    def take(self, number: int, frame: Tensor) -> _Pieces:
        """Tokens that are complete with a frame ``[h w e]`` and its number."""
        path = self._path
        if self._chooses:
            if number in self._wanted if self._wanted is not None else number % self._stride == 0:
                self._keep(number, frame)
            self._open = [(number, frame)]  # may prove to be the last
            return []
        if path.frames != "all" and (number % path.num == 0) != (path.frames == "every"):
            return []
        if not path.window[0]:  # one group of all frames, of which their sum is kept
            whole, self._dtype = frame.to(torch.promote_types(frame.dtype, torch.float32)), frame.dtype
            if number:
                whole = self._open[0][1].maximum(whole) if path.reduction == "max" else self._open[0][1] + whole
            self._open = [(0, whole)]
            return []
        self._open.append((number, frame))
        return self._pooled() if len(self._open) == path.window[0] else []

    def finish(self, total: int) -> _Pieces:
        """Tokens that are complete with the end of the video."""
        if not self._chooses:
            if not self._path.window[0]:
                whole = self._open[0][1] if self._path.reduction == "max" else self._open[0][1] / total
                self._open = [(0, whole.to(self._dtype))]
            pieces = self._pooled()
        else:
            if self._wanted is None:
                self._keep(*self._open[0])
            nearest = [min(self._kept, key=lambda k: abs(k - number)) for number in self._path.frame_indices(total)]
            pieces = self._started([(number, self._kept[number]) for number in nearest])
        return pieces if self._end is None else [*pieces, (total - 1, self._end)]

    def _keep(self, number: int, frame: Tensor) -> None:
        self._kept[number] = self._tokens(frame[None])
        if self._wanted is None and len(self._kept) > self._max_kept:
            self._stride *= 2
            self._kept = {k: tokens for k, tokens in self._kept.items() if k % self._stride == 0}

    def _tokens(self, group: Tensor) -> Tensor:
        """``[t h w e]`` → ``[n e]``."""
        cells = over_space(over_time(group[None], self._path), self._path)
        return separated(cells, self._path, self._separators)[0, 0]

    def _pooled(self) -> _Pieces:
        if not self._open:
            return []
        (first, *_), frames = zip(*self._open, strict=True)
        self._open = []
        return self._started([(first, self._tokens(torch.stack(frames)))])

    def _started(self, pieces: _Pieces) -> _Pieces:
        """With the path's own start in front of its first tokens."""
        if self._start is None or not pieces:
            return pieces
        start, self._start = (pieces[0][0], self._start), None
        return [start, *pieces]
