"""The recipe of `shapes.toml`: clips, their features by a frozen encoder, and a language model from scratch."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from timm.optim.muon import Muon
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast, set_seed

from shapes_world.features import Cuts, cache_features
from shapes_world.scenes import write_dataset
from shapes_world.tasks import TASKS as TASKS
from timetok.lita import LitaConfig, LitaForConditionalGeneration, LitaProcessor
from timetok.lita.answer import TINY_MODEL, Localizer
from timetok.vision import FrameEncoder

CARD = Path(__file__).with_name("card.md")


def shapes_tokenizer():
    """The bundled model's byte-level BPE without the tokens that LITA added: small, and able to spell any question."""
    stored = json.loads((TINY_MODEL / "tokenizer.json").read_text(encoding="utf-8"))
    stored["added_tokens"] = stored["added_tokens"][:2]
    backend = Tokenizer.from_str(json.dumps(stored))
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>")


def build_model(preset, *, weights=True):
    """A LITA sized by the preset, random but for its frozen encoder, and its processor.

    The encoder's weights come from the file ``data.tower``, from timm where ``vision`` says ``pretrained``, or else
    from the bundled model, as LITA's come from CLIP.
    """
    encoder = FrameEncoder(**preset["vision"])
    if tower := preset["data"]["tower"]:
        encoder.load_state_dict(load_file(tower))
    elif not preset["vision"].get("pretrained"):
        encoder.load_state_dict(Localizer.load().model.model.vision.state_dict())
    set_seed(preset["data"]["seed"])  # whatever the encoder drew
    tokenizer, transform = shapes_tokenizer(), preset["transform"]
    told = {name: preset["model"][name] for name in ("num_frames", "num_time_tokens", "codec", "pooler")}
    processor = LitaProcessor(tokenizer, transform=transform, grid=encoder.grid, **told)
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {"model_type": "llama", "vocab_size": len(tokenizer), "bos_token_id": None, **ids, **preset["lm"]}
    ids |= {"time_token_ids": processor.tt.time_token_ids, "video_token_id": processor.video_token_id}
    parts = {"text_config": text, "vision": preset["vision"], "transform": transform, **preset["model"]}
    model = LitaForConditionalGeneration(LitaConfig(**parts, **ids))
    model.model.vision.load_state_dict(encoder.state_dict())
    return model, processor


def open_sources(preset, model, processor, folder):
    """Write the clips, encode them, and start the projector from what they look like."""
    data, frames = preset["data"], preset["features"]["frames_per_clip"]
    scenes = write_dataset(folder / "clips", num_clips=data["num_clips"], split="train", seed=data["seed"], workers=2)
    encoder, transform = model.model.vision, processor.frame_transform
    clips = cache_features(scenes, encoder, transform, folder / "features", frames_per_clip=frames)
    whiten(model.model.projector, clips)
    return lambda stage: {"shapes": Cuts(clips, stage["num_frames"], stage["turns"])}


@torch.no_grad()
def whiten(projector, clips):
    """Start a linear projector so that its outputs are uncorrelated and as long as a few token embeddings.

    What all frames share is most of a feature; until it is gone, attention cannot tell frames apart.
    """
    weight, bias = projector.get_parameter("weight"), projector.get_parameter("bias")
    frames = torch.cat([clip.features[::7].float().mean(1) for clip in clips[:400]])
    variances, directions = torch.linalg.eigh(torch.cov(frames.T))
    whitening = directions * variances.clamp_min(1e-5 * variances[-1]).rsqrt()
    turn = torch.linalg.qr(torch.randn(max(weight.shape), max(weight.shape))).Q
    weight.copy_(0.5 * turn[: len(weight), : weight.shape[1]] @ whitening.T)
    bias.copy_(-(weight @ frames.mean(0)))


def optimizer(model, arguments, stage):
    """Muon for the matrices of whatever is named ``layers``, AdamW as ``arguments`` say for the rest that is trained.

    Which frames match a name is found in about half the steps that AdamW alone needs.

    Source: K. Jordan et al., Muon (2024), as timm has it.
    """
    trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    matrices = [weight for name, weight in trained if weight.ndim == 2 and ".layers." in name]
    rest = [weight for name, weight in trained if weight.ndim != 2 or ".layers." not in name]
    learning_rate, decay = stage["matrix_learning_rate"], arguments.weight_decay
    for_muon = {"params": matrices, "lr": learning_rate, "weight_decay": decay}
    for_adamw = {"params": rest, "lr": arguments.learning_rate, "use_fallback": True}
    betas = arguments.adam_beta1, arguments.adam_beta2
    return Muon([for_muon, for_adamw], betas=betas, nesterov=True, adjust_lr_fn="original")
