"""Tiny checkpoints in the layouts that LITA, LLaVA-1.5 and VILA publish, and what their original code makes of them.

Shapes: t frames, c channels, s side of a frame, p patches, n visual tokens, d language width.
"""

import io
import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
from einops import rearrange, reduce
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

T, NUM_FRAMES, WIDTH, VISION_WIDTH, SIDE = 20, 9, 32, 24, 32
TEXT: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "initializer_range": 0.3,  # answers differ from prompt to prompt
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
CORPUS = [
    "the red circle appears and then leaves the frame",
    "a blue square moves from left to right, USER: ASSISTANT:",
    "when does it happen? it starts at 12.3 seconds and the man leaves",
    SYSTEM,
] * 20


@cache
def spm(*, remove_extra_whitespaces: bool = False) -> bytes:
    """A SentencePiece model with the settings of Llama's, or with one that Llama's has not."""
    model = io.BytesIO()
    llama: dict[str, Any] = {"model_type": "bpe", "byte_fallback": True, "split_digits": True, "pad_id": -1}
    llama |= {"unk_id": 0, "bos_id": 1, "eos_id": 2, "normalization_rule_name": "identity"}
    llama |= {"remove_extra_whitespaces": remove_extra_whitespaces, "allow_whitespace_only_pieces": True}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        vocab_size=400,
        hard_vocab_limit=False,
        minloglevel=2,
        **llama,
    )
    return model.getvalue()


@cache
def pieces() -> Any:
    return sentencepiece.SentencePieceProcessor(model_proto=spm())


def num_pieces() -> int:
    return int(pieces().get_piece_size())


def write_tokenizer(folder: Path, num_time_tokens: int = T) -> None:
    """A slow Llama tokenizer as transformers 4.31 saved it, with time tokens added as plain strings."""
    token = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    special = {
        f"{name}_token": {"content": text, **token}
        for name, text in zip(("bos", "eos", "unk"), ("<s>", "</s>", "<unk>"), strict=True)
    }
    settings = {"add_bos_token": True, "add_eos_token": False, "clean_up_tokenization_spaces": False, "pad_token": None}
    settings |= {
        "model_max_length": 512,
        "padding_side": "right",
        "sp_model_kwargs": {},
        "tokenizer_class": "LlamaTokenizer",
    }
    settings |= {name: {"__type": "AddedToken", **value} for name, value in special.items()}
    (folder / "tokenizer.model").write_bytes(spm())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "special_tokens_map.json").write_text(json.dumps(special | {"pad_token": "<unk>"}))
    if num_time_tokens:
        added = {f"<t{k}>": num_pieces() + k for k in range(num_time_tokens)}
        (folder / "added_tokens.json").write_text(json.dumps(added))


def slow_ids(text: str, num_time_tokens: int = T) -> list[int]:
    """What that tokenizer gave for one text, without <s>.

    It cuts the text at the added tokens, strips what stands beside them, and hands each segment to SentencePiece alone.
    """
    parts = re.split("(" + ("|".join(f"<t{k}>" for k in range(num_time_tokens)) or "(?!)") + ")", text)
    ids = []
    for index, part in enumerate(parts):
        if index % 2:
            ids.append(num_pieces() + int(part[2:-1]))
            continue
        segment = part.lstrip() if index else part
        segment = segment.rstrip() if index < len(parts) - 1 else segment
        ids += pieces().encode(segment) if segment else []
    return ids


