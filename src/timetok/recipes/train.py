"""From a preset to a trained model: its recipe builds the model and opens the data, the HF Trainer does the rest."""

import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from importlib import import_module
from importlib.metadata import version
from math import inf, nan
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any, TypeAlias, cast

import timm
import torch
from accelerate import PartialState
from safetensors.torch import load_model
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, set_seed

from timetok import __version__, embeddings, plots
from timetok.adapter.hooks import store_once
from timetok.atomic import replacing, write_json
from timetok.errors import DataError, raised_as
from timetok.lita import LitaConfig, LitaForConditionalGeneration, LitaProcessor
from timetok.lita.answer import find_folder, load_weights
from timetok.lita.convert import VICUNA, read_eyes, read_projector
from timetok.losses import SoftTimeLoss
from timetok.recipes.cache import FeatureCache, claim, weights_digest
from timetok.recipes.records import Record, read_records
from timetok.recipes.tasks import TASKS, WORDINGS, Mixture, Source, Sources, Videos, pixels_of

Preset: TypeAlias = Mapping[str, Any]
_FOLDERS = Path(__file__).parent / "presets", Path(__file__).parents[3] / "examples"  # these, of a checkout
_ARGUMENTS = {"vision", "transform", "trainer", "pooler", "lm", "lora", "sets", "rates"}


def load_preset(name: str, changes: Iterable[str] = ()) -> dict[str, Any]:
    """Read a preset, by its shipped name or the path of a TOML file, and apply changes.

    Those are ``key=value`` with dotted keys and TOML values (a bare word is a string); ``smoke=true`` makes those of
    the preset's ``[smoke]`` table. A file may name another as its ``base``, with ``[changes]`` of the same form.
    DataError: there is no such preset, it is no TOML, or a key or a value does not fit.

    >>> load_preset("lita-7b", ["stages.0.trainer.max_steps=10"])["stages"][0]["trainer"]["max_steps"]
    10
    """
    preset, asked = _read(name), dict(map(_read_change, changes))
    smoke, like = preset.pop("smoke", {}), _read("lita-7b") if "start" in preset else deepcopy(preset)
    if asked.pop("smoke", False):
        asked = smoke | asked  # what is asked for outlasts it
    _change(preset, asked)
    _check("preset", like, preset)
    return preset


def load_recipe(preset: Preset) -> Any:
    """LITA's recipe with what the module named by the preset's ``code`` has in its place; DataError if it has none.

    That may be ``build_model(preset, *, weights)``, ``open_sources(preset, model, processor, folder)``, a
    ``read_records``, a ``CARD``, ``optimizer(model, arguments, stage)``, scheduled by ``arguments``, or more ``TASKS``.
    """
    code = preset["code"]
    with raised_as(DataError, f"code: expected a module beside the preset, got {code!r}", ImportError):
        own = vars(import_module(code)) if code else {}
    default: Any = {"build_model": build_lita, "open_sources": open_sources, "read_records": read_records}
    default |= {"CARD": Path(__file__).with_name("card.md"), "optimizer": lambda *_: None}  # which is AdamW
    return SimpleNamespace(**{**default, **own, "TASKS": TASKS | own.get("TASKS", {})})


