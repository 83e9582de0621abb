"""Seconds and indices: where the T time marks of a video stand, and how a moment is rounded to one.

The marks are relative to the video, so a duration is an argument of every conversion and never guessed.
Everything is computed in float64; torch tensors are taken and given, though this room never imports torch.
"""

import math
import reprlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from timetok.errors import ArgumentError, TimeRangeError, check_count, raised_as

Number: TypeAlias = float | np.floating[Any] | np.integer[Any]
Numbers: TypeAlias = Number | NDArray[Any] | Sequence[Any]
Marks: TypeAlias = Literal["edges", "centres", "starts"]
Rounding: TypeAlias = Literal["half-even", "half-up", "floor"]
OutOfRange: TypeAlias = Literal["clamp", "raise"]


@dataclass(frozen=True, order=True)
class Span:
    """A closed interval of a video in seconds; a moment is a span of length zero.

    Unpacks like a pair: ``start, end = Span(1.5, 4)``. TimeRangeError unless both are finite and ``start <= end``.
    """

    start: float
    end: float

    def __post_init__(self) -> None:
        if type(self.start) is type(self.end) is float and -math.inf < self.start <= self.end < math.inf:
            return  # as nearly always
        for name, value in (("start", self.start), ("end", self.end)):
            number = _numbers(name, value)
            if number.ndim:
                raise TimeRangeError(f"{name} must be one number of seconds, got {reprlib.repr(value)}")
            object.__setattr__(self, name, float(number))
        if self.start > self.end:
            raise TimeRangeError(f"a span must not end before it starts: swap start={self.start!r}, end={self.end!r}")

    @property
    def duration_seconds(self) -> float:
        """Length of the span in seconds."""
        return self.end - self.start

    def __iter__(self) -> Iterator[float]:
        return iter((self.start, self.end))


def iou(a: Span | NDArray[np.float64], b: Span | NDArray[np.float64]) -> Any:
    """Intersection over union in [0, 1], 0 where it has no length: of two spans, or of ``[... 2]`` that broadcast.

    >>> iou(Span(0, 2), Span(1, 4)), iou(np.array([[0.0, 2.0], [1.0, 5.0]]), np.array([1.0, 4.0])).tolist()
    (0.25, [0.25, 0.75])
    """
    pairs = (tuple(each) if isinstance(each, Span) else each for each in (a, b))
    (start, end), (other_start, other_end) = (np.moveaxis(np.asarray(pair), -1, 0) for pair in pairs)
    both = np.minimum(end, other_end) - np.maximum(start, other_start)
    hull = np.maximum(end, other_end) - np.minimum(start, other_start)  # differs from the union where both is 0
    return _as_given(np.divide(np.maximum(both, 0), hull, out=np.zeros(np.shape(hull)), where=hull > 0))


