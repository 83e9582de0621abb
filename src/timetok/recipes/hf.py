"""The one place where the recipes meet the HF Trainer."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR


def fit(
    model: nn.Module,
    data: Dataset[Any],
    arguments: TrainingArguments,
    *,
    collate: Callable[[Sequence[Any]], dict[str, Any]],
    loss: Callable[..., Any] | None = None,
) -> list[dict[str, Any]]:
    """Train with the HF Trainer, from the last checkpoint in ``arguments.output_dir`` if there is one.

    Args:
        model: Changed in place.
        data: A map-style dataset.
        arguments: As in transformers.
        collate: Rows of ``data`` → what the model takes.
        loss: As ``Trainer(compute_loss_func=…)``.

    Returns:
        The log: one dict per logged step.
    """
    trainer = Trainer(model=model, args=arguments, train_dataset=data, data_collator=collate, compute_loss_func=loss)
    trainer.train(resume_from_checkpoint=last_checkpoint(Path(str(arguments.output_dir))))
    return list(trainer.state.log_history)


def last_checkpoint(folder: Path) -> str | None:
    """The newest complete checkpoint; the Trainer writes ``trainer_state.json`` last, so a torn one lacks it."""
    states = folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*/trainer_state.json")
    complete = sorted(states, key=lambda state: int(state.parent.name.rpartition("-")[2]))
    return str(complete[-1].parent) if complete else None