def build_lita(preset: Preset, *, weights: bool = True) -> tuple[LitaForConditionalGeneration, LitaProcessor]:
    """A LITA of a language model (on the meta device without ``weights``), CLIP's tower and perhaps a projector."""
    start = preset["start"]
    folder, eyes = find_folder(start["lm"]), start["clip"]
    encoder, transform = read_eyes(eyes if timm.is_model(eyes) else find_folder(eyes))
    told: Any = {name: preset["model"][name] for name in ("num_frames", "num_time_tokens", "codec", "pooler")}
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    processor = LitaProcessor(tokenizer, transform=asdict(transform), grid=encoder.grid, system=VICUNA, **told)
    ids = list(processor.tt.time_token_ids)
    if weights:
        lm = load_weights(AutoModelForCausalLM, folder, dtype=start["dtype"], use_safetensors=None)  # or pickles
        embeddings.resize(lm, ids)
        embeddings.init_rows(lm, ids)
    else:
        text = AutoConfig.from_pretrained(folder, local_files_only=True)
        text.vocab_size = max(text.vocab_size, max(ids, default=0) + 1)
        with torch.device("meta"):
            lm = AutoModelForCausalLM.from_config(text, dtype=start["dtype"])
    told = {"time_token_ids": ids, "video_token_id": processor.video_token_id, **preset["model"]}
    config = LitaConfig(text_config=lm.config, vision=encoder.arguments, **told)
    model = LitaForConditionalGeneration.of(config, lm, encoder)
    if start["projector"]:
        model.model.projector.load_state_dict(read_projector(start["projector"]))
    if lora := start["lora"]:
        from peft import LoraConfig, get_peft_model  # an extra, `train`

        rows = embeddings.peft_kwargs(model.model.lm, ids)
        model.model.lm = get_peft_model(model.model.lm, LoraConfig(task_type="CAUSAL_LM", **rows, **lora))
        # peft unties its copies in the state alone
        model.register_state_dict_post_hook(store_once)  # type: ignore[no-untyped-call]
    return model, processor


def open_sources(
    preset: Preset, model: LitaForConditionalGeneration, processor: LitaProcessor, folder: Path
) -> Sources:
    """A source for each data set, the same in all stages, from a feature cache where ``data.cached``.

    The census of each set is printed; the cache is filled by all processes together, in ``folder``. DataError where a
    set cannot be read or none of its media is there, rates name another, or the model cannot be trained from a cache.
    """
    cached, inner, state = preset["data"]["cached"], model.model, PartialState()
    if cached and (inner.order != "pool-first" or inner.time_markers or inner.pooler.separators):
        raise DataError("data.cached: expected false for a model that projects first, or with markers or separators")
    records: dict[str, list[Record]] = {}
    for name, arguments in preset["data"]["sets"].items():
        with raised_as(DataError, f"data.sets.{name}", TypeError):
            found = load_recipe(preset).read_records(**arguments)
        state.print(f"[{name}]\n{found}\n")  # what is wrong with it, too
        if processor.tt.codec.tokens and any(e.span for r in found.records if not r.duration_seconds for e in r.events):
            raise DataError(f"data.sets.{name}: there are spans in videos without a duration; see durations")
        records[name] = [record for record in found.records if record.media]
    if unknown := {name for stage in preset["stages"] for name in stage["rates"]} - records.keys():
        raise DataError(f"rates: {sorted(unknown)} are none of the sets, which are {[*records]}")
    if lost := [name for name, kept in records.items() if not kept]:
        raise DataError(f"data.sets: no record of {lost} has its media; see their media and bad")
    cache = None
    if cached:
        bf16 = bool(preset["stages"][0]["trainer"].get("bf16"))
        encoder = inner.vision.to(state.device)
        settings = {"encoder": weights_digest(encoder), "arguments": encoder.arguments, "autocast": bf16}
        settings |= {name: getattr(processor, name) for name in ("transform", "pooler", "num_frames")}
        cache = FeatureCache(folder / "features", settings)
        media = {record.media for kept in records.values() for record in kept if record.media}
        part = state.process_index, state.num_processes
        cache.fill(media, lambda path: pooled(model, processor, path, bf16=bf16), part=part)
        state.wait_for_everyone()
    sources = {name: Videos(kept, processor, cache) for name, kept in records.items()}
    return lambda stage: sources


@torch.no_grad()
def pooled(model: LitaForConditionalGeneration, processor: LitaProcessor, media: Path, *, bf16: bool = False) -> Tensor:
    """Pooled features ``[n e]`` of a video or an image, with the bits that training on its pixels gives."""
    pixels = pixels_of(media, processor).unsqueeze(0)
    with torch.autocast(next(model.model.vision.parameters()).device.type, torch.bfloat16, enabled=bf16):
        return cast(Tensor, model.model.pooler(model.model.features(pixels))[0])


