"""The grid as a table: what is asked, and which variants answer it.

A `Variant` is everything that training depends on, but the seed. A `Row` is a variant, its place in the tables, and
what it is scored on. Rows of one variant and seed share one model.
"""

from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from json import dumps
from typing import Any, Literal

Options = tuple[tuple[str, Any], ...]
FRAMES = 16
DRILL = (("listing", 1.0),)
TASKS = (("event_loc", 4.0), ("rtl", 2.0), ("listing", 1.0))


@dataclass(frozen=True)
class Variant:
    """What is trained. The defaults are LITA's choices, as far as a model this small can make them.

    ``tokens`` is how a moment is written: index tokens, digits of seconds, one token for both whose hidden state a
    distribution head reads, or, in the shared start alone, the fifth of the video as a word, "one" to "five".
    ``rows`` is how those of ``marks`` tokens start, as of ``embeddings.init_rows``, or, as LITA's do, "random".
    ``layout`` are arguments of ``SlowFastPooler``. ``reducer`` names another way to few visual tokens, ``kept`` of them
    a frame; with it every token carries the mark of its time, as fast ones do when ``marked``. ``frames`` are drawn
    between two numbers. ``strategy`` orders pictures and videos, ``videos`` is the share of videos.
    """

    tokens: Literal["index", "seconds", "head", "fifths"] = "index"
    marks: int = 100
    rows: Literal["sinusoidal", "interpolate", "mean", "random"] = "sinusoidal"
    loss: Literal["plain", "gaussian", "two-hot"] = "plain"
    layout: Options = ()
    reducer: str = ""
    kept: float = 0.0
    marked: bool = False
    rope: tuple[float, float] | None = None
    mask: str = "causal"
    tasks: Options = TASKS
    frames: tuple[int, int] = (FRAMES, FRAMES)
    strategy: Literal["", "S4-V", "S3-IV", "S2-S3-IV"] = ""
    videos: float = 1.0


@dataclass(frozen=True)
class Stage:
    """So many steps on conversations of ``turns`` about clips, ``stills`` of them about one frame."""

    steps: int
    batch: int
    turns: int
    tasks: Options
    trains: Literal["all", "projector"] = "all"
    stills: float = 0.0
    schedule: str = "constant_with_warmup"


