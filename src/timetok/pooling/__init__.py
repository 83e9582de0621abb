"""SlowFast token pooling: few tokens that see every frame, many tokens that see a few frames well."""

from timetok.pooling.module import SlowFastPooler, as_grid
from timetok.pooling.plan import SlowFastPlan

__all__ = ["SlowFastPlan", "SlowFastPooler", "as_grid"]
