"""Video language models with their own eyes learn time tokens, by the functions of `examples/video_lms.py`."""

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from torch.testing import assert_close
from transformers import AutoModelForImageTextToText, AutoProcessor

from timetok import SlowFastPooler, Span, TimeTokenizer, embeddings
from timetok.decoding import SpanConstraint
from timetok.video import Frames
from tiny_lita import noise
from tiny_training import skip_before
from tiny_video_lms import MAKERS, save

# peft reads an attribute that transformers has renamed
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

EXAMPLES = Path(__file__).parent.parent / "examples"
EXAMPLE = SimpleNamespace(**runpy.run_path(str(EXAMPLES / "video_lms.py")))
T, DURATION, QUESTION = 20, 38.0, "When does she open the door?"
FRAMES = Frames(noise(6), torch.arange(6, dtype=torch.float64) * 7, DURATION)
SPAN = Span(3 * 2.0, 7 * 2.0)  # 38 seconds between 20 marks


def fresh(folder: Path, seed: int = 0) -> Any:
    """The model of a folder, its processor and tokenizer, grown by time tokens, and peft around it."""
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    tt, model = EXAMPLE.with_time_tokens(model, processor, T)
    batch = EXAMPLE.prepare(processor, FRAMES, QUESTION, like=model)
    return SimpleNamespace(folder=folder, model=model.eval(), processor=processor, tt=tt, batch=batch)


