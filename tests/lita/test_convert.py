"""Published checkpoints become LITA folders that see, say and tokenise what their original code did."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import published
from published import NUM_FRAMES, SIDE, T, num_pieces, slow_ids
from timetok.errors import ArgumentError, ModelFolderError
from timetok.lita import LitaProcessor
from timetok.lita.answer import Localizer
from timetok.lita.convert import convert

ARCHS = ("temporal", "spatial", "temporal_spatial", "spatial_pool", "temporal_spatial_pool")
QUESTION = "when does the red circle leave?"


def pixels() -> torch.Tensor:
    return torch.randn(NUM_FRAMES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def same_as(original: published.Original, folder: Path, *, video_arch: str = ARCHS[-1], num: int = 6) -> None:
    """Visual tokens, logits and greedy ids of a converted folder are those of the original computation."""
    localizer = Localizer.load(folder)
    model, processor = localizer.model, localizer.processor
    visual = original.visual_tokens(pixels(), video_arch)
    features = model.encode_video(pixels()[None])
    with torch.no_grad():
        found = model.model.visual_tokens(features)[0]
    torch.testing.assert_close(found, visual, rtol=1e-4, atol=1e-4 * visual.abs().max())
    logits, ids = original.answer(QUESTION, visual, num)
    counts = [processor.num_video_tokens]
    prompt = (
        processor.prompt(QUESTION)
        if processor.codec == "index"
        else f"{published.SYSTEM} USER: <video>\n{QUESTION} ASSISTANT:"
    )
    batch = processor.prompts([prompt], counts=counts, trusted=False)
    inputs: Any = {**batch, "video_features": features}
    with torch.no_grad():
        own = model(**inputs).logits[0]
    assert own.shape == logits.shape
    assert (own - logits).abs().max() <= 1e-4 * logits.abs().max()
    new = model.generate(**inputs, max_new_tokens=num, do_sample=False, eos_token_id=-1)
    assert new[0, batch["input_ids"].shape[1] :].tolist() == ids


@pytest.mark.parametrize("video_arch", ARCHS)
def test_lita_sees_and_answers_as_the_original_did(video_arch: str, tmp_path: Path) -> None:
    original = published.make(tmp_path)
    source = published.lita(tmp_path / "source", original, video_arch=video_arch)
    convert(source, vision=tmp_path / "clip", out=tmp_path / "out")
    same_as(original, tmp_path / "out", video_arch=video_arch)
