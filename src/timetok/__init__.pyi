"""What type checkers see of the public face, which loads lazily."""

from timetok import (
    adapter as adapter,
    attention as attention,
    codecs as codecs,
    decoding as decoding,
    embeddings as embeddings,
    errors as errors,
    hub as hub,
    lita as lita,
    losses as losses,
    metrics as metrics,
    plots as plots,
    pooling as pooling,
    recipes as recipes,
    timegrid as timegrid,
    tokenizer as tokenizer,
    video as video,
    vision as vision,
)
from timetok.adapter import VideoAdapter as VideoAdapter
from timetok.hub import localize as localize, localize_long as localize_long
from timetok.lita.answer import Answer as Answer
from timetok.pooling import SlowFastPooler as SlowFastPooler
from timetok.timegrid import Span as Span, TimeGrid as TimeGrid
from timetok.tokenizer import TimeTokenizer as TimeTokenizer

__version__: str

__all__ = [
    "Answer",
    "SlowFastPooler",
    "Span",
    "TimeGrid",
    "TimeTokenizer",
    "VideoAdapter",
    "__version__",
    "adapter",
    "attention",
    "codecs",
    "decoding",
    "embeddings",
    "errors",
    "hub",
    "lita",
    "localize",
    "localize_long",
    "losses",
    "metrics",
    "plots",
    "pooling",
    "recipes",
    "timegrid",
    "tokenizer",
    "video",
    "vision",
]
