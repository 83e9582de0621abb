"""TC-LLaVA's positions and masks behind the adapter: forward, generation, padding, and what is refused."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, GPT2Config, Qwen3Config

import causal_lms
import oracles
import tiny_lm
from adapter.test_every_causal_lm import built
from timetok import SlowFastPooler, embeddings
from timetok.adapter import TokenIds, VideoAdapter
from timetok.attention import temporal_position_ids
from timetok.errors import ArgumentError, SpliceError

V = 289  # the placeholder
NEW = 6
OPTIONS = {
    "positions": {"temporal_rope": (1, 1)},
    "floats": {"temporal_rope": (0.75, 0.3)},
    "full": {"attention": "full-visual"},
    "block": {"attention": "frame-block"},
    "proposed": {"attention": "frame-block-causal"},
    "both": {"temporal_rope": (1.0, 0.5), "attention": "frame-block-causal"},
}
KINDS = [*tiny_lm.KINDS, "qwen3"]
MODELS = [(kind, backend) for kind in KINDS for backend in ("eager", "sdpa")]
ROWS = [  # ids, and the videos of each: five visual tokens a video of three frames
    ([9, 8, *[V] * 5, 7, 6], [tiny_lm.video(0)]),
    ([5, 4, 3], []),
    ([*[V] * 5, 4, 11, *[V] * 10, 12], [tiny_lm.video(1), tiny_lm.video(2), tiny_lm.video(3)]),
]
FRAMES = [0, 1, 2, 0, 2]  # of the visual tokens of one: fast, then slow


def language_model(kind="llama", backend="sdpa"):
    if kind != "qwen3":
        lm = tiny_lm.language_model(kind)
    else:
        torch.manual_seed(0)
        shared = tiny_lm.language_model("qwen2").config.to_dict()
        names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        sizes = {name: shared[name] for name in names}
        config = Qwen3Config(**sizes, num_key_value_heads=2, head_dim=8, initializer_range=0.3, pad_token_id=0)
        lm = AutoModelForCausalLM.from_config(config).eval()
    lm.set_attn_implementation(backend)
    lm.generation_config.eos_token_id = None  # answers have one length
    return lm


def model_of(lm=None, *, pooler=None, **options):
    pooler = pooler or SlowFastPooler(num_slow_frames=2)
    lm = lm or language_model()
    torch.manual_seed(1)
    return VideoAdapter(lm, TokenIds(V), vision_dim=tiny_lm.VISION_WIDTH, pooler=pooler, **options).eval()


def batch_of(rows=ROWS):
    """Padded on the left."""
    size = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([[0] * (size - len(ids)) + ids for ids, _ in rows])
    mask = torch.tensor([[0] * (size - len(ids)) + [1] * len(ids) for ids, _ in rows])
    return {"input_ids": ids, "attention_mask": mask, "video_features": [video for _, some in rows for video in some]}


def generate(model, batch, **options):
    return model.generate(**batch, max_new_tokens=NEW, do_sample=False, **options)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def frames_of(ids):
    """Frames of a row's tokens, those of a second video after those of the first."""
    shown = iter([3 * video + frame for video in range(ids.count(V) // 5) for frame in FRAMES])
    return [next(shown) if token == V else -1 for token in ids]


@pytest.mark.parametrize(("kind", "backend"), MODELS)
def test_no_temporal_part_and_the_causal_mask_are_the_bare_model_exactly(kind, backend):
    lm = language_model(kind, backend)
    bare, ours = model_of(lm), model_of(lm, temporal_rope=(1.0, 0.0), attention="causal")
    for batch in (batch_of(), batch_of(ROWS[:1])):
        with torch.no_grad():
            assert torch.equal(ours(**batch).logits, bare(**batch).logits)
        assert torch.equal(generate(ours, batch), generate(bare, batch))
    batch = batch_of([ROWS[1]])
    ids, mask = batch["input_ids"], batch["attention_mask"]
    positions = temporal_position_ids(torch.full_like(ids, -1), mask, b=0)
    with torch.no_grad():  # and what is handed over where there is a temporal part would be the model's own, too
        found = lm(ids, attention_mask=mask, position_ids=positions.float()).logits
        assert torch.equal(found, lm(ids, attention_mask=mask).logits)
        assert torch.equal(found, ours(ids, attention_mask=mask).logits)


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("name", OPTIONS)
def test_logits_are_those_of_positions_and_a_mask_made_by_hand(backend, name):
    options = {"temporal_rope": (1, 0), "attention": "causal"} | OPTIONS[name]
    lm = language_model(backend=backend)
    model = model_of(lm, **OPTIONS[name])
    for ids, videos in ROWS:
        frames, valid, row = frames_of(ids), [True] * len(ids), torch.tensor([ids])
        embeds = lm.get_input_embeddings()(row)
        if videos:
            embeds = embeds.masked_scatter((row == V)[..., None], model.visual_tokens(torch.stack(videos)))
        positions = torch.tensor([oracles.dual_positions(frames, valid, *options["temporal_rope"])])
        size = range(len(ids))
        seen = [[oracles.sees(frames, valid, options["attention"], i, j) for j in size] for i in size]
        mask = torch.zeros(1, 1, len(ids), len(ids)).masked_fill(~torch.tensor(seen), torch.finfo(torch.float32).min)
        expected = lm(inputs_embeds=embeds, attention_mask=mask, position_ids=positions).logits
        close(model(row, video_features=videos).logits, expected)


@pytest.mark.parametrize(("kind", "backend"), MODELS)
@pytest.mark.parametrize("name", OPTIONS)
def test_cached_is_uncached_and_a_batch_is_its_rows(kind, backend, name):
    model = model_of(language_model(kind, backend), **OPTIONS[name])
    found = generate(model, batch_of(), return_dict_in_generate=True, output_logits=True)
    for k, row in enumerate(ROWS):
        alone = batch_of([row])
        ids, features = alone["input_ids"], alone["video_features"]
        for step in range(NEW):
            with torch.no_grad():
                logits = model(ids, video_features=features, use_cache=False).logits[:, -1]
            close(found.logits[step][k], logits[0])
            ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
        assert torch.equal(found.sequences[k, -NEW:], ids[0, -NEW:])
        assert torch.equal(generate(model, alone), ids)


@pytest.mark.parametrize("name", ["positions", "floats", "both"])
def test_each_new_token_is_a_and_b_further_on(name):
    model, seen = model_of(**OPTIONS[name]), []
    lm_model = model.lm.model
    hook = lm_model.register_forward_pre_hook(
        lambda _, __, call: seen.append((call["position_ids"], call["attention_mask"])), with_kwargs=True
    )
    generate(model, batch_of())
    hook.remove()
    positions = torch.cat([positions for positions, _ in seen], dim=1)
    steps = positions.diff(dim=1)[:, -NEW + 1 :]
    close(steps.float(), torch.full(steps.shape, float(sum(OPTIONS[name]["temporal_rope"]))))
    assert all(mask is not None for _, mask in seen)


def test_every_option_changes_what_is_read():
    texts = {name: model_of(**options)(**batch_of()).logits[0, -1] for name, options in OPTIONS.items()}
    texts["bare"] = model_of()(**batch_of()).logits[0, -1]
    names = list(texts)
    for k, name in enumerate(names):
        for other in names[:k]:
            assert (texts[name] - texts[other]).abs().max() > 1e-3, (name, other)


def test_a_step_of_two_without_a_mask_is_no_packed_row():
    model = model_of(temporal_rope=(1, 1))
    ids = torch.tensor([ROWS[0][0]])
    features = ROWS[0][1]
    close(
        model(ids, video_features=features, use_cache=False).logits,
        model(ids, attention_mask=torch.ones_like(ids), video_features=features).logits,
    )


@pytest.mark.parametrize("name", ["floats", "proposed", "both"])
@pytest.mark.parametrize(
    "options",
    [
        {"use_cache": False},
        {"cache_implementation": "static", "disable_compile": True},
        {"prefill_chunk_size": 5},  # of which the first holds the video
    ],
    ids=["uncached", "static", "chunks"],
)
def test_other_caches_give_the_same_answer(name, options):
    pooler = SlowFastPooler(num_slow_frames=0)  # one token a frame
    model = model_of(pooler=pooler, **OPTIONS[name])
    batch = batch_of([([9, 8, V, V, V, 7], [tiny_lm.video(0)])])
    assert torch.equal(generate(model, batch, **options), generate(model, batch))


def test_a_video_split_between_chunks_is_refused():
    with pytest.raises(SpliceError, match="placeholders by row"):
        generate(model_of(attention="frame-block-causal"), batch_of(ROWS[:1]), prefill_chunk_size=4)


def test_beams_and_several_answers_keep_each_rows_frames():
    model = model_of(**OPTIONS["both"])
    together = generate(model, batch_of(), num_beams=3, num_return_sequences=2)[:, -NEW:]
    alone = [generate(model, batch_of([row]), num_beams=3, num_return_sequences=2)[:, -NEW:] for row in ROWS]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("preset", ["llava-video", "slowfast-llava-7b", "tsp", "lita-temporal-spatial"])
def test_other_layouts(preset):
    """Cached is uncached; and a later frame reaches an earlier one under the full mask alone."""
    dim = tiny_lm.WIDTH if preset == "llava-video" else None
    pooler = SlowFastPooler.preset(preset, dim=dim)
    order = "project-first" if dim else "pool-first"
    model = model_of(pooler=pooler, order=order, temporal_rope=(1, 1), attention="frame-block-causal")
    video = tiny_lm.video(frames=12, side=4)
    count = pooler.num_tokens(num_frames=12, grid=(4, 4))
    batch = batch_of([([9, *[V] * count, 7], [video])])
    assert torch.equal(generate(model, batch), generate(model, batch, use_cache=False))


class Eye(torch.nn.Module):
    """An encoder of 2 x 2 patches."""

    grid = (2, 2)

    def forward(self, frames):
        return frames.unflatten(-1, (2, 2)).unflatten(-3, (2, 2)).mean((-1, -3)).flatten(3).transpose(2, 3)


def test_pixels_are_frames_too():
    model = model_of(vision=Eye(), **OPTIONS["both"])
    pixels = torch.randn(1, 3, tiny_lm.VISION_WIDTH, 4, 4)
    batch = batch_of([(ROWS[0][0], [])])
    del batch["video_features"]
    features = model.vision(pixels)
    assert features.shape == (1, 3, 4, tiny_lm.VISION_WIDTH)
    for videos in (pixels, [pixels[0]]):
        found = model(**batch, pixel_values_videos=videos).logits
        close(found, model(**batch, video_features=features).logits)
        answer = generate(model, batch, pixel_values_videos=videos)
        assert torch.equal(answer, generate(model, batch, video_features=features))


def test_training_reaches_what_is_joined():
    for attention, reached in (("causal", False), ("frame-block-causal", False), ("full-visual", True)):
        model = model_of(attention=attention, temporal_rope=(1, 0.5))
        ids = torch.tensor([[9, *[V] * 3, 7, 0]])
        model.pooler = SlowFastPooler(num_slow_frames=0)
        video = tiny_lm.video().requires_grad_()
        mask = (ids != 0).long()
        outputs = model(ids, attention_mask=mask, video_features=video[None], labels=ids)
        outputs.logits[0, 1].sum().backward(retain_graph=True)  # at the first frame
        assert bool(video.grad[2].any()) is reached
        outputs.loss.backward()
        assert model.projector.weight.grad.any() and outputs.loss.isfinite()


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_bfloat16(backend):
    lm = language_model(backend=backend).to(torch.bfloat16)
    model = model_of(lm, **OPTIONS["both"]).to(torch.bfloat16)
    batch = batch_of()
    batch["video_features"] = [video.bfloat16() for video in batch["video_features"]]
    assert model(**batch).logits.isfinite().all()
    assert torch.equal(generate(model, batch), generate(model, batch))


# peft reads an attribute that transformers has renamed
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_lora_keeps_positions_and_masks():
    batch = batch_of()
    expected = model_of(**OPTIONS["both"])
    lm = get_peft_model(language_model(), LoraConfig(target_modules=["q_proj"], r=2))  # starts at zero
    model = model_of(lm, **OPTIONS["both"])
    with torch.no_grad():
        close(model(**batch).logits, expected(**batch).logits)
    assert torch.equal(generate(model, batch), generate(expected, batch))


def test_the_adapter_keeps_its_options(tmp_path):
    adapter = tiny_lm.adapter(**OPTIONS["both"])
    adapter.save_pretrained(tmp_path)
    lm = tiny_lm.language_model()
    embeddings.resize(lm, adapter.time_token_ids)
    again = VideoAdapter.from_pretrained(tmp_path, lm=lm).eval()
    assert (again.temporal_rope, again.attention) == ((1.0, 0.5), "frame-block-causal")
    batch = adapter.prepare(tiny_lm.PROMPT, videos=[tiny_lm.video()])
    assert torch.equal(again(**batch).logits, adapter(**batch).logits)
    plain = tiny_lm.adapter()(**batch).logits
    assert not torch.allclose(again(**batch).logits, plain, atol=1e-3)


def gpt2():
    config = GPT2Config(vocab_size=290, n_embd=32, n_layer=1, n_head=2, n_positions=64, bos_token_id=1, eos_token_id=1)
    return AutoModelForCausalLM.from_config(config).eval()


def flash():
    lm = language_model()
    lm.config._attn_implementation = "flash_attention_2"
    return lm


REFUSED = {
    "no RoPE": (gpt2, {"temporal_rope": (1, 1)}, "GPT2LMHeadModel has no RoPE"),
    "state space": (lambda: causal_lms.tiny_lm("mamba"), {"temporal_rope": (1, 1)}, "Mamba.* has no RoPE"),
    "state space, mask": (lambda: causal_lms.tiny_lm("mamba"), {"attention": "frame-block"}, "read token after token"),
    "hybrid": (lambda: causal_lms.tiny_lm("qwen3_5_text"), {"attention": "full-visual"}, "read token after token"),
    "its own mask": (lambda: causal_lms.tiny_lm("gpt_neo"), {"attention": "full-visual"}, "it makes its own"),
    "flash": (flash, {"attention": "frame-block-causal"}, "'flash_attention_2', not 'eager' or 'sdpa'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_model_cannot_do_is_refused_with_the_reason(case):
    make, options, words = REFUSED[case]
    lm = make()
    with pytest.raises(ArgumentError, match=words):
        model_of(lm, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"attention": "block"}, "kind: expected one of .*, got 'block'"),
        ({"temporal_rope": (1, float("inf"))}, "expected finite numbers, got 1 and inf"),
    ],
)
def test_what_is_no_position_or_mask_is_refused_when_it_is_made(options, words):
    with pytest.raises(ArgumentError, match=words):
        model_of(**options)(**batch_of())


def test_a_window_shorter_than_the_prompt_is_refused():
    lm = language_model("mistral")
    lm.config.sliding_window = 9
    model, short, long = model_of(lm, **OPTIONS["proposed"]), batch_of(ROWS[:1]), batch_of()
    assert model(**short).logits.isfinite().all()
    with pytest.raises(ArgumentError, match="its window of 9 is shorter than 18 tokens"):
        model(**long)


def test_attention_that_changed_since_is_refused():
    model = model_of(**OPTIONS["proposed"])
    model.lm.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ArgumentError, match="not 'eager' or 'sdpa'"):
        model(**batch_of())


def test_arguments_that_contradict_are_refused():
    model, batch = model_of(**OPTIONS["positions"]), batch_of(ROWS[:1])
    with pytest.raises(ArgumentError, match="position_ids, past_key_values: not with temporal_rope"):
        model(**batch, position_ids=torch.arange(9)[None])
    with pytest.raises(ArgumentError, match="not an encoded video"):
        model.encode_video(ROWS[0][1][0], ROWS[0][0])
    video = model.encode_video(ROWS[0][1][0])
    with pytest.raises(ArgumentError, match="not an encoded video"):
        model.generate(batch["input_ids"], video_features=[video], max_new_tokens=1)


FAST = ("gpt2", "bloom", "opt", "gemma3_text", "falcon", "deepseek_v3", "qwen3_5_text", "lfm2_moe", "rwkv", "xlnet")
EVERY = [pytest.param(kind, marks=[] if kind in FAST else pytest.mark.slow) for kind in causal_lms.TYPES]


@pytest.mark.parametrize("kind", EVERY)
def test_every_causal_lm_holds_or_is_refused(kind):
    """Cached logits are uncached ones, and padding changes nothing, where that is so without the options."""
    lm = built(kind)
    rotary = any("Rotary" in type(module).__name__ for module in lm.modules())
    ids = torch.tensor([[11, 12, 13, *[1000] * 5, 81, 14]])
    padded = torch.cat([torch.tensor([[5, 5]]), ids], dim=1)
    mask = (torch.arange(12) >= 2).long()[None]
    video = tiny_lm.video()[None]
    ours = {}
    for name in (None, "floats", "proposed"):
        torch.manual_seed(1)
        pooler = SlowFastPooler(num_slow_frames=2)
        try:
            model = VideoAdapter(lm, TokenIds(1000), vision_dim=6, pooler=pooler, **OPTIONS.get(name, {})).eval()
        except ArgumentError:
            assert not (name == "floats" and rotary)
            continue
        with torch.no_grad():
            alone = model(ids, video_features=video).logits
            beside = model(padded, attention_mask=mask, video_features=video).logits[:, 2:]
            found = generate(model, {"input_ids": ids, "video_features": video}, return_dict_in_generate=True,
                             output_logits=True)  # fmt: skip
            again = model(found.sequences[:, :-1], video_features=video, use_cache=False).logits[:, -NEW:]
        cached = torch.allclose(torch.stack(found.logits, 1), again, rtol=1e-2, atol=1e-2)
        ours[name] = alone, torch.allclose(beside, alone, atol=1e-3), cached
    for name in set(ours) - {None}:
        assert (ours[name][0] - ours[None][0]).abs().max() > 1e-3
        assert all(now or not before for now, before in zip(ours[name][1:], ours[None][1:], strict=True)), name
