"""A video in front of a real causal LM: forward, labels, generation, batches, projectors."""

import pytest
import torch
from torch import nn
from transformers import GenerationConfig

import tiny_lm
from timetok import SlowFastPooler, embeddings
from timetok.adapter import TokenIds, VideoAdapter
from timetok.errors import ArgumentError, PromptError
from timetok.vision import FrameEncoder

OTHER = "Hello <video> and <video>, what is visible? ASSISTANT:"
TEXT = "USER: what is visible? ASSISTANT:"


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def answers(adapter, batch, **options):
    """New ids of each row, up to the end token."""
    ids = adapter.generate(**batch, do_sample=False, **options)[:, batch["input_ids"].shape[1] :]
    return [row[: row.index(1) + 1] if 1 in row else row for row in ids.tolist()]


@pytest.mark.parametrize(("kind", "tied"), tiny_lm.MODELS)
def test_without_a_video_it_is_the_bare_lm(kind, tied):
    adapter = tiny_lm.adapter(kind, tied=tied)
    batch = adapter.prepare([TEXT, "and a longer one, " + TEXT])
    assert torch.equal(adapter(**batch).logits, adapter.lm(**batch).logits)
    options = {"max_new_tokens": 6, "do_sample": False}
    assert torch.equal(adapter.generate(**batch, **options), adapter.lm.generate(**batch, **options))
    assert torch.equal(adapter(**batch, video_features=[]).logits, adapter.lm(**batch).logits)


@pytest.mark.parametrize("kind", tiny_lm.KINDS)
def test_another_video_changes_what_follows_it_and_nothing_before(kind):
    adapter = tiny_lm.adapter(kind)
    one, other = (adapter.prepare(tiny_lm.PROMPT, videos=[tiny_lm.video(k)]) for k in (0, 1))
    assert torch.equal(one["input_ids"], other["input_ids"])
    first = (one["input_ids"][0] == adapter.video_token_id).int().argmax()
    left, right = adapter(**one).logits[0], adapter(**other).logits[0]
    close(left[:first], right[:first])
    assert ((left[first:] - right[first:]).abs().amax(-1) > 1e-3).all()


def test_every_frame_reaches_the_answer():
    adapter = tiny_lm.adapter()
    video = tiny_lm.video(frames=6)
    last = adapter(**adapter.prepare(tiny_lm.PROMPT, videos=[video])).logits[0, -1]
    for frame in range(6):
        changed = video.clone()
        changed[frame] += 1
        again = adapter(**adapter.prepare(tiny_lm.PROMPT, videos=[changed])).logits[0, -1]
        assert (again - last).abs().max() > 1e-4


@pytest.mark.parametrize(("kind", "tied"), tiny_lm.MODELS)
def test_cached_greedy_generation_is_uncached_argmax(kind, tied):
    adapter = tiny_lm.adapter(kind, tied=tied)
    for seed in range(3):
        batch = adapter.prepare(tiny_lm.PROMPT, videos=[tiny_lm.video(seed)])

        def logits_of(ids, features=batch["video_features"]):
            return adapter(ids, video_features=features).logits

        expected = tiny_lm.greedy(logits_of, batch["input_ids"], 8)
        assert torch.equal(adapter.generate(**batch, max_new_tokens=8, do_sample=False), expected)


def test_answers_depend_on_the_video():
    adapter = tiny_lm.adapter()
    texts = {
        str(answers(adapter, adapter.prepare(tiny_lm.PROMPT, videos=[tiny_lm.video(k)]), max_new_tokens=6))
        for k in range(6)
    }
    assert len(texts) > 3


ROWS = [  # prompts, and the videos of each
    (tiny_lm.PROMPT, [tiny_lm.video(0)]),
    (TEXT, []),
    (OTHER, [tiny_lm.video(1), tiny_lm.video(2)]),
    ("<video>", [tiny_lm.video(3)]),
]


