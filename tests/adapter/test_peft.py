"""LoRA and trained time rows: peft replaces the embedding after the adapter was built, and the video still arrives."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

import tiny_lm
from timetok import VideoAdapter
from timetok.errors import ArgumentError

# peft reads an attribute that transformers has renamed
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

CASES = [("llama", True), ("llama", False), ("qwen2", True), ("mistral", False)]


def wrapped(kind, tied, *, how="in place"):
    """An adapter, and peft around its LM afterwards."""
    adapter = tiny_lm.adapter(kind, tied=tied)
    ids = list(adapter.time_token_ids)
    rows = ids if tied else {"embed_tokens": ids, "lm_head": ids}
    config = LoraConfig(target_modules=["q_proj", "v_proj"], trainable_token_indices=rows, task_type="CAUSAL_LM")
    before = adapter.lm.get_input_embeddings()
    model = get_peft_model(adapter.lm, config)
    if how == "reassigned":
        adapter.lm = model
    assert adapter.lm.get_input_embeddings() is not before
    return adapter


def token_deltas(adapter):
    return [parameter for name, parameter in adapter.named_parameters() if "trainable_tokens_delta" in name]


def batch_of(adapter, seed=0):
    return adapter.prepare(tiny_lm.PROMPT + " <t3> it", videos=[tiny_lm.video(seed)])


@pytest.mark.parametrize(("kind", "tied"), CASES)
@pytest.mark.parametrize("how", ["in place", "reassigned"])
def test_the_video_arrives_through_a_replaced_embedding(kind, tied, how):
    plain, adapter = tiny_lm.adapter(kind, tied=tied), wrapped(kind, tied, how=how).eval()
    adapter.projector.load_state_dict(plain.projector.state_dict())
    batch = batch_of(plain)  # LoRA starts at zero and the rows at their values: the same model
    torch.testing.assert_close(adapter(**batch).logits, plain(**batch).logits, rtol=1e-4, atol=1e-4)
    other = adapter(**batch_of(adapter, 1)).logits
    assert (other[0, -1] - adapter(**batch).logits[0, -1]).abs().max() > 1e-3
    options = {"max_new_tokens": 5, "do_sample": False}
    assert torch.equal(adapter.generate(**batch, **options), plain.generate(**batch, **options))


@pytest.mark.parametrize(("kind", "tied"), CASES)
def test_gradients_reach_projector_time_rows_and_lora(kind, tied):
    adapter = wrapped(kind, tied).train()
    batch = batch_of(adapter)
    adapter(**batch, labels=batch["input_ids"]).loss.backward()
    deltas = token_deltas(adapter)
    assert len(deltas) == (1 if tied else 2)
    lora = [parameter for name, parameter in adapter.named_parameters() if "lora_B" in name]
    for parameter in [*adapter.projector.parameters(), *deltas, *lora]:
        assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0
    assert all(parameter.grad is None for name, parameter in adapter.named_parameters() if "base_layer" in name)


@pytest.mark.parametrize(("kind", "tied"), CASES)
def test_time_rows_that_peft_trained_are_saved(kind, tied, tmp_path):
    adapter = wrapped(kind, tied).eval()
    torch.manual_seed(3)
    with torch.no_grad():  # LoRA itself stays at zero
        for parameter in [*token_deltas(adapter), *adapter.projector.parameters()]:
            parameter.normal_()
    adapter.save_pretrained(tmp_path)
    again = VideoAdapter.from_pretrained(tmp_path, lm=tiny_lm.adapter(kind, tied=tied).lm).eval()
    batch = batch_of(adapter)
    torch.testing.assert_close(again(**batch).logits, adapter(**batch).logits, rtol=1e-4, atol=1e-4)
    table = again.lm.get_input_embeddings().weight
    assert torch.equal(table[list(again.time_token_ids)], token_deltas(adapter)[0])


def test_an_adapter_can_be_built_around_a_model_that_has_peft_already():
    inside = wrapped("llama", True)
    adapter = VideoAdapter(inside.lm, inside.processor.tt, vision_dim=tiny_lm.VISION_WIDTH, pooler=inside.pooler).eval()
    one, other = (adapter(**batch_of(adapter, seed)).logits[0, -1] for seed in (0, 1))
    assert (one - other).abs().max() > 1e-3


def test_a_whole_adapter_with_peft_layers_is_not_written(tmp_path):
    adapter = wrapped("llama", True)
    with pytest.raises(ArgumentError, match="adapter_only: False writes the language model, which holds peft layers"):
        adapter.save_pretrained(tmp_path / "new", adapter_only=False)
    assert not (tmp_path / "new").exists()


def test_rows_are_not_loaded_beneath_peft(tmp_path):
    adapter = wrapped("llama", True)
    adapter.save_pretrained(tmp_path)
    with pytest.raises(ArgumentError, match="lm: its embedding is wrapped by peft; load the adapter first"):
        VideoAdapter.from_pretrained(tmp_path, lm=adapter.lm)


def test_a_merged_model_is_written_whole(tmp_path):
    adapter = wrapped("llama", False, how="reassigned").eval()
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in adapter.named_parameters():
            if "lora_B" in name or "trainable_tokens_delta" in name:
                parameter.normal_(std=0.3)
    batch = batch_of(adapter)
    expected = adapter(**batch).logits
    adapter.lm = adapter.lm.merge_and_unload()
    adapter.save_pretrained(tmp_path, adapter_only=False)
    again = VideoAdapter.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(**batch).logits, expected, rtol=1e-3, atol=1e-3)
