import copy
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from transformers import PreTrainedTokenizerFast
from transformers.tokenization_mistral_common import MistralCommonBackend

from docs_blocks import Digits
from real_tokenizers import FAST, MAKERS, MISTRAL
from timetok.codecs import ClockCodec, IndexCodec, SecondsCodec, format_span
from timetok.errors import ArgumentError, MalformedAnswerError, ModelFolderError, TimeRangeError, TokenizerError
from timetok.timegrid import Span, TimeGrid
from timetok.tokenizer import SETTINGS_FILE, TimeTokenizer


@pytest.fixture(scope="session")
def wrapped(bare_tokenizers):
    return {name: TimeTokenizer.wrap(copy.deepcopy(tok), T=100) for name, tok in bare_tokenizers.items()}


@pytest.fixture
def tt(wrapped):
    return wrapped["byte_bpe"]


@pytest.fixture
def bare(bare_tokenizers):
    return copy.deepcopy(bare_tokenizers["byte_bpe"])


@pytest.mark.parametrize("name", MAKERS)
def test_wrap_adds_in_place_and_once(name, bare_tokenizers):
    tok = copy.deepcopy(bare_tokenizers[name])
    size = len(tok)
    tt = TimeTokenizer.wrap(tok, T=100)
    assert tt.tokenizer is tok
    assert tt.grid == TimeGrid(100)
    assert tt.time_token_ids == tuple(range(size, size + 100))
    assert tok.convert_ids_to_tokens(list(tt.time_token_ids)) == [f"<t{i}>" for i in range(100)]
    assert TimeTokenizer.wrap(tok).time_token_ids == tt.time_token_ids
    assert len(tok) == size + 100
    with pytest.raises(TokenizerError, match="already carries 100 time tokens, got 50; use T=100"):
        TimeTokenizer.wrap(tok, T=50)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("text", ["{}{}", "{} {}", "from{}to{}", "{}, then {}.", "é{}\n{}日本", "<{}>{}<t"])
def test_tokens_survive_any_neighbour(name, text, wrapped):
    tt = wrapped[name]
    ids = tt(text.format("<t7>", "<t99>"), add_special_tokens=False)["input_ids"]
    assert tt.times(ids, 99.0) == [7.0, 99.0]
    assert tt.tokenizer.decode(ids, skip_special_tokens=True).count("<t7>") == 1


def decoded(tok, ids):
    return tok.decode(ids, skip_special_tokens=True).strip()


pieces = st.one_of(
    st.integers(0, 99), st.sampled_from(["a b, é", "red circle ", "it", "日本"]), st.text(max_size=12).map(str.strip)
)


@pytest.mark.parametrize("name", MAKERS)
@given(parts=st.lists(pieces, max_size=8))
def test_interleaved_text_and_tokens_come_back(name, parts, wrapped, bare_tokenizers):
    """Tokens always; each text as far as the bare tokenizer brings it back."""
    tt, bare = wrapped[name], bare_tokenizers[name]
    ids = tt("".join(f"<t{part}>" if isinstance(part, int) else part for part in parts))["input_ids"]
    assert tt.times(ids, 99.0) == [float(part) for part in parts if isinstance(part, int)]
    texts, found = [""], [[]]  # between the tokens
    for part in parts:
        if isinstance(part, int):
            texts.append("")
        else:
            texts[-1] += part
    for token in ids:
        if token in tt.time_token_ids:
            found.append([])
        else:
            found[-1].append(token)
    for text, between in zip(texts, found, strict=True):
        if decoded(bare, bare(text)["input_ids"]) == text.strip():
            assert decoded(tt.tokenizer, between) == text.strip()


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize(
    "text", ["when is <t12>?", "<t5><t99>", "é<t0> <t1", "\U000f0000<t3>\U000f0000", "nothing", ""]
)
def test_untrusted_text_is_what_the_bare_tokenizer_sees(name, text, wrapped, bare_tokenizers):
    tt, bare = wrapped[name], bare_tokenizers[name]
    assert tt(text, trusted=False)["input_ids"] == bare(text)["input_ids"]
    assert tt(text, 60.0, trusted=False)["input_ids"] == bare(text)["input_ids"]
    options = {"padding": True, "truncation": True, "max_length": 9, "return_offsets_mapping": True}
    assert tt([text, "a <t4>"], trusted=False, **options) == bare([text, "a <t4>"], **options)
    assert tt.tokenizer.encode("<t5>", add_special_tokens=False)[-1] == tt.time_token_ids[5]  # as before


