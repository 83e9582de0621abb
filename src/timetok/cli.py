"""The command line: ``timetok localize | train | evaluate | score | plot | plan | data | convert | demo | info``.

What a user got wrong is one line on stderr and exit status 2, never a traceback; a fault of ours keeps its own.
Rooms are imported by the command that needs them, so that ``--help`` answers at once.
"""

import argparse
import json
import os
import platform
import shlex
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import distributions
from itertools import chain, groupby
from pathlib import Path
from typing import Any, NoReturn

from timetok import __version__
from timetok.atomic import plain
from timetok.demo import serve
from timetok.errors import ArgumentError, DataError, TimetokError, raised_as
from timetok.metrics import PROTOCOLS, compare, parse_moments
from timetok.timegrid import Span


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, that of the process if None: 0, 2 for a mistake, 130 if interrupted, 141 at a closed pipe."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is downloaded; see `load_localizer`
    try:
        options = _parser().parse_args(arguments)
        if plot := vars(options).get("plot"):  # refused now, not after the work
            from timetok.plots import check_path

            with raised_as(ArgumentError, "FILE" if options.command == "plot" else "--plot", ArgumentError):
                check_path(plot)
        commands: Any = {"localize": _localize, "train": _train, "evaluate": _evaluate, "score": _score}
        commands |= {"plot": _plot, "plan": _plan, "data": _check_data, "convert": _convert, "info": _info}
        commands["demo"] = lambda opt: serve(lambda: _localizer(opt.model, opt), port=opt.port, browser=opt.browser)
        commands[options.command](options)
        sys.stdout.flush()
    except BrokenPipeError:  # who reads it, such as head, has enough
        os._exit(141)  # as if by that signal; what is left is not tried again
    except (TimetokError, OSError) as error:  # OSError: no permission, a full disk
        print(f"timetok: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("timetok: interrupted; a training run continues where it was when it is run again", file=sys.stderr)
        return 130
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ArgumentError(f"{message}; see {self.prog} --help")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


_WHERE = ("wording", "media", "layout", "durations")
_HOW = ("protocol", "decoding", "time", "max_new_tokens", "frames", "device", "seed")
_KINDS: Any = {"positive": {"type": _positive}, "protocol": {"choices": PROTOCOLS}}


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="timetok", description="When does it happen? Spans in seconds from videos.")
    parser.add_argument("--version", action="version", version=f"timetok {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for name, told in tomllib.loads(Path(__file__).with_name("commands.toml").read_text(encoding="utf-8")).items():
        command = commands.add_parser(name, help=told["help"], epilog=f"example: {told['example']}")
        one = any("one" in each for each in told["arguments"]) and command.add_mutually_exclusive_group(required=True)
        for each in told["arguments"]:
            place: Any = one if each.pop("one", False) else command
            place.add_argument(each.pop("name"), **_KINDS.get(each.pop("kind", ""), {}), **each)
    return parser


def _localize(options: argparse.Namespace) -> None:
    asked, truths = _asked(options)
    is_long, as_json = options.long or options.search, options.json or options.input
    several = [len(questions) for _, questions in asked] != [1]
    if (options.stream and (is_long or as_json or several)) or (options.plot and several):
        raise ArgumentError("--plot, --stream: ask one question; --stream not with --long, --search, --json, --input")
    from timetok.hub import localize_all, localize_long, read_ahead

    localizer, num_failed = _localizer(options.model, options), 0
    for question in chain.from_iterable(questions for _, questions in asked):
        localizer.check_question(question)
    if options.search:
        from timetok.recipes.search import TwoTowers, fits, index

        clip = TwoTowers(options.search, device=str(localizer.model.device))
    for (video, questions), coming in zip(asked, read_ahead(localizer, [video for video, _ in asked]), strict=True):
        try:
            frames = coming.result()
            if options.stream:
                from transformers import TextStreamer

                print(f"question: {questions[0]}\nanswer:   ", end="")
                given = [localizer.encode(frames)], questions, [frames.duration_seconds]
                streamer = TextStreamer(localizer.tt, skip_prompt=True, duration=frames.duration_seconds)
                answers = localizer.ask(*given, streamer=streamer)
            elif is_long:
                seen = index(video, clip, options.index) if options.search else None
                answers = [localize_long(video, q, localizer, scores=seen and fits(*seen, clip, q)) for q in questions]
            else:
                answers = localize_all(frames, questions, localizer, batch_size=options.batch_size)
        except (TimetokError, OSError) as error:
            if not options.input:
                raise
            answers, num_failed = [error] * len(questions), num_failed + len(questions)
        for question, answer in zip(questions, answers, strict=True):
            if as_json:
                told = {"error": str(answer)} if isinstance(answer, Exception) else asdict(answer)
                print(json.dumps({"video": str(video), "question": question, **told}), flush=True)
                continue
            if not options.stream:
                print(f"question: {question}\nanswer:   {answer.text}")
            _print_spans(answer)
    if num_failed:
        raise DataError(f"--input: {num_failed} questions have no answer; their lines say why")
    if options.plot:
        from timetok.plots import save, timeline

        save(timeline(frames, answer.spans, question=question, answer=answer.text, truth=truths), options.plot)
        if not as_json:
            print(f"timeline: {options.plot}")
    if truths and not options.json:
        print(f"truth:    {truths[0].start:.2f} s to {truths[0].end:.2f} s")
        print('next:     timetok localize YOUR.mp4 "When is the red circle visible? Give only the times."')
        print("          (it knows shapes only; examples/shapes.toml trained it)")


def _asked(options: argparse.Namespace) -> tuple[list[tuple[Any, list[str]]], list[Span] | None]:
    if options.sample:
        from timetok.lita.answer import load_sample

        video, question, truth = load_sample()
        return [(video, [question])], [truth]
    if options.video and not options.questions:
        raise ArgumentError('QUESTION: expected what to ask about the video, such as "When is the red circle visible?"')
    if options.video:
        return [(options.video, options.questions)], None
    with raised_as(DataError, '--input: expected JSON lines of {"video", "question"}', ValueError, TypeError, KeyError):
        text = sys.stdin.read() if options.input == "-" else Path(options.input).read_text(encoding="utf-8-sig")
        entries = map(json.loads, filter(str.strip, text.split("\n")))
        pairs = [(entry["video"], str.strip(entry["question"])) for entry in entries]
    return [(video, [text for _, text in group]) for video, group in groupby(pairs, lambda pair: pair[0])], None


def _print_spans(answer: Any) -> None:
    for span, confidence in zip(answer.spans, answer.confidences or [None] * len(answer.spans), strict=True):
        kind = "confidence" if hasattr(answer, "tried") else "probability of these two marks"
        likely = "" if confidence is None else f"   ({kind}: {confidence:.2f})"
        print(f"span:     {span.start:.2f} s to {span.end:.2f} s of {answer.duration_seconds:.2f} s{likely}")
    if not answer.spans:
        print("span:     none; the answer holds no well-formed span")


def _train(options: argparse.Namespace) -> None:
    with raised_as(TimetokError, "training needs accelerate: pip install 'timetok[train]'", ModuleNotFoundError):
        from timetok.recipes.train import dry_run, load_preset, train

    preset = load_preset(options.preset, options.changes)
    out = Path(options.out or Path("runs") / Path(options.preset).stem)
    name, told = ("plan", dry_run(preset)) if options.dry_run else ("model", str(train(preset, out)))
    print(json.dumps({name: told}) if options.json else told if options.dry_run else f"model:    {told}")


def _evaluate(options: argparse.Namespace) -> None:
    from timetok.lita.answer import find_folder
    from timetok.recipes.evaluate import describe, evaluate_model, read_questions, run

    given = {name: vars(options)[name] for name in (*_HOW, *_WHERE) if vars(options)[name] is not None}
    where = {name: given[name] for name in _WHERE if name in given}
    questions = read_questions(options.data, options.protocol, **where)
    localizer = _localizer(model := None if options.model == "tiny" else options.model, options)
    how: Any = {name: getattr(options, name) for name in ("protocol", "batch_size", "max_new_tokens")}
    how |= {"constrained": options.decoding == "constrained"} if options.decoding else {}
    if options.time == "continuous":
        if options.decoding or not localizer.tt.time_token_ids:
            raise ArgumentError("--time continuous: for models with time tokens, and without --decoding")
        how |= {"ask": localizer.weigh}
        del how["max_new_tokens"]
    if options.out:
        line = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
        given["command"] = shlex.join(["timetok", "evaluate", options.model, options.data, *line])
        settings = describe(find_folder(model), Path(options.data), questions, **given)
        part = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))  # as torchrun tells them
        report = run(localizer, questions, Path(options.out), settings=settings, part=part, **how)
    else:
        report = evaluate_model(localizer, questions, **how)
    print(_told(report, options) if report else f"{options.out}: waits for the answers of other processes")