@dataclass(frozen=True)
class Regime:
    """The model and the budget that all variants share."""

    width: int = 64
    layers: int = 3
    heads: int = 2
    drill_batch: int = 64
    batch: int = 32
    turns: int = 4
    start_drill: int = 600
    start_steps: int = 500
    drill: int = 40
    steps: int = 160
    learning_rate: float = 3e-3
    matrix_learning_rate: float = 1.5e-2

    def times(self, budget: int) -> "Regime":
        """The same with so many times the steps after the shared start."""
        return replace(self, drill=budget * self.drill, steps=budget * self.steps)

    def stages(self, variant: Variant) -> list[Stage]:
        """A drill and the tasks; or the stages of a strategy, with the same number of steps on videos."""
        of_start = variant == START
        drill = Stage(self.start_drill if of_start else self.drill, self.drill_batch, 1, DRILL)
        steps, schedule = (self.start_steps, "constant_with_warmup") if of_start else (self.steps, "cosine")
        tasks = Stage(steps, self.batch, self.turns, variant.tasks, schedule=schedule)
        if not variant.strategy:
            return [drill, tasks]
        pictures = Stage(max(self.drill // 4, 1), self.batch, 2, (("vidqa", 1.0),), stills=1.0)
        return _strategy(variant, replace(pictures, trains="projector"), pictures, drill, tasks)

    def digest(self, variant: Variant, seed: int) -> str:
        """The name of a model's folder."""
        own = replace(self, drill=0, steps=0) if variant == START else self
        told = dumps([asdict(own), asdict(variant), seed], sort_keys=True)
        return sha256(told.encode()).hexdigest()[:16]


def _strategy(variant: Variant, align: Stage, pictures: Stage, drill: Stage, tasks: Stage) -> list[Stage]:
    """The same samples in three orders: videos last, among the pictures of stage 3, or of stages 2 and 3."""
    drill, tasks = (replace(each, steps=max(round(variant.videos * each.steps), 1)) for each in (drill, tasks))
    num = pictures.steps
    return {
        "S4-V": [align, pictures, pictures, drill, tasks],
        "S3-IV": [align, pictures, _mixed(drill, num // 2), _mixed(tasks, num - num // 2)],
        "S2-S3-IV": [align, _mixed(drill, num), _mixed(tasks, num)],
    }[variant.strategy]


def _mixed(videos: Stage, pictures: int) -> Stage:
    steps = videos.steps + pictures
    return replace(videos, steps=steps, stills=pictures / steps)


@dataclass(frozen=True)
class Row:
    """A line of a table: a variant of so many seeds, scored on ``frames`` of each of the clips ``test``.

    ``budget`` multiplies the steps after the shared start.
    """

    experiment: str
    name: str
    variant: Variant = field(default_factory=Variant)
    seeds: int = 1
    test: str = "test"
    frames: int = FRAMES
    budget: int = 1


QUESTIONS = {
    "a": "Slow tokens only, SlowFast, SlowFast with time tokens",
    "b": "How many time tokens, which loss, greedy or span posterior",
    "c": "Digits, index tokens, span posterior, distribution head",
    "d": "With and without reasoning localisation and dense captions",
    "e": "Temporal positions and masks of TC-LLaVA",
    "f": "Ways to few visual tokens, at equal numbers",
    "g": "Lengths and frame counts never seen in training",
    "h": "Three orders of pictures and videos",
}
LOSSES = ("plain", "gaussian", "two-hot")
START = Variant(tokens="fifths", tasks=(*TASKS, ("vidqa", 1.0)))
"""What every variant starts from: moments in words that no variant uses."""

DEFAULT = Variant()
DIGITS = replace(DEFAULT, tokens="seconds")
SLOW = replace(DIGITS, layout=(("fast", False),))
HEAD = replace(DEFAULT, tokens="head")
MARKED = replace(DEFAULT, marked=True)
EVERY_FRAME = replace(DEFAULT, layout=(("fast", False), ("num_slow_frames", FRAMES)))


def _b() -> list[Row]:
    def row(marks: int, loss: Any) -> Row:
        return Row(
            "b", f"T = {marks}, {loss}", replace(DEFAULT, marks=marks, loss=loss), 2 if marks in (25, 100) else 1
        )

    starts = {"on an arc": "interpolate", "near the mean": "mean", "random": "random"}
    begun = [Row("b", f"T = 100, plain, rows start {told}", replace(DEFAULT, rows=how)) for told, how in starts.items()]
    return [*(row(marks, loss) for marks in (25, 100, 10, 50, 200) for loss in LOSSES), *begun]


def _f() -> list[Row]:
    """By tokens a frame: 1, 2, 4."""

    def pooled(**layout: Any) -> Variant:
        return replace(DEFAULT, reducer="pooled", layout=tuple(layout.items()))

    rows = [
        Row("f", "16: fast only", pooled(num_slow_frames=0)),
        Row("f", "16: slow only", pooled(fast=False)),
        Row("f", "32: SlowFast (LITA)", pooled()),
        Row("f", "32: windows of 8 frames (TSP)", pooled(preset="tsp")),
        Row("f", "64: 2 x 2 means of every frame", pooled(fast=False, num_slow_frames=FRAMES)),
    ]
    chosen = {1: ("random",), 2: ("random", "longest", "merged", "static dropped")}
    for kept, names in (chosen | {4: chosen[2]}).items():
        rows += [Row("f", f"{kept * FRAMES}: {name}", replace(DEFAULT, reducer=name, kept=kept)) for name in names]
    return rows


def _g() -> list[Row]:
    mixed = replace(DEFAULT, frames=(FRAMES // 2, 2 * FRAMES))
    named = {"index": DEFAULT, "digits": DIGITS, "index, marks shown": MARKED, "index, 8 to 32 frames": mixed}
    tests = {
        "as trained": ("test", 16),
        "8 frames": ("test", 8),
        "32 frames": ("test", 32),
        "90 to 180 s": ("long", 16),
    }
    return [
        Row("g", f"{name}: {told}", variant, test=test, frames=frames)
        for name, variant in named.items()
        for told, (test, frames) in tests.items()
    ]


def _d() -> list[Row]:
    plain = (("event_loc", 4.0), ("listing", 1.0))
    more = {"neither": (), "reasoning": (("rtl", 2.0),), "captions": (("dvc", 2.0),)}
    more["both"] = more["reasoning"] + more["captions"]
    named = {name: plain[:1] + added + plain[1:] for name, added in more.items()}
    return [Row("d", name, replace(DEFAULT, tasks=tasks)) for name, tasks in named.items()]


def _e() -> list[Row]:
    block = "frame-block-causal"
    named: dict[str, dict[str, Any]] = {"causal": {}, "positions n + t": {"rope": (1, 1)}}
    named |= {mask: {"mask": mask} for mask in ("full-visual", "frame-block", block)}
    named[f"{block}, positions n + t"] = {"mask": block, "rope": (1, 1)}
    return [Row("e", name, replace(EVERY_FRAME, **changes)) for name, changes in named.items()]


def _h() -> list[Row]:
    return [
        Row("h", f"{strategy}, {share:.0%} of the videos", replace(DEFAULT, strategy=strategy, videos=share))
        for share in (1.0, 0.1)
        for strategy in ("S4-V", "S3-IV", "S2-S3-IV")
    ]


GRID: list[Row] = [  # in the order of importance, which is that of the runs
    Row("a", "slow tokens only, digits", SLOW, 3),
    Row("a", "SlowFast, digits", DIGITS, 3),
    Row("a", "slow tokens only, time tokens", replace(DEFAULT, layout=(("fast", False),)), 3),
    Row("a", "SlowFast, time tokens", DEFAULT, 3),
    Row("a", "SlowFast, time tokens, marks shown", MARKED, 3),
    Row("a", "SlowFast, digits, 4 times the steps", DIGITS, budget=4),
    Row("a", "SlowFast, time tokens, 4 times the steps", DEFAULT, budget=4),
    Row("c", "digits", DIGITS, 3),
    Row("c", "index tokens", DEFAULT, 3),
    Row("c", "distribution head", HEAD, 3),
    Row("c", "digits, 4 times the steps", DIGITS, budget=4),
    Row("c", "index tokens, 4 times the steps", DEFAULT, budget=4),
    Row("c", "distribution head, 4 times the steps", HEAD, budget=4),
    *_b()[:6],
    *_f(),
    *_e(),
    *_g(),
    *_d(),
    *_h(),
    *_b()[6:],
]
