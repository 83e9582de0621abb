"""LoRA and trained time rows: peft replaces the embedding after the adapter was built, and the video still arrives."""

import importlib.util

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import tiny_lm
from timetok import SlowFastPooler, VideoAdapter, embeddings
from timetok.errors import ArgumentError
from tiny_training import CHECKPOINTING, arguments, assert_same, trainer, with_lora

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
    with pytest.raises(ArgumentError, match=r"adapter: peft has changed it; .* merge first"):
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


# Under the HF Trainer, with peft around the adapter, whose checkpoints are small then, or around the LM inside it.

WAYS = pytest.mark.parametrize(("tied", "around"), [(True, "adapter"), (False, "adapter"), (True, "lm"), (False, "lm")])


def given_lora(adapter, around):
    """What the Trainer trains: a PeftModel, or the adapter with one inside. LoRA, the new rows, the projector."""
    options = {"lm": adapter.lm, "ids": adapter.time_token_ids, "task_type": "CAUSAL_LM"}
    if around == "adapter":
        return with_lora(adapter, **options, modules_to_save=["projector"])
    adapter.lm = with_lora(adapter.lm, **options)
    return adapter


def unloaded(model, around):
    """The adapter with everything merged into its LM."""
    if around == "adapter":
        return model.merge_and_unload()
    model.lm = model.lm.merge_and_unload()
    return model


def trained_by_trainer(tied, around, folder, *, seed=0, resume=None, **options):
    adapter = tiny_lm.adapter(tied=tied, seed=seed)
    collate, model = adapter.processor.collator(), given_lora(adapter, around)
    args = arguments(folder, save_strategy="steps", save_steps=2, learning_rate=0.5, **options)
    trainer(model, args, collate=collate).train(resume_from_checkpoint=resume)
    return adapter, model.eval()


def trainable(model):
    return {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}


@WAYS
def test_lora_rows_and_projector_are_trained_and_nothing_else(tied, around, tmp_path):
    before = tiny_lm.adapter(tied=tied)
    adapter, model = trained_by_trainer(tied, around, tmp_path, **{CHECKPOINTING: True})
    kinds = {name.rpartition("lora_")[2][:1] for name in trainable(model) if "lora_" in name}
    others = [name for name in trainable(model) if "lora_" not in name]
    assert kinds == {"A", "B"} and len(others) == 2 + (1 if tied else 2)
    start = dict(before.lm.state_dict())
    for name, weight in adapter.lm.state_dict().items():
        if "lora_" not in name and "token_adapter" not in name:
            plain = name.replace("base_model.model.", "").replace(".base_layer", "")
            assert torch.equal(weight, start[plain]), name
    merged = unloaded(model, around)
    assert not torch.equal(merged.projector.weight, before.projector.weight)
    new = torch.zeros(300, dtype=torch.bool)
    new[list(adapter.time_token_ids)] = True
    for changed, table in zip(embeddings.tables(merged.lm), embeddings.tables(before.lm), strict=True):
        assert torch.equal(changed[~new], table[~new])
    assert (embeddings.tables(merged.lm)[-1] != embeddings.tables(before.lm)[-1])[new].all()
    assert len(embeddings.tables(merged.lm)) == (1 if tied else 2)


@WAYS
def test_a_peft_run_goes_on_as_if_it_had_not_stopped(tied, around, tmp_path):
    _, whole = trained_by_trainer(tied, around, tmp_path, max_steps=4)
    checkpoint = tmp_path / "checkpoint-2"
    _, again = trained_by_trainer(tied, around, tmp_path / "again", resume=str(checkpoint), max_steps=4)
    assert_same(trainable(again), trainable(whole), rtol=0, atol=0)
    small = checkpoint / "adapter_model.safetensors"
    assert small.exists() == (around == "adapter")
    if small.exists():  # the LM is not in it
        assert sum(tensor.numel() for tensor in load_file(small).values()) == sum(
            weight.numel() for weight in trainable(whole).values()
        )