def test_untrusted_text_without_time_tokens_needs_no_backend(wrapped):
    tt = wrapped["sentence_piece"]
    assert tt("the red circle <12.3>", 60.0, trusted=False) == tt.tokenizer("the red circle <12.3>")
    with pytest.raises(TokenizerError, match="GPTSw3Tokenizer has no `tokenizers` backend"):
        tt("the <t5>", trusted=False)


def test_plain_copy_follows_later_changes(tt, bare):
    tt = TimeTokenizer.wrap(bare)
    before = tt("<t5>", trusted=False)["input_ids"]
    bare.add_tokens(["<video>"])
    bare.padding_side = "left"
    batch = tt(["<t5> <video>", "<t5>"], trusted=False, padding=True)["input_ids"]
    assert bare.convert_tokens_to_ids("<video>") in batch[0]
    assert batch[1][-len(before) :] == before


def test_call_writes_seconds(tt):
    ids = tt("from <12.34> to <30>", 99.0)["input_ids"]
    assert tt.times(ids, 99.0) == [12.0, 30.0]
    assert tt("from <12.34> to <30>")["input_ids"] == tt.tokenizer("from <12.34> to <30>")["input_ids"]
    batch = tt(["<10.0>", "<10.0> and <99.0>"], [99.0, 198.0], padding=True, return_tensors="pt")
    assert [tt.times(row, 99.0) for row in batch["input_ids"]] == [[10.0], [5.0, 50.0]]
    with pytest.raises(TimeRangeError, match="durations: expected one for all or one for each of 2, got 3"):
        tt(["a", "b"], [1.0, 2.0, 3.0])


def test_to_tokens(tt):
    assert tt.to_tokens("at <0.0>, <49.5> <99> and <1e3> <t3> < 5> 7.0", 99.0) == (
        "at <t0>, <t50> <t99> and <1e3> <t3> < 5> 7.0"  # 49.5 is a tie: half to even
    )
    assert tt.to_tokens("<-3.5><500.0>", 99.0) == "<t0><t99>"
    for duration in (0.0, -1.0, float("nan")):
        with pytest.raises(TimeRangeError, match="duration must be"):
            tt.to_tokens("no mark at all", duration)


@given(st.lists(st.floats(0, 120), min_size=1), st.floats(1, 120))
def test_encode_and_decode_time_are_the_grids(wrapped, seconds, duration):
    tt = wrapped["byte_bpe"]
    ids, index = tt.encode_time(seconds, duration), tt.grid.encode(seconds, duration)
    assert [i - tt.time_token_ids[0] for i in ids] == index.tolist()
    assert tt.decode_time(ids, duration).tolist() == tt.grid.decode(index, duration).tolist()
    assert tt.encode_time(seconds[0], duration) == ids[:1]
    assert tt.decode_time(ids[0], duration) == tt.decode_time(ids, duration)[0]


def test_decode_time_takes_time_tokens_only(tt):
    with pytest.raises(ArgumentError, match=r"ids must be time tokens, \d+ to \d+, got 3"):
        tt.decode_time([tt.time_token_ids[0], 3], 60.0)
    with pytest.raises(ArgumentError, match="ids must be integers"):
        tt.decode_time(1.5, 60.0)


@pytest.mark.parametrize("name", ["byte_bpe", "llama"])
def test_decode_writes_seconds(name, wrapped):
    tt = wrapped[name]
    ids = tt("it starts at <t12>,<t30> ends", add_special_tokens=False)["input_ids"]
    assert tt.decode(ids, 99.0) == "it starts at <12.00>,<30.00> ends"
    assert tt.decode(ids) == "it starts at <t12>,<t30> ends"
    assert tt.to_tokens(tt.decode(ids, 198.0), 198.0) == tt.decode(ids)
    assert tt.decode([-100, *ids, -100], 99.0) == tt.decode(ids, 99.0)
    assert tt.batch_decode([ids, ids], [99.0, 198.0])[1] == "it starts at <24.00>,<60.00> ends"
    assert tt.batch_decode([ids, ids[:2]]) == [tt.decode(ids), tt.decode(ids[:2])]
    with pytest.raises(TimeRangeError, match="one for each of 1, got 2"):
        tt.batch_decode([ids], [1.0, 2.0])