@pytest.mark.parametrize(("kind", "tied"), tiny_lm.MODELS)
@pytest.mark.parametrize("frames", [3, 5])  # of the third video: all alike, or a list
def test_a_left_padded_batch_is_its_rows_one_by_one(kind, tied, frames):
    adapter = tiny_lm.adapter(kind, tied=tied)
    rows = [*ROWS[:2], (OTHER, [tiny_lm.video(1), tiny_lm.video(2, frames=frames)]), ROWS[3]]
    batch = adapter.prepare([text for text, _ in rows], videos=[video for _, videos in rows for video in videos])
    assert isinstance(batch["video_features"], torch.Tensor) == (frames == 3)
    together, new = adapter(**batch).logits, answers(adapter, batch, max_new_tokens=6)
    for k, (text, videos) in enumerate(rows):
        alone = adapter.prepare(text, videos=videos)
        length = alone["input_ids"].shape[1]
        close(together[k, -length:], adapter(**alone).logits[0])
        assert new[k] == answers(adapter, alone, max_new_tokens=6)[0]


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2}])
def test_beams_keep_each_rows_video(options):
    adapter = tiny_lm.adapter()
    batch = adapter.prepare([text for text, _ in ROWS], videos=[video for _, videos in ROWS for video in videos])
    together = answers(adapter, batch, max_new_tokens=5, **options)
    alone = [
        answers(adapter, adapter.prepare(text, videos=videos), max_new_tokens=5, **options) for text, videos in ROWS
    ]
    assert together == [row for rows in alone for row in rows]


def test_returned_sequences_repeat_each_row():
    adapter = tiny_lm.adapter()
    batch = adapter.prepare([text for text, _ in ROWS], videos=[video for _, videos in ROWS for video in videos])
    once = adapter.generate(**batch, max_new_tokens=5, do_sample=False)
    thrice = adapter.generate(**batch, max_new_tokens=5, do_sample=True, top_k=1, num_return_sequences=3)
    assert torch.equal(thrice, once.repeat_interleave(3, dim=0))


def test_generated_ids_start_with_the_prompt():
    adapter = tiny_lm.adapter()
    batch = adapter.prepare(tiny_lm.PROMPT, videos=[tiny_lm.video()])
    ids = adapter.generate(**batch, max_new_tokens=4, min_new_tokens=4)
    assert torch.equal(ids[:, :-4], batch["input_ids"])


def with_loud_placeholder():
    """An adapter whose LM has a row for the placeholder, and would always answer with it."""
    adapter = tiny_lm.adapter(tied=False)
    embeddings.resize(adapter.lm, [adapter.video_token_id])
    head = nn.Linear(tiny_lm.WIDTH, adapter.video_token_id + 1)
    nn.init.zeros_(head.weight)
    head.bias.data = torch.arange(adapter.video_token_id + 1.0)
    adapter.lm.set_output_embeddings(head)
    return adapter


@pytest.mark.parametrize("form", ["kwargs", "config", "both", "neither"])
def test_an_answer_never_holds_the_placeholder(form):
    adapter = with_loud_placeholder()
    batch = adapter.prepare(tiny_lm.PROMPT, videos=[tiny_lm.video()])
    best = adapter.video_token_id - 1
    given = GenerationConfig(max_new_tokens=3, suppress_tokens=[best], pad_token_id=0, eos_token_id=1)
    options = {
        "kwargs": {"max_new_tokens": 3, "suppress_tokens": [best]},
        "config": {"generation_config": given},
        "both": {"generation_config": given, "suppress_tokens": [best - 1]},
        "neither": {"max_new_tokens": 3},
    }[form]
    expected = best - 1 if form in ("kwargs", "config") else best
    assert adapter.generate(**batch, **options)[0, -3:].tolist() == [expected] * 3
    assert given.suppress_tokens == [best]


def test_a_repetition_penalty_needs_a_row_for_the_placeholder():
    adapter = tiny_lm.adapter()
    batch = adapter.prepare(tiny_lm.PROMPT, videos=[tiny_lm.video()])
    v = adapter.video_token_id
    message = rf"repetition_penalty: 1.2 scales .*, but id {v} has none; call timetok.embeddings.resize\(lm, \[{v}\]\)"
    with pytest.raises(ArgumentError, match=message):
        adapter.generate(**batch, max_new_tokens=2, repetition_penalty=1.2)
    with pytest.raises(ArgumentError, match=message):
        adapter.generate(**batch, generation_config=GenerationConfig(max_new_tokens=2, repetition_penalty=1.2))
    embeddings.resize(adapter.lm, [v])
    length = batch["input_ids"].shape[1]
    assert adapter.generate(**batch, max_new_tokens=2, min_new_tokens=2, repetition_penalty=1.2).shape[1] == length + 2