def build_model(preset: Preset, *, weights: bool = True) -> tuple[LitaForConditionalGeneration, LitaProcessor]:
    """What the recipe's own `build_model` gives, on the seed of the data; DataError if that fails."""
    with raised_as(DataError, "preset: cannot be built", Exception):  # a setting can break a library anywhere
        set_seed(preset["data"]["seed"])
        model, processor = load_recipe(preset).build_model(preset, weights=weights)
        SoftTimeLoss(processor.tt.time_token_ids, sigma=preset["loss"]["sigma"])  # refused now, not after an hour
        return model, processor


def stage_arguments(preset: Preset, out: Path) -> list[TrainingArguments]:
    """``TrainingArguments`` of every stage, on the seed of the data; DataError if transformers refuses some."""
    fixed: Any = {"seed": preset["data"]["seed"], "report_to": [], "save_total_limit": 2}
    fixed |= {"remove_unused_columns": False, "dataloader_pin_memory": False}
    found = []
    for number, stage in enumerate(preset["stages"]):
        with raised_as(DataError, f"trainer: TrainingArguments refuse {stage['trainer']}", TypeError, ValueError):
            found.append(TrainingArguments(str(out / f"stage-{number}"), **fixed, **stage["trainer"]))
            if not isinstance(steps := found[-1].max_steps, int) or steps < 1:
                raise ValueError(f"max_steps is {steps!r}, expected a whole number of at least 1")
    return found


def train(preset: Preset, out: Path) -> Path:
    """Run every stage of a preset, as ``load_preset`` gives it, or resume the run of ``out``; gives ``out/model``.

    One that was interrupted ends at the weights of one that was not. Processes of torchrun or accelerate share the
    work. DataError: it is of another preset, or a setting is refused.
    """
    recipe, data = load_recipe(preset), preset["data"]
    settings = {**preset, "data": {**data, "folder": ""}, "wordings": WORDINGS}  # where it is, is no setting
    stage_arguments(preset, out)  # refused now, not after an hour
    tables = [rates for stage in preset["stages"] for rates in stage["rates"].values()]
    with raised_as(DataError, "rates: expected numbers by set and task, from 0", TypeError, AttributeError, ValueError):
        numbers = [rate for rates in tables for rate in rates.values()]
        if min(numbers, default=-1) < 0 or not 0 < sum(numbers) < inf:
            raise ValueError(f"they are {numbers}")
    if unknown := {task for rates in tables for task in rates} - recipe.TASKS.keys():
        raise DataError(f"rates: there is no task {sorted(unknown)}, only {[*recipe.TASKS]}")
    if (out / "preset.json").exists():
        claim(out / "preset.json", settings)
    if (out / "model").exists():
        return out / "model"
    model, processor = build_model(preset)
    sources = recipe.open_sources(preset, model, processor, Path(data["folder"] or out))
    claim(out / "preset.json", settings)  # only now: what was refused may be put right in the same folder
    log = train_stages(preset, model, processor, sources, out)
    if PartialState().is_main_process and not hasattr(next(model.parameters()), "device_mesh"):  # sharded: see the docs
        model.model.lm = getattr(model.model.lm, "merge_and_unload", lambda: model.model.lm)()
        if "start" not in preset:
            nn.Module.half(model)  # which halves the file
        with replacing(out / "model") as folder:
            model.save_pretrained(folder)
            processor.save_pretrained(folder)
            _write_card(folder, recipe.CARD, settings, log, model)
    PartialState().wait_for_everyone()
    return out / "model"


def train_stages(
    preset: Preset, model: LitaForConditionalGeneration, processor: LitaProcessor, sources: Sources, out: Path
) -> list[dict[str, Any]]:
    """Train stage after stage, reading a finished one back; the Trainers' logs together, with steps counted on."""
    log, before, recipe = [], 0, load_recipe(preset)
    loss = SoftTimeLoss(processor.tt.time_token_ids, sigma=preset["loss"]["sigma"])
    for number, (stage, arguments) in enumerate(zip(preset["stages"], stage_arguments(preset, out), strict=True)):
        data = _mixture(preset, number, sources(stage), processor)
        used: dict[str, Any] = {"train_dataset": data, "data_collator": data.collate, "compute_loss_func": loss}
        entries = fit(model, arguments, optimizers=(recipe.optimizer(model, arguments, stage), None), **used)
        log += [{**entry, "step": entry["step"] + before} for entry in entries]
        before += arguments.max_steps
    return log


