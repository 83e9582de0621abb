"""timetok: pieces for video language models that answer "when?".

Every name below, of the types in ``__init__.pyi``, loads its room on first use: importing this loads no torch.

>>> import timetok
>>> timetok.TimeGrid(num_tokens=100).encode(30.0, 60.0)
50
"""

from importlib import import_module

__version__ = "0.1.0"
_HOMES = {
    "Answer": "lita.answer", "SlowFastPooler": "pooling", "Span": "timegrid", "TimeGrid": "timegrid",
    "TimeTokenizer": "tokenizer", "VideoAdapter": "adapter", "localize": "hub", "localize_long": "hub",
}  # fmt: skip
_ROOMS = (
    "adapter", "attention", "codecs", "decoding", "embeddings", "errors", "hub", "lita", "losses", "metrics", "plots",
    "pooling", "recipes", "timegrid", "tokenizer", "video", "vision",
)  # fmt: skip
__all__ = ["__version__", *_HOMES, *_ROOMS]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        globals()[name] = getattr(import_module(f"timetok.{_HOMES[name]}"), name)
        return globals()[name]
    if name in _ROOMS:
        return import_module(f"timetok.{name}")
    raise AttributeError(f"module 'timetok' has no attribute {name!r}; it has: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
