"""timetok: pieces for video language models that answer "when?".

Every name below loads its room on first use, so ``import timetok`` itself pulls in neither torch nor transformers.

>>> import timetok
>>> timetok.TimeGrid(num_tokens=100).encode(30.0, 60.0)
50
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from timetok import adapter as adapter
    from timetok import codecs as codecs
    from timetok import decoding as decoding
    from timetok import embeddings as embeddings
    from timetok import errors as errors
    from timetok import hub as hub
    from timetok import lita as lita
    from timetok import losses as losses
    from timetok import metrics as metrics
    from timetok import plots as plots
    from timetok import pooling as pooling
    from timetok import recipes as recipes
    from timetok import timegrid as timegrid
    from timetok import tokenizer as tokenizer
    from timetok import video as video
    from timetok import vision as vision
    from timetok.adapter import VideoAdapter as VideoAdapter
    from timetok.hub import localize as localize
    from timetok.lita.answer import Answer as Answer
    from timetok.pooling import SlowFastPooler as SlowFastPooler
    from timetok.timegrid import Span as Span
    from timetok.timegrid import TimeGrid as TimeGrid
    from timetok.tokenizer import TimeTokenizer as TimeTokenizer

__version__ = "0.1.0"

_ROOMS = {
    "adapter", "codecs", "decoding", "embeddings", "errors", "hub", "lita", "losses", "metrics", "plots", "pooling",
    "recipes", "timegrid", "tokenizer", "video", "vision",
}  # fmt: skip
_NAMES = {
    "Answer": "lita.answer",
    "SlowFastPooler": "pooling",
    "Span": "timegrid",
    "TimeGrid": "timegrid",
    "TimeTokenizer": "tokenizer",
    "VideoAdapter": "adapter",
    "localize": "hub",
}

__all__ = ["__version__", *sorted(_ROOMS), *_NAMES]


if not TYPE_CHECKING:  # otherwise a type checker would accept every misspelt name

    def __getattr__(name: str) -> object:
        if name in _ROOMS:
            return import_module(f"timetok.{name}")
        if name in _NAMES:
            value: object = getattr(import_module(f"timetok.{_NAMES[name]}"), name)
            globals()[name] = value
            return value
        raise AttributeError(f"module 'timetok' has no attribute {name!r}; it has: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