@pytest.mark.parametrize(("projector", "alike"), [("linear", True), ("mlp2x_gelu", False)])
def test_order_matters_unless_the_projector_is_linear(projector, alike):
    pool_first, project_first = (
        tiny_lm.adapter(projector=projector, order=order) for order in ("pool-first", "project-first")
    )
    project_first.load_state_dict(pool_first.state_dict())
    features = torch.stack([tiny_lm.video(k, side=4) for k in range(2)])
    left, right = pool_first.visual_tokens(features), project_first.visual_tokens(features)
    assert left.shape == right.shape == (2, 3 + 2 * 4, tiny_lm.WIDTH)
    if alike:
        torch.testing.assert_close(left, right)
    else:
        assert (left - right).abs().max() > 1e-2


@pytest.mark.parametrize("order", ["pool-first", "project-first"])
def test_visual_tokens_are_the_pieces_one_after_the_other(order):
    adapter = tiny_lm.adapter(order=order, projector="mlp2x_gelu")
    first, _, second = adapter.projector
    features, pooler = tiny_lm.video()[None], SlowFastPooler(num_slow_frames=2)

    def project(x):
        hidden = x @ first.weight.T + first.bias
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))  # GELU, exact
        return hidden @ second.weight.T + second.bias

    expected = project(pooler(features)) if order == "pool-first" else pooler(project(features))
    torch.testing.assert_close(adapter.visual_tokens(features), expected)


@pytest.mark.parametrize(
    ("frames", "marks"),
    [
        (10, range(10)),
        (4, [0, 3, 6, 9]),
        (3, [0, 4, 9]),  # 4.5 to even
        (19, [0, 0, 1, 2, 2, 2, 3, 4, 4, 4, 5, 6, 6, 6, 7, 8, 8, 8, 9]),  # k / 2, halves to even
        (1, [0]),
    ],
)
@pytest.mark.parametrize("order", ["pool-first", "project-first"])
def test_time_markers_are_added_to_the_fast_tokens(frames, marks, order):
    plain, marked = (tiny_lm.adapter(time_markers=flag, order=order) for flag in (False, True))
    features = tiny_lm.video(frames=frames)[None]
    table = marked.lm.get_input_embeddings().weight
    expected = plain.visual_tokens(features).clone()
    for frame, mark in enumerate(marks):
        expected[0, frame] += table[marked.time_token_ids[mark]]
    torch.testing.assert_close(marked.visual_tokens(features), expected)
    assert set(marked.state_dict()) == set(plain.state_dict())


def test_time_markers_train_the_time_rows():
    adapter = tiny_lm.adapter(tied=False, time_markers=True)
    adapter(**adapter.prepare(tiny_lm.PROMPT, videos=[tiny_lm.video()])).logits.sum().backward()
    touched = adapter.lm.get_input_embeddings().weight.grad.abs().sum(1)[list(adapter.time_token_ids)] > 0
    assert touched.nonzero().flatten().tolist() == [0, 4, 9]


@pytest.mark.parametrize("lacking", ["fast", "time"])
def test_time_markers_need_fast_tokens_and_time_tokens(lacking):
    with pytest.raises(ArgumentError, match="time_markers: markers need fast tokens and time_token_ids"):
        VideoAdapter(
            tiny_lm.language_model(),
            TokenIds(300, () if lacking == "time" else range(10, 20)),
            vision_dim=6,
            pooler=SlowFastPooler(fast=lacking != "fast"),
            time_markers=True,
        )


@pytest.mark.parametrize("projector", ["linear", "mlp2x_gelu"])
@pytest.mark.parametrize("training", [True, False])
def test_gradients_reach_projector_and_features_and_are_finite(projector, training):
    adapter = tiny_lm.adapter(projector=projector).train(training)
    features = tiny_lm.video().requires_grad_()
    batch = adapter.prepare(tiny_lm.PROMPT, videos=[features])
    adapter(**batch, labels=batch["input_ids"]).loss.backward()
    for gradient in [features.grad, *(parameter.grad for parameter in adapter.projector.parameters())]:
        assert gradient.isfinite().all() and gradient.abs().sum() > 0


