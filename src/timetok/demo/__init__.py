"""The local web page of ``timetok demo``; what it looks like and does in a browser stands in the files beside this."""

import os
from collections.abc import Callable
from dataclasses import asdict
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from timetok.errors import ArgumentError, TimetokError, raised_as


def told(localizer: Any, video: str | None, question: str) -> dict[str, Any]:
    """What the page draws: ``answer`` as ``localize --json`` prints it, its ``tokens``, `believed` as ``curves``."""
    if not video:
        raise ArgumentError("video: expected a file, none is chosen; upload one or use the sample")
    localizer.check_question(question)
    frames, written = localizer.read(video), list[Any]()
    shown, duration = localizer.encode(frames), frames.duration_seconds
    streamer = SimpleNamespace(put=written.append, end=lambda: None)
    answer = localizer.ask([shown], [question], [duration], streamer=streamer)[0]
    entry = {"video": Path(video).name, "question": question, **asdict(answer)}
    prompt, ids = written[0], [int(each) for each in written[1:]]
    tokens = [localizer.tt.tokenizer.decode([each]) for each in ids]
    return {"answer": entry, "tokens": tokens, "curves": believed(localizer, shown, prompt, ids, duration)}


def believed(localizer: Any, video: Any, prompt: Any, ids: list[int], duration: float) -> list[dict[str, Any]]:
    """The posterior ``[T]`` of ``start`` and ``end``, and its ``best``, where ``ids`` behind a prompt wrote a span."""
    from timetok.decoding import span_distribution

    tt, curves = localizer.tt, []
    marks = [k for k, token in enumerate(ids) if token in tt.time_token_ids]
    for first, second in zip(marks[::2], marks[1::2], strict=False):
        if tt.spans([ids[first], ids[second]], duration):
            before = prompt.new_tensor([prompt[0].tolist() + ids[:first]]).to(localizer.model.device)
            inputs, between = {"input_ids": before, "video_features": [video]}, ids[first + 1 : second]
            found = span_distribution(localizer.model, inputs, tt, durations=[duration], between_ids=between)[0]
            best, seconds = found.best(), tt.grid.sample_times(duration).tolist()
            sums = {"start": found.joint.sum(1).tolist(), "end": found.joint.sum(0).tolist()}
            curves.append({"seconds": seconds, **sums, "best": [*best.span, best.confidence]})
    return curves


def serve(load: Callable[[], Any], *, port: int | None = None, browser: bool = True) -> None:
    """Show the page to this machine alone until Ctrl+C; ``load`` gives who answers. ArgumentError without gradio."""
    with raised_as(ArgumentError, "the page needs gradio, pip install 'timetok[demo]'", ModuleNotFoundError):
        import gradio as gr
    from timetok.lita.answer import load_sample

    others = os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")  # gradio asks itself whether it is up
    os.environ["no_proxy"] = f"127.0.0.1,{others}"
    localizer, (clip, example, _), here = load(), load_sample(), Path(__file__).parent
    head, drawn, drawing = ((here / f"page.{kind}").read_text(encoding="utf-8") for kind in ("md", "html", "js"))

    def ask(video: str | None, question: str) -> dict[str, Any]:
        try:
            return told(localizer, video, question.strip())
        except (TimetokError, OSError) as error:  # gradio shows HTML; it keeps files in folders of its own
            message = str(error).replace(str(video), Path(video or "").name)
            raise gr.Error(escape(message), print_exception=False) from error

    with gr.Blocks(title="timetok", analytics_enabled=False, delete_cache=(600, 86400)) as page, gr.Row(elem_id="page"):
        with gr.Column():
            gr.Markdown(head)
            video, sample = gr.File(str(clip), label="Video"), gr.Button("Use the sample", size="sm")
            question, go = gr.Textbox(example, label="Question", max_lines=6), gr.Button("Ask", variant="primary")
        result = gr.HTML(html_template=drawn, js_on_load=drawing)
        gr.on([go.click, question.submit], ask, [video, question], result, show_progress_on=question)
        gr.on([page.load, video.change], None, video, result, js="(file) => ({ source: file && file.url })")
        sample.click(lambda: (str(clip), example), None, [video, question])
    theme = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])  # no web fonts
    where: Any = {"server_name": "127.0.0.1", "server_port": port, "share": False, "allowed_paths": [str(clip.parent)]}
    looks: Any = {"css_paths": here / "page.css", "theme": theme, "ssr_mode": False, "footer_links": [], "quiet": True}
    with raised_as(ArgumentError, f"--port: {port} cannot be had, choose another", OSError, OverflowError):
        page.queue(default_concurrency_limit=1).launch(inbrowser=browser, prevent_thread_lock=True, **where, **looks)
    print(f"page:     {page.local_url}   (Ctrl+C ends it)", flush=True)
    page.block_thread()
