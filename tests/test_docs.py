"""The Python blocks of README and docs run as printed, with a small tokenizer and model under the names they use."""

import pytest

import tiny_lm
from docs_blocks import DOCS, blocks
from tiny_lita import write_clip
from tiny_training import CHECKPOINTING
from tiny_video_lms import save

PAGES = [page for page in [DOCS.parent / "README.md", *sorted(DOCS.glob("*.md"))] if blocks(page)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_runs_as_printed(page, tmp_path):
    tokenizer = tiny_lm.tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    names = {"hf_tokenizer": tokenizer, "lm": tiny_lm.language_model(), "folder": str(tmp_path)}
    if page.stem == "ask":
        names |= {"clip": write_clip(tmp_path / "clip.mp4"), "model_folder": save(tmp_path / "model", "qwen3_vl")}
    for block in blocks(page):
        exec(compile(block.replace("activation_checkpointing", CHECKPOINTING), page.name, "exec"), names)


def test_the_codec_on_the_page_is_as_small_as_it_says():
    block = next(block for block in blocks(DOCS / "time.md") if "class Digits" in block)
    assert len([line for line in block.splitlines() if line.strip()]) <= 20
