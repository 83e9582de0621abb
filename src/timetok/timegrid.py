"""Seconds and indices: where the T time marks of a video stand, and how a moment is rounded to one.

The marks are relative to the video, so a duration is an argument of every conversion and never guessed.
Everything is computed in float64; scalars give Python scalars, lists and arrays give arrays.
"""

import math
import reprlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from timetok.errors import ArgumentError, TimeRangeError

Number: TypeAlias = float | np.floating[Any] | np.integer[Any]
Numbers: TypeAlias = NDArray[Any] | Sequence[Any]
OutOfRange: TypeAlias = Literal["clamp", "raise"]


@dataclass(frozen=True, order=True)
class Span:
    """A closed interval of a video in seconds; a moment is a span of length zero.

    Unpacks like a pair: ``start, end = Span(1.5, 4)``.

    Args:
        start: First instant, in seconds.
        end: Last instant, in seconds; not before ``start``.

    Raises:
        TimeRangeError: Either end is not a finite number, or ``start > end``.
    """

    start: float
    end: float

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            value: object = getattr(self, name)
            if type(value) is not float or not math.isfinite(value):  # spares what spans are made of nearly always
                object.__setattr__(self, name, _seconds_scalar(name, value))
        if self.start > self.end:
            raise TimeRangeError(
                f"a span must not end before it starts: got start={self.start!r}, end={self.end!r}; swap the two"
            )

    @property
    def duration_seconds(self) -> float:
        """Length of the span in seconds."""
        return self.end - self.start

    def __iter__(self) -> Iterator[float]:
        yield self.start
        yield self.end


@dataclass(frozen=True)
class TimeGrid:
    """T marks spread evenly over a video: the first at 0 seconds, the last at its end.

    ``index = round_half_even((T - 1) * (seconds / duration))`` and ``seconds = index * duration / (T - 1)``.

    Args:
        num_tokens: T, the number of marks, at least 2.
        out_of_range: What happens to a timestamp outside ``[0, duration]`` or an index outside ``[0, T)``:
            ``"clamp"`` moves it to the nearest mark, ``"raise"`` refuses it.

    Raises:
        ArgumentError: ``num_tokens`` is not an integer of at least 2, or ``out_of_range`` is neither choice.

    Source:
        LITA (arXiv 2403.19046) section 3.2. The paper counts marks from 1, its code and this class from 0.
        LITA's code does not clamp when encoding and rounds decoded seconds to two decimals; this class clamps
        and does not round.

    Example:
        >>> grid = TimeGrid(100)
        >>> grid.encode([1, 3, 5, 7, 9], duration=198).tolist()
        [0, 2, 2, 4, 4]
        >>> grid.decode(99, duration=198)
        198.0
    """

    num_tokens: int = 100
    out_of_range: OutOfRange = field(default="clamp", kw_only=True)

    def __post_init__(self) -> None:
        value: object = self.num_tokens
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 2:
            raise ArgumentError(f"num_tokens must be an integer of at least 2, got {value!r}")
        object.__setattr__(self, "num_tokens", int(value))
        if self.out_of_range not in ("clamp", "raise"):
            raise ArgumentError(f"out_of_range must be 'clamp' or 'raise', got {self.out_of_range!r}")

    @overload
    def encode(self, seconds: Number, duration: Number) -> int: ...
    @overload
    def encode(self, seconds: Numbers, duration: Number | Numbers) -> NDArray[np.int64]: ...
    @overload
    def encode(self, seconds: Number, duration: Numbers) -> NDArray[np.int64]: ...
    def encode(self, seconds: Number | Numbers, duration: Number | Numbers) -> int | NDArray[np.int64]:
        """Index of the mark nearest to each timestamp, ties to the even mark.

        Args:
            seconds: Timestamps in seconds; a scalar or anything numpy reads as an array of numbers.
            duration: Length of the video in seconds; broadcasts against ``seconds``.

        Returns:
            Zero-based indices: an ``int`` if both arguments are scalars, else an int64 array.

        Raises:
            TimeRangeError: A value is not a finite number, a duration is not positive, the shapes do not
                broadcast, or ``out_of_range="raise"`` and a timestamp lies outside ``[0, duration]``.
        """
        times, length = _finite("seconds", seconds), _durations(duration)
        _check_shapes("seconds", times, length)
        if self.out_of_range == "raise":
            _refuse("seconds", times, (times < 0) | (times > length), "between 0 and the duration")
        with np.errstate(over="ignore"):  # an overflow is clamped like any other timestamp beyond the end
            marks = np.asarray(times / length)
            marks *= self.num_tokens - 1
        np.rint(marks, out=marks)
        np.clip(marks, 0, self.num_tokens - 1, out=marks)
        return int(marks) if marks.ndim == 0 else marks.astype(np.int64)

    @overload
    def decode(self, index: int | np.integer[Any], duration: Number) -> float: ...
    @overload
    def decode(self, index: Numbers, duration: Number | Numbers) -> NDArray[np.float64]: ...
    @overload
    def decode(self, index: int | np.integer[Any], duration: Numbers) -> NDArray[np.float64]: ...
    def decode(self, index: int | np.integer[Any] | Numbers, duration: Number | Numbers) -> float | NDArray[np.float64]:
        """Seconds at which each mark stands; the last one stands exactly at the end of the video.

        Args:
            index: Zero-based indices; a scalar or anything numpy reads as an array of integers.
            duration: Length of the video in seconds; broadcasts against ``index``.

        Returns:
            Seconds: a ``float`` if both arguments are scalars, else a float64 array.

        Raises:
            TimeRangeError: An index is not an integer, a duration is not positive and finite, the shapes do
                not broadcast, or ``out_of_range="raise"`` and an index lies outside ``[0, T)``.
        """
        marks, length = _integers("index", index), _durations(duration)
        _check_shapes("index", marks, length)
        last = self.num_tokens - 1
        if self.out_of_range == "raise":
            _refuse("index", marks, (marks < 0) | (marks > last), f"between 0 and {last}")
        marks = np.clip(marks, 0, last)
        # (T - 1) * d / (T - 1) can miss d by a rounding, hence the explicit last mark
        seconds = np.where(marks == last, length, marks * length / last)
        return float(seconds) if seconds.ndim == 0 else seconds

    @overload
    def max_error(self, duration: Number) -> float: ...
    @overload
    def max_error(self, duration: Numbers) -> NDArray[np.float64]: ...
    def max_error(self, duration: Number | Numbers) -> float | NDArray[np.float64]:
        """Largest distance in seconds between a timestamp inside the video and its mark: half a step.

        Args:
            duration: Length of the video in seconds, scalar or array.

        Returns:
            ``duration / (2 * (T - 1))``, scalar or array as given.

        Raises:
            TimeRangeError: A duration is not a positive finite number.
        """
        error = _durations(duration) / (2 * (self.num_tokens - 1))
        return float(error) if error.ndim == 0 else error


