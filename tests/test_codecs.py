import re

import pytest
from hypothesis import given, strategies as st

from timetok.codecs import ClockCodec, IndexCodec, SecondsCodec, format_span
from timetok.errors import ArgumentError, TimeRangeError
from timetok.timegrid import Span, TimeGrid


def test_index_tokens():
    assert IndexCodec(TimeGrid(3)).tokens == ("<t0>", "<t1>", "<t2>")
    assert IndexCodec(TimeGrid(2), template="[{} s]").tokens == ("[0 s]", "[1 s]")
    assert len(set(IndexCodec().tokens)) == 100
    assert SecondsCodec().tokens == ()


def test_layout_is_the_same():
    assert format_span(IndexCodec(TimeGrid(101)), Span(3, 17), 100) == "<t3> <t17>"
    assert format_span(SecondsCodec(), Span(12.3, 45), 100) == "12.3 45.0"
    assert format_span(SecondsCodec(unit=" seconds", span="{} to {}"), Span(1, 2)) == "1.0 seconds to 2.0 seconds"
    assert format_span(ClockCodec(span="from {} to {}"), Span(75, 90)) == "from 01:15 to 01:30"


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
    with pytest.raises(TimeRangeError, match=r"duration must be a number.*, got None"):
        IndexCodec().format(1.0)
    with pytest.raises(TimeRangeError, match=r"duration must be a number.*, got None"):
        IndexCodec().parse("<t1>")
    with pytest.raises(TimeRangeError, match="seconds must be finite, got nan"):
        SecondsCodec().format(float("nan"))
    with pytest.raises(ArgumentError, match="decimals: expected an integer of at least 0"):
        SecondsCodec(-1)
    for template in ("<t>", "{}", "<t{}", "<{}{}>"):
        with pytest.raises(ArgumentError, match="template, first: expected text on both sides"):
            IndexCodec(template=template)


CODECS = [
    IndexCodec(TimeGrid(300)),
    IndexCodec(TimeGrid(100), "<{}>", first=1),
    IndexCodec(TimeGrid(100, marks="starts"), "[{}]", span="{}{}"),
    SecondsCodec(),
    SecondsCodec(0, unit=" seconds", span="from {} to {}"),
    SecondsCodec(2, unit="s", span="{} - {}"),
    ClockCodec(),
    ClockCodec(3, hours=True, span="{}-{}"),
]


@pytest.mark.parametrize("codec", CODECS)
@given(st.floats(0, 1), st.floats(0, 1), st.floats(1.0, 9e4))
def test_every_codec_reads_what_it_writes(codec, a, b, duration):
    span = Span(*sorted((a * duration, b * duration)))
    resolution = codec.grid.max_error(duration) if hasattr(codec, "grid") else 0.5 * 10**-codec.decimals
    found = codec.parse(f"It runs {format_span(codec, span, duration)}, twice.", duration)
    assert found == pytest.approx([span.start, span.end], abs=resolution * (1 + 1e-9) + 1e-9)
    again = format_span(codec, Span(*found), duration)
    assert codec.parse(again, duration) == found  # at its resolution writing and reading is the identity


@pytest.mark.parametrize("codec", CODECS)
@given(st.floats(-10, 1e5))
def test_the_pattern_matches_what_is_written_and_is_portable(codec, seconds):
    assert re.fullmatch(codec.pattern, codec.format(seconds, 9e4))
    assert not re.search(r"\(\?[^:]|(?<!\\)\((?!\?)", codec.pattern)


def test_a_clock_carries():
    assert ClockCodec().format(59.7) == "01:00"
    assert ClockCodec(hours=True).format(3599.6) == "01:00:00"
    assert ClockCodec().format(7200) == "120:00"
    assert ClockCodec(2).format(-3) == "00:00.00"


@pytest.mark.parametrize(
    ("text", "moments"),
    [
        ("01:15-01:30", [75.0, 90.0]),
        ("at 1:02:03.5, then 4:05.", [3723.5, 245.0]),
        ("1:75 12:3 v1:20 1:2:3:04 10:15:20:25 12:34x", []),
    ],
)
def test_clock_parse(text, moments):
    assert ClockCodec().parse(text) == moments


@pytest.mark.parametrize("unit", ["", "s", "sec", " seconds", "秒"])
def test_seconds_are_read_with_their_unit_and_beside_letters_of_any_script(unit):
    codec = SecondsCodec(unit=unit)
    assert codec.parse(f"from {codec.format(12.3)} to {codec.format(45)}.") == [12.3, 45.0]
    assert codec.parse("从12.3到45.0秒") == [12.3, 45.0]
    assert ClockCodec().parse("从01:15到01:20") == [75.0, 80.0]


def test_indices_count_from_where_they_are_told_to():
    codec = IndexCodec(TimeGrid(3), "<{}>", first=1)
    assert codec.tokens == ("<1>", "<2>", "<3>")
    assert codec.parse("<1><3>", 10.0) == [0.0, 10.0]


@pytest.mark.parametrize("span", ["{}", "{} {} {}", "{0} {1}", "{} {}}"])
def test_a_span_layout_holds_two_moments(span):
    for make in (IndexCodec, SecondsCodec, ClockCodec):
        with pytest.raises(ArgumentError, match="span must hold"):
            make(span=span)


def test_more_errors():
    with pytest.raises(ArgumentError, match=r"template, first: .* not negative, got .*, -1"):
        IndexCodec(first=-1)
    with pytest.raises(ArgumentError, match="decimals: expected an integer of at least 0"):
        ClockCodec(-1)
    with pytest.raises(TimeRangeError, match="seconds must be finite"):
        ClockCodec().format(float("inf"))
