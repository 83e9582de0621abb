"""Out of a language model: well-formed spans, and what it believes about them."""

from timetok.decoding.constraint import SpanConstraint, SpanGrammar, SpanLogitsProcessor
from timetok.decoding.posterior import ScoredSpan, SpanPosterior, span_distribution

__all__ = [
    "ScoredSpan", "SpanConstraint", "SpanGrammar", "SpanLogitsProcessor", "SpanPosterior", "span_distribution",
]  # fmt: skip