def _mixture(preset: Preset, number: int, sources: Mapping[str, Source], processor: LitaProcessor) -> Mixture:
    stage, seed = preset["stages"][number], preset["data"]["seed"] + number
    told = {key: stage[key] for key in ("num_samples", "rates", "max_length") if key in stage}
    return Mixture(sources=sources, tasks=load_recipe(preset).TASKS, processor=processor, seed=seed, **told)


def fit(model: nn.Module, arguments: TrainingArguments, **trainer_kwargs: Any) -> list[dict[str, Any]]:
    """Train with the HF Trainer, from the last checkpoint in ``arguments.output_dir`` if there is one; its log."""
    trainer, folder = Trainer(model, arguments, **trainer_kwargs), Path(str(arguments.output_dir))
    files = folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*/trainer_state.json")  # written last: a torn one lacks its end
    states = [TrainerState.load_from_json(str(file)) for file in files if file.read_text().endswith("\n}\n")]
    last = max(states, key=lambda state: state.global_step, default=None)
    checkpoint = last and str(folder / f"{PREFIX_CHECKPOINT_DIR}-{last.global_step}")
    if last and last.global_step >= arguments.max_steps:  # resumed there, the Trainer would take one step more
        load_model(model, f"{checkpoint}/model.safetensors", strict=False)  # tied weights are stored once
        return list(last.log_history)
    trainer.train(resume_from_checkpoint=checkpoint)
    return list(trainer.state.log_history)


def dry_run(preset: Preset) -> str:
    """A report on a preset with a ``start``: model, tokens a sample, memory, time. Prints the census, writes nothing.

    Memory is weights, gradients and both moments of AdamW in the dtype of the weights, on one device, and one layer's
    activations with gradient checkpointing; time is that of 8 ``tokens x parameters`` operations a sample, 125e12 in a
    second (two fifths of an A100's bfloat16), on cached features. Both are estimates, unmeasured. DataError as `train`.
    """
    if "start" not in preset:
        raise DataError("--dry-run: expected a preset with a [start]; others, as shapes, make their data as they run")
    model, processor = build_model(preset, weights=False)
    uncached = {**preset, "data": {**preset["data"], "cached": False}}
    sources = load_recipe(preset).open_sources(uncached, model, processor, Path())
    unseen: Any = defaultdict(lambda: torch.empty(processor.num_video_tokens, 0))  # for features: none is decoded
    weights, trained = model.num_parameters(), model.num_parameters(only_trainable=True)
    lines = [f"parameters        {weights:,}, {trained:,} of them trained"]
    size, config = model.model.lm.dtype.itemsize, model.config.text_config
    for number, arguments in enumerate(stage_arguments(preset, Path())):
        blind = {name: replace(each, cache=unseen) for name, each in sources(preset["stages"][number]).items()}
        mixture = _mixture(preset, number, blind, processor)
        lengths = [mixture.collate([mixture[k]])["labels"].shape[1] for k in range(64)]
        batch = arguments.per_device_train_batch_size
        samples = arguments.max_steps * batch * arguments.gradient_accumulation_steps
        a_token = config.hidden_size * (config.num_hidden_layers + 16) * size + 4 * config.vocab_size
        held = (weights + 3 * trained) * size + batch * max(lengths) * a_token
        hours = 8 * model.model.lm.num_parameters() * median(lengths) * samples / 125e12 / 3600
        told = f"{processor.num_video_tokens} visual; {median(lengths):.0f} in all ({min(lengths)} to {max(lengths)})"
        lines += [f"tokens a sample   {told}"]
        lines += [f"memory            about {held / 2**30:.1f} GiB for {batch} samples at once on one device"]
        lines += [f"time              about {hours:.1f} h of one A100 for {samples:,} samples a process"]
    return "\n".join(lines)


