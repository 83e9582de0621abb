"""Every exception timetok raises on purpose: each refines a builtin, and tells argument, value, expectation, remedy."""

import numbers
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class TimetokError(Exception):
    """Base of all errors raised on purpose; the command line turns it into one line and exit status 1 or 2."""


class ArgumentError(TimetokError, ValueError):
    """An argument has a value that cannot be used."""


class TimeRangeError(ArgumentError):
    """A timestamp, an index, a span or a duration lies outside what is possible."""


class TokenizerError(TimetokError, ValueError):
    """A tokenizer cannot carry time tokens, or was asked to carry them twice in different ways."""


class MalformedAnswerError(TimetokError, ValueError):
    """Generated ids hold time tokens that do not form spans."""


class VideoError(TimetokError, ValueError):
    """A file is not a video, holds no frame, or cannot be decoded."""


class VideoNotFoundError(VideoError, FileNotFoundError):
    """There is no file at the given path."""


class PromptError(TimetokError, ValueError):
    """A prompt is empty, too long, or its placeholders do not match the videos given."""


class SpliceError(TimetokError, RuntimeError):
    """Visual tokens did not reach the language model."""


class ModelFolderError(TimetokError, OSError):
    """A folder does not hold the model it should."""


class DataError(TimetokError, ValueError):
    """An annotation, prediction or preset file does not follow its schema."""


def check_count(name: str, value: Any, least: int = 1) -> Any:
    """An argument that is an integer, of whatever type; ArgumentError if it is none, or below ``least``."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        raise ArgumentError(f"{name}: expected an integer of at least {least}, got {value!r}")
    return value if isinstance(value, int) else int(value)  # what torch.compile traces stays unknown


@contextmanager
def raised_as(kind: type[TimetokError], told: str, *causes: type[Exception]) -> Iterator[None]:
    """What a library raises inside becomes an error of ``kind``: ``told``, then its first line; it stays attached."""
    try:
        yield
    except causes as error:
        own = str(error).strip().partition("\n")[0] or type(error).__name__
        raise kind(f"{told}: {own}") from error
