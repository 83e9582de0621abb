"""Video language models of a few thousand random weights, with their real processors, in folders of their own.

Chat templates have the form of the published ones; their tokens are added to a small byte-level BPE.
"""

from pathlib import Path
from typing import Any

import torch
import transformers as hf

from real_tokenizers import byte_bpe

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "initializer_range": 0.2,
}
QWEN_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}"
    "{% if c.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>{% else %}{{ c.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAVA_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }} {% for c in m.content if c.type == 'video' %}<video>\n"
    "{% endfor %}{% for c in m.content if c.type == 'text' %}{{ c.text }}{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _tokenizer(*special: str) -> Any:
    tokenizer = byte_bpe(None)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|im_start|>", *special], "eos_token": special[0]})
    return tokenizer


def qwen(model_type: str) -> tuple[Any, Any]:
    """Qwen2.5-VL or Qwen3-VL."""
    tokenizer = _tokenizer("<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    names = {"vision_start": "vision_start", "vision_end": "vision_end", "image": "image_pad", "video": "video_pad"}
    tokens = {f"{key}_token_id": tokenizer.convert_tokens_to_ids(f"<|{name}|>") for key, name in names.items()}
    text = TEXT | {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    text |= {"rope_parameters": {"rope_type": "default", "mrope_section": [4, 2, 2], "rope_theta": 1e4}}
    vision: dict[str, Any] = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": 32,
    }
    if model_type == "qwen3_vl":
        text |= {"head_dim": 16, "bos_token_id": None, "eos_token_id": None}
        vision |= {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
        config = hf.Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **tokens)
        model: Any = hf.Qwen3VLForConditionalGeneration(config)
        small = {"size": {"shortest_edge": 32 * 32, "longest_edge": 32 * 64 * 64}, "patch_size": 16}
        video, processor = hf.Qwen3VLVideoProcessor(**small), hf.Qwen3VLProcessor
    else:
        text |= {"bos_token_id": None, "eos_token_id": None}
        vision |= {"fullatt_block_indexes": [1], "window_size": 56, "tokens_per_second": 2}
        config = hf.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **tokens)
        model = hf.Qwen2_5_VLForConditionalGeneration(config)
        small = {"size": {"shortest_edge": 28 * 28, "longest_edge": 56 * 56}}
        video, processor = hf.Qwen2VLVideoProcessor(**small), hf.Qwen2_5_VLProcessor
    return model, processor(hf.Qwen2VLImageProcessor(), tokenizer, video, chat_template=QWEN_CHAT)


def qwen2_5_vl() -> tuple[Any, Any]:
    return qwen("qwen2_5_vl")


def qwen3_vl() -> tuple[Any, Any]:
    return qwen("qwen3_vl")


VISION = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def _seen_by_llava(tokenizer: Any) -> dict[str, Any]:
    image, video = tokenizer.convert_tokens_to_ids(["<image>", "<video>"])
    ids = {"image_token_index": image, "video_token_index": video, "image_token_id": image, "video_token_id": video}
    return ids | {"image_grid_pinpoints": [[28, 28]], "vision_feature_layer": -1}


def llava_onevision() -> tuple[Any, Any]:
    tokenizer = _tokenizer("<|im_end|>", "<image>", "<video>")
    config = hf.LlavaOnevisionConfig(
        vision_config=VISION | {"model_type": "siglip_vision_model", "image_size": 28, "patch_size": 7},
        text_config=TEXT | {"model_type": "qwen2", "vocab_size": len(tokenizer)},
        **_seen_by_llava(tokenizer),
        vision_feature_select_strategy="full",
    )
    size = {"height": 28, "width": 28}
    processor = hf.LlavaOnevisionProcessor(
        hf.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=[[28, 28]]),
        tokenizer,
        hf.LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=LLAVA_CHAT,
    )
    return hf.LlavaOnevisionForConditionalGeneration(config), processor


def llava_next_video() -> tuple[Any, Any]:
    tokenizer = _tokenizer("</s>", "<image>", "<video>")
    config = hf.LlavaNextVideoConfig(
        vision_config=VISION | {"model_type": "clip_vision_model", "image_size": 28, "patch_size": 7},
        text_config=TEXT | {"model_type": "llama", "vocab_size": len(tokenizer)},
        **_seen_by_llava(tokenizer),
    )
    size = {"height": 28, "width": 28}
    processor = hf.LlavaNextVideoProcessor(
        hf.LlavaNextVideoVideoProcessor(size=size, crop_size=size, do_center_crop=True),
        hf.LlavaNextImageProcessor(size=size, image_grid_pinpoints=[[28, 28]]),
        tokenizer,
        patch_size=7,
        vision_feature_select_strategy="default",
        chat_template=LLAVA_CHAT,
    )
    return hf.LlavaNextVideoForConditionalGeneration(config), processor


def smolvlm() -> tuple[Any, Any]:
    tokenizer = _tokenizer("<end_of_utterance>", "<image>", "<fake_token_around_image>", "<global-img>")
    image = tokenizer.convert_tokens_to_ids("<image>")
    config = hf.SmolVLMConfig(
        vision_config=VISION | {"image_size": 28, "patch_size": 7},
        text_config=TEXT
        | {"model_type": "llama", "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id},
        image_token_id=image,
        scale_factor=2,
    )
    small = {"size": {"longest_edge": 28}, "max_image_size": {"longest_edge": 28}}
    video = hf.SmolVLMVideoProcessor(
        video_sampling={"max_frames": 64, "fps": 1, "video_size": {"longest_edge": 28}}, **small
    )
    processor = hf.SmolVLMProcessor(hf.SmolVLMImageProcessor(**small), tokenizer, video, image_seq_len=4)
    return hf.SmolVLMForConditionalGeneration(config), processor


MAKERS = {maker.__name__: maker for maker in (qwen3_vl, qwen2_5_vl, smolvlm, llava_onevision, llava_next_video)}


def save(folder: Path, name: str) -> Path:
    """A folder like those of the Hub: config, safetensors, tokenizer, processor, chat template."""
    torch.manual_seed(0)
    model, processor = MAKERS[name]()
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
