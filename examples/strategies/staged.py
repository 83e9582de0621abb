"""Training in stages: which modules learn in each, and how much of a data set is used. See docs/recipe.md."""

from dataclasses import replace
from hashlib import sha256

from accelerate import PartialState

from timetok.errors import DataError
from timetok.recipes import records, train


def read_records(path, *, share=1.0, seed=0, **arguments):
    """What timetok reads, of a ``share`` of the videos: a set without one, such as one of images, stays whole."""
    found = records.read_records(path, **arguments)
    return replace(found, records=subset(found.records, share, seed=seed))


def subset(records, share, *, seed=0):
    """Those of a share of the videos, at least one: the same for the same seed, and within any larger share.

    Videos are ranked by a hash of their names: neither the order of a file nor its other videos reorder them, and files
    about the same videos keep the same ones.
    """
    if not 0 < share <= 1:
        raise DataError(f"share: expected more than 0 and at most 1, got {share!r}")
    ranked = sorted({record.vid or record.name for record in records}, key=lambda vid: _rank(seed, vid))
    kept = {*ranked[: max(1, round(share * len(ranked)))]}
    return tuple(record for record in records if (record.vid or record.name) in kept)


def _rank(seed, vid):
    return sha256(f"{seed} {vid}".encode()).digest()


def open_sources(preset, model, processor, folder):
    """LITA's, once every stage has named modules that can learn: a wrong name is refused now, not after an hour."""
    for number, arguments in enumerate(train.stage_arguments(preset, folder)):
        names = learning(model, arguments)
        count = sum(weight.numel() for name, weight in model.named_parameters() if name in names)
        PartialState().print(f"stage {number} trains {count:,} parameters: {arguments.optim_target_modules or 'all'}")
    return train.open_sources(preset, model, processor, folder)


def optimizer(model, arguments, stage):
    """AdamW, on the modules that the stage names; the others stay as the stage before left them."""
    names = learning(model, arguments)
    for name, weight in model.named_parameters():
        weight.requires_grad_(name in names)


def learning(model, arguments):
    """Names of the parameters below ``optim_target_modules``, of those that learn in a run without stages.

    Under LoRA these are its matrices, the rows of time tokens and the projector; the tower is never among them.
    """
    able = vars(model).setdefault("able", [name for name, weight in model.named_parameters() if weight.requires_grad])
    found, modules = set(), arguments.optim_target_modules or [""]
    for module in [modules] if isinstance(modules, str) else modules:
        below = {name for name in able if name.startswith(f"model.{module}.".replace("..", "."))}
        if not below:
            known = sorted({name.split(".")[1] for name in able})
            raise DataError(f"optim_target_modules: nothing learns in {module!r}; expected modules in {known}")
        found |= below
    return found
