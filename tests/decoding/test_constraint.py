"""Constrained generation with real tokenizers and real models of random weights, which obey nothing by themselves."""

import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from docs_blocks import Digits
from real_tokenizers import MAKERS
from timetok.codecs import ClockCodec, IndexCodec, SecondsCodec
from timetok.decoding import SpanConstraint
from timetok.errors import ArgumentError, MalformedAnswerError
from timetok.timegrid import Span, TimeGrid
from timetok.tokenizer import TimeTokenizer

CODECS = {
    "index": IndexCodec(TimeGrid(20)),
    "seconds": SecondsCodec(),
    "unit": SecondsCodec(1, unit=" seconds", span="from {} to {}"),
    "clock": ClockCodec(),
    "digits": Digits(),
}
DURATIONS = [60.0, 12.5, 300.0]
PAIRS = [
    (name, codec)
    for name in MAKERS
    for codec in CODECS
    if name != "word_piece" or codec in ("index", "digits")  # decodes its own "12.3" as "12. 3"
]
EVERY_TOKEN = [  # of Llama's 32 000 with two codecs; with the others it takes as long as all the rest
    pytest.param(*pair, marks=pytest.mark.slow if pair[0] == "llama" and pair[1] not in ("index", "seconds") else ())
    for pair in PAIRS
]
MODES = {
    "greedy": {"do_sample": False},
    "sampled": {"do_sample": True, "temperature": 3.0},
    "beams": {"num_beams": 3, "do_sample": False, "num_return_sequences": 2},
}


@pytest.fixture(scope="module")
def wrapped(bare_tokenizers):
    return {
        (name, codec): TimeTokenizer.wrap(copy.deepcopy(bare_tokenizers[name]), codec=CODECS[codec])
        for name, codec in PAIRS
    }


def model_for(tt):
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tt.tokenizer) + 7, initializer_range=0.5, pad_token_id=0, **shape)
    return LlamaForCausalLM(config).eval()


def stop_id(tt):
    return tt.tokenizer.eos_token_id if tt.tokenizer.eos_token_id is not None else tt.tokenizer.sep_token_id


def generate(tt, constraint, *, embeddings=False, **mode):
    model = model_for(tt)
    ids = torch.tensor([[9, 10, 11, 12], [0, 0, 13, 9], [0, 9, 9, 10]])
    inputs = {"attention_mask": (ids > 0).long()}
    inputs |= {"inputs_embeds": model.get_input_embeddings()(ids)} if embeddings else {"input_ids": ids}
    processor = constraint.processor(DURATIONS)
    torch.manual_seed(1)
    out = model.generate(
        **inputs, logits_processor=[processor], max_new_tokens=40, eos_token_id=stop_id(tt), pad_token_id=0, **mode
    )
    return out[:, 0 if embeddings else ids.shape[1] :].tolist()


