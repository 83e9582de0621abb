"""A video language model keeps its own eyes and learns time tokens: LoRA, a soft loss, an answer held to a span.

Run: python examples/video_lms.py [--model NAME_OR_FOLDER]   (one fetched by `hf download`; else a tiny random Qwen3-VL)
"""

import argparse
import tempfile

import torch
import transformers as hf
from peft import LoraConfig, get_peft_model

from shapes_world.recipe import shapes_tokenizer
from timetok import TimeTokenizer, embeddings
from timetok.decoding import SpanConstraint
from timetok.lita.answer import load_sample
from timetok.losses import SoftTimeLoss
from timetok.video import read_frames

LANGUAGE_MODEL = r".*(language_model|text_model).*\.(q|k|v|o)_proj"  # bare names would also match in a vision tower


def with_time_tokens(model, processor, num):
    """The tokenizer with time on it, and peft around the model: LoRA in its language model, and the new rows."""
    tt = TimeTokenizer.wrap(processor.tokenizer, T=num)
    embeddings.resize(model, tt.time_token_ids)
    embeddings.init_rows(model, tt.time_token_ids)
    rows = embeddings.peft_kwargs(model, tt.time_token_ids)
    return tt, get_peft_model(model, LoraConfig(r=8, target_modules=LANGUAGE_MODEL, **rows))


def prepare(processor, frames, question, answer="", *, like):
    """What the model takes, from its own processor, which is told when each frame is shown."""
    turn = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": question}]}
    text = processor.apply_chat_template([turn], add_generation_prompt=True) + answer
    shown = {"fps": 1000.0, "frames_indices": [round(1000 * time) for time in frames.times_seconds.tolist()]}
    shown |= {"total_num_frames": round(1000 * frames.duration_seconds), "duration": frames.duration_seconds}
    options = {"do_sample_frames": False, "video_metadata": [shown], "return_tensors": "pt"}
    batch = processor(text=[text], videos=[[frames.data]], **options).to(like.device)
    return {name: value.to(like.dtype) if name.startswith("pixel_values") else value for name, value in batch.items()}


def train(model, tt, batch, answer, *, steps):
    """The loss of each step; only the answer, with which the batch ends, is learned."""
    labels = batch["input_ids"].clone()
    labels[:, : -len(tt.tokenizer(answer, add_special_tokens=False)["input_ids"])] = -100
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer, soft = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.0), SoftTimeLoss(tt.time_token_ids)
    for _ in range(steps):
        loss = soft(model(**batch), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()


def ask(model, tt, batch, duration):
    """The one span that a greedy answer consists of."""
    options = {"max_new_tokens": 8, "do_sample": False, "logits_processor": [SpanConstraint(tt).processor()]}
    ids = model.generate(**batch, **options, pad_token_id=tt.tokenizer.pad_token_id)
    return tt.spans(ids, duration, prompt_length=batch["input_ids"].shape[1])[0][0]


def main(name, steps, folder):
    model = hf.AutoModelForImageTextToText.from_pretrained(name, local_files_only=True)  # downloads nothing
    processor = hf.AutoProcessor.from_pretrained(name, local_files_only=True)
    tt, model = with_time_tokens(model.to("cuda" if torch.cuda.is_available() else "cpu"), processor, num=100)
    video, question, truth = load_sample()
    frames = read_frames(video, 8)
    duration = frames.duration_seconds
    answer = tt.to_tokens(f"<{truth.start}> <{truth.end}>", duration) + tt.tokenizer.eos_token
    losses = list(train(model, tt, prepare(processor, frames, question, answer, like=model), answer, steps=steps))
    print(f"{answer}: a loss of {losses[0]:.2f}, after {steps} steps {losses[-1]:.2f}")
    span = ask(model.eval(), tt, prepare(processor, frames, question, like=model), duration)
    print(f"{span.start:.2f} s to {span.end:.2f} s (true: {truth.start:.2f} s to {truth.end:.2f} s)")
    embeddings.merge_and_export(model, folder)  # a plain checkpoint, with its processor
    processor.save_pretrained(folder)


def tiny_qwen3_vl(folder):
    """A stand-in for yours, with random weights."""
    tokenizer, names = shapes_tokenizer(), ("vision_start", "vision_end", "image_pad", "video_pad")
    tokenizer.add_special_tokens({"extra_special_tokens": [f"<|{name}|>" for name in names]})
    ids = {f"{name.removesuffix('_pad')}_token_id": tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in names}
    shape = {"hidden_size": 32, "intermediate_size": 32}
    vision = shape | {"depth": 2, "num_heads": 2, "out_hidden_size": 32, "deepstack_visual_indexes": [0]}
    text = shape | {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}
    text |= {"rope_parameters": rope, "vocab_size": len(tokenizer), "pad_token_id": None, "bos_token_id": None}
    config = hf.Qwen3VLConfig(text_config=text, vision_config=vision, **ids)
    hf.Qwen3VLForConditionalGeneration(config).save_pretrained(folder)
    chat = "{% for c in messages[0].content %}{{ c.text or '<|vision_start|><|video_pad|><|vision_end|>' }}{% endfor %}"
    video = hf.Qwen3VLVideoProcessor(patch_size=16, cap_pixels_per_frame=False)
    hf.Qwen3VLProcessor(hf.Qwen2VLImageProcessor(), tokenizer, video, chat_template=chat).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model")
    parser.add_argument("--steps", type=int, default=40)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        main(chosen.model or tiny_qwen3_vl(f"{place}/tiny"), chosen.steps, f"{place}/trained")