def test_gradients_are_those_of_embeddings_put_together_by_hand():
    adapter = tiny_lm.adapter()
    batch = adapter.prepare(tiny_lm.PROMPT, videos=[tiny_lm.video()])
    visual = adapter.projector(adapter.pooler(batch["video_features"]))[0]
    ids = batch["input_ids"][0].tolist()
    first = ids.index(adapter.video_token_id)
    before, after = (
        adapter.lm.get_input_embeddings()(torch.tensor(part)) for part in (ids[:first], ids[first + len(visual) :])
    )
    logits = adapter.lm(inputs_embeds=torch.cat([before, visual, after])[None]).logits
    weights = [*adapter.projector.parameters(), adapter.lm.get_input_embeddings().weight]
    expected = torch.autograd.grad(logits[0, -1, 7], weights)
    found = torch.autograd.grad(adapter(**batch).logits[0, -1, 7], weights)
    torch.testing.assert_close(found, expected)


def test_placeholders_and_padding_are_not_learned():
    adapter = tiny_lm.adapter()
    batch = adapter.prepare([text for text, _ in ROWS], videos=[video for _, videos in ROWS for video in videos])
    labels = batch["input_ids"].clone()
    outputs = adapter(**batch, labels=labels)
    assert torch.equal(labels, batch["input_ids"])  # the caller's tensor is left alone
    losses = []
    for k, row in enumerate(labels.tolist()):
        log_probs = outputs.logits[k].log_softmax(-1)
        for position in range(1, len(row)):
            if row[position] != adapter.video_token_id and batch["attention_mask"][k, position]:
                losses.append(-log_probs[position - 1, row[position]])
    torch.testing.assert_close(outputs.loss, torch.stack(losses).mean())


def test_labels_without_a_mask_and_with_a_mask_of_four_axes():
    adapter = tiny_lm.adapter()
    batch = adapter.prepare(tiny_lm.PROMPT, videos=[tiny_lm.video()])
    ids, length = batch["input_ids"], batch["input_ids"].shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
    expected = adapter(**batch, labels=ids).loss
    torch.testing.assert_close(adapter(ids, video_features=batch["video_features"], labels=ids).loss, expected)
    masked = adapter(ids, attention_mask=causal, video_features=batch["video_features"], labels=ids).loss
    torch.testing.assert_close(masked, expected)


def test_the_loss_is_a_sum_divided_by_what_the_trainer_counts():
    adapter = tiny_lm.adapter()
    batch = adapter.prepare(tiny_lm.PROMPT, videos=[tiny_lm.video()])
    targets = int((batch["input_ids"][:, 1:] != adapter.video_token_id).sum())
    mean = adapter(**batch, labels=batch["input_ids"]).loss
    for count in (7, torch.tensor(7)):
        found = adapter(**batch, labels=batch["input_ids"], num_items_in_batch=count).loss
        torch.testing.assert_close(found, mean * targets / 7)
    assert adapter(**batch, num_items_in_batch=7).loss is None


def test_the_loss_of_a_model_in_half_precision_is_in_float32():
    adapter = tiny_lm.adapter().to(torch.bfloat16)
    batch = adapter.prepare(tiny_lm.PROMPT, videos=[tiny_lm.video().to(torch.bfloat16)])
    outputs = adapter(**batch, labels=batch["input_ids"])
    assert outputs.loss.dtype == torch.float32 and next(iter(outputs)) == "loss"


def test_placeholders_that_the_videos_do_not_fill_name_the_row():
    adapter = tiny_lm.adapter()
    batch = adapter.prepare(["<video> a", "<video> b"], videos=[tiny_lm.video(0), tiny_lm.video(1)])
    batch["input_ids"][1, -1] = adapter.video_token_id
    for call in (adapter, adapter.generate):
        with pytest.raises(PromptError, match=r"placeholders by row are \[5, 6\], visual tokens by video are \[5, 5\]"):
            call(**batch)


def test_a_video_too_many_and_one_too_few_are_errors():
    adapter = tiny_lm.adapter()
    batch = dict(adapter.prepare("<video> a", videos=[tiny_lm.video()]))
    batch["video_features"] = torch.stack([tiny_lm.video(k) for k in range(2)])
    with pytest.raises(PromptError, match=r"by row are \[5\], visual tokens by video are \[5, 5\]; .* and all of them"):
        adapter(**batch)
    batch = dict(adapter.prepare(["<video>", "<video>"], videos=[tiny_lm.video()] * 2))
    batch["video_features"] = batch["video_features"][:1]
    with pytest.raises(PromptError, match=r"by row are \[5, 5\], visual tokens by video are \[5\]"):
        adapter(**batch)


