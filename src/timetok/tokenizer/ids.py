"""Ids and texts in the shapes in which callers hold them, without importing torch to recognise a tensor."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timetok.errors import ArgumentError, TimeRangeError


def as_integers(ids: Any) -> NDArray[np.int64]:
    """Ids of any shape and kind as int64; ArgumentError if they are not integers."""
    array = np.asarray(ids.cpu() if hasattr(ids, "cpu") else ids)
    if array.dtype.kind not in "iu" and array.size:
        raise ArgumentError(f"ids must be integers, got {type(ids).__name__} of {array.dtype}")
    return array.astype(np.int64)


def as_row(ids: Any) -> NDArray[np.int64]:
    """Ids of one sequence without the negative ones, which are padding; ArgumentError if they are anything else."""
    row = as_integers(ids)
    if row.ndim != 1:
        raise ArgumentError(f"ids must be one sequence, got shape {row.shape}; use batch_decode or spans for a batch")
    return row[row >= 0]


def with_durations(rows: Sequence[Any], duration: Any) -> Iterator[tuple[Any, Any]]:
    """Each row with its duration, where there is one for all or one for each; else a TimeRangeError."""
    durations = [duration] * len(rows) if duration is None or np.ndim(duration) == 0 else list(duration)
    if len(durations) != len(rows):
        raise TimeRangeError(f"durations: expected one for all or one for each of {len(rows)}, got {len(durations)}")
    return zip(rows, durations, strict=True)


def strings(value: Any) -> list[str]:
    """Every string in a nest of lists."""
    return [value] if isinstance(value, str) else [text for part in value or () for text in strings(part)]
