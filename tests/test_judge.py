"""Judged explanations: hand-worked scores, every kind of failure, and a fake service that answers from the requests."""

import json
import math
from dataclasses import asdict
from fractions import Fraction

import pytest
from hypothesis import given, strategies as st

from judge import JudgeReport, pairs_of, read_replies, write_requests
from timetok.errors import ArgumentError, DataError
from timetok.lita.answer import Answer

PAIRS = [
    ("q1", "When is it shut?", "At the end, by hand.", "When she leaves."),
    ("q/2", "When do they laugh?", "After the\nfall.", "Never – “no one” laughs {at all}."),
]
KINDS = {"missing", "duplicate", "failed", "unparsable", "out of range"}


def answered(custom_id, content):
    body = {"choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}]}
    return {"id": "b", "custom_id": custom_id, "response": {"status_code": 200, "body": body}, "error": None}


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_lines(path, lines):
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def asked(tmp_path):
    write_requests(tmp_path / "asked.jsonl", PAIRS, model="judge")
    return tmp_path / "asked.jsonl"


def judge(asked, *lines):
    return read_replies(asked, write_lines(asked.with_name("replied.jsonl"), lines))


def test_a_request_is_a_line_of_the_batch_format(asked):
    first, second = read_lines(asked)
    assert set(first) == {"custom_id", "method", "url", "body"}
    assert (first["method"], first["url"]) == ("POST", "/v1/chat/completions")
    assert first["body"].keys() == {"model", "messages", "temperature", "max_tokens"}
    assert (first["body"]["model"], first["body"]["temperature"]) == ("judge", 0)
    (message,) = second["body"]["messages"]
    assert message["role"] == "user"
    places = [message["content"].index(text) for text in PAIRS[1][1:]]  # as they are, whatever they hold
    assert places == sorted(places)


def test_a_prompt_of_ones_own_stands_before_the_question(tmp_path):
    write_requests(tmp_path / "asked.jsonl", PAIRS, model="judge", prompt="Rate {both}.")
    for line in read_lines(tmp_path / "asked.jsonl"):
        assert line["body"]["messages"][0]["content"].startswith("Rate {both}.\n")


def test_both_orders_exchange_the_answers_and_nothing_else(tmp_path):
    write_requests(tmp_path / "asked.jsonl", PAIRS, model="judge", both_orders=True)
    lines = read_lines(tmp_path / "asked.jsonl")
    assert len({line["custom_id"] for line in lines}) == len(lines) == 4
    for (_, _, reference, prediction), straight, swapped in zip(PAIRS, lines[::2], lines[1::2], strict=True):
        texts = [line["body"]["messages"][0]["content"] for line in (straight, swapped)]
        exchanged = texts[1].replace(reference, "\0").replace(prediction, reference).replace("\0", prediction)
        assert texts[0] == exchanged != texts[1]


def test_the_score_is_the_ratio_of_the_means(asked):
    one, two = (line["custom_id"] for line in read_lines(asked))
    report = judge(asked, answered(two, "10, 2.5\nThe second …"), answered(one, "\n 8 6 \nBoth are\n1 2"))
    # 100 · (6 + 2.5) / (8 + 10), not the mean of 75 and 25
    assert report == JudgeReport(pytest.approx(850 / 18), 2, {}, {"q1": (6.0, 8.0), "q/2": (2.5, 10.0)})


def test_both_orders_are_averaged_per_question(tmp_path):
    write_requests(tmp_path / "asked.jsonl", PAIRS, model="judge", both_orders=True)
    names = [line["custom_id"] for line in read_lines(tmp_path / "asked.jsonl")]
    said = ["8 6", "4 10", "9 9", "5 1"]  # (reference, prediction), (prediction, reference), and again
    report = judge(tmp_path / "asked.jsonl", *map(answered, names, said))
    assert report.per_question == {"q1": (5.0, 9.0), "q/2": (7.0, 5.0)}
    assert report.score == pytest.approx(100 * 12 / 14)
    half = judge(tmp_path / "asked.jsonl", *map(answered, names[:3], said))
    assert half == JudgeReport(pytest.approx(100 * 5 / 9), 1, {"missing": [names[3]]}, {"q1": (5.0, 9.0)})


FAILED = [
    {"response": None, "error": {"code": "batch_expired", "message": "too late"}},
    {"error": {"code": "batch_expired", "message": "too late"}},
    {"response": {"status_code": 429, "body": {"error": {"message": "slow down"}}}, "error": None},
    {"response": {"status_code": 500, "body": {"choices": [{"message": {"content": "8 6"}}]}}, "error": None},
    {"response": {"status_code": 200, "body": {"choices": []}}, "error": None},
    {"response": {"status_code": 200, "body": {"choices": [{"message": {"content": None}}]}}, "error": None},
    {"response": {"status_code": 200, "body": "8 6"}, "error": None},
]
UNPARSABLE = ["", "8", "8 6 7", "eight six", "8/10 6/10", "-1 5", "Scores:\n8 6", "8\n6", "8 6 because", "nan 3", "86"]
OUT_OF_RANGE = ["0 5", "5 10.5", "11 11", "100 60"]


@pytest.mark.parametrize(
    ("kind", "lines"),
    [
        ("missing", []),
        ("duplicate", [answered("", "8 6")] * 2),
        ("duplicate", [answered("", "8 6"), FAILED[0]]),
        *(("failed", [line]) for line in FAILED),
        *(("unparsable", [answered("", text)]) for text in UNPARSABLE),
        *(("out of range", [answered("", text)]) for text in OUT_OF_RANGE),
    ],
)
def test_a_failure_is_listed_and_never_averaged_in(asked, kind, lines):
    good, bad = (line["custom_id"] for line in read_lines(asked))
    report = judge(asked, *({**line, "custom_id": bad} for line in lines), answered(good, "10 5"))
    assert report == JudgeReport(50.0, 1, {kind: [bad]}, {"q1": (5.0, 10.0)})


def test_without_a_usable_reply_there_is_no_score(asked):
    report = judge(asked)
    assert math.isnan(report.score) and report.num_judged == 0 and report.per_question == {}
    assert report.failures == {"missing": [line["custom_id"] for line in read_lines(asked)]}


@pytest.mark.parametrize("ids", [("q", "q"), (1, "1")], ids=["the same", "the same as text"])
def test_an_id_that_comes_twice_is_refused_and_nothing_is_written(tmp_path, ids):
    pairs = [(name, "When?", "Then.", "Now.") for name in ids]
    with pytest.raises(ArgumentError, match=r"pairs: expected each question_id once, got '?(q|1)'? again"):
        write_requests(tmp_path / "asked.jsonl", pairs, model="judge")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    ['{"custom_id": "straight/q9", "response": null}', '{"custom_id": 3}', "[]", "7", "null", "{}", "{", "\udcff"],
)
def test_replies_to_something_else_are_refused_with_the_file_named(asked, text):
    path = asked.with_name("replied.jsonl")
    path.write_text(f"\n{text}\n", encoding="utf-8", errors="surrogateescape")
    with pytest.raises(DataError, match=r"replied\.jsonl: expected JSON lines, each with a custom_id that was asked: "):
        read_replies(asked, path)