def _score(options: argparse.Namespace) -> None:
    from timetok.recipes.evaluate import read_questions, score_file, write_report

    questions = read_questions(options.data, options.protocol, layout=options.layout, durations=options.durations)
    files = filter(None, (options.predictions, options.against))
    report, *others = (score_file(file, questions, protocol=options.protocol) for file in files)
    print(*(_told(each, options) for each in (report, *others)), sep="\n")
    for other in others:
        apart = compare(report, other, seed=options.seed)
        told = {name: each._asdict() for name, each in apart.items()}
        print(json.dumps(plain(told)) if options.json else "\n".join(f"{k:<10}  {each}" for k, each in apart.items()))
    if options.out:
        write_report(report, [question.reference for question in questions], Path(options.out), seed=options.seed)


def _told(report: Any, options: argparse.Namespace) -> str:
    listed = [f"{kind}: {len(ids)}  {' '.join(map(str, ids[:9]))}" for kind, ids in report.problems.items() if ids]
    return json.dumps(plain(asdict(report))) if options.json else "\n".join([str(report), *listed])


def _plot(options: argparse.Namespace) -> None:
    from timetok.plots import save, timeline
    from timetok.video import read_frames

    sides = (parse_moments(text or "") for text in (options.spans, options.truth))
    spans, truth = ([Span(*sorted(pair)) for pair in zip(each[::2], each[1::2], strict=False)] for each in sides)
    frames = read_frames(options.video, size=256)
    save(timeline(frames, spans, question=options.title, truth=options.truth and truth), options.plot)
    print(json.dumps({"timeline": options.plot}) if options.json else f"timeline: {options.plot}")


