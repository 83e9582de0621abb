"""What the training tests share: rows of a data set, arguments for a CPU, and runs of the HF Trainer."""

from dataclasses import fields

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

import tiny_lm

KNOWN = {field.name for field in fields(TrainingArguments)}
CHECKPOINTING = "activation_checkpointing" if "activation_checkpointing" in KNOWN else "gradient_checkpointing"


def rows(num=8):
    """Answers of different lengths, so that a mean over targets is not a mean of means."""
    return [
        {
            "prompt": "USER: <video>\nWhen? ASSISTANT:",
            "answer": " it is visible" * (k % 3) + f" <{k}.5>",
            "video_features": tiny_lm.video(k),
            "duration_seconds": 9.0,
        }
        for k in range(num)
    ]


def arguments(folder, *, kind=TrainingArguments, **options):
    """Two rows a step, by SGD at a constant rate, on the CPU, silent."""
    given = {
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 2,
        "max_steps": 4,
        "learning_rate": 0.05,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "remove_unused_columns": False,
    }
    return kind(str(folder), **given | options)


class Gradients(TrainerCallback):
    """Remembers the gradients of every optimizer step."""

    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        model = getattr(model, "module", model)  # DDP's
        grads = {name: parameter.grad for name, parameter in model.named_parameters()}
        self.steps.append({name: grad.clone() for name, grad in grads.items() if grad is not None})


def trainer(adapter, args, *, collate=None, num_rows=8, kind=Trainer, **options):
    collate = collate or adapter.processor.collator()
    return kind(adapter, args, train_dataset=rows(num_rows), data_collator=collate, **options)


def gradients(adapter, args, **options):
    """The gradients of every step of a run."""
    seen = Gradients()
    trainer(adapter, args, callbacks=[seen], **options).train()
    return seen.steps


def assert_same(found, expected, **tolerances):
    """Two dictionaries of tensors hold the same."""
    assert found.keys() == expected.keys() and found
    for name in expected:
        torch.testing.assert_close(
            found[name], expected[name], msg=lambda text, name=name: f"{name}: {text}", **tolerances
        )