@dataclass(frozen=True)
class TimeGrid:
    """T marks spread evenly over a video, by default LITA's: the first at 0 seconds, the last at its end.

    ``index = round(steps * (seconds / duration) - offset)`` and ``seconds = (index + offset) * duration / steps``.

    Args:
        num_tokens: T, the number of marks, an integer of at least 2.
        marks: Where they stand: ``"edges"``, at both ends and evenly between (T - 1 steps, offset 0); ``"centres"``, in
            the middle of each of T equal parts (T steps, offset 1/2); ``"starts"``, where each begins (T steps, 0).
        rounding: Which mark a moment between two is given: the nearest, and of two the even (``"half-even"``, as
            numpy rounds) or the later one (``"half-up"``); or the one before (``"floor"``, but for rounding errors).
        out_of_range: What happens to a timestamp outside ``[0, duration]`` or an index outside ``[0, T)``:
            ``"clamp"`` moves it to the nearest mark, ``"raise"`` refuses it.

    What is none of these raises ArgumentError, in methods a duration that is not positive and finite TimeRangeError.

    Source: LITA (arXiv 2403.19046) section 3.2. The paper counts marks from 1, its code and this class from 0.
    LITA's code does not clamp when encoding and rounds decoded seconds to two decimals; this class does neither.

    >>> grid = TimeGrid(100)
    >>> grid.encode([1, 3, 5, 7, 9], duration=198).tolist()
    [0, 2, 2, 4, 4]
    >>> grid.decode(99, duration=198)
    198.0
    """

    num_tokens: int = 100
    marks: Marks = field(default="edges", kw_only=True)
    rounding: Rounding = field(default="half-even", kw_only=True)
    out_of_range: OutOfRange = field(default="clamp", kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_tokens", int(check_count("num_tokens", self.num_tokens, 2)))
        for name, choices in (("marks", Marks), ("rounding", Rounding), ("out_of_range", OutOfRange)):
            if getattr(self, name) not in get_args(choices):
                raise ArgumentError(f"{name} must be one of {get_args(choices)}, got {getattr(self, name)!r}")

    @classmethod
    def preset(cls, name: str) -> Self:
        """The grid of a published system: one of ``lita, vila, vtimellm, grounded-videollm, momentor, llava-st``.

        Momentor and LLaVA-ST train on the two marks around a moment; see `timetok.losses.SoftTimeLoss`.
        VTimeLLM ends spans of dense captions one mark later than this grid decodes them.

        Source: The public code of VILA (whose grid is LITA's), VTimeLLM, Grounded-VideoLLM, Momentor and LLaVA-ST.

        >>> TimeGrid.preset("vtimellm").encode(59.9, 60.0)
        99
        """
        presets: dict[str, dict[str, Any]] = {
            "lita": {}, "vila": {}, "llava-st": {}, "momentor": {"num_tokens": 300}, "vtimellm": {"marks": "starts"},
            "grounded-videollm": {"num_tokens": 301, "rounding": "floor"},
        }  # fmt: skip
        if name not in presets:
            raise ArgumentError(f"name must be one of {', '.join(presets)}, got {name!r}")
        return cls(**presets[name])

    @property
    def _layout(self) -> tuple[int, float]:
        return self.num_tokens - (self.marks == "edges"), 0.5 * (self.marks == "centres")

    def encode(self, seconds: Any, duration: Any) -> Any:
        """Zero-based index of the mark of each timestamp.

        Timestamps and durations are in seconds and broadcast. Two scalars give an ``int``, a tensor on either side an
        int64 tensor on its device, else it is an int64 array. TimeRangeError: a value is not a finite number,
        ``out_of_range="raise"`` and it lies outside ``[0, duration]``, or the shapes do not broadcast.
        """
        (steps, offset), times = self._layout, _numbers("seconds", seconds)
        length = _durations(duration, "seconds", times.shape)
        if self.out_of_range == "raise":
            _refuse("seconds", times, (times < 0) | (times > length), "between 0 and the duration")
        with np.errstate(over="ignore"):  # an overflow is clamped like any other timestamp beyond the end
            marks = np.asarray(times / length * steps - offset)
        np.clip(marks, 0, self.num_tokens - 1, out=marks)
        return _as_given(_rounded(marks, self.rounding).astype(np.int64), seconds, duration)

    def decode(self, index: Any, duration: Any) -> Any:
        """Seconds at which each mark stands; with marks at edges the last is exactly the end of the video.

        Shapes and kinds are as in `encode`: a ``float``, a float64 tensor or a float64 array. TimeRangeError: an index
        is not an integer, ``out_of_range="raise"`` and it lies outside ``[0, T)``, or the shapes do not broadcast.
        """
        (steps, offset), last = self._layout, self.num_tokens - 1
        marks = _numbers("index", index, integers=True)
        length = _durations(duration, "index", marks.shape)
        if self.out_of_range == "raise":
            _refuse("index", marks, (marks < 0) | (marks > last), f"between 0 and {last}")
        places = np.clip(marks, 0, last) + offset
        # (T - 1) * d / (T - 1) can miss d by a rounding, hence the explicit last mark
        return _as_given(np.where(places == steps, length, places * length / steps), index, duration)

    def sample_times(self, duration: Numbers) -> NDArray[np.float64]:
        """Seconds at which all T marks stand, the instants to sample for one frame a mark: ``[...]`` → ``[... T]``.

        >>> TimeGrid(4, marks="centres").sample_times(8.0).tolist()
        [1.0, 3.0, 5.0, 7.0]
        """
        return np.asarray(self.decode(np.arange(self.num_tokens), _durations(duration)[..., None]))

    def max_error(self, duration: Numbers) -> Any:
        """Largest distance in seconds between a timestamp inside the video and its mark: a float, or float64 ``[...]``.

        Half a step for the nearest mark; a whole one for the mark before, and where the end of the video has no mark.
        """
        share = 1.0 if self.rounding == "floor" or self.marks == "starts" else 0.5
        return _as_given(share * _durations(duration) / self._layout[0])


def with_durations(rows: Sequence[Any], duration: Any) -> Iterator[tuple[Any, Any]]:
    """Each row with its duration, where there is one for all or one for each; else a TimeRangeError."""
    durations = [duration] * len(rows) if duration is None or np.ndim(duration) == 0 else list(duration)
    if len(durations) != len(rows):
        raise TimeRangeError(f"durations: expected one for all or one for each of {len(rows)}, got {len(durations)}")
    return zip(rows, durations, strict=True)


def _rounded(marks: NDArray[np.float64], rounding: Rounding) -> NDArray[np.float64]:
    if rounding == "half-even":
        return np.rint(marks, out=marks)
    whole = np.floor(marks)
    if rounding == "half-up":
        return np.asarray(whole + (marks - whole >= 0.5))  # adding 0.5 first would round 0.49999999999999994 up
    nearest = np.rint(marks)  # what misses a mark by nothing but rounding errors stands on it
    return np.where(np.abs(marks - nearest) <= 4 * np.spacing(np.maximum(nearest, 1)), nearest, whole)


def _as_given(result: NDArray[Any], *given: Any) -> Any:
    """As a Python scalar, an array, or a tensor where any argument was one; torch is there if a tensor is."""
    tensor = next((value for value in given if hasattr(value, "detach")), None)
    if tensor is not None:
        return sys.modules["torch"].as_tensor(result, device=tensor.device)
    return result.item() if result.ndim == 0 else result


def _numbers(name: str, value: Any, *, integers: bool = False) -> NDArray[Any]:
    """As an array of integers, or of finite float64; numpy would also take strings, None and booleans."""
    expected = "an integer or an array of integers" if integers else "a number or an array of numbers"
    if hasattr(value, "detach"):  # a tensor, which may be of a dtype numpy lacks
        value = (value.cpu().double() if value.is_floating_point() else value).numpy(force=True)
    with raised_as(TimeRangeError, f"{name} must be {expected}", TypeError, ValueError):
        array = np.asarray(value)
    if array.dtype.kind not in ("iu" if integers else "iuf") and array.size:
        raise TimeRangeError(f"{name} must be {expected}, got {reprlib.repr(value)} of type {type(value).__name__}")
    if not integers:
        array = np.asarray(array, dtype=np.float64)
        _refuse(name, array, ~np.isfinite(array), "finite")
    return array


def _durations(duration: object, name: str = "", shape: tuple[int, ...] = ()) -> NDArray[np.float64]:
    """Positive durations that broadcast against values of a shape."""
    durations = _numbers("duration", duration)
    _refuse("duration", durations, durations <= 0, "a positive number of seconds")
    if durations.ndim:
        with raised_as(TimeRangeError, f"{name}, duration: give one duration for all, or one for each", ValueError):
            np.broadcast_shapes(shape, durations.shape)
    return durations


def _refuse(name: str, values: NDArray[Any], wrong: NDArray[np.bool_] | np.bool_, expected: str) -> None:
    if np.any(wrong):
        first = np.broadcast_to(values, np.shape(wrong))[wrong].flat[0]
        raise TimeRangeError(f"{name} must be {expected}, got {first.item()!r}")