def numbers(model: Any) -> dict[str, torch.Tensor]:
    """All that a model holds, as copies."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@pytest.fixture(scope="module", params=MAKERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("models") / request.param, request.param)


@pytest.fixture(scope="module")
def trained(folder: Path) -> Any:
    """After 40 steps on one video, one question and the answer "<t3> <t7>"."""
    case = fresh(folder)
    case.trained_rows = case.model.peft_config["default"].trainable_token_indices
    case.tables = [table.clone() for table in embeddings.tables(case.model)][: len(case.trained_rows)]  # one if tied
    case.before = numbers(case.model)
    case.answer = "<t3> <t7>" + case.processor.tokenizer.eos_token
    case.full = EXAMPLE.prepare(case.processor, FRAMES, QUESTION, case.answer, like=case.model)
    case.losses = list(EXAMPLE.train(case.model.train(), case.tt, case.full, case.answer, steps=40))
    case.model.eval()
    return case


def logits(case: Any, model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(**case.full).logits


# ------------------------------------------------------------------------------------------------------- training


def test_the_loss_falls(trained: Any) -> None:
    assert trained.losses[-1] < 0.5 * trained.losses[0]


def test_the_answer_is_two_moments_and_an_end(trained: Any) -> None:
    ids, answer = trained.full["input_ids"][0].tolist(), trained.tt.tokenizer.encode("<t3> <t7>")
    assert ids == [*trained.batch["input_ids"][0].tolist(), *answer, trained.tt.tokenizer.eos_token_id]
    assert trained.tt.spans(ids, DURATION, prompt_length=len(ids) - 4) == [SPAN]


def test_the_loss_is_that_of_the_answer_with_moments_spread_over_neighbours(trained: Any) -> None:
    case = fresh(trained.folder)  # as it was at the first step
    time, ids = list(case.tt.time_token_ids), trained.full["input_ids"][0, -4:]
    log_probs = logits(trained, case.model)[0, -5:-1].log_softmax(-1)
    expected = log_probs.gather(1, ids[:, None])[:, 0]
    for row, mark in ((0, 3), (2, 7)):
        weights = (-((torch.arange(T) - mark) ** 2) / 2).exp()
        expected[row] = (weights / weights.sum() * log_probs[row, time]).sum()
    assert trained.losses[0] == pytest.approx(-expected.mean().item(), rel=1e-4)


def test_exactly_lora_and_the_time_rows_move(trained: Any) -> None:
    time = set(trained.tt.time_token_ids)
    read = {trained.tt.time_token_ids[k] for k in (3, 7)}  # rows of an embedding that is no head, too, are looked up
    moved = [
        set((before != after).any(1).nonzero()[:, 0].tolist())
        for before, after in zip(trained.tables, embeddings.tables(trained.model), strict=False)
    ]
    assert moved == ([time] if len(moved) == 1 else [read, time])
    after = numbers(trained.model)
    changed = {name for name in after if not torch.equal(after[name], trained.before[name])}
    assert changed and all("lora_" in name or "trainable_tokens_delta" in name for name in changed), changed
    assert not any("visi" in name for name in changed)
    assert any("lora_B" in name for name in changed)


# -------------------------------------------------------------------------------------------------------- answers


def test_it_answers_with_what_it_learned(trained: Any) -> None:
    assert EXAMPLE.ask(trained.model, trained.tt, trained.batch, DURATION) == SPAN


@pytest.mark.parametrize("max_spans", [1, 2])
def test_untrained_it_is_held_to_spans(folder: Path, max_spans: int) -> None:
    case = fresh(folder)
    prompt = case.batch["input_ids"].shape[1]
    constraint = SpanConstraint(case.tt, min_spans=max_spans, max_spans=max_spans)
    for seed in range(3):
        torch.manual_seed(seed)
        held = [constraint.processor()]
        options = {"do_sample": True, "temperature": 3.0, "max_new_tokens": 12, "logits_processor": held}
        ids = case.model.generate(**case.batch, **options, pad_token_id=case.tt.tokenizer.pad_token_id)
        (spans,) = case.tt.spans(ids, DURATION, prompt_length=prompt)
        assert len(spans) == max_spans and all(0 <= span.start <= span.end <= DURATION for span in spans)
        assert ids[0, -1] == case.tt.tokenizer.eos_token_id


# ------------------------------------------------------------------------------------------------------ checkpoints


def test_a_checkpoint_keeps_the_rows(trained: Any, tmp_path: Path) -> None:
    """peft decides by config.vocab_size whether a resized embedding is saved, and these configs have none."""
    assert getattr(trained.model.config, "vocab_size", None) is None
    trained.model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    rows = [shape for name, shape in shapes.items() if "lora_" not in name]
    assert rows == [[T, table.shape[1]] for table in trained.tables]

    case = fresh(trained.folder, seed=1)
    again = PeftModel.from_pretrained(case.model.unload(), tmp_path).eval()
    for table, other in zip(embeddings.tables(again), embeddings.tables(trained.model), strict=True):
        assert torch.equal(table, other)
    assert torch.equal(logits(trained, again), logits(trained, trained.model))


def test_a_merged_folder_needs_neither_peft_nor_timetok(trained: Any, tmp_path: Path) -> None:
    trained.model.save_pretrained(tmp_path / "lora")
    case = fresh(trained.folder, seed=1)
    model = PeftModel.from_pretrained(case.model.unload(), tmp_path / "lora").eval()
    embeddings.merge_and_export(model, tmp_path / "merged")
    trained.processor.save_pretrained(tmp_path / "merged")
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged")
    assert type(plain).__name__ == type(model.get_base_model()).__name__
    assert len(embeddings.tables(plain)) == len(trained.tables)  # tied where it was
    assert_close(logits(trained, plain), logits(trained, trained.model), rtol=1e-4, atol=1e-4)
    tt = TimeTokenizer.wrap(AutoProcessor.from_pretrained(tmp_path / "merged").tokenizer, T=T)
    assert tt.time_token_ids == trained.tt.time_token_ids
    assert EXAMPLE.ask(plain, tt, trained.batch, DURATION) == SPAN


def test_the_example_takes_a_folder(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    EXAMPLE.main(str(folder), 2, str(tmp_path))
    assert "a loss of" in capsys.readouterr().out and (tmp_path / "config.json").is_file()


# ---------------------------------------------------------------------------------------------------------- pooling

POOLING = SimpleNamespace(**runpy.run_path(str(EXAMPLES / "slowfast_in_a_vlm.py")))


@pytest.fixture(params=["llava_onevision", "llava_next_video"])  # 4 x 4 patches a frame, of which both make 2 x 2
def llava(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A model as published, and what it takes for one question."""
    skip_before("5.20", "features of videos come otherwise")
    save(tmp_path, request.param)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    batch = EXAMPLE.prepare(AutoProcessor.from_pretrained(tmp_path), FRAMES, QUESTION, like=model)
    return SimpleNamespace(model=model, batch=batch, newlines=int(request.param == "llava_onevision"))


def placeholders(llava: Any, batch: dict[str, torch.Tensor]) -> int:
    return int((batch["input_ids"] == llava.model.config.video_token_id).sum())


