"""SlowFast token pooling: few tokens that see every frame, many tokens that see a few frames well."""

from timetok.pooling.module import BACKENDS, Backend, SlowFastPooler, as_grid, choose, pool
from timetok.pooling.plan import PRESETS, Path, PoolingPlan, Token, plan_of

__all__ = [
    "BACKENDS", "PRESETS", "Backend", "Path", "PoolingPlan", "SlowFastPooler", "Token", "as_grid", "choose", "plan_of",
    "pool",
]  # fmt: skip