def check(tt, answers, least, most):
    for k, row in enumerate(answers):
        duration = DURATIONS[k * len(DURATIONS) // len(answers)]
        assert stop_id(tt) in row, "the grammar is finite, 40 tokens are enough"
        row = row[: row.index(stop_id(tt))]
        spans = tt.spans(row, duration, malformed="raise")
        assert least <= len(spans) <= most
        assert all(span.end <= duration + 1 for span in spans)  # a clock may round up


@pytest.mark.parametrize(("name", "codec"), PAIRS)
@pytest.mark.parametrize("mode", MODES)
def test_exactly_one_span(name, codec, mode, wrapped):
    tt = wrapped[name, codec]
    constraint = SpanConstraint(tt, stop_ids=[stop_id(tt)])
    check(tt, generate(tt, constraint, **MODES[mode]), 1, 1)


@pytest.mark.parametrize("codec", ["index", "seconds"])
@pytest.mark.parametrize("mode", ["greedy", "sampled"])
def test_prompts_as_embeddings_give_the_same(codec, mode, wrapped):
    tt = wrapped["llama", codec]
    constraint = SpanConstraint(tt, max_spans=2)
    by_ids = generate(tt, constraint, **MODES[mode])
    assert generate(tt, constraint, embeddings=True, **MODES[mode]) == by_ids
    check(tt, by_ids, 1, 2)


@pytest.mark.parametrize(("name", "codec"), PAIRS)
def test_free_text_around_spans(name, codec, wrapped):
    tt = wrapped[name, codec]
    constraint = SpanConstraint(tt, min_spans=0, max_spans=None, free_text=True, stop_ids=[stop_id(tt)])
    ended = 0
    for answer, duration in zip(generate(tt, constraint, **MODES["sampled"]), DURATIONS, strict=True):
        if stop_id(tt) in answer:
            ended += 1
            tt.spans(answer[: answer.index(stop_id(tt))], duration, malformed="raise")
    written = [tt.tokenizer.encode(text, add_special_tokens=False) for text in answers_of(tt)]
    for ids in written:  # what people write is let through
        state = constraint.grammar(60.0).start
        for token in ids:
            state = constraint.follow(60.0, state, token)
        assert state is not None and constraint.grammar(60.0).accepts(state)


@pytest.mark.parametrize(("name", "codec"), EVERY_TOKEN)
@pytest.mark.parametrize("free_text", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_masks_are_what_every_token_by_itself_gives(name, codec, free_text, wrapped):
    tt, duration = wrapped[name, codec], 60.0
    constraint = SpanConstraint(tt, max_spans=2, free_text=free_text, stop_ids=[stop_id(tt)])
    size, random, states = len(tt.tokenizer), torch.Generator().manual_seed(0), {constraint.grammar(duration).start}
    for _ in range(4):
        state = constraint.grammar(duration).start
        for _ in range(12):
            allowed = constraint.mask(duration, state, size, torch.device("cpu")).clone()
            allowed[stop_id(tt)] = False
            moments = torch.tensor([any(c.isdigit() for c in constraint._texts.get(k, "")) for k in range(size)])
            often = torch.rand(1, generator=random) < 0.5 and (allowed & moments).any()
            likely = allowed & moments if often else allowed
            if not likely.any():
                break
            token = int(likely.float().multinomial(1, generator=random))
            state = constraint.follow(duration, state, token)
            states.add(state)
    for state in sorted(states, key=str)[:12]:
        mask = constraint.mask(duration, state, size, torch.device("cpu"))
        alone = [constraint.follow(duration, state, token) is not None for token in range(size)]
        alone[stop_id(tt)] = constraint.grammar(duration).accepts(state)
        assert mask.tolist() == alone


@pytest.mark.parametrize(("name", "codec"), EVERY_TOKEN)
def test_masks_right_behind_a_span_are_those_of_every_token(name, codec, wrapped):
    tt, duration = wrapped[name, codec], 60.0
    constraint = SpanConstraint(tt, max_spans=2, free_text=True, stop_ids=[stop_id(tt)])
    grammar, size = constraint.grammar(duration), len(tt.tokenizer)
    span = tt.codec.span.format(tt.codec.format(5.0, duration), tt.codec.format(40.0, duration))
    for token, character in zip(tt.codec.tokens, grammar.own_characters, strict=True):
        span = span.replace(token, character)
    for behind in ("", "s", "s:", ":", ".", " ", ", x"):
        state = grammar.start
        for character in span + behind:
            state = state and grammar.step(state, character)
        if state is not None:
            alone = [constraint.follow(duration, state, token) is not None for token in range(size)]
            alone[stop_id(tt)] = grammar.accepts(state)
            assert constraint.mask(duration, state, size, torch.device("cpu")).tolist() == alone, behind


def answers_of(tt):
    span = tt.codec.span.format(tt.codec.format(5.0, 60.0), tt.codec.format(40.0, 60.0))
    yield f"it starts at the left, {span} and then leaves"
    yield f"{span}"
    yield "a blue square moves"


def test_the_best_beam_is_the_likeliest_well_formed_answer(wrapped):
    """Index tokens in the order start, end: all 210 spans scored by hand."""
    tt = TimeTokenizer.wrap(
        copy.deepcopy(wrapped["byte_bpe", "seconds"].tokenizer), codec=IndexCodec(TimeGrid(20), span="{}{}")
    )
    model, prompt, eos = model_for(tt), [9, 10, 11], tt.tokenizer.eos_token_id
    found = model.generate(
        torch.tensor([prompt]), logits_processor=[SpanConstraint(tt).processor()], num_beams=210, max_new_tokens=4,
        do_sample=False, eos_token_id=eos, pad_token_id=0, length_penalty=0.0,
    )  # fmt: skip

    def log_probability(ids):
        rows = model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        return float(rows.gather(1, torch.tensor(ids)[:, None]).sum())

    first = tt.time_token_ids[0]
    spaces = [[], tt.tokenizer.encode(" ", add_special_tokens=False)]  # a first space is a matter of taste
    every = [[*s, first + i, first + j, eos] for s in spaces for i in range(20) for j in range(i, 20)]
    with torch.inference_mode():
        likeliest = max(every, key=log_probability)
        assert found[0, 3 : 3 + len(likeliest)].tolist() == likeliest


def test_nothing_but_the_unlikely_is_changed(wrapped):
    tt = wrapped["byte_bpe", "index"]
    scores = torch.randn(2, len(tt.tokenizer) + 7)
    processor = SpanConstraint(tt).processor()
    ids = torch.tensor([[5, 6], [7, 8]])
    first = processor(ids, scores)
    allowed = first > -torch.inf
    assert torch.equal(first[allowed], scores[allowed])
    assert set(tt.time_token_ids) <= set(allowed[0].nonzero().flatten().tolist()) and allowed[0].sum() <= 22
    start = tt.time_token_ids[7]
    space = tt.tokenizer.encode(" ", add_special_tokens=False)
    ids = torch.cat([ids, torch.tensor([[start, *space]] * 2)], 1)
    second = processor(ids, scores) > -torch.inf
    assert second[0].nonzero().flatten().tolist() == list(tt.time_token_ids[7:])
    assert tt.spans([start, *space, tt.time_token_ids[-1]], 19.0) == [Span(7.0, 19.0)]


def test_one_mask_for_all_videos_with_index_tokens(wrapped):
    constraint = SpanConstraint(wrapped["byte_bpe", "index"])
    for durations in (None, 3.0, [5.0, 6.0]):
        constraint.processor(durations)(torch.zeros(2, 0, dtype=torch.long), torch.zeros(2, 500))
    assert constraint.mask.cache_info().currsize == 1


@pytest.mark.parametrize("options", [{"min_spans": -1}, {"max_spans": 0}, {"min_spans": 3, "max_spans": 2}])
def test_impossible_numbers_of_spans_are_named(wrapped, options):
    with pytest.raises(ArgumentError, match="min_spans, max_spans"):
        SpanConstraint(wrapped["byte_bpe", "index"], **options)


def test_misuse_is_named(wrapped):
    tt = wrapped["byte_bpe", "index"]
    constraint = SpanConstraint(tt)
    with pytest.raises(ArgumentError, match="durations: expected one for each prompt, got 2 for 3 rows"):
        constraint.processor([1.0, 2.0])(torch.zeros(3, 1, dtype=torch.long), torch.zeros(3, 500))
    used = constraint.processor()
    used(torch.tensor([[5]]), torch.zeros(1, 500))
    with pytest.raises(MalformedAnswerError, match="first 1 ids; make a processor for each call of generate"):
        used(torch.tensor([[5, 6]]), torch.zeros(1, 500))
    tok = copy.deepcopy(tt.tokenizer)
    tok.eos_token = None
    with pytest.raises(ArgumentError, match="stop_ids"):
        SpanConstraint(TimeTokenizer(tok, tt.codec))
