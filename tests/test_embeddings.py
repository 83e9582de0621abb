import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from timetok import embeddings
from timetok.errors import ArgumentError


def make(*, tied, vocab_size=20, **options):
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, tie_word_embeddings=tied, **shape, **options)).eval()


def tables(model):
    return model.get_input_embeddings().weight, model.get_output_embeddings().weight


@pytest.mark.parametrize("tied", [True, False])
def test_resize_grows_both_embeddings(tied):
    model = make(tied=tied)
    before = [table.detach().clone() for table in tables(model)]
    returned = embeddings.resize(model, range(20, 30))
    assert returned is model.get_input_embeddings()
    assert model.config.vocab_size == 30
    assert (tables(model)[0] is tables(model)[1]) == tied
    for old, new in zip(before, tables(model), strict=True):
        assert new.shape == (30, 32)
        torch.testing.assert_close(new[:20], old, rtol=0, atol=0)
        assert new.isfinite().all()
    assert model(torch.tensor([[1, 29]])).logits.shape == (1, 2, 30)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("ids", [range(10), range(19, 20), ()])
def test_resize_never_shrinks(tied, ids):
    model = make(tied=tied)
    before = tables(model)
    embeddings.resize(model, ids, pad_to_multiple_of=64)
    assert all(old is new for old, new in zip(before, tables(model), strict=True))
    assert model.config.vocab_size == 20


def test_resize_pads():
    model = make(tied=False)
    embeddings.resize(model, (5, 64), pad_to_multiple_of=32)
    assert [len(table) for table in tables(model)] == [96, 96]


def test_resize_refuses_negative_ids():
    with pytest.raises(ArgumentError, match="ids must not be negative, got -100"):
        embeddings.resize(make(tied=True), (3, -100))


@pytest.mark.parametrize("tied", [True, False])
def test_neighbours_are_nearer_than_strangers(tied):
    model, ids = make(tied=tied, vocab_size=40), list(range(20, 40))
    before = [table.detach().clone() for table in tables(model)]
    embeddings.init_rows(model, ids)
    assert (tables(model)[0] is tables(model)[1]) == tied
    for old, new in zip(before, tables(model), strict=True):
        torch.testing.assert_close(new[:20], old[:20], rtol=0, atol=0)
        rows = new[ids].detach()
        distance = torch.cdist(rows, rows)
        apart = (torch.arange(20)[:, None] - torch.arange(20)).abs()
        for gap in range(1, 19):
            assert distance[apart == gap].max() < distance[apart == gap + 1].min()
        torch.testing.assert_close(rows.norm(dim=1), old.norm(dim=1).median().expand(20))
    if not tied:
        assert not torch.equal(*(table[ids] for table in tables(model)))


def test_init_rows_refuses_other_ways():
    with pytest.raises(ArgumentError, match="how must be 'interpolate', got 'zeros'"):
        embeddings.init_rows(make(tied=True), [1, 2], how="zeros")
