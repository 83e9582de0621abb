import pytest
from hypothesis import given
from hypothesis import strategies as st

from timetok.codecs import IndexCodec, SecondsCodec
from timetok.errors import ArgumentError, TimeRangeError
from timetok.timegrid import Span, TimeGrid


def test_index_tokens():
    assert IndexCodec(TimeGrid(3)).tokens == ("<t0>", "<t1>", "<t2>")
    assert IndexCodec(TimeGrid(2), template="[{} s]").tokens == ("[0 s]", "[1 s]")
    assert len(set(IndexCodec().tokens)) == 100
    assert SecondsCodec().tokens == ()


def test_layout_is_the_same():
    assert IndexCodec(TimeGrid(101)).format_span(Span(3, 17), 100) == "<t3> <t17>"
    assert SecondsCodec().format_span(Span(12.3, 45), 100) == "12.3 45.0"


@given(st.integers(2, 500), st.floats(0.1, 1e4), st.data())
def test_index_parse_of_format_is_the_mark(count, duration, data):
    index = data.draw(st.integers(0, count - 1))
    grid = TimeGrid(count)
    codec, seconds = IndexCodec(grid), grid.decode(index, duration)
    assert codec.format(seconds, duration) == f"<t{index}>"
    assert codec.parse(f"from {codec.format(seconds, duration)}.", duration) == [seconds]


@given(st.integers(0, 10**7), st.integers(0, 4))
def test_seconds_parse_of_format_is_the_identity_at_its_resolution(number, decimals):
    codec, seconds = SecondsCodec(decimals), number / 10**decimals
    assert codec.parse(codec.format(seconds)) == [seconds]


def test_index_parse():
    codec = IndexCodec(TimeGrid(100))
    assert codec.parse("<t99> a <t1><t 5> <tt> <t> t3 <t100>", 99.0) == [99.0, 1.0, 99.0]
    assert codec.parse("", 99.0) == []
    with pytest.raises(TimeRangeError, match="index must be between"):
        IndexCodec(TimeGrid(100, out_of_range="raise")).parse("<t100>", 99.0)


@pytest.mark.parametrize(
    ("text", "moments"),
    [
        ("12.3 45.0", [12.3, 45.0]),
        ("from 12.3s to 45.0 seconds.", [12.3, 45.0]),
        ("3.0-5.0: two men, 3 dogs", [3.0, 5.0]),
        ("<12.3>", [12.3]),
        ("v1.2 1.2.3 mp4 1:23.4 12.3x .5", []),
        ("", []),
    ],
)
def test_seconds_parse(text, moments):
    assert SecondsCodec().parse(text) == moments


def test_whole_seconds():
    assert SecondsCodec(0).format(12.4) == "12"
    assert SecondsCodec(0).parse("12 45s, mp4 3.5") == [12.0, 45.0]


def test_seconds_are_clamped():
    codec = SecondsCodec()
    assert (codec.format(-3.0), codec.format(-0.0), codec.format(70, 60.0)) == ("0.0", "0.0", "60.0")


def test_errors():
    with pytest.raises(TimeRangeError, match="duration must be given"):
        IndexCodec().format(1.0)
    with pytest.raises(TimeRangeError, match="duration must be given"):
        IndexCodec().parse("<t1>")
    with pytest.raises(TimeRangeError, match="seconds must be finite, got nan"):
        SecondsCodec().format(float("nan"))
    with pytest.raises(ArgumentError, match="decimals must not be negative"):
        SecondsCodec(-1)
    for template in ("<t>", "{}", "<t{}", "<{}{}>"):
        with pytest.raises(ArgumentError, match="template must"):
            IndexCodec(template=template)