@pytest.mark.parametrize("slow_pool", [1, 2])
def test_slow_fast_tokens_take_the_place_of_all_patches(llava: Any, slow_pool: int) -> None:
    assert placeholders(llava, llava.batch) == 6 * 2 * 2 + llava.newlines
    pooler = SlowFastPooler(num_slow_frames=2, slow_pool=slow_pool)
    num = pooler.num_tokens(num_frames=6, grid=(2, 2))
    assert num == 6 + 2 * (2 // slow_pool) ** 2
    features = llava.model.model.get_video_features(llava.batch["pixel_values_videos"]).pooler_output
    POOLING.put_between(llava.model, pooler)
    batch = POOLING.shorten(llava.model, llava.batch, pooler)
    assert placeholders(llava, batch) == num + llava.newlines
    outputs = llava.model(**batch, labels=batch["input_ids"])
    assert outputs.logits.shape[1] == batch["input_ids"].shape[1]
    seen = outputs.video_hidden_states.view(-1, features.shape[-1])
    frames = features[0, :24].view(6, 4, -1)
    assert_close(seen[:6], frames.mean(1))  # one token a frame, then the first and the last frame in detail
    ends = frames[[0, -1]]
    assert_close(seen[6:num], (ends if slow_pool == 1 else ends.mean(1, keepdim=True)).flatten(0, 1))
    assert_close(seen[num:], features[0, 24:])  # the newline of LLaVA-OneVision
    outputs.loss.backward()
    for part in (llava.model.model.vision_tower, llava.model.model.multi_modal_projector):
        assert sum(float(p.grad.abs().sum()) for p in part.parameters() if p.grad is not None) > 0
    ids = llava.model.generate(**batch, max_new_tokens=4, do_sample=False)
    assert ids.shape[1] > batch["input_ids"].shape[1]


def test_a_pooler_that_keeps_everything_changes_nothing(llava: Any) -> None:
    options = {"max_new_tokens": 4, "do_sample": False}
    before, answer = llava.model(**llava.batch).logits, llava.model.generate(**llava.batch, **options)
    pooler = SlowFastPooler(fast=False, num_slow_frames=6, slow_pool=1)
    POOLING.put_between(llava.model, pooler)
    batch = POOLING.shorten(llava.model, llava.batch, pooler)
    assert torch.equal(batch["input_ids"], llava.batch["input_ids"])
    assert torch.equal(llava.model(**batch).logits, before)
    assert torch.equal(llava.model.generate(**batch, **options), answer)


def test_a_model_with_a_pooler_learns_time_tokens(llava: Any, tmp_path: Path) -> None:
    pooler = SlowFastPooler(num_slow_frames=2)
    POOLING.put_between(llava.model, pooler)
    processor = AutoProcessor.from_pretrained(tmp_path)
    torch.manual_seed(0)
    tt, model = EXAMPLE.with_time_tokens(llava.model, processor, T)
    answer = "<t3> <t7>" + tt.tokenizer.eos_token
    full, asked = (EXAMPLE.prepare(processor, FRAMES, QUESTION, text, like=model) for text in (answer, ""))
    losses = list(EXAMPLE.train(model, tt, POOLING.shorten(model, full, pooler), answer, steps=40))
    assert losses[-1] < 0.5 * losses[0]
    assert EXAMPLE.ask(model.eval(), tt, POOLING.shorten(model, asked, pooler), DURATION) == SPAN


def test_rows_of_a_batch_do_not_mix(llava: Any) -> None:
    pooler = SlowFastPooler(num_slow_frames=2)
    POOLING.put_between(llava.model, pooler)
    other = {**llava.batch, "pixel_values_videos": llava.batch["pixel_values_videos"].flip(1)}
    rows = [POOLING.shorten(llava.model, batch, pooler) for batch in (llava.batch, other)]
    both = {name: torch.cat([llava.batch[name], other[name]]) for name in other}
    together = llava.model(**POOLING.shorten(llava.model, both, pooler)).logits
    assert_close(together, torch.cat([llava.model(**row).logits for row in rows]), rtol=1e-4, atol=1e-4)
    assert not torch.equal(together[0, -1], together[1, -1])


@pytest.mark.parametrize(("name", "num_runs"), [("qwen3_vl", 3), ("smolvlm", 6), ("qwen2_5_vl", 1)])
def test_why_others_take_no_pooler(name: str, num_runs: int, tmp_path: Path) -> None:
    """Their visual tokens stand in a text for each frame, or at the positions of one whole grid."""
    case = fresh(save(tmp_path, name))
    model = case.model.get_base_model()
    seen = case.batch["input_ids"][0] == getattr(model.config, "video_token_id", model.config.image_token_id)
    assert (seen[1:] & ~seen[:-1]).sum() == num_runs  # of six frames, which Qwen takes in pairs
    if name == "qwen2_5_vl":
        told = {key: case.batch[key] for key in ("mm_token_type_ids", "video_grid_thw", "second_per_grid_ts")}
        positions, _ = model.model.get_rope_index(case.batch["input_ids"], **told)
        assert len(positions[:, 0, seen].unique(dim=1).T) == case.batch["video_grid_thw"].prod() // 4 == seen.sum()
    if name == "qwen3_vl":
        skip_before("5.18", "features of later layers come otherwise")
        grid = case.batch["video_grid_thw"]
        deep = model.model.get_video_features(case.batch["pixel_values_videos"], grid).deepstack_features
        assert sum(map(len, deep[0])) == seen.sum()  # added to the same tokens in later layers