def _plan(options: argparse.Namespace) -> None:
    from timetok.recipes.records import plan, read_records

    told = read_records(options.annotations, layout=options.layout, durations=options.durations, bad=options.bad)
    found = plan(told, target=options.target_recall)
    table = {size: ceiling._asdict() for size, ceiling in found.ceilings.items()}
    print(json.dumps({"enough": found.enough, "ceilings": table}) if options.json else found)
    if options.plot:
        from timetok.plots import quantisation, save

        save(quantisation(found), options.plot)


def _check_data(opt: argparse.Namespace) -> None:
    from timetok.recipes.records import read_records

    found = read_records(opt.annotations, layout=opt.layout, bad="clip", media=opt.media, durations=opt.durations)
    print(json.dumps(found.census) if opt.json else found)


def _convert(options: argparse.Namespace) -> None:
    from timetok.lita.convert import convert

    convert(options.source, vision=options.vision, out=options.out, base=options.base)
    print(json.dumps({"model": options.out}) if options.json else f"model:    {options.out}")


def _info(options: argparse.Namespace) -> None:
    rows: dict[str, Any] = {"timetok": __version__, "python": platform.python_version()}
    there = {each.name: each.version for each in distributions()}
    names = ("torch", "transformers", "timm", "triton", "av", "numpy", "accelerate", "peft")
    rows |= {name: there.get(name, "not installed") for name in names}
    import torch

    from timetok.pooling import BACKENDS, PRESETS, choose

    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows["device"] = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    rows["pooling"] = f"{choose(PRESETS['lita'], device)}, for LITA's layout"
    rows |= {f"- {name}": each.why_not(PRESETS["lita"], device) or "can" for name, each in BACKENDS.items()}
    print(json.dumps(rows) if options.json else "\n".join(f"{name:13s} {value}" for name, value in rows.items()))


def _localizer(model: str | None, options: argparse.Namespace) -> Any:
    from transformers.utils import logging

    from timetok.hub import load_localizer

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    device = options.device and options.device.replace("{rank}", os.environ.get("LOCAL_RANK", "0"))
    return load_localizer(model, device=device, num_frames=options.frames)


if __name__ == "__main__":
    sys.exit(main())
