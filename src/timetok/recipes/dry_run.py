"""What a run would train, on what, and what it would take; nothing is written and no language model is loaded."""

from statistics import median

from timetok.recipes.lita import Preset
from timetok.recipes.mixture import Mixture, Videos
from timetok.recipes.preset import load_recipe
from timetok.recipes.train import build_model, stage_arguments

_GPU_FLOPS = 125e12  # a second, of an A100: two fifths of its peak in bfloat16
_DRAWN = 64


def dry_run(preset: Preset) -> str:
    """A report on a preset with a ``start``: its data, its model, tokens a sample, memory and time.

    Memory is weights, gradients and both moments of AdamW in the dtype of the weights, on one device, and one layer's
    activations with gradient checkpointing; time is that of 8 ``tokens x parameters`` operations a sample, on features
    that are cached. Both are estimates, unmeasured.
    """
    recipe, lines = load_recipe(preset), []
    sets = recipe.read_sets(preset)
    for name, found in sets.items():
        lines += [f"[{name}]", str(found), ""]
    model, processor = build_model(preset, weights=False)
    counts = {True: 0, False: 0}
    for weight in model.parameters():
        counts[weight.requires_grad] += weight.numel()
    lm = sum(weight.numel() for weight in model.model.lm.parameters())
    size = next(model.model.projector.parameters()).element_size()
    lines += [f"parameters        {sum(counts.values()):,}, {counts[True]:,} of them trained"]
    visual = processor.num_video_tokens
    sources = {name: Videos(found.records, processor) for name, found in sets.items()}
    for stage, arguments in zip(preset["stages"], stage_arguments(preset, recipe.CARD.parent), strict=True):
        told = {key: stage[key] for key in ("num_samples", "turns", "rates", "max_length")}
        mixture = Mixture(sources=sources, tasks=recipe.TASKS, processor=processor, seed=preset["data"]["seed"], **told)
        lengths = [mixture.num_tokens(k) for k in range(_DRAWN)]
        batch = arguments.per_device_train_batch_size
        samples = arguments.max_steps * batch * arguments.gradient_accumulation_steps
        config = model.config.text_config
        kept = (
            batch * max(lengths) * (config.hidden_size * (config.num_hidden_layers + 16) * size + 4 * config.vocab_size)
        )
        held = sum(counts.values()) * size + counts[True] * 3 * size + kept
        hours = 8 * lm * median(lengths) * samples / _GPU_FLOPS / 3600
        lines += [f"tokens a sample   {visual} visual; {median(lengths):.0f} in all ({min(lengths)} to {max(lengths)})"]
        lines += [f"memory            about {held / 2**30:.1f} GiB for {batch} samples at once on one device"]
        lines += [f"time              about {hours:.1f} h of one A100 for {samples:,} samples a process"]
    return "\n".join(lines)