@dataclass
class Original:
    """The parts of a model, and its original computation: project every patch of every frame, then pool."""

    tower: Any
    projector: nn.Module
    lm: Any
    num_time_tokens: int = T

    @torch.no_grad()
    def visual_tokens(self, pixels: Tensor, video_arch: str) -> Tensor:
        """``[t c s s]`` → ``[n d]``."""
        patches = self.tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]  # without [CLS]
        tokens = rearrange(self.projector(patches), "t (h w) d -> t h w d", h=SIDE // 8)
        fast = reduce(tokens, "t h w d -> t d", "mean")
        spatial = reduce(tokens, "t h w d -> (h w) d", "mean")
        some = tokens[np.round(np.linspace(0, len(tokens) - 1, 4)).astype(int)]
        pool = reduce(some, "t (h i) (w j) d -> (t h w) d", "mean", i=2, j=2)
        layouts = {"temporal": [fast], "spatial": [spatial], "temporal_spatial": [fast, spatial]}
        layouts |= {"spatial_pool": [pool], "temporal_spatial_pool": [fast, pool]}
        return torch.cat(layouts[video_arch])

    def embeds(self, question: str, visual: Tensor) -> Tensor:
        """``[1 s d]``: the prompt is cut at the placeholder, and each part is tokenised alone."""
        before, after = f"{SYSTEM} USER: <image>\n{question} ASSISTANT:".split("<image>")
        table = self.lm.get_input_embeddings()
        ids = [[1, *slow_ids(before, self.num_time_tokens)], slow_ids(after, self.num_time_tokens)]
        first, last = (table(torch.tensor(part)) for part in ids)
        return torch.cat([first, visual, last]).unsqueeze(0)

    @torch.no_grad()
    def answer(self, question: str, visual: Tensor, num: int) -> tuple[Tensor, list[int]]:
        """Logits of the prompt ``[s v]``, and the greedy ids after it, without a cache."""
        embeds, ids = self.embeds(question, visual), []
        logits = self.lm(inputs_embeds=embeds).logits[0]
        following = logits
        for _ in range(num):
            ids.append(int(following[-1].argmax()))
            embeds = torch.cat([embeds, self.lm.get_input_embeddings()(torch.tensor([[ids[-1]]]))], dim=1)
            following = self.lm(inputs_embeds=embeds).logits[0]
        return logits, ids


def clip(folder: Path) -> Any:
    """A CLIP image tower, written as Hugging Face does."""
    torch.manual_seed(1)
    shape = {"hidden_size": VISION_WIDTH, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = CLIPVisionConfig(**shape, image_size=SIDE, patch_size=8, hidden_act="quick_gelu", initializer_range=0.5)
    tower = CLIPVisionModel(config).eval()
    tower.save_pretrained(folder)
    return tower


def make(folder: Path, *, projector: str = "linear", rows: int | None = None, seed: int = 0, **text: Any) -> Original:
    """Random parts, the tower of which is written to ``folder / "clip"``; ``text`` are settings of the LM."""
    tower = clip(folder / "clip")
    torch.manual_seed(seed)
    lm: Any = LlamaForCausalLM(LlamaConfig(**TEXT | text, vocab_size=num_pieces() + T if rows is None else rows)).eval()
    width = lm.config.hidden_size
    first = nn.Linear(VISION_WIDTH, width)
    parts = first if projector == "linear" else nn.Sequential(first, nn.GELU(), nn.Linear(width, width))
    return Original(tower, parts, lm, T if rows is None else rows - num_pieces())


def settings(original: Original, **changes: Any) -> dict[str, Any]:
    """What stands in LITA's config.json."""
    ids = [num_pieces() + k for k in range(T)]
    mm = {"mm_vision_tower": "openai/clip-vit-large-patch14", "mm_hidden_size": VISION_WIDTH, "use_cache": True}
    mm |= {"mm_vision_select_layer": -2, "mm_vision_select_feature": "patch", "mm_use_im_start_end": False}
    lita = {"video_arch": "temporal_spatial_pool", "input_type": "video", "num_frames": NUM_FRAMES}
    lita |= {"num_time_tokens": T, "time_token_ids": ids, "model_type": "lita", "torch_dtype": "float32"}
    text = {**TEXT, "vocab_size": original.lm.config.vocab_size, "rope_scaling": None}
    kept = {
        **text,
        **mm,
        **lita,
        "architectures": ["LitaLlamaForCausalLM"],
        "transformers_version": "4.31.0",
        **changes,
    }
    return {name: value for name, value in kept.items() if value is not ...}


def weights(original: Original, prefix: str = "model.mm_projector") -> dict[str, Tensor]:
    """All tensors under their original names."""
    projector = {f"{prefix}.{name}": tensor for name, tensor in original.projector.state_dict().items()}
    return original.lm.state_dict() | projector


def write_weights(folder: Path, tensors: dict[str, Tensor], *, shards: int = 2, pickled: bool = True) -> None:
    """One file, or several and their index, as transformers 4.31 wrote them."""
    names, ending = list(tensors), "bin" if pickled else "safetensors"
    stem = "pytorch_model" if pickled else "model"
    index = {}
    for number in range(shards):
        part = names[number::shards]
        file = f"{stem}-{number + 1:05d}-of-{shards:05d}.{ending}" if shards > 1 else f"{stem}.{ending}"
        held = {name: tensors[name].clone() for name in part}
        if pickled:
            torch.save(held, folder / file)
        else:
            save_file(held, folder / file)
        index |= dict.fromkeys(part, file)
    if shards > 1:
        total = sum(tensor.nbytes for tensor in tensors.values())
        content = {"metadata": {"total_size": total}, "weight_map": index}
        (folder / f"{stem}.{ending}.index.json").write_text(json.dumps(content))


def lita(folder: Path, original: Original, *, shards: int = 2, pickled: bool = True, **changes: Any) -> Path:
    """A LITA checkpoint; ``changes`` are made to its settings, and ``...`` takes one away."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(settings(original, **changes)))
    write_weights(folder, weights(original), shards=shards, pickled=pickled)
    write_tokenizer(folder, original.num_time_tokens)
    return folder


def vila(folder: Path, original: Original, *, projector: str) -> Path:
    """A VILA checkpoint: a folder for each part."""
    for name in ("llm", "mm_projector"):
        (folder / name).mkdir(parents=True)
    text = {**TEXT, "vocab_size": original.lm.config.vocab_size, "model_type": "llama"}
    (folder / "config.json").write_text(
        json.dumps({"model_type": "llava_llama", "num_video_frames": NUM_FRAMES, "mm_vision_select_layer": -2})
    )
    (folder / "llm" / "config.json").write_text(json.dumps(text))
    write_weights(folder / "llm", original.lm.state_dict(), pickled=False)
    write_tokenizer(folder / "llm", original.num_time_tokens)
    (folder / "mm_projector" / "config.json").write_text(
        json.dumps({"model_type": "v2l_projector", "mm_projector_type": projector})
    )
    layers = {f"layers.{name}": tensor for name, tensor in original.projector.state_dict().items()}
    write_weights(folder / "mm_projector", layers, shards=1, pickled=False)
    return folder
