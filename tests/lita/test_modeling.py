"""LITA as a transformers model: written and read back, generating, training, in half precision."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from timetok.errors import ArgumentError, PromptError
from timetok.lita import LitaConfig, LitaForConditionalGeneration, LitaProcessor
from tiny_lita import LLAMA, NUM_FRAMES, QWEN2, RESNET, VIT, build, noise

PROMPT = "USER: <video>\nWhen is the red circle visible? ASSISTANT:"
LONGER = "USER: <video>\nWhen is the blue square visible after the red circle has left? ASSISTANT:"
UNTIED = LLAMA | {"tie_word_embeddings": False}
OUR_KEYS = {"vision", "pooler", "projector", "order", "num_frames", "num_time_tokens", "time_token_ids"}
OUR_KEYS |= {"video_token_id", "time_markers", "tie_word_embeddings"}
# A Swin holds buffers that are in no file and must be computed again after loading.
SWIN: dict[str, Any] = {
    "name": "swin_tiny_patch4_window7_224",
    "image_size": 64,
    "layer": -1,
    "model_args": {"img_size": 64, "embed_dim": 8, "depths": [1, 2, 1], "num_heads": [1, 2, 2], "window_size": 4},
}


def batch_for(processor: LitaProcessor, *prompts: str) -> Any:
    return processor(list(prompts), [noise(seed=k) for k, _ in enumerate(prompts)], return_tensors="pt")


@pytest.mark.parametrize(
    ("text", "vision"),
    [(LLAMA, RESNET), (UNTIED, VIT), (QWEN2, VIT), (QWEN2 | {"tie_word_embeddings": False}, RESNET), (LLAMA, SWIN)],
    ids=["llama-tied-resnet", "llama-untied-vit", "qwen2-tied-vit", "qwen2-untied-resnet", "llama-tied-swin"],
)
def test_a_saved_model_answers_as_before_through_the_auto_classes(text: Any, vision: Any, tmp_path: Path) -> None:
    model, processor = build(text, vision)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, info = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert type(loaded) is LitaForConditionalGeneration
    assert type(AutoConfig.from_pretrained(tmp_path)) is LitaConfig
    read = AutoProcessor.from_pretrained(tmp_path)
    assert type(read) is LitaProcessor
    inputs, again = batch_for(processor, PROMPT), batch_for(read, PROMPT)
    assert inputs["input_ids"].tolist() == again["input_ids"].tolist()
    with torch.no_grad():
        torch.testing.assert_close(loaded(**again).logits, model(**inputs).logits, rtol=0, atol=0)
    assert all(getattr(loaded.config, key) == getattr(model.config, key) for key in OUR_KEYS)
    tied = text["tie_word_embeddings"]
    assert (loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight) == tied
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert ("model.lm.lm_head.weight" in file.keys()) != tied  # noqa: SIM118  # a safetensors file is no dict


def test_names_in_files_stay() -> None:
    model, _ = build()
    names = set(model.state_dict())
    assert {"model.lm.model.embed_tokens.weight", "model.projector.weight", "model.projector.bias"} <= names
    assert {name.split(".")[0] for name in names} == {"model"}
    assert {name.split(".")[1] for name in names} == {"vision", "lm", "projector"}
    assert OUR_KEYS | {"text_config"} <= set(model.config.to_dict())


def test_generate_returns_the_prompt_and_new_ids() -> None:
    model, processor = build(eos_token_id=None)
    inputs = batch_for(processor, PROMPT)
    ids = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    length = inputs["input_ids"].shape[1]
    assert ids.shape == (1, length + 5)
    assert ids[:, :length].tolist() == inputs["input_ids"].tolist()


@pytest.mark.parametrize("text", [LLAMA, QWEN2], ids=["llama", "qwen2"])
def test_generation_is_the_argmax_of_forward_with_and_without_cache(text: dict[str, Any]) -> None:
    model, processor = build(text)
    model.double()
    inputs = batch_for(processor, PROMPT)
    expected = inputs["input_ids"]
    with torch.no_grad():
        for _ in range(6):
            logits = model(expected, pixel_values_videos=inputs["pixel_values_videos"]).logits[:, -1:]
            logits[..., processor.video_token_id] = -torch.inf  # no answer holds the placeholder
            expected = torch.cat([expected, logits.argmax(-1)], dim=1)
    for use_cache in (True, False):
        ids = model.generate(**inputs, max_new_tokens=6, do_sample=False, use_cache=use_cache, eos_token_id=-1)
        assert ids.tolist() == expected.tolist()


def test_a_batch_is_answered_as_its_rows() -> None:
    model, processor = build()
    model.double()
    options: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": -1}
    both = batch_for(processor, PROMPT, LONGER)
    together = model.generate(**both, **options)
    for row, prompt in enumerate([PROMPT, LONGER]):
        alone = model.generate(**processor(prompt, [noise(seed=row)]), **options)
        assert together[row, -8:].tolist() == alone[0, -8:].tolist()


def test_no_answer_holds_the_placeholder() -> None:
    model, processor = build(UNTIED)
    with torch.no_grad():
        model.get_output_embeddings().weight[processor.video_token_id] = 1e3 * torch.randn(32)
    inputs = batch_for(processor, *[PROMPT] * 4)
    new = model.generate(**inputs, max_new_tokens=4, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    assert processor.video_token_id not in new.flatten().tolist()


def test_beams_and_several_answers_a_prompt() -> None:
    model, processor = build()
    ids = model.generate(**batch_for(processor, PROMPT, LONGER), max_new_tokens=3, num_beams=2, num_return_sequences=2)
    assert len(ids) == 4


def test_features_stand_for_pixels() -> None:
    model, processor = build()
    inputs = batch_for(processor, PROMPT)
    pixels = inputs.pop("pixel_values_videos")
    features = model.model.features(pixels)
    assert features.shape == (1, NUM_FRAMES, 16, model.model.vision.width)
    with torch.no_grad():
        expected = model(**inputs, pixel_values_videos=pixels).logits
        torch.testing.assert_close(model(**inputs, video_features=features).logits, expected)
    with pytest.raises(ArgumentError, match="pixel_values_videos, video_features"):
        model(**inputs, pixel_values_videos=pixels, video_features=features)
    with pytest.raises(PromptError, match="video_features"):
        model(**inputs)


def test_loss_is_the_cross_entropy_of_the_labels_alone() -> None:
    model, processor = build()
    inputs = batch_for(processor, PROMPT, LONGER)
    labels = inputs["input_ids"].clone()
    with torch.no_grad():
        output = model(**inputs, labels=labels)
    ignored = (labels == processor.video_token_id) | (inputs["attention_mask"] == 0)
    targets = labels.masked_fill(ignored, -100)[:, 1:]
    torch.testing.assert_close(output.loss, cross_entropy(output.logits[:, :-1].flatten(0, 1), targets.flatten()))


def gradients(model: LitaForConditionalGeneration, inputs: Any) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(**inputs, labels=inputs["input_ids"], use_cache=False).loss.backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def test_the_encoder_is_frozen_and_everything_else_learns() -> None:
    model, processor = build(UNTIED)
    before = {name: value.clone() for name, value in model.model.vision.state_dict().items()}
    model.train()
    assert model.training and model.model.training and model.model.lm.training
    assert not any(module.training for module in model.model.vision.modules())
    found = gradients(model, batch_for(processor, PROMPT))
    assert set(found) == {name for name, _ in model.named_parameters() if not name.startswith("model.vision.")}
    assert all(torch.equal(value, before[name]) for name, value in model.model.vision.state_dict().items())


def test_gradient_checkpointing_changes_no_gradient() -> None:
    model, processor = build()
    model.train()
    inputs = batch_for(processor, PROMPT, LONGER)
    expected = gradients(model, inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # newer transformers call it activation_checkpointing_enable
        model.gradient_checkpointing_enable()
    assert model.model.lm.model.gradient_checkpointing
    found = gradients(model, inputs)
    assert set(found) == set(expected)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], msg=name)


def test_half_precision(tmp_path: Path) -> None:
    model, processor = build()
    inputs = batch_for(processor, PROMPT)
    with torch.no_grad():
        exact = model(**inputs).logits[0, -1]
    model.save_pretrained(tmp_path)
    halves = [LitaForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16), model.to(torch.bfloat16)]
    halves[1].save_pretrained(tmp_path / "half")
    halves.append(LitaForConditionalGeneration.from_pretrained(tmp_path / "half"))
    for half in halves:
        assert {weight.dtype for weight in half.parameters()} == {torch.bfloat16}
        features = half.model.features(inputs["pixel_values_videos"])
        assert features.dtype == torch.bfloat16
        with torch.no_grad():
            logits = half(**inputs).logits[0, -1]
            cached = half(inputs["input_ids"], video_features=features.float()).logits[0, -1]
        assert logits.dtype == torch.bfloat16
        torch.testing.assert_close(cached, logits)
        assert torch.cosine_similarity(logits.float(), exact, dim=0) > 0.99  # bfloat16 keeps 8 bits: about .4 % each
        assert half.generate(**inputs, max_new_tokens=2).shape[0] == 1


def test_attention_implementation_reaches_the_language_model(tmp_path: Path) -> None:
    model, _ = build()
    model.save_pretrained(tmp_path)
    loaded = LitaForConditionalGeneration.from_pretrained(tmp_path, attn_implementation="eager")
    assert loaded.model.lm.config._attn_implementation == "eager"


def test_generation_settings_in_the_folder_are_used(tmp_path: Path) -> None:
    model, processor = build(eos_token_id=None)
    model.generation_config.max_new_tokens = 3
    model.save_pretrained(tmp_path)
    loaded = LitaForConditionalGeneration.from_pretrained(tmp_path)
    inputs = batch_for(processor, PROMPT)
    assert loaded.generate(**inputs).shape[1] == inputs["input_ids"].shape[1] + 3


def test_time_markers_and_an_mlp_change_the_visual_tokens() -> None:
    for options in ({"time_markers": True}, {"projector": "mlp2x_gelu", "order": "project-first"}):
        model, processor = build(**options)
        assert model(**batch_for(processor, PROMPT)).logits.isfinite().all()


def test_config_defaults_are_the_published_ones() -> None:
    config = LitaConfig()
    assert config.text_config.model_type == "llama"
    assert config.vision == {"name": "vit_large_patch14_clip_quickgelu_224", "layer": -2}
    assert (config.num_frames, config.num_time_tokens, config.projector, config.pooler) == (100, 100, "linear", {})
    assert not config.time_markers


def test_config_takes_tying_from_the_language_model() -> None:
    assert LitaConfig(text_config=LLAMA).tie_word_embeddings
    assert not LitaConfig(text_config=UNTIED, tie_word_embeddings=True).tie_word_embeddings