def _seconds_scalar(name: str, value: object) -> float:
    number = _finite(name, value)
    if number.ndim:
        raise TimeRangeError(f"{name} must be one number of seconds, got {reprlib.repr(value)}")
    return float(number)


def _numbers(name: str, value: object, kinds: str, expected: str) -> NDArray[Any]:
    """As an array whose dtype kind is one of ``kinds``; numpy would also take strings, None and booleans."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise TimeRangeError(f"{name} must be {expected}, got {reprlib.repr(value)}") from error
    if array.dtype.kind not in kinds and array.size:
        raise TimeRangeError(f"{name} must be {expected}, got {reprlib.repr(value)} of type {type(value).__name__}")
    return array


def _integers(name: str, value: object) -> NDArray[Any]:
    array = _numbers(name, value, "iu", "an integer or an array of integers")
    return array if array.size else array.astype(np.int64)


def _finite(name: str, value: object) -> NDArray[np.float64]:
    array = np.asarray(_numbers(name, value, "iuf", "a number or an array of numbers"), dtype=np.float64)
    _refuse(name, array, ~np.isfinite(array), "finite")
    return array


def _durations(value: object) -> NDArray[np.float64]:
    array = _finite("duration", value)
    _refuse("duration", array, array <= 0, "a positive number of seconds")
    return array


def _refuse(name: str, values: NDArray[Any], wrong: NDArray[np.bool_] | np.bool_, expected: str) -> None:
    if np.any(wrong):
        first = np.broadcast_to(values, np.shape(wrong))[wrong].flat[0]
        raise TimeRangeError(f"{name} must be {expected}, got {first.item()!r}")


def _check_shapes(name: str, values: NDArray[Any], durations: NDArray[Any]) -> None:
    try:
        np.broadcast_shapes(values.shape, durations.shape)
    except ValueError:
        raise TimeRangeError(
            f"{name} of shape {values.shape} and duration of shape {durations.shape} do not broadcast; "
            "give one duration for all, or one for each"
        ) from None
