"""The one place where the recipes meet the HF Trainer."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint


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
    folder = Path(str(arguments.output_dir))
    checkpoint = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    trainer = Trainer(model=model, args=arguments, train_dataset=data, data_collator=collate, compute_loss_func=loss)
    trainer.train(resume_from_checkpoint=checkpoint)
    return list(trainer.state.log_history)