def test_decode_tells_tokens_from_characters(tt):
    ids = tt("<t12> is ", trusted=False)["input_ids"] + [tt.time_token_ids[12]]
    assert tt.decode(ids, 99.0) == "<t12> is <12.00>"


def test_time_tokens_survive_skipping_special_tokens(tt):
    ids = tt("<t1> <|end|>")["input_ids"]
    assert tt.decode(ids) == "<t1> "


def ids_of(tt, *indices):
    """Each index its time token, each None some text."""
    return [5 if index is None else tt.time_token_ids[index] for index in indices]


@pytest.mark.parametrize(
    ("indices", "drop", "sort"),
    [
        ((), [], []),
        ((None, None), [], []),
        ((3, 17), [(3, 17)], [(3, 17)]),
        ((None, 3, None, 17, None), [(3, 17)], [(3, 17)]),
        ((3, 3), [(3, 3)], [(3, 3)]),
        ((1, 2, 3, 4), [(1, 2), (3, 4)], [(1, 2), (3, 4)]),
        ((17, 3), [], [(3, 17)]),
        ((17, 3, 5, 6), [(5, 6)], [(3, 17), (5, 6)]),
        ((1, 2, 3), [(1, 2)], [(1, 2)]),
        ((7,), [], []),
    ],
)
def test_spans(tt, indices, drop, sort):
    ids = ids_of(tt, *indices)
    assert tt.spans(ids, 99.0) == tt.spans(ids, 99.0, malformed="drop") == [Span(*pair) for pair in drop]
    assert tt.spans(ids, 99.0, malformed="sort") == [Span(*pair) for pair in sort]
    well_formed = drop == sort and 2 * len(drop) == sum(index is not None for index in indices)
    if well_formed:
        assert tt.spans(ids, 99.0, malformed="raise") == [Span(*pair) for pair in drop]
    else:
        with pytest.raises(MalformedAnswerError, match="expected pairs of moments"):
            tt.spans(ids, 99.0, malformed="raise")


def test_spans_of_every_kind_of_ids(tt):
    rows = [ids_of(tt, 1, 2, None), ids_of(tt, None, 3, 4)]
    expected = [[Span(2, 4)], [Span(3, 4)]]
    for kind in (list, tuple, np.array, torch.tensor, lambda r: [torch.tensor(x) for x in r], lambda r: map_lists(r)):
        assert tt.spans(kind(rows), [198.0, 99.0]) == expected
    assert tt.spans(torch.tensor(rows), torch.tensor([198.0, 99.0])) == expected
    assert tt.spans([rows, rows], 99.0) == [[[Span(1, 2)], [Span(3, 4)]]] * 2
    assert tt.spans(torch.tensor([rows]), 99.0) == [[[Span(1, 2)], [Span(3, 4)]]]
    assert tt.spans([rows[0], rows[1] + ids_of(tt, 5, 6)], 99.0)[1] == [Span(3, 4), Span(5, 6)]  # ragged
    assert tt.spans([[], rows[0]], 99.0) == [[], [Span(1, 2)]]
    assert tt.spans([], 99.0) == []


def map_lists(rows):
    return [np.array(row, dtype=np.int32) for row in rows]


def test_prompts_and_padding_are_no_answers(tt):
    row = [*ids_of(tt, 9, None), *ids_of(tt, 1), -100, *ids_of(tt, 2), -100, -100]
    assert tt.spans(row, 99.0, prompt_length=2) == [Span(1, 2)]
    assert tt.spans([row, row], 99.0, prompt_length=2) == [[Span(1, 2)]] * 2
    assert tt.times(torch.tensor(row), 99.0) == [9.0, 1.0, 2.0]
    assert tt.spans(row, 99.0, prompt_length=100) == []


