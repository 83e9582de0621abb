"""SlowFast token pooling: few tokens that see every frame, many tokens that see a few frames well."""

from timetok.pooling.module import SlowFastPooler, as_grid
from timetok.pooling.plan import PRESETS, Path, PoolingPlan, Token, plan_of, slow_fast

__all__ = ["PRESETS", "Path", "PoolingPlan", "SlowFastPooler", "Token", "as_grid", "plan_of", "slow_fast"]