@pytest.mark.parametrize("features", [None, []])
def test_missing_features_are_an_error(features):
    adapter = tiny_lm.adapter()
    batch = dict(adapter.prepare(["<video>", "a"], videos=[tiny_lm.video()])) | {"video_features": features}
    for call in (adapter, adapter.generate):
        with pytest.raises(PromptError, match=r"placeholders by row are \[5, 0\], visual tokens by video are \[\]"):
            call(**batch)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "pool first"}, "order: expected 'pool-first' or 'project-first', got 'pool first'"),
        ({"projector": "mlp"}, "projector: expected 'linear', 'mlp2x_gelu' or a module, got 'mlp'"),
        ({"projector": 3}, "projector: expected 'linear', 'mlp2x_gelu' or a module, got 3"),
    ],
)
def test_bad_choices_are_refused(options, message):
    with pytest.raises(ArgumentError, match=message):
        VideoAdapter(tiny_lm.language_model(), TokenIds(300), vision_dim=6, **options)


class Quantised(nn.Module):
    """A table of bytes, as bitsandbytes keeps one."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(rows, width // 2, dtype=torch.uint8), requires_grad=False)


@pytest.mark.parametrize(("embedding", "kind"), [(Quantised(290, 32), "torch.uint8"), (nn.Identity(), "Identity")])
def test_a_quantised_embedding_is_refused(embedding, kind):
    lm = tiny_lm.language_model(tied=False)
    lm.set_input_embeddings(embedding)
    with pytest.raises(ArgumentError, match=rf"lm: its input embedding is quantised \({kind}\)"):
        VideoAdapter(lm, TokenIds(300), vision_dim=6)


def test_names_of_the_weights_hold():
    names = set(tiny_lm.adapter(tied=False, projector="mlp2x_gelu").state_dict())
    own = {f"projector.{k}.{name}" for k in (0, 2) for name in ("weight", "bias")}
    assert {name for name in names if not name.startswith("lm.")} == own
    assert {f"lm.{name}" for name in tiny_lm.language_model(tied=False).state_dict()} == names - own


def test_half_precision_runs():
    adapter = tiny_lm.adapter().to(torch.bfloat16)
    batch = adapter.prepare(tiny_lm.PROMPT, videos=[tiny_lm.video().to(torch.bfloat16)])
    assert adapter(**batch).logits.dtype == torch.bfloat16


@pytest.mark.parametrize("kind", tiny_lm.KINDS)
def test_packed_rows_do_not_see_each_other(kind):
    """Two prompts in one row, told apart by positions that begin anew, are what they are alone."""
    adapter = tiny_lm.adapter(kind)
    videos = [tiny_lm.video(), tiny_lm.video().flip(0) + 1]
    alone = [adapter.prepare(tiny_lm.PROMPT, videos=[video])["input_ids"] for video in videos]
    positions = torch.cat([torch.arange(row.shape[1]) for row in alone])[None]
    packed = adapter(torch.cat(alone, 1), video_features=torch.stack(videos), position_ids=positions, use_cache=False)
    apart = [adapter(row, video_features=[video]).logits for row, video in zip(alone, videos, strict=True)]
    torch.testing.assert_close(packed.logits, torch.cat(apart, 1), rtol=1e-4, atol=1e-5)


def test_a_chat_template_writes_the_placeholder():
    adapter = tiny_lm.adapter()
    tokenizer = adapter.processor.tt.tokenizer
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {% for part in m.content %}"
        "{{ '<video>\\n' if part.type == 'video' else part.text }}{% endfor %} {% endfor %}assistant:"
    )
    turn = [{"type": "video"}, {"type": "text", "text": "When does it appear?"}]
    chat = [
        {"role": "user", "content": turn},
        {"role": "assistant", "content": [{"type": "text", "text": "<t3>"}]},
        {"role": "user", "content": turn[::-1]},
    ]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    batch = adapter.prepare(text, videos=[tiny_lm.video(), tiny_lm.video() + 1])
    assert (batch["input_ids"] == adapter.video_token_id).sum() == 2 * tiny_lm.NUM_VISUAL
    assert adapter.generate(**batch, max_new_tokens=2).shape[1] == batch["input_ids"].shape[1] + 2


@pytest.fixture(scope="module")
def seeing():
    """An adapter with a real, tiny frame encoder."""
    torch.manual_seed(0)
    vision = FrameEncoder("resnet10t", image_size=64)
    return tiny_lm.adapter(vision_dim=vision.width, vision=vision)


def clips(*lengths):
    return [torch.randn(length, 3, 64, 64, generator=torch.Generator().manual_seed(length)) for length in lengths]


@pytest.mark.parametrize("lengths", [(3, 3), (2, 5)])
def test_pixels_are_as_good_as_their_features(lengths, seeing):
    prompts, pixels = [tiny_lm.PROMPT, OTHER.replace(" and <video>", "")], clips(*lengths)
    batch = seeing.prepare(prompts, pixels=pixels)
    features = [seeing.features(clip[None])[0] for clip in pixels]
    same = seeing.prepare(prompts, videos=features)
    assert torch.equal(batch["input_ids"], same["input_ids"])
    close(seeing(**batch, labels=batch["input_ids"]).logits, seeing(**same).logits)
    assert answers(seeing, batch, max_new_tokens=5) == answers(seeing, same, max_new_tokens=5)


@pytest.mark.parametrize("lengths", [(3, 3), (2, 5)])
def test_pooled_features_give_the_bits_of_their_frames(lengths, seeing):
    seeing.train()  # with gradients to the projector
    prompts, pixels = [tiny_lm.PROMPT, OTHER.replace(" and <video>", "")], clips(*lengths)
    pooled = [seeing.pooler(seeing.features(clip[None]))[0] for clip in pixels]
    gradients = []
    for given in ({"pixels": pixels}, {"videos": pooled}):
        batch = seeing.prepare(prompts, **given)
        seeing.zero_grad()
        loss = seeing(**batch, labels=batch["input_ids"]).loss
        loss.backward()
        gradients.append([loss, seeing.projector.weight.grad.clone()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    seeing.eval()


@pytest.mark.parametrize("options", [{"order": "project-first"}, {"time_markers": True}])
def test_pooled_features_are_refused_where_more_is_done_to_them(options):
    adapter = tiny_lm.adapter(**options)
    batch = adapter.prepare(tiny_lm.PROMPT, videos=[torch.randn(7, 8)])
    with pytest.raises(ArgumentError, match=r"\[n e\] are for adapters that pool first"):
        adapter(**batch)


def test_the_encoder_of_pixels_is_frozen_and_stays_in_evaluation_mode(seeing):
    seeing.train()
    assert seeing.lm.training and not any(module.training for module in seeing.vision.modules())
    batch = seeing.prepare(tiny_lm.PROMPT, pixels=clips(3))
    seeing(**batch, labels=batch["input_ids"]).loss.backward()
    assert seeing.projector.weight.grad is not None and all(p.grad is None for p in seeing.vision.parameters())
    seeing.eval()


def test_a_video_of_pixels_is_encoded_once_for_many_questions(seeing):
    (clip,) = clips(3)
    video = seeing.encode_video(pixels=clip, prefix="USER: <video>\n")
    found, afresh = (
        answers(seeing, seeing.prepare(tiny_lm.PROMPT, **given), max_new_tokens=5)
        for given in ({"videos": [video]}, {"pixels": [clip]})
    )
    assert found == afresh


@pytest.mark.parametrize("order", ["pool-first", "project-first"])
@pytest.mark.parametrize(
    "preset", ["lita", "lita-temporal", "lita-spatial", "lita-temporal-spatial", "lita-spatial-pool"]
)
@pytest.mark.parametrize("projector", ["linear", "mlp2x_gelu"])
def test_pixels_in_chunks_become_the_tokens_of_their_features(order, preset, projector, monkeypatch):
    torch.manual_seed(0)
    vision = FrameEncoder("resnet10t", image_size=64, chunk_size=3)
    parts = {"pooler": SlowFastPooler.preset(preset), "order": order, "projector": projector}
    adapter = tiny_lm.adapter(vision_dim=vision.width, vision=vision, **parts)
    (clip,) = clips(8)
    encode, seen = vision.frames, []
    monkeypatch.setattr(vision, "frames", lambda pixels: (seen.append(len(pixels)), encode(pixels))[1])
    tokens = adapter.encode_video(pixels=clip).tokens
    assert seen == [3, 3, 2]
    close(tokens, adapter.visual_tokens(adapter.features(clip[None]))[0])
    with pytest.raises(ArgumentError, match="features, pixels: pass one of the two"):
        adapter.encode_video()


@pytest.mark.parametrize("order", ["pool-first", "project-first"])
@pytest.mark.parametrize("in_chunks", [True, False])
def test_a_video_is_encoded_from_pixels_in_chunks_or_whole(order, in_chunks):
    encoder = FrameEncoder("resnet10t", image_size=64, chunk_size=2)
    vision = encoder if in_chunks else nn.Sequential(encoder)  # which has no chunks
    adapter, (clip,) = tiny_lm.adapter(vision_dim=encoder.width, vision=vision, order=order), clips(5)
    expected = adapter.visual_tokens(adapter.features(clip[None]))[0]
    close(adapter.encode_video(pixels=clip).tokens, expected)
    for given in ({}, {"features": clip, "pixels": clip}):
        with pytest.raises(ArgumentError, match="features, pixels: pass one of the two"):
            adapter.encode_video(prefix=[1], **given)


def test_pixels_that_cannot_be_read_are_named(seeing):
    blind, (clip,) = tiny_lm.adapter(), clips(2)
    with pytest.raises(ArgumentError, match=r"pixels: expected \[t c h w\] .* an adapter with vision="):
        blind.prepare(tiny_lm.PROMPT, pixels=[clip])
    with pytest.raises(ArgumentError, match=r"pixels: expected \[t c h w\] for each video, got \[3, 64, 64\]"):
        seeing.prepare(tiny_lm.PROMPT, pixels=[clip[0]])
    batch = seeing.prepare(tiny_lm.PROMPT, pixels=[clip])
    with pytest.raises(ArgumentError, match="pixel_values_videos: there is no encoder"):
        blind(**batch)
    with pytest.raises(ArgumentError, match="pixel_values_videos, video_features: pass one of the two"):
        seeing(**batch, video_features=[clip])


def test_rows_of_pixels_train(seeing):
    first, second = clips(3, 4)
    rows = [
        {"prompt": "<video> when?", "answer": "<t1> <t2>", "pixel_values_videos": first},
        {"prompt": "<video> and <video>?", "answer": "<t3>", "pixel_values_videos": [second, first]},
    ]
    batch = seeing.processor.collate(rows)
    assert [len(clip) for clip in batch["pixel_values_videos"]] == [3, 4, 3] and "video_features" not in batch
    seeing(**batch).loss.backward()
    mixed = [rows[0], {"prompt": "<video>?", "answer": "", "video_features": torch.zeros(1, 4, 8)}]
    with pytest.raises(ArgumentError, match="pixel_values_videos, video_features: pass one of the two, got both"):
        seeing(**seeing.processor.collate(mixed))


def test_half_precision_takes_features_as_they_come():
    adapter = tiny_lm.adapter().bfloat16()
    batch = adapter.prepare(tiny_lm.PROMPT, videos=[tiny_lm.video()])
    assert batch["video_features"].dtype == torch.float32
    assert adapter(**batch).logits.isfinite().all()


@pytest.mark.parametrize(("kind", "tied"), tiny_lm.MODELS)
def test_the_lm_alone_fed_the_prompts_embeddings_says_the_same(kind, tied):
    adapter = tiny_lm.adapter(kind, tied=tied)
    videos = [tiny_lm.video(k, frames=k + 2) for k in range(2)]
    batch = adapter.prepare([tiny_lm.PROMPT, "A longer one. " + tiny_lm.PROMPT], videos=videos)
    logits, answered = adapter(**batch).logits, answers(adapter, batch, max_new_tokens=6)
    for row, embeds in enumerate(adapter.prompt_embeds(**batch)):
        close(adapter.lm(inputs_embeds=embeds[None]).logits[0, -1], logits[row, -1])
        new = adapter.lm.generate(inputs_embeds=embeds[None], do_sample=False, max_new_tokens=6)[0].tolist()
        assert (new[: new.index(1) + 1] if 1 in new else new) == answered[row]
