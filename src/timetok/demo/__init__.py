"""The local web page of ``timetok demo``: a video, a question, the answer's spans on a timeline under the player.

gradio, an extra, is imported by `serve`; what the page looks like and does stands in the files beside this one.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from timetok.errors import ArgumentError, TimetokError, raised_as


def told(localizer: Any, video: str | None, question: str) -> dict[str, Any]:
    """What the page draws: ``answer`` as ``timetok localize --json`` prints it, its ``tokens``, `believed` as ``curves``."""
    if not video:
        raise ArgumentError("video: expected a file, none is chosen; upload one or take the sample")
    localizer.check_question(question)
    frames, written = localizer.read(video), list[Any]()
    shown, duration = localizer.encode(frames), frames.duration_seconds
    streamer = SimpleNamespace(put=lambda ids: written.append(ids.flatten().tolist()), end=lambda: None)
    answer = localizer.ask([shown], [question], [duration], streamer=streamer)[0]
    prompt, ids = written[0], sum(written[1:], [])
    entry = {"video": Path(video).name, "question": question, **asdict(answer)}
    tokens = [localizer.tt.tokenizer.decode([each]) for each in ids]
    return {"answer": entry, "tokens": tokens, "curves": believed(localizer, shown, prompt, ids, duration)}


def believed(localizer: Any, video: Any, prompt: Sequence[int], ids: Sequence[int], duration: float) -> list[Any]:
    """For each span in the ids of an answer the posterior, ``[T]``, of its ``start`` and ``end`` at ``seconds``.

    It is taken where the answer stood when it wrote the span; a model that writes seconds as text has none.
    """
    import torch

    from timetok.decoding import span_distribution

    tt, curves = localizer.tt, []
    marks = [k for k, token in enumerate(ids) if token in tt.time_token_ids]
    for first, second in zip(marks[::2], marks[1::2], strict=False):
        if tt.spans([ids[first], ids[second]], duration):
            before = torch.tensor([[*prompt, *ids[:first]]], device=localizer.model.device)
            inputs, between = {"input_ids": before, "video_features": [video]}, ids[first + 1 : second]
            found = span_distribution(localizer.model, inputs, tt, durations=[duration], between_ids=between)[0]
            sums = {"start": found.joint.sum(1).tolist(), "end": found.joint.sum(0).tolist()}
            curves.append({"seconds": tt.grid.sample_times(duration).tolist(), **sums})
    return curves


def serve(load: Callable[[], Any], *, port: int | None = None, browser: bool = True) -> None:
    """Show the page to this machine alone, until Ctrl+C; ``load`` gives who answers. ArgumentError without gradio."""
    with raised_as(ArgumentError, "the page needs gradio, pip install 'timetok[demo]'", ModuleNotFoundError):
        import gradio as gr
    from timetok.lita.answer import load_sample

    localizer, (clip, example, _), here = load(), load_sample(), Path(__file__).parent
    page_html, page_js = ((here / name).read_text(encoding="utf-8") for name in ("page.html", "page.js"))

    def ask(video: str | None, question: str) -> dict[str, Any]:
        try:
            return told(localizer, video, question.strip())
        except (TimetokError, OSError) as error:  # the page shows messages as HTML, and files where gradio keeps them
            message = str(error).replace(str(video), Path(video or "").name)
            raise gr.Error(escape(message), title="No answer", print_exception=False) from error

    with gr.Blocks(title="timetok", analytics_enabled=False, delete_cache=(86_400, 86_400)) as page, gr.Row():
        with gr.Column(scale=2, min_width=280):
            gr.HTML((here / "head.html").read_text(encoding="utf-8"))
            video = gr.File(str(clip), label="Video", file_types=["video", ".mkv", ".ts"], height=120)
            question = gr.Textbox(example, label="Question", submit_btn=False, max_lines=6)
            button, sample = gr.Button("Ask", variant="primary"), gr.Button("Take the sample")
        with gr.Column(scale=5, min_width=280):
            result = gr.HTML(html_template=page_html, js_on_load=page_js)
        gr.on([button.click, question.submit], ask, [video, question], result, concurrency_limit=1)
        gr.on([page.load, video.change], None, video, result, js="(file) => ({ source: file && file.url })")
        sample.click(lambda: (str(clip), example), None, [video, question])
    theme = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])  # no web fonts
    looks = {"theme": theme, "css_paths": here / "page.css", "footer_links": [], "ssr_mode": False, "quiet": True}
    where = {"server_name": "127.0.0.1", "server_port": port, "share": False, "allowed_paths": [str(clip.parent)]}
    page.launch(inbrowser=browser, prevent_thread_lock=True, **where, **looks)
    print(f"page:     {page.local_url}   (Ctrl+C ends it)", flush=True)
    page.block_thread()
