"""Out of a language model: well-formed spans, and what it believes about them."""

from timetok.decoding.constraint import SpanConstraint
from timetok.decoding.posterior import SpanPosterior, span_distribution

__all__ = ["SpanConstraint", "SpanPosterior", "span_distribution"]
