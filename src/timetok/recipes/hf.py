"""The one place where the recipes meet the HF Trainer."""

from pathlib import Path
from typing import Any

from safetensors.torch import load_model
from timm.optim.muon import Muon
from torch import nn
from torch.optim import Optimizer
from transformers import Trainer, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR


def fit(model: nn.Module, arguments: TrainingArguments, **trainer_kwargs: Any) -> list[dict[str, Any]]:
    """Train with the HF Trainer, from the last checkpoint in ``arguments.output_dir`` if there is one; its log.

    ``trainer_kwargs`` are handed to ``Trainer``; the schedule of ``arguments`` scales the learning rates of optimizers.
    """
    trainer = Trainer(model, arguments, **trainer_kwargs)
    # The Trainer writes trainer_state.json last, so a torn checkpoint lacks it.
    states = Path(str(arguments.output_dir)).glob(f"{PREFIX_CHECKPOINT_DIR}-*/trainer_state.json")
    complete = (state.parent for state in states)
    checkpoint = max(complete, key=lambda folder: int(folder.name.rpartition("-")[2]), default=None)
    if checkpoint is not None:
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        if state.global_step >= arguments.max_steps:  # resumed there, the Trainer would take one step more
            load_model(model, checkpoint / "model.safetensors", strict=False)  # tied weights are stored once
            return list(state.log_history)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return list(trainer.state.log_history)


def muon(model: nn.Module, arguments: TrainingArguments, *, matrix_learning_rate: float) -> Optimizer:
    """Muon for the matrices of whatever is named ``layers``, AdamW as ``arguments`` say for the rest that is trained.

    Which frames match a name is found in about half the steps that AdamW alone needs.

    Source: K. Jordan et al., Muon (2024), as timm has it.
    """
    trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    matrices = [weight for name, weight in trained if weight.ndim == 2 and ".layers." in name]
    rest = [weight for name, weight in trained if weight.ndim != 2 or ".layers." not in name]
    for_muon = {"params": matrices, "lr": matrix_learning_rate, "weight_decay": arguments.weight_decay}
    for_adamw = {"params": rest, "lr": arguments.learning_rate, "use_fallback": True}
    betas = arguments.adam_beta1, arguments.adam_beta2
    return Muon([for_muon, for_adamw], betas=betas, nesterov=True, adjust_lr_fn="original")
