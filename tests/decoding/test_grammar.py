"""The grammar against the codecs' own parsers: what it lets through is read back as well-formed spans."""

import copy
import math
import re

import pytest
from hypothesis import given, settings, strategies as st

from docs_blocks import Digits
from timetok.codecs import ClockCodec, IndexCodec, SecondsCodec
from timetok.decoding.constraint import _ANY_SECONDS, SpanGrammar
from timetok.timegrid import TimeGrid
from timetok.tokenizer import TimeTokenizer

CODECS = {
    "seconds": SecondsCodec(),
    "whole seconds": SecondsCodec(0),
    "unit": SecondsCodec(2, unit=" seconds", span="from {} to {}"),
    "clock": ClockCodec(),
    "long clock": ClockCodec(3, hours=True),
    "index": IndexCodec(TimeGrid(12)),
    "digits": Digits(),
    "paper": IndexCodec(TimeGrid(12), "<{}>", first=1, span="[{}, {}]"),
}


def grammar_of(codec, duration=60.0, *, least=1, most=1, separator=" ", free_text=False, tight=False):
    return SpanGrammar(codec, duration, least, most, separator, free_text, tight)


def written(codec, grammar, text):
    """The text, its private characters as the codec's tokens."""
    names = dict(zip(grammar.own_characters, codec.tokens, strict=True))
    return "".join(names.get(character, character) for character in text)


@pytest.fixture(scope="module")
def wrapped(bare_tokenizers):
    return {
        name: TimeTokenizer.wrap(copy.deepcopy(bare_tokenizers["byte_bpe"]), codec=codec)
        for name, codec in CODECS.items()
    }


def walk(grammar, data):
    """A random answer of a grammar without free text, which has no long ones."""
    state, text = grammar.start, ""
    while True:
        following = [character for character in sorted(grammar.alphabet) if grammar.step(state, character)]
        assert following or grammar.accepts(state), f"dead end after {text!r}"
        if grammar.accepts(state) and (not following or data.draw(st.booleans())):
            return text
        character = data.draw(st.sampled_from(following))
        state, text = grammar.step(state, character), text + character


def spans(codec, text, duration):
    moments = codec.parse(text, duration)
    assert len(moments) % 2 == 0
    return list(zip(moments[::2], moments[1::2], strict=True))


@pytest.mark.parametrize("name", CODECS)
@settings(max_examples=min(settings.default.max_examples, 600))  # slow ones, where thorough asks for 12 000
@given(data=st.data(), duration=st.floats(0.5, 9000), least=st.integers(0, 2), more=st.integers(0, 2))
def test_an_answer_is_as_many_well_formed_spans_as_asked(wrapped, name, data, duration, least, more):
    codec, most = CODECS[name], max(least + more, 1)
    grammar = grammar_of(codec, duration, least=least, most=most, separator="; ")
    text = written(codec, grammar, walk(grammar, data))
    found = spans(codec, text, duration)
    assert least <= len(found) <= most
    latest = codec.parse(codec.format(duration, duration), duration)[0]
    assert all(0 <= start <= end <= latest for start, end in found)
    layout = "; ".join(codec.span.format(codec.format(s, duration), codec.format(e, duration)) for s, e in found)
    assert text.removeprefix(" ") == layout
    if found:
        assert re.fullmatch(wrapped[name].regex(least, most, separator="; "), layout)


def feed(grammar, text, state=None):
    """The state after a text whose refused characters are left out, and what of it was written."""
    state, kept = state or grammar.start, ""
    for character in text:
        if following := grammar.step(state, character):
            state, kept = following, kept + character
    return state, kept


def private(codec, grammar, text):
    """A text, the codec's tokens as private characters."""
    for token, character in sorted(zip(codec.tokens, grammar.own_characters, strict=True), key=lambda p: -len(p[0])):
        text = text.replace(token, character)
    return text


moment = st.floats(0, 320)
piece = st.one_of(
    st.tuples(moment, moment),
    moment,
    st.text(alphabet="ab.,:;- \n0123456789", max_size=6),
    st.sampled_from(["45.0.3", "00:45:12", "a12.3", "1234.5", "12.", "0x1", "1:2", "3s", "12.3s"]),
)