@pytest.mark.parametrize("tied", [True, False])
def test_a_checkpoint_of_peft_comes_back_merges_and_is_exported(tied, tmp_path):
    adapter, model = trained_by_trainer(tied, "adapter", tmp_path)
    batch = batch_of(adapter)
    expected = model(**batch).logits
    other = model(**batch_of(adapter, 1)).logits
    assert (other[0, -1] - expected[0, -1]).abs().max() > 1e-3
    again = PeftModel.from_pretrained(tiny_lm.adapter(tied=tied), tmp_path / "checkpoint-4").eval()
    assert torch.equal(again(**batch).logits, expected)
    options = {"max_new_tokens": 5, "do_sample": False}
    assert torch.equal(again.generate(**batch, **options), model.generate(**batch, **options))

    embeddings.merge_and_export(again, tmp_path / "merged")
    merged = VideoAdapter.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(merged(**batch).logits, expected, rtol=1e-3, atol=1e-3)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged" / "lm").eval()
    text = adapter.prepare("at <t3> or <t7>? ASSISTANT:")
    torch.testing.assert_close(plain(**text).logits, model(**text).logits, rtol=1e-3, atol=1e-3)
    assert torch.equal(plain(**text).logits, merged(**text).logits)


@pytest.mark.parametrize("tied", [True, False])
def test_an_lm_with_peft_inside_is_exported_for_plain_transformers(tied, tmp_path):
    adapter, _ = trained_by_trainer(tied, "lm", tmp_path)
    text = adapter.prepare("at <t3> or <t7>? ASSISTANT:")
    expected = adapter(**text).logits
    embeddings.merge_and_export(adapter.lm, tmp_path / "plain")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain").eval()
    torch.testing.assert_close(plain(**text).logits, expected, rtol=1e-3, atol=1e-3)


def test_an_adapter_inside_a_peft_model_is_not_saved_by_itself(tmp_path):
    adapter = tiny_lm.adapter()
    model = given_lora(adapter, "adapter")
    with pytest.raises(ArgumentError, match="adapter: peft has changed it; save the peft model, or merge first"):
        adapter.save_pretrained(tmp_path)
    model.merge_and_unload().save_pretrained(tmp_path, adapter_only=False)
    batch = batch_of(adapter)
    again = VideoAdapter.from_pretrained(tmp_path).eval()
    assert torch.equal(again(**batch).logits, tiny_lm.adapter()(**batch).logits)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")  # peft calls it
@pytest.mark.filterwarnings("ignore:torch.utils.checkpoint. the use_reentrant parameter:UserWarning")
@pytest.mark.parametrize("tied", [True, False])
def test_four_bits_learn_and_are_exported_in_full_precision(tied, tmp_path):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    tiny_lm.language_model(tied=tied).save_pretrained(tmp_path / "lm")
    tt = tiny_lm.time_tokenizer()

    def made(**options):
        lm = AutoModelForCausalLM.from_pretrained(tmp_path / "lm", **options)
        embeddings.resize(lm, tt.time_token_ids)
        torch.manual_seed(1)
        embeddings.init_rows(lm, tt.time_token_ids)
        lm = prepare_model_for_kbit_training(lm) if options else lm
        return VideoAdapter(lm, tt, vision_dim=tiny_lm.VISION_WIDTH, pooler=SlowFastPooler(num_slow_frames=2))

    four_bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    adapter = made(quantization_config=four_bits, device_map="cpu")
    model = given_lora(adapter, "adapter")
    assert type(adapter.lm.model.layers[0].self_attn.q_proj).__name__ == "Linear4bit"
    args = arguments(tmp_path / "run", max_steps=6, learning_rate=0.3, logging_steps=1, save_strategy="steps")
    run = trainer(model, args, collate=adapter.processor.collator())
    run.train()
    losses = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]

    batch = batch_of(adapter)
    model.save_pretrained(tmp_path / "lora")
    full = PeftModel.from_pretrained(made(), tmp_path / "lora").eval()
    expected = full(**batch).logits
    embeddings.merge_and_export(full, tmp_path / "merged")
    torch.testing.assert_close(
        VideoAdapter.from_pretrained(tmp_path / "merged").eval()(**batch).logits, expected, rtol=1e-3, atol=1e-3
    )


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_without_bitsandbytes_four_bits_are_refused_by_name(tmp_path):
    tiny_lm.language_model().save_pretrained(tmp_path)
    with pytest.raises((ImportError, ModuleNotFoundError), match="bitsandbytes"):
        AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=BitsAndBytesConfig(load_in_4bit=True))


def test_peft_is_told_that_the_lm_is_quantised():
    adapter = tiny_lm.adapter()
    assert not getattr(adapter, "is_loaded_in_4bit", False)
    adapter.lm.is_loaded_in_4bit = True
    assert adapter.is_loaded_in_4bit