def test_spans_refuses_bad_arguments(tt):
    with pytest.raises(ArgumentError, match="malformed must be 'drop', 'raise' or 'sort', got 'keep'"):
        tt.spans([1], 60.0, malformed="keep")
    with pytest.raises(ArgumentError, match="prompt_length: expected an integer of at least 0"):
        tt.spans([1], 60.0, prompt_length=-1)
    with pytest.raises(TimeRangeError, match="duration must be a positive"):
        tt.spans([1], 0.0)
    with pytest.raises(TimeRangeError, match="one for each of 2, got 1"):
        tt.spans([[1], [2]], [60.0])
    with pytest.raises(ArgumentError, match="ids must be integers"):
        tt.spans([1.5], 60.0)
    with pytest.raises(ArgumentError, match="ids must be one sequence"):
        tt.times([[1]], 60.0)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("codec", ["index", "seconds"])
def test_save_and_load(name, codec, bare_tokenizers, tmp_path):
    tt = TimeTokenizer.wrap(copy.deepcopy(bare_tokenizers[name]), codec=codec)
    tt.save_pretrained(tmp_path)
    again = TimeTokenizer.from_pretrained(tmp_path)
    assert again.time_token_ids == tt.time_token_ids
    assert again.codec == tt.codec
    text = "it starts at <12.3> and <30.0>"
    assert again(text, 60.0)["input_ids"] == tt(text, 60.0)["input_ids"]
    assert not list(tmp_path.glob("*.tmp"))


def test_load_refuses_other_folders(tmp_path, bare):
    with pytest.raises(ModelFolderError, match="folder must hold what"):
        TimeTokenizer.from_pretrained(tmp_path / "missing")
    bare.save_pretrained(tmp_path)
    with pytest.raises(ModelFolderError, match="folder must hold what"):
        TimeTokenizer.from_pretrained(tmp_path)
    for content in ("{", "[]", "{}"):
        (tmp_path / SETTINGS_FILE).write_text(content)
        with pytest.raises(ModelFolderError, match="folder must hold what"):
            TimeTokenizer.from_pretrained(tmp_path)


def test_settings_name_count_and_codec(tt, tmp_path):
    tt.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / SETTINGS_FILE).read_text())
    assert settings["codec"] == "index" and settings["options"]["grid"]["num_tokens"] == 100


@pytest.mark.parametrize(
    "codec",
    [
        IndexCodec(TimeGrid(50, marks="centres", rounding="half-up", out_of_range="raise"), "<|{}|>", first=1),
        SecondsCodec(2, unit=" seconds", span="from {} to {}"),
        ClockCodec(3, hours=True),
    ],
)
def test_every_codec_is_saved(bare, tmp_path, codec):
    tt = TimeTokenizer.wrap(bare, codec=codec)
    tt.save_pretrained(tmp_path)
    again = TimeTokenizer.from_pretrained(tmp_path)
    assert again.codec == codec and again.time_token_ids == tt.time_token_ids
    ids = again(format_span(codec, Span(12.0, 45.0), 60.0))["input_ids"]
    assert again.spans(ids, 60.0) == [Span(*codec.parse(format_span(codec, Span(12.0, 45.0), 60.0), 60.0))]


def test_a_clock_is_read_and_written(bare):
    tt = TimeTokenizer.wrap(bare, codec="clock")
    assert tt.to_tokens("from <75.2> to <90.0>", 99.0) == "from 01:15 to 01:30"
    assert tt.spans(tt("from <75.2> to <90.0>", 99.0)["input_ids"], 99.0) == [Span(75, 90)]


