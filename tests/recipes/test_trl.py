"""Time tokens under TRL's own trainers."""

import pytest
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer
from trl.rewards import get_soft_overlong_punishment

import tiny_lm
from timetok import embeddings
from timetok.recipes.rewards import temporal_iou, well_formed

pytestmark = pytest.mark.filterwarnings(  # transformers', about names that TRL uses
    "ignore:`(is_)?gradient_checkpointing(_disable|_enable)?` is deprecated:FutureWarning"
)


@pytest.mark.parametrize("tied", [True, False])
def test_trl_trains_exactly_the_new_rows_on_conversations(tied, tmp_path):
    tt, lm = tiny_lm.time_tokenizer(), tiny_lm.language_model(tied=tied)
    embeddings.resize(lm, tt.time_token_ids)
    tt.tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] + ': ' }}{% if m['role'] == 'assistant' %}"
        "{% generation %}{{ m['content'] + eos_token }}{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}\n"
        "{% endfor %}"
    )
    asked = {"role": "user", "content": "When is it visible?"}
    said = {"role": "assistant", "content": tt.to_tokens("from <2> to <5>", 9.0)}
    arguments = SFTConfig(
        output_dir=str(tmp_path), max_steps=20, per_device_train_batch_size=2, learning_rate=0.02, report_to=[],
        assistant_only_loss=True, use_cpu=True, bf16=False, logging_steps=1, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    config = LoraConfig(target_modules="all-linear", **embeddings.peft_kwargs(lm, tt.time_token_ids))
    before = [table.detach().clone() for table in embeddings.tables(lm)]
    rows = Dataset.from_list([{"messages": [asked, said]}] * 4)
    model = get_peft_model(lm, config)
    lm.get_output_embeddings().bias = None  # TRL reads it, and peft's wrapper of the head has none
    trainer = SFTTrainer(model, arguments, train_dataset=rows, processing_class=tt.tokenizer)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] / 2
    merged = trainer.model.merge_and_unload()
    for old, new in zip(before, embeddings.tables(merged), strict=True):
        moved = set((old != new).any(1).nonzero().flatten().tolist())
        assert {tt.time_token_ids[2], tt.time_token_ids[5]} <= moved <= set(tt.time_token_ids)


def test_trl_trains_on_them(tmp_path):
    tt, lm = tiny_lm.time_tokenizer(), tiny_lm.language_model()
    embeddings.resize(lm, tt.time_token_ids)
    tt.tokenizer.pad_token = tt.tokenizer.eos_token
    rows = Dataset.from_list([{"prompt": "When?", "spans": [[2.0, 5.0]], "duration": 9.0}] * 4)
    arguments = GRPOConfig(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=4, num_generations=4, report_to=[],
        max_completion_length=6, use_cpu=True, bf16=False, logging_steps=1, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    rewards = [temporal_iou(tt), well_formed(tt), get_soft_overlong_punishment(6, 2)]
    trainer = GRPOTrainer(lm, rewards, args=arguments, train_dataset=rows, processing_class=tt.tokenizer)
    trainer.train()
    logged = trainer.state.log_history[0]
    assert {f"rewards/{name}/mean" for name in ("temporal_iou", "well_formed")} <= set(logged)
    assert 0 <= logged["rewards/temporal_iou/mean"] <= 1