def _write_card(folder: Path, card: Path, preset: Preset, log: Sequence[Mapping[str, Any]], model: Any) -> None:
    """How a model came to be, beside it: ``training.json``, its curve as CSV and PNG, and a filled in ``README.md``."""
    points = [(entry["step"], float(entry["loss"])) for entry in log if "loss" in entry] or [(0, nan)]
    steps, losses = zip(*points, strict=True)
    versions = {"timetok": __version__, "python": sys.version.split()[0]}
    versions |= {name: version(name) for name in ("torch", "transformers", "timm", "accelerate")}
    facts = {"versions": versions, "preset": preset, "parameters": model.num_parameters()}
    facts["steps"] = sum(stage["trainer"]["max_steps"] for stage in preset["stages"])
    facts["minutes"] = round(sum(entry.get("train_runtime", 0.0) for entry in log) / 60, 1)
    facts["device"] = f"{model.device} ({torch.get_num_threads()} CPU threads)"
    write_json(folder / "training.json", {**facts, "curve": points})
    curve = [("step", "loss"), *points]
    (folder / "curve.csv").write_text("".join(f"{step},{loss}\n" for step, loss in curve), encoding="utf-8")
    plots.save(plots.training(steps, losses), folder / "curve.png")
    text = card.read_text(encoding="utf-8").format(**facts, first=losses[0], last=losses[-1])
    (folder / "README.md").write_text(text, encoding="utf-8")


def _read(name: str, *derived: Path) -> dict[str, Any]:
    """A preset by its name or path, with those of which it is the base, nearest last."""
    shipped = {path.stem: path for folder in _FOLDERS for path in sorted(folder.glob("*.toml"))}
    path, told = shipped.get(name, Path(name)), f"preset: expected one of {[*shipped]} or a TOML file, got {name!r}"
    with raised_as(DataError, told, OSError, ValueError):
        preset = tomllib.loads(path.read_text(encoding="utf-8"))
    if path in derived:
        raise DataError(f"base: expected a preset that does not lead back to itself, got {name!r}")
    if preset.get("code") and (folder := str(path.parent.resolve())) not in sys.path:
        sys.path.append(folder)
    if "base" not in preset:
        return preset
    base = _read(str(preset["base"]), *derived, path)
    _change(base, {key: preset[key] for key in preset.keys() - {"base", "changes"}} | preset.get("changes", {}))
    return base


def _change(preset: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        *names, last = key.split(".")
        table: Any = preset
        told = f"--set: the preset has no {key!r}; its tables are {', '.join(sorted(preset))}"
        with raised_as(DataError, told, LookupError, TypeError, ValueError):
            for each in names:
                table = table[int(each) if isinstance(table, list) else each]
            table[last] = value


def _read_change(change: str) -> tuple[str, Any]:
    key, sign, text = change.partition("=")
    if not sign or not all(key.split(".")) or (key == "smoke" and text not in ("true", "false")):
        raise DataError(f"--set: expected key=value, or smoke=true, got {change!r}")
    try:
        return key, tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return key, text


def _check(key: str, like: Any, value: Any) -> None:
    """Keys and kinds of values are those of a shipped preset; what goes to a library as arguments is checked there."""
    kind = type(like)
    fits = type(value) is kind or (kind is float and type(value) is int)
    if not fits or value == [] or (kind is int and value < min(like, 1)):  # of the whole numbers only the seed may be 0
        raise DataError(f"{key}: expected {kind.__name__} (counts are at least 1, lists not empty), got {value!r}")
    if kind is list:  # each of the stages as the first
        like, value = dict.fromkeys(range(len(value)), like[0]), dict(enumerate(value))
    if isinstance(like, dict) and key.rpartition(".")[2] not in _ARGUMENTS:
        missing, unknown = sorted(like.keys() - value.keys()), sorted(value.keys() - like.keys())
        if missing or unknown:
            raise DataError(f"{key}: missing {missing}, unknown {unknown}; begin with base = 'lita-7b', say")
        for name in like:
            _check(f"{key}.{name}", like[name], value[name])
