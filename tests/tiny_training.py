"""What the training tests share: rows of a data set, arguments for a CPU, and runs of the HF Trainer."""

from dataclasses import fields

import pytest
import torch
import transformers
from packaging.version import Version
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainerCallback, TrainingArguments

import tiny_lm
from timetok import embeddings

KNOWN = {field.name for field in fields(TrainingArguments)}
CHECKPOINTING = "activation_checkpointing" if "activation_checkpointing" in KNOWN else "gradient_checkpointing"


def skip_before(version, why):
    """Skip a test of what transformers does only from a version on."""
    if Version(transformers.__version__) < Version(version):
        pytest.skip(f"before transformers {version} {why}")


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


def with_lora(model, lm, ids, **options):
    """LoRA on attention and the new rows of ``lm``, which is the model that peft wraps or is inside it."""
    torch.manual_seed(5)
    rows = embeddings.peft_kwargs(lm, ids)
    return get_peft_model(model, LoraConfig(target_modules=["q_proj", "v_proj"], **rows, **options))


def model_of(name, *, seed=0):
    """An adapter, tied or untied by its name, and within peft if that says lora."""
    adapter = tiny_lm.adapter(tied=name.startswith("tied"), seed=seed)
    whole = {"modules_to_save": ["projector"]}
    return with_lora(adapter, adapter.lm, adapter.time_token_ids, **whole) if "lora" in name else adapter


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
