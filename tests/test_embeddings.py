import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

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
    with pytest.raises(ArgumentError, match=r"how must be one of .*, got 'zeros'"):
        embeddings.init_rows(make(tied=True), [1, 2], how="zeros")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("how", ["interpolate", "sinusoidal", "mean", "numbers"])
def test_every_way_keeps_neighbours_nearer_and_other_rows_untouched(tied, how):
    model, ids = make(tied=tied, vocab_size=60), list(range(20, 60))
    before = [table.detach().clone() for table in tables(model)]
    digits = {"number_ids": [[int(d) for d in f"{k:02d}"] for k in range(40)]} if how == "numbers" else {}
    embeddings.init_rows(model, ids, how, **digits)
    for old, new in zip(before, tables(model), strict=True):
        torch.testing.assert_close(new[:20], old[:20], rtol=0, atol=0)
        distance = torch.cdist(new[ids], new[ids])
        apart = (torch.arange(40)[:, None] - torch.arange(40)).abs()
        assert distance[apart == 1].mean() < 0.8 * distance[apart > 10].mean()
        assert distance[apart > 0].min() > 0 or how == "numbers"  # 12 and 21 have the same digits


def test_numbers_are_the_mean_of_their_digits():
    model = make(tied=False)
    embeddings.init_rows(model, [18, 19], "numbers", number_ids=[[1], [1, 2]])
    for table in tables(model):
        torch.testing.assert_close(table[18], table[1])
        torch.testing.assert_close(table[19], (table[1] + table[2]) / 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"how": "numbers"}, "at least one id for each of 2 ids"),
        ({"number_ids": [[1], [2]]}, "at least one id for each of 0 ids for how='interpolate'"),
        ({"how": "numbers", "number_ids": [[1]]}, "at least one id for each of 2 ids"),
        ({"how": "numbers", "number_ids": [[1], []]}, "at least one id for each of 2 ids"),
    ],
)
def test_init_rows_checks_number_ids(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        embeddings.init_rows(make(tied=True), [1, 2], **arguments)


def test_init_rows_wants_rows():
    with pytest.raises(ArgumentError, match="ids must have rows, 0 to 19, got 3 to 20; call resize"):
        embeddings.init_rows(make(tied=True), [3, 20])


@pytest.mark.filterwarnings("ignore:Could not find a config file in  - will assume:UserWarning")  # of older peft
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("tied", [True, False])
def test_ten_lora_steps_move_exactly_the_new_rows_and_an_export_is_the_same_model(tied, tmp_path):
    model, ids = make(tied=tied), list(range(20, 30))
    embeddings.resize(model, ids)
    embeddings.init_rows(model, ids)
    before = [table.detach().clone() for table in tables(model)]
    wanted = embeddings.peft_kwargs(model, ids)
    assert list(wanted["trainable_token_indices"]) == (["embed_tokens"] if tied else ["embed_tokens", "lm_head"])
    lora = get_peft_model(model, LoraConfig(target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", **wanted))
    optimizer = torch.optim.SGD([p for p in lora.parameters() if p.requires_grad], lr=0.5)
    batch = torch.stack([torch.randperm(30) for _ in range(4)])  # every row is used
    for _ in range(10):
        lora(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    lora.eval()
    expected = lora(batch).logits
    lora.save_pretrained(tmp_path / "adapter")
    fresh = make(tied=tied)
    embeddings.resize(fresh, ids)
    for table, start in zip(tables(fresh), before, strict=True):
        table.data.copy_(start)
    reloaded = PeftModel.from_pretrained(fresh, tmp_path / "adapter").eval()
    torch.testing.assert_close(reloaded(batch).logits, expected, rtol=0, atol=0)
    embeddings.merge_and_export(lora, tmp_path / "plain")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain").eval()
    torch.testing.assert_close(plain(batch).logits, expected, rtol=1e-5, atol=1e-5)
    for start, table in zip(before, tables(plain), strict=True):
        moved = (table != start).any(1)
        assert moved[20:].all() and not moved[:20].any()


def test_peft_kwargs_refuse_a_head_with_a_bias():
    model = make(tied=False)
    model.lm_head = torch.nn.Linear(32, 20)
    with pytest.raises(ArgumentError, match="its head has a bias"):
        embeddings.peft_kwargs(model, [1])


@pytest.mark.parametrize("tied", [True, False])
def test_rows_come_back_and_others_stay(tied):
    one, other, ids = make(tied=tied), make(tied=tied), [3, 7]
    before = [table.detach().clone() for table in tables(other)]
    with torch.no_grad():
        for table in {*tables(one)}:
            table.normal_()
    rows = embeddings.rows_of(one, ids)
    assert list(rows) == list(embeddings.ROWS[: 1 if tied else 2])
    embeddings.load_rows(other, ids, rows)
    for table, source, old in zip(tables(other), tables(one), before, strict=True):
        assert torch.equal(table[ids], source[ids])
        kept = [k for k in range(20) if k not in ids]
        assert torch.equal(table[kept], old[kept])
    assert embeddings.rows_of(one, []) == {}
