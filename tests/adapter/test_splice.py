"""The hook: visual tokens reach the model through its embedding, or an error says that they did not."""

import pytest
import torch
from torch import nn

import tiny_lm
from timetok import SlowFastPooler
from timetok.adapter import splice
from timetok.errors import SpliceError

V = 500  # a placeholder without a row


@pytest.mark.parametrize(("kind", "tied"), tiny_lm.MODELS)
@pytest.mark.parametrize("order", ["pool-first", "project-first"])
def test_visual_tokens_equal_to_text_give_exactly_that_text(kind, tied, order):
    adapter = tiny_lm.adapter(
        kind,
        tied=tied,
        vision_dim=tiny_lm.WIDTH,
        pooler=SlowFastPooler(num_slow_frames=0),
        projector=nn.Identity(),
        order=order,
    )
    text_ids = torch.tensor(adapter.processor.tt(" red<t3><t9> circle")["input_ids"])
    rows = adapter.lm.get_input_embeddings()(text_ids).detach()
    batch = adapter.prepare(tiny_lm.PROMPT, videos=[rows[:, None]])  # a frame of one patch a token
    hidden = batch["input_ids"] == adapter.video_token_id
    assert hidden.sum() == len(text_ids)
    plain = batch["input_ids"].masked_scatter(hidden, text_ids)
    assert torch.equal(adapter(**batch).logits, adapter.lm(plain).logits)


@pytest.mark.parametrize("keyword", [False, True])
def test_rows_at_placeholders_are_replaced_and_no_others(keyword):
    lm = tiny_lm.language_model()
    embedding = lm.get_input_embeddings()
    ids = torch.tensor([[V, 3, V], [4, V, V]])
    rows = [torch.full((2, tiny_lm.WIDTH), 7.0), torch.full((2, tiny_lm.WIDTH), 8.0)]
    with splice(lm, rows, V):
        found = embedding(input=ids) if keyword else embedding(ids)
    expected = torch.stack(
        [torch.cat([rows[0][:1], embedding.weight[3:4], rows[0][1:]]), torch.cat([embedding.weight[4:5], rows[1]])]
    )
    assert torch.equal(found, expected)


def test_repeated_rows_repeat_their_visual_tokens():
    lm = tiny_lm.language_model()
    rows = [torch.full((1, tiny_lm.WIDTH), 7.0), torch.full((1, tiny_lm.WIDTH), 8.0)]
    with splice(lm, rows, V):
        found = lm.get_input_embeddings()(torch.tensor([[V]] * 6))  # as beam search repeats: 0 0 0 1 1 1
    assert found[:, 0, 0].tolist() == [7, 7, 7, 8, 8, 8]


def test_visual_tokens_take_the_type_of_the_embedding():
    lm = tiny_lm.language_model().to(torch.bfloat16)
    with splice(lm, [torch.ones(1, tiny_lm.WIDTH)], V):
        assert lm.get_input_embeddings()(torch.tensor([[V, 3]])).dtype == torch.bfloat16


def test_the_hook_is_gone_afterwards_and_after_an_error():
    lm = tiny_lm.language_model()
    rows = [torch.ones(1, tiny_lm.WIDTH)]
    with splice(lm, rows, V):
        lm(torch.tensor([[V, 3]]))
    with pytest.raises(ZeroDivisionError), splice(lm, rows, V):
        raise ZeroDivisionError
    embedding = lm.get_input_embeddings()
    assert not embedding._forward_hooks and not embedding._forward_pre_hooks
    with pytest.raises(IndexError):
        lm(torch.tensor([[V]]))


def test_an_embedding_that_was_never_called_is_an_error():
    lm = tiny_lm.language_model()
    with (
        pytest.raises(SpliceError, match="the video did not reach LlamaForCausalLM"),
        splice(lm, [torch.ones(1, tiny_lm.WIDTH)], V),
    ):
        lm(inputs_embeds=torch.zeros(1, 2, tiny_lm.WIDTH))


def test_an_embedding_that_saw_no_placeholder_is_an_error():
    lm = tiny_lm.language_model()
    with pytest.raises(SpliceError, match="did not reach"), splice(lm, [torch.ones(1, tiny_lm.WIDTH)], V):
        lm(torch.tensor([[2, 3]]))
    with splice(lm, [torch.ones(0, tiny_lm.WIDTH)], V):  # nothing to put anywhere
        lm(torch.tensor([[2, 3]]))


@pytest.mark.parametrize("ids", [[[V, 3], [3, 3]], [[V, V], [V, V]], [[V, 3]], [[V, 3], [V, 3], [V, 3]]])
def test_other_numbers_of_placeholders_are_an_error(ids):
    lm = tiny_lm.language_model()
    rows = [torch.ones(1, tiny_lm.WIDTH)] * 2
    with pytest.raises(SpliceError, match=r"placeholders by row are .*, visual tokens"), splice(lm, rows, V):
        lm(torch.tensor(ids))


@pytest.mark.parametrize("path", ["forward", "generate"])
def test_an_adapter_whose_embedding_is_bypassed_says_so(path, monkeypatch):
    adapter = tiny_lm.adapter()
    unused = nn.Embedding(4, tiny_lm.WIDTH)
    batch = adapter.prepare(tiny_lm.PROMPT, videos=[tiny_lm.video()])
    inside = adapter.lm.model.embed_tokens
    adapter.lm.model.embed_tokens = lambda_module(lambda ids: inside(ids.clamp(max=9)))
    monkeypatch.setattr(type(adapter.lm), "get_input_embeddings", lambda self: unused)
    with pytest.raises(SpliceError, match="saw no placeholder; pass input_ids"):
        adapter(**batch) if path == "forward" else adapter.generate(**batch, max_new_tokens=2)


def lambda_module(function):
    module = nn.Module()
    module.forward = function
    return module