@pytest.mark.parametrize("name", CODECS)
@settings(max_examples=min(settings.default.max_examples, 600))  # slow ones, where thorough asks for 12 000
@given(pieces=st.lists(piece, max_size=8), least=st.integers(0, 2))
def test_in_free_text_every_moment_belongs_to_a_span(name, pieces, least):
    codec, duration = CODECS[name], 300.0
    grammar = grammar_of(codec, duration, least=least, most=3, free_text=True)

    def text_of(piece):
        if isinstance(piece, str):
            return piece
        ends = (piece,) if isinstance(piece, float) else piece
        layout = codec.span if len(ends) == 2 else "{}"
        return layout.format(*(codec.format(end, duration) for end in ends))

    state, kept = feed(grammar, private(codec, grammar, " ".join(map(text_of, pieces))))
    if grammar.accepts(state):
        found = spans(codec, written(codec, grammar, kept), duration)
        assert least <= len(found) <= 3 and all(0 <= start <= end <= duration for start, end in found)


@pytest.mark.parametrize("name", CODECS)
def test_free_text_holds_what_people_write(name):
    codec = CODECS[name]
    grammar = grammar_of(codec, 300.0, most=math.inf, free_text=True)
    span = codec.span.format(codec.format(12.0, 300.0), codec.format(40.0, 300.0))
    text = private(codec, grammar, f"He opens it ({span}), then leaves; {span}. Again:\n{span}")
    state, kept = feed(grammar, text)
    assert kept == text and grammar.accepts(state) and state.num_spans + (state.place == "end") == 3
    if name != "whole seconds":
        assert feed(grammar, "2 men, 17 dogs")[1] == "2 men, 17 dogs"


@pytest.mark.parametrize(
    ("name", "text"),
    [("seconds", "1.0 2.00:45"), ("long clock", "00:00:01.000 00:00:02.0000:3"), ("clock", "00:01 00:02.0:")],
)
def test_no_digits_behind_a_span_make_another_number_of_its_end(name, text):
    grammar = grammar_of(CODECS[name], 300.0, free_text=True)
    state, kept = feed(grammar, text)
    assert grammar.accepts(state) and kept != text and len(spans(CODECS[name], kept, 300.0)) == 1


def test_free_text_holds_no_token_of_the_codec_outside_moments():
    codec = Digits()
    grammar = grammar_of(codec, 300.0, least=0, free_text=True)
    assert feed(grammar, private(codec, grammar, "a<T1><T.><T5>b"))[1] == "ab"


def test_a_span_never_ends_before_it_starts():
    grammar = grammar_of(SecondsCodec(), 60.0)
    assert feed(grammar, "45.2 5")[1] == "45.2 5"  # 50.0 is still to come
    assert feed(grammar, "45.2 3")[1] == "45.2 "
    assert feed(grammar, "45.2 45.1")[1] == "45.2 45."
    assert feed(grammar, "61")[1] == "6" and feed(grammar, "07.5")[1] == "0.5"
    index = grammar_of(IndexCodec(TimeGrid(4)), 60.0)
    names = index.own_characters
    assert [feed(index, names[2] + " " + end)[1][2:] for end in names] == ["", "", names[2], names[3]]


def test_without_a_duration_every_moment_is_possible_in_its_order():
    seconds, index = (grammar_of(codec, _ANY_SECONDS) for codec in (SecondsCodec(), IndexCodec(TimeGrid(4))))
    assert (
        feed(seconds, "3600.5 86400.0")[1] == "3600.5 86400.0" and feed(seconds, "3600.5 3600.4")[1] == "3600.5 3600."
    )
    a, b = index.own_characters[1:3]
    assert feed(index, f"{a} {b}")[1] == f"{a} {b}" and feed(index, f"{b} {a}")[1] == f"{b} "


def test_without_spaces_beside_tokens_and_without_an_answer():
    codec = IndexCodec(TimeGrid(4))
    tight = grammar_of(codec, 1.0, least=0, most=2, tight=True)
    a, b = tight.own_characters[1:3]
    assert tight.accepts(tight.start)
    for text in (a + b, a + b + a + a):
        state, kept = feed(tight, text)
        assert kept == text and tight.accepts(state)
    assert not tight.accepts(feed(tight, a)[0]) and feed(tight, a + b + a + a + a)[1] == a + b + a + a