def test_a_codec_of_ones_own_with_tokens(bare, tmp_path):
    tt = TimeTokenizer.wrap(bare, codec=Digits())
    assert len(tt.time_token_ids) == 11
    ids = tt(f"from {format_span(tt.codec, Span(12.3, 45.0))} and <7.5>", 60.0)["input_ids"]
    assert tt.times(ids, 60.0) == [12.3, 45.0, 7.5]
    assert tt.spans(ids, 60.0) == [Span(12.3, 45.0)]
    assert tt.decode(ids, 60.0) == "from <12.30><45.00> and <7.50>"
    assert tt("<T1>", trusted=False)["input_ids"] != tt("<T1>")["input_ids"]
    with pytest.raises(ArgumentError, match="T counts the time tokens of codec='index'"):
        TimeTokenizer.wrap(bare, 50, codec=Digits())
    tt.save_pretrained(tmp_path)
    with pytest.raises(ModelFolderError, match="saved with a codec of your own: load its tokenizer and wrap it again"):
        TimeTokenizer.from_pretrained(tmp_path)
    again = TimeTokenizer.wrap(PreTrainedTokenizerFast.from_pretrained(tmp_path), codec=Digits())
    assert again.time_token_ids == tt.time_token_ids
    assert tt.decode(tt("<T1>", trusted=False)["input_ids"] + ids, 60.0) == "<T1>from <12.30><45.00> and <7.50>"


@pytest.mark.parametrize("name", MAKERS)
def test_lita_spacing_drops_the_space_between_time_tokens(name, bare_tokenizers):
    tok = copy.deepcopy(bare_tokenizers[name])
    tt = TimeTokenizer.wrap(tok, T=10, lita_spacing=True)
    first, last = tt.time_token_ids[0], tt.time_token_ids[-1]
    ids = tt("<t0> <t9> man", add_special_tokens=False)["input_ids"]
    assert ids[:2] == [first, last] and len(ids) > 2
    assert TimeTokenizer.wrap(tok, T=10, lita_spacing=True).time_token_ids == tt.time_token_ids
    with pytest.raises(TokenizerError, match="lita_spacing: the tokenizer carries time tokens added with True"):
        TimeTokenizer.wrap(tok, T=10)


def test_lita_spacing_is_saved(bare, tmp_path):
    TimeTokenizer.wrap(bare, lita_spacing=True).save_pretrained(tmp_path)
    again = TimeTokenizer.from_pretrained(tmp_path)
    assert again("<t0> <t9>")["input_ids"] == list((again.time_token_ids[0], again.time_token_ids[9]))


def test_pickles(tt):
    tt("<t1>", trusted=False)
    again = pickle.loads(pickle.dumps(tt))
    assert again.time_token_ids == tt.time_token_ids
    assert again("<t5> <t6", trusted=False) == tt("<t5> <t6", trusted=False)


@pytest.mark.parametrize("name", MAKERS)
def test_seconds_codec_needs_no_token(name, bare_tokenizers):
    tok = copy.deepcopy(bare_tokenizers[name])
    tt = TimeTokenizer.wrap(tok, codec="seconds")
    assert len(tok) == len(bare_tokenizers[name])
    assert tt.time_token_ids == ()
    ids = tt("from <12.34> to <45>", 60.0)["input_ids"]
    assert tt.times(ids, 60.0) == [12.3, 45.0] or name == "word_piece"  # which writes "12. 3"
    assert tt.to_tokens("from <12.34> to <70>", 60.0) == "from 12.3 to 60.0"
    with pytest.raises(TokenizerError, match="SecondsCodec has no marks"):
        tt.grid  # noqa: B018
    with pytest.raises(ArgumentError, match="T counts the time tokens of codec='index': leave it out"):
        TimeTokenizer.wrap(tok, 50, codec="seconds")


def test_seconds_codec_reads_text(bare):
    tt = TimeTokenizer.wrap(bare, codec="seconds")
    ids = bare("at 3.0 12.3 45.0 then 7.5 5.0 and 9.0")["input_ids"]
    prompt_length = len(bare("at 3.0")["input_ids"])
    assert tt.spans(ids, 60.0, prompt_length=prompt_length) == [Span(12.3, 45.0)]
    assert tt.spans(ids, 60.0, prompt_length=prompt_length, malformed="sort") == [Span(12.3, 45.0), Span(5.0, 7.5)]
    assert bare.decode(tt.encode_time([12.34, 45.0], 60.0)) == "12.3 45.0"
    assert tt.decode_time(tt.encode_time([12.34, 45.0], 60.0), 60.0).tolist() == [12.3, 45.0]
    assert tt.decode(ids, 60.0) == "at 3.0 12.3 45.0 then 7.5 5.0 and 9.0"
    assert tt("<t5>", trusted=False) == bare("<t5>")


