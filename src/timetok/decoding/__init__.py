"""Out of a language model: well-formed spans, and what it believes about them."""

from timetok.decoding.constraint import SpanConstraint as SpanConstraint
from timetok.decoding.posterior import SpanPosterior as SpanPosterior, span_distribution as span_distribution
