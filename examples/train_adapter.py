"""LoRA, the new rows and the projector, trained by the HF Trainer with peft around the adapter. Downloads nothing.

Run: python examples/train_adapter.py
"""

import os
import random
import tempfile

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import timetok

DURATION, FRAMES, WIDTH = 20.0, 11, 8  # seconds; frames of 2 x 2 patches; width of their features
PROMPT = "USER: <video> When is it there? ASSISTANT:"


def tokenizer_and_lm():
    """Stand-ins for yours: a vocabulary of ten words, a random LM."""
    words = ["<unk>", "<eos>", "USER", "ASSISTANT", ":", "When", "is", "it", "there", "?"]
    backend = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", eos_token="<eos>", pad_token="<eos>"
    )
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=len(words), **shape, bos_token_id=None, eos_token_id=1, tie_word_embeddings=False)
    return tokenizer, LlamaForCausalLM(config)


def video(rng):
    """Noise, in which one feature is on for a while: features [t p e], and the span in which it is."""
    start, end = sorted(rng.sample(range(FRAMES), 2))
    features = 0.1 * torch.randn(FRAMES, 4, WIDTH, generator=torch.Generator().manual_seed(rng.getrandbits(32)))
    features[start : end + 1, :, 0] += 1
    scale = DURATION / (FRAMES - 1)
    return features, timetok.Span(start * scale, end * scale)


def row(rng):
    features, span = video(rng)
    answer = f" <{span.start}> <{span.end}>"
    return {"prompt": PROMPT, "answer": answer, "video_features": features, "duration_seconds": DURATION, "span": span}


class Ask(TrainerCallback):
    """Asks the questions of the evaluation set after each evaluation: `eval_miou` among its metrics."""

    def __init__(self, adapter, rows):
        self.adapter, self.rows = adapter, rows

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        metrics["eval_miou"] = miou(self.adapter, self.rows)


def miou(model, rows):
    batch = model.prepare([each["prompt"] for each in rows], videos=[each["video_features"] for each in rows])
    ids = model.generate(**batch.to(model.device), max_new_tokens=3, do_sample=False)
    found = model.processor.tt.spans(ids, DURATION, prompt_length=batch["input_ids"].shape[1])
    pairs = zip(found, rows, strict=True)
    return sum(timetok.metrics.iou(spans[0], each["span"]) if spans else 0.0 for spans, each in pairs) / len(rows)


def new_adapter():
    tokenizer, lm = tokenizer_and_lm()
    tt = timetok.TimeTokenizer.wrap(tokenizer, T=FRAMES)
    timetok.embeddings.resize(lm, tt.time_token_ids)
    timetok.embeddings.init_rows(lm, tt.time_token_ids)
    return timetok.VideoAdapter(lm, tt, vision_dim=WIDTH, pooler=timetok.SlowFastPooler(num_slow_frames=2))


def main(folder):
    adapter = new_adapter()
    collate = adapter.processor.collator()  # picklable: for workers, too
    config = LoraConfig(
        r=16,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        modules_to_save=["projector"],  # trained whole
        **timetok.embeddings.peft_kwargs(adapter, adapter.time_token_ids),  # the new rows of both matrices
    )
    model = get_peft_model(adapter, config)
    model.print_trainable_parameters()

    rng = random.Random(0)
    train, held_out = [row(rng) for _ in range(512)], [row(rng) for _ in range(64)]
    arguments = TrainingArguments(
        folder,
        max_steps=160,
        per_device_train_batch_size=32,
        learning_rate=1e-2,
        lr_scheduler_type="cosine",
        warmup_steps=20,
        eval_strategy="steps",
        eval_steps=80,
        save_steps=80,
        logging_steps=40,
        report_to=[],
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
    )
    callbacks = [Ask(model, held_out)]
    before = miou(model.eval(), held_out)
    trainer = Trainer(
        model, arguments, train_dataset=train, eval_dataset=held_out, data_collator=collate, callbacks=callbacks
    )
    trainer.train()
    after = trainer.evaluate()["eval_miou"]
    print(f"mIoU on held-out videos: {before:.2f} before, {after:.2f} after {trainer.state.global_step} steps")

    checkpoint = os.path.join(folder, "checkpoint-160")  # LoRA, rows and projector; `resume_from_checkpoint=True`
    size = os.path.getsize(os.path.join(checkpoint, "adapter_model.safetensors"))
    again = PeftModel.from_pretrained(new_adapter(), checkpoint).eval()
    assert abs(miou(again, held_out) - after) < 1e-6
    merged = os.path.join(folder, "merged")
    timetok.embeddings.merge_and_export(again, merged)
    plain = AutoModelForCausalLM.from_pretrained(os.path.join(merged, "lm"))  # knows nothing of peft or timetok
    asked = timetok.VideoAdapter.from_pretrained(merged, lm=plain).eval()
    print(f"a checkpoint of {size / 1e3:.0f} kB; merged, read back: {miou(asked, held_out):.2f}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(name)