def test_wrap_refuses(bare):
    with pytest.raises(ArgumentError, match="codec must be one of index, seconds, clock or a codec, got 'hours'"):
        TimeTokenizer.wrap(bare, codec="hours")
    with pytest.raises(ArgumentError, match="num_tokens: expected an integer of at least 2, got 1"):
        TimeTokenizer.wrap(bare, T=1)
    bare.add_tokens(["<t1>", "<t0>"])
    with pytest.raises(TokenizerError, match="time tokens must have contiguous ids in the order of time"):
        TimeTokenizer.wrap(bare, T=2)


def test_wrap_names_a_tokenizer_that_takes_no_tokens():
    tok = MistralCommonBackend(tokenizer_path=str(MISTRAL / "tekken_240911.json"))
    with pytest.raises(TokenizerError, match="MistralCommonBackend takes no new tokens"):
        TimeTokenizer.wrap(tok)


CHAT = """{% for m in messages %}{{ m['role'] }}: {{ m['content'] | trim }}
{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"""


@pytest.mark.parametrize("name", FAST)
def test_what_a_user_typed_in_a_chat_is_not_trusted(name, bare_tokenizers):
    bare = copy.deepcopy(bare_tokenizers[name])
    bare.chat_template = CHAT
    tt = TimeTokenizer.wrap(copy.deepcopy(bare))
    chat = [
        {"role": "system", "content": "it lasts to <t99>"},
        {"role": "user", "content": "  what is <t12> at <12.3>, and <t12>? "},
        {"role": "assistant", "content": "<30> <t60>"},
    ]
    ids = tt.encode_chat(chat, 60.0, add_generation_prompt=True)
    assert tt.times(ids, 99.0) == [99.0, 50.0, 60.0]
    asked = [{"role": "user", "content": chat[1]["content"]}]
    plain = bare.apply_chat_template(asked, return_dict=True)["input_ids"]
    assert tt.encode_chat(asked, 60.0) == plain  # what it was before it was wrapped


def test_a_chat_whose_template_turns_the_messages_round(bare):
    bare.chat_template = "{% for m in messages[::-1] %}{{ m['content'][0]['text'] }}|{% endfor %}"
    tt = TimeTokenizer.wrap(bare)
    chat = [
        {"role": role, "content": [{"type": "text", "text": f"<t{k}> \ue000"}]}
        for k, role in enumerate(("user", "system"))
    ]
    ids = tt.encode_chat(chat)
    assert tt.times(ids, 99.0) == [1.0] and tt.tokenizer.decode(ids) == "<t1> \ue000|<t0> \ue000|"
    with pytest.raises(TypeError, match="tokenize"):
        tt.encode_chat(chat, tokenize=True)


@pytest.mark.parametrize("codec", ["index", "seconds"])
def test_a_chat_without_literal_time_tokens_needs_no_backend(codec, bare_tokenizers):
    tt = TimeTokenizer.wrap(copy.deepcopy(bare_tokenizers["sentence_piece"]), codec=codec)
    tt.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    chat = [{"role": "system", "content": "at <6.0> it"}, {"role": "user", "content": " is <6.0>"}]
    moment = {"index": "<t10>", "seconds": "6.0"}[codec]
    assert tt.encode_chat(chat, 59.4) == tt.tokenizer.encode(f"at {moment} it is <6.0>", add_special_tokens=False)
    if codec == "index":
        with pytest.raises(TokenizerError, match="GPTSw3Tokenizer has no `tokenizers` backend"):
            tt.encode_chat([{"role": "user", "content": "the <t5>"}])


def test_works_in_a_chat_template(bare):
    tt = TimeTokenizer.wrap(bare)
    bare.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    turns = [{"role": "user", "content": "when"}, {"role": "assistant", "content": tt.to_tokens("<3.0> <17.0>", 99.0)}]
    ids = bare.apply_chat_template(turns, return_dict=True)["input_ids"]
    assert tt.spans(ids, 99.0) == [Span(3, 17)]


def test_import_does_not_load_torch():
    code = "import sys, timetok.tokenizer, timetok.metrics, timetok.codecs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
