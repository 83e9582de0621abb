"""The command line: ``timetok localize | train | evaluate | plan | data | convert | info``.

What a user got wrong is one line on stderr and exit status 2, never a traceback; a fault of ours keeps its own.
Rooms are imported by the command that needs them, so that ``--help`` answers at once.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NoReturn

from timetok import __version__
from timetok.errors import ArgumentError, DataError, TimetokError, raised_as
from timetok.metrics import PROTOCOLS
from timetok.timegrid import Span


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, that of the process if None: exit status 0, or 2 for a mistake, or 130 if interrupted."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is downloaded; see `load_localizer`
    try:
        options = _parser().parse_args(arguments)
        commands: Any = {"localize": _localize, "train": _train, "evaluate": _evaluate, "plan": _plan}
        commands |= {"data": _check_data, "convert": _convert, "info": _info}
        commands[options.command](options)
    except (TimetokError, OSError) as error:  # OSError: no permission, a full disk
        print(f"timetok: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("timetok: interrupted; a training run continues where it was when it is run again", file=sys.stderr)
        return 130
    return 0


class _Parser(argparse.ArgumentParser):
    """Reports a wrong command line like any other mistake: in one line."""

    def error(self, message: str) -> NoReturn:
        raise ArgumentError(f"{message}; see {self.prog} --help")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def _picture(text: str) -> Path:
    from timetok.plots import check_path

    try:
        return check_path(text)
    except ArgumentError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="timetok", description="When does it happen? Spans in seconds from videos.")
    parser.add_argument("--version", action="version", version=f"timetok {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    localize = commands.add_parser("localize", help="ask when something happens in a video")
    about = localize.add_mutually_exclusive_group(required=True)
    about.add_argument("video", nargs="?", metavar="VIDEO", help="a video file")
    about.add_argument("--sample", action="store_true", help="use the bundled clip and its question")
    about.add_argument("--input", metavar="FILE", help='JSON lines of {"video", "question"}; - is stdin')
    localize.add_argument("questions", nargs="*", metavar="QUESTION", help='such as "When is the red circle visible?"')
    localize.add_argument("--model", metavar="NAME|DIR", help="a downloaded video LM (default: one of shapes)")
    localize.add_argument("--json", action="store_true", help="print JSON lines")
    localize.add_argument("--stream", action="store_true", help="print the answer's words as they come")
    localize.add_argument("--plot", type=_picture, metavar="FILE", help="draw the answer under frames (png, svg, pdf)")
    train = commands.add_parser("train", help="train from a preset; run again to resume")
    train.add_argument("preset", metavar="PRESET|FILE.toml")
    train.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes")
    train.add_argument("--out", metavar="DIR", help="where everything goes (default: runs/PRESET)")
    train.add_argument("--dry-run", action="store_true", help="tell data, tokens, memory and time; train nothing")
    evaluate = commands.add_parser("evaluate", help="score a model on annotated questions")
    evaluate.add_argument("model", metavar="MODEL", help="a downloaded video LM or a folder; 'tiny' is the bundled one")
    evaluate.add_argument("data", metavar="DATA", help="an evaluation file in LITA's layout, or a folder of them")
    evaluate.add_argument("--protocol", choices=PROTOCOLS, default="lita-rtl", help="default: %(default)s")
    evaluate.add_argument("--json", metavar="FILE", help="write the report with every sample")
    for command, size in ((localize, 8), (evaluate, 32)):
        command.add_argument("--batch-size", type=_positive, default=size, metavar="N", help="questions put at once")
        command.add_argument("--device", metavar="NAME", help="such as cuda:1 (default: a GPU, for LITAs the CPU)")
        command.add_argument("--frames", type=_positive, metavar="N", help="how many to show (64; LITAs have theirs)")
    plan = commands.add_parser("plan", help="which number of time tokens a data set needs")
    plan.add_argument("annotations", metavar="ANNOTATIONS", help="spans in a layout that timetok data check reads")
    plan.add_argument("--bad", choices=["raise", "drop", "clip"], default="raise", help="what becomes of wrong spans")
    plan.add_argument("--target-recall", default="0.99@0.7", metavar="RECALL@IOU", help="default: %(default)s")
    plan.add_argument("--plot", type=_picture, metavar="FILE", help="draw the table (png, svg, pdf)")
    data = commands.add_parser("data", help="look at annotation files").add_subparsers(required=True, metavar="COMMAND")
    check = data.add_parser("check", help="count what a file holds, and what is wrong with it")
    check.add_argument("annotations", metavar="PATH", help="a file in the layout of ActivityNet Captions, RTL, …")
    check.add_argument("--media", metavar="DIR", help="where its videos, images or folders of pictures should be")
    check.add_argument("--json", action="store_true", help="print JSON")
    for command in (plan, check):
        command.add_argument("--layout", metavar="NAME", help="default: told from the first entry")
        command.add_argument("--durations", metavar="FILE.csv", help="seconds by vid, columns id and length: Charades")
    convert = commands.add_parser("convert", help="turn a published checkpoint into a folder for --model")
    convert.add_argument("layout", choices=["lita"], help="lita: LITA's, LLaVA-1.5's and VILA's")
    convert.add_argument("source", metavar="SRC", help="the checkpoint")
    convert.add_argument("--vision", required=True, metavar="DIR|NAME", help="a CLIP folder, or a timm model at hand")
    convert.add_argument("--out", required=True, metavar="DIR", help="a new folder")
    convert.add_argument("--base", metavar="DIR", help="the language model of a checkpoint that has none")
    commands.add_parser("info", help="versions and what is at hand")
    return parser


def _localize(options: argparse.Namespace) -> None:
    asked, truth = _asked(options)
    if (options.plot or options.stream) and [len(questions) for _, questions in asked] != [1]:
        raise ArgumentError("--plot, --stream: show the answer to one question, got several")
    from timetok.hub import localize_all, read_ahead

    localizer, num_failed, as_json = _localizer(options.model, options), 0, options.json or options.input
    for question in chain.from_iterable(questions for _, questions in asked):
        localizer.check_question(question)
    for (video, questions), coming in zip(asked, read_ahead(localizer, [video for video, _ in asked]), strict=True):
        try:
            frames = coming.result()
            if options.stream:
                from transformers import TextStreamer

                print(f"question: {questions[0]}\nanswer:   ", end="")
                given = [localizer.encode(frames)], questions, [frames.duration_seconds]
                streamer = TextStreamer(localizer.tt, skip_prompt=True, duration=frames.duration_seconds)
                answers = localizer.ask(*given, streamer=streamer)
            else:
                answers = localize_all(frames, questions, localizer, batch_size=options.batch_size)
        except TimetokError as error:
            if not options.input:
                raise
            answers, num_failed = [error] * len(questions), num_failed + len(questions)
        for question, answer in zip(questions, answers, strict=True):
            if as_json:
                told = {"error": str(answer)} if isinstance(answer, TimetokError) else asdict(answer)
                print(json.dumps({"video": str(video), "question": question, **told}), flush=True)
                continue
            if not options.stream:
                print(f"question: {question}\nanswer:   {answer.text}")
            _print_spans(answer)
    if num_failed:
        raise DataError(f"--input: {num_failed} questions have no answer; their lines say why")
    if options.plot:
        from timetok.plots import save, timeline

        truths = [truth] if truth else None
        save(timeline(frames, answer.spans, question=question, answer=answer.text, truth=truths), options.plot)
        if not as_json:
            print(f"timeline: {options.plot}")
    if truth and not options.json:
        print(f"truth:    {truth.start:.2f} s to {truth.end:.2f} s")
        print('next:     timetok localize YOUR.mp4 "When is the red circle visible? Give only the times."')
        print("          (it knows shapes only; examples/shapes.toml trained it)")


def _asked(options: argparse.Namespace) -> tuple[list[tuple[Any, list[str]]], Span | None]:
    """Videos with the questions about each, and the true answer if it is known."""
    if options.sample:
        from timetok.lita.answer import load_sample

        video, question, truth = load_sample()
        return [(video, [question])], truth
    if options.video and not options.questions:
        raise ArgumentError('QUESTION: expected what to ask about the video, such as "When is the red circle visible?"')
    if options.video:
        return [(options.video, options.questions)], None
    with raised_as(DataError, '--input: expected JSON lines of {"video", "question"}', ValueError, TypeError, KeyError):
        text = sys.stdin.read() if options.input == "-" else Path(options.input).read_text(encoding="utf-8")
        entries = map(json.loads, filter(str.strip, text.split("\n")))
        pairs = [(entry["video"], str.strip(entry["question"])) for entry in entries]
    return [(video, [text for _, text in group]) for video, group in groupby(pairs, itemgetter(0))], None


def _print_spans(answer: Any) -> None:
    for span, confidence in zip(answer.spans, answer.confidences or [None] * len(answer.spans), strict=True):
        likely = "" if confidence is None else f"   (probability of these two marks: {confidence:.2f})"
        print(f"span:     {span.start:.2f} s to {span.end:.2f} s of {answer.duration_seconds:.2f} s{likely}")
    if not answer.spans:
        print("span:     none; the answer holds no well-formed span")


def _train(options: argparse.Namespace) -> None:
    if find_spec("accelerate") is None:
        raise TimetokError("training needs accelerate, which is not installed: pip install 'timetok[train]'")
    from timetok.recipes.preset import load_preset
    from timetok.recipes.train import dry_run, train

    preset = load_preset(options.preset, options.changes)
    out = Path(options.out or Path("runs") / Path(options.preset).stem)
    print(dry_run(preset) if options.dry_run else f"model:    {train(preset, out)}")


def _evaluate(options: argparse.Namespace) -> None:
    if options.json and (Path(options.json).is_dir() or not Path(options.json).parent.is_dir()):
        raise ArgumentError(f"--json: expected a file in an existing folder, got {options.json!r}")
    from timetok.atomic import write_json
    from timetok.recipes.evaluate import evaluate_model, read_questions

    questions = read_questions(options.data)
    localizer = _localizer(None if options.model == "tiny" else options.model, options)
    report = evaluate_model(localizer, questions, protocol=options.protocol, batch_size=options.batch_size)
    print(report)
    if options.json:
        write_json(Path(options.json), asdict(report))


def _plan(options: argparse.Namespace) -> None:
    from timetok.recipes.plan import plan, read_target, spans_of
    from timetok.recipes.records import read_records

    wanted, level = read_target(options.target_recall)
    told = read_records(options.annotations, layout=options.layout, durations=options.durations, bad=options.bad)
    found = plan(*spans_of(told), wanted=wanted, level=level)
    print(found)
    if options.plot:
        from timetok.plots import curves, save

        columns = list(found.ceilings.values())
        recalls = {f"R@{key:g}": [column.recall[key] for column in columns] for key in columns[0].recall}
        shares = {"mIoU": [column.miou for column in columns], **recalls, "wanted": [wanted] * len(columns)}
        labels = {"xlabel": "time tokens T", "ylabel": "best share that can be reached"}
        save(curves(list(found.ceilings), shares, **labels, log=True), options.plot)


def _check_data(options: argparse.Namespace) -> None:
    from timetok.recipes.records import read_records

    where: Any = {"media": options.media, "durations": options.durations}
    found = read_records(options.annotations, layout=options.layout, bad="clip", **where)
    print(json.dumps(found.census) if options.json else found)


def _convert(options: argparse.Namespace) -> None:
    from timetok.lita.convert import convert

    convert(options.source, vision=options.vision, out=options.out, base=options.base)
    print(f"model:    {options.out}")


def _info(_: argparse.Namespace) -> None:
    rows: dict[str, Any] = {"timetok": __version__, "python": platform.python_version()}
    for package in ("torch", "transformers", "timm", "triton", "av", "numpy", "accelerate", "peft"):
        try:
            rows[package] = version(package)
        except PackageNotFoundError:
            rows[package] = "not installed"
    import torch

    from timetok.pooling import BACKENDS, PRESETS, choose

    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows["device"] = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    rows["pooling"] = f"{choose(PRESETS['lita'], device)}, for LITA's layout"
    rows |= {f"- {name}": each.why_not(PRESETS["lita"], device) or "can" for name, each in BACKENDS.items()}
    print("\n".join(f"{name:13s} {value}" for name, value in rows.items()))


def _localizer(model: str | None, options: argparse.Namespace) -> Any:
    """What answers; the progress of loading it is only noise."""
    from transformers.utils import logging

    from timetok.hub import load_localizer

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return load_localizer(model, device=options.device, num_frames=options.frames)


if __name__ == "__main__":
    sys.exit(main())
