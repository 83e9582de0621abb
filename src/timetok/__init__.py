"""timetok: pieces for video language models that answer "when?".

Every name below loads its room on first use, so ``import timetok`` itself pulls in neither torch nor transformers.

>>> import timetok
>>> timetok.TimeGrid(num_tokens=100).encode(30.0, 60.0)
50
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from timetok import (  # isort: skip
        adapter, attention, codecs, decoding, embeddings, errors, hub, lita, losses, metrics, plots, pooling, recipes,
        timegrid, tokenizer, video, vision,
    )  # fmt: skip
    from timetok.adapter import VideoAdapter
    from timetok.hub import localize, localize_long
    from timetok.lita.answer import Answer
    from timetok.pooling import SlowFastPooler
    from timetok.timegrid import Span, TimeGrid
    from timetok.tokenizer import TimeTokenizer

__version__ = "0.1.0"

__all__ = [
    "Answer", "SlowFastPooler", "Span", "TimeGrid", "TimeTokenizer", "VideoAdapter", "__version__", "adapter",
    "attention", "codecs", "decoding", "embeddings", "errors", "hub", "lita", "localize", "localize_long", "losses",
    "metrics", "plots", "pooling", "recipes", "timegrid", "tokenizer", "video", "vision",
]  # fmt: skip
_HOMES = {
    "Answer": "lita.answer", "SlowFastPooler": "pooling", "Span": "timegrid", "TimeGrid": "timegrid",
    "TimeTokenizer": "tokenizer", "VideoAdapter": "adapter", "localize": "hub", "localize_long": "hub",
}  # fmt: skip


if not TYPE_CHECKING:  # otherwise a type checker would accept every misspelt name

    def __getattr__(name: str) -> object:
        if name in _HOMES:
            globals()[name] = getattr(import_module(f"timetok.{_HOMES[name]}"), name)
            return globals()[name]
        if name in __all__:
            return import_module(f"timetok.{name}")
        raise AttributeError(f"module 'timetok' has no attribute {name!r}; it has: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