def test_a_file_that_is_not_there_or_of_other_requests_is_refused(asked):
    with pytest.raises(DataError, match=r"gone\.jsonl: expected JSON lines"):
        read_replies(asked, asked.with_name("gone.jsonl"))
    other = write_lines(asked.with_name("other.jsonl"), [{"custom_id": "request-1", "body": {}}])
    with pytest.raises(DataError, match=r"other\.jsonl: expected JSON lines"):
        read_replies(other)


ratings = st.integers(10, 100).map(lambda tenths: Fraction(tenths, 10))
texts = st.text(max_size=8)


@given(
    st.dictionaries(texts, st.tuples(texts, ratings, ratings, ratings, ratings, st.sampled_from(range(6))), max_size=6),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_a_service_that_answers_from_the_requests_gives_back_what_it_thought(tmp_path_factory, thoughts, both, rng):
    folder = tmp_path_factory.mktemp("batch")
    pairs = [(name, question, f"true {k} ", f"said {k} ") for k, (name, (question, *_)) in enumerate(thoughts.items())]
    write_requests(folder / "asked.jsonl", pairs, model="judge", both_orders=both)
    replies, expected, failures = [], {}, {}
    for line in read_lines(folder / "asked.jsonl"):
        text = line["body"]["messages"][0]["content"]
        (k,) = (k for k, pair in enumerate(pairs) if pair[2] in text and pair[3] in text)
        name, (_, *rated, trouble) = list(thoughts.items())[k]
        straight = text.index(pairs[k][2]) < text.index(pairs[k][3])
        reference, prediction = rated[:2] if straight else rated[2:]
        shown = [f"{float(x)}" for x in ((reference, prediction) if straight else (prediction, reference))]
        good = answered(line["custom_id"], f"{shown[0]} {shown[1]}\nas I see it")
        bad = {"failed": [FAILED[0] | {"custom_id": line["custom_id"]}], "duplicate": [good, good], "missing": []}
        bad |= {
            "unparsable": [answered(line["custom_id"], "Both.")],
            "out of range": [answered(line["custom_id"], "0 1")],
        }
        kind = (None, *sorted(KINDS))[trouble] if straight or trouble % 2 else None
        replies += bad[kind] if kind else [good]
        if kind:
            failures.setdefault(kind, set()).add(line["custom_id"])
        expected.setdefault(name, []).append(None if kind else (prediction, reference))
    rng.shuffle(replies)
    cut = rng.randint(0, len(replies))
    files = [write_lines(folder / f"{k}.jsonl", part) for k, part in enumerate((replies[:cut], replies[cut:]))]
    report = read_replies(folder / "asked.jsonl", *files)
    judged = {
        name: tuple(sum(column) / len(rows) for column in zip(*rows, strict=True))
        for name, rows in expected.items()
        if None not in rows
    }
    assert {kind: set(names) for kind, names in report.failures.items()} == failures
    assert report.num_judged == len(judged)
    assert report.per_question == {name: pytest.approx(tuple(map(float, pair))) for name, pair in judged.items()}
    if judged:
        predicted, true = (sum(pair[k] for pair in judged.values()) for k in (0, 1))
        assert report.score == pytest.approx(float(100 * predicted / true))
        assert report == read_replies(folder / "asked.jsonl", *files[::-1])  # whatever came first


def test_questions_of_a_run_are_judged(tmp_path, monkeypatch):
    """The commands of the docstring, on the answers of an evaluation."""
    entry = {"vid": "a", "question": "When?", "answer": "<2.00> <6.50> because it falls", "duration": 10.0}
    (tmp_path / "rtl.json").write_text(json.dumps([{**entry, "question_id": 1}]))
    answer = Answer("<1.00> <6.00> as it slips", (), (), (1.0, 6.0), 10.0)
    (tmp_path / "answers-0-of-1.jsonl").write_text(json.dumps({"question_id": "1", **asdict(answer)}) + "\n")
    asked = tmp_path / "asked.jsonl"
    write_requests(asked, pairs_of(tmp_path / "rtl.json", tmp_path), model="judge")
    said = json.loads(asked.read_text())["body"]["messages"][0]["content"]
    assert said.index("When?") < said.index("because it falls") < said.index("as it slips")
