"""Small annotation files, faithful to the schema of each layout: what is in them, and the files themselves."""

import json
from pathlib import Path
from typing import Any

DURATIONS = {"AO8RW": 33.0, "ZZ9XY": 20.5}

CONTENTS: dict[str, Any] = {
    "captions": {
        "v_QOlSCBRmfWY": {
            "duration": 82.73,
            "timestamps": [[0.83, 19.86], [17.37, 60.81], [56.26, 79.42]],
            "sentences": ["A young woman dances.", " She bows.", " The crowd claps."],
        },
        "v_bikes": {"duration": 61.0, "timestamps": [[0, 61]], "sentences": ["Bikes are parked."]},
    },
    "youcook2": {
        "database": {
            "9GX8f5EwwE4": {
                "duration": 241.64,
                "subset": "validation",
                "recipe_type": "212",
                "video_url": "watch?v=9GX8f5EwwE4",
                "annotations": [
                    {"segment": [25, 37], "id": 0, "sentence": "cut the onion in half"},
                    {"segment": [37, 50], "id": 1, "sentence": "peel the carrots"},
                ],
            },
            "01lB162koHA": {
                "duration": 100.0,
                "subset": "training",
                "recipe_type": "101",
                "video_url": "watch?v=01lB162koHA",
                "annotations": [{"segment": [5, 10], "id": 0, "sentence": "boil water"}],
            },
        }
    },
    "timelens": {
        "v_BrgYIg6UXhU": {
            "duration": 53.2,
            "spans": [[0.0, 4.0], [10.5, 20.0]],
            "queries": ["A man approaches a blue car.", "He opens the bonnet."],
        },
        "3MSZA": {"duration": 30.96, "spans": [[24.3, 30.4]], "queries": ["The person turns a light on."]},
    },
    "charades": "AO8RW 0.0 6.9##a person is putting a book on a shelf.\nAO8RW 20.0 33.0##person closes the door.\n"
    "ZZ9XY 1.5 10##a person sits down.\n",
    "qvhighlights": [
        {
            "qid": 7920,
            "query": "Woman talks to the camera out of a car.",
            "duration": 150,
            "vid": "_6hnl_BrFvs_60.0_210.0",
            "relevant_clip_ids": [67, 68, 70],
            "saliency_scores": [[3, 4, 2], [2, 4, 2], [2, 2, 1]],
            "relevant_windows": [[134, 138], [140, 150]],
        },
        {
            "qid": 3158,
            "query": "Hill and water from a boat",
            "duration": 150,
            "vid": "_6hnl_BrFvs_60.0_210.0",
            "relevant_clip_ids": [35, 36],
            "saliency_scores": [[0, 3, 2], [3, 4, 3]],
            "relevant_windows": [[70, 110]],
        },
    ],
    "rtl": {
        "v_abc": {
            "duration": 60.5,
            "QA": [
                {"q": "When does he warm up?", "a": "<1.50> <12.25> He stretches before he runs."},
                {"q": "Why does he smile?", "a": "He has won."},
            ],
        },
        "v_def": {"duration": 20.0, "QA": [{"q": "When is it over?", "a": "<15.00> <20.00> The lights go out."}]},
    },
    "rtl-eval": [
        {
            "vid": "v_abc",
            "question": "When does he warm up?",
            "answer": "<1.50> <12.25> He stretches.",
            "duration": 60.5,
            "question_id": "v_abc_0",
        },
        {
            "vid": "v_abc",
            "question": "When is it over?",
            "answer": "<50.00> <60.50>",
            "duration": 60.5,
            "question_id": "v_abc_1",
        },
    ],
    "vidqa": [
        {"video": "1164/3238737531", "QA": [{"q": "why did the boy clap", "a": "excited"}, {"q": "who", "a": "a boy"}]},
        {"video": "1106/2401167740", "QA": [{"q": "where is this", "a": "park"}]},
    ],
    "llava": [
        {
            "id": "000000033471",
            "image": "000000033471.jpg",
            "conversations": [
                {"from": "human", "value": "<image>\nWhat are the colours of the bus?"},
                {"from": "gpt", "value": "White and red."},
                {"from": "human", "value": "What is on its back?"},
                {"from": "gpt", "value": "An advertisement."},
            ],
        },
        {
            "id": "000000033471",
            "image": "000000033471.jpg",
            "conversations": [
                {"from": "human", "value": "Describe it.\n<image>"},
                {"from": "gpt", "value": "A bus in a street."},
            ],
        },
    ],
    "spans": [{"duration": 60, "spans": [[1, 4], [10.5, 30]]}, {"duration": 9, "spans": [[2.0, 8.5]]}],
}


def dumped(layout: str, content: Any) -> str:
    """The text of a file: lines where the data set has lines."""
    if isinstance(content, str):
        return content
    if layout == "qvhighlights":
        return "".join(json.dumps(entry) + "\n" for entry in content)
    return json.dumps(content, indent=None if layout == "llava" else 1)


def write(folder: Path, layout: str, content: Any = None) -> Path:
    """A file of a layout, by default with what `CONTENTS` has."""
    path = folder / f"{layout}.{ {'charades': 'txt', 'qvhighlights': 'jsonl'}.get(layout, 'json') }"
    path.write_text(dumped(layout, CONTENTS[layout] if content is None else content), encoding="utf-8")
    return path


def write_durations(folder: Path) -> Path:
    """The columns of Charades_v1_test.csv that are read, and some that are not."""
    rows = "".join(f'{vid},HR43,"a, b",{seconds}\n' for vid, seconds in DURATIONS.items())
    path = folder / "Charades_v1_test.csv"
    path.write_text("id,subject,script,length\n" + rows, encoding="utf-8")
    return path
