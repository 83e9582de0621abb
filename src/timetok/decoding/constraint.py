"""Holding a language model to answers made of well-formed spans."""

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from timetok.codecs import IndexCodec
from timetok.decoding.grammar import ANY_SECONDS, SpanGrammar, State
from timetok.errors import ArgumentError, MalformedAnswerError, TokenizerError


class SpanConstraint:
    """The answers of spans that a tokenizer can write. Costs a look at the whole vocabulary: make one and keep it.

    Args:
        tt: A `timetok.TimeTokenizer`, with any codec.
        min_spans: Fewest spans of an answer; with 0 it may be empty.
        max_spans: Most spans; None for any number. ArgumentError is raised where the two make no sense.
        separator: Between two spans.
        free_text: Any text may stand around spans, but a moment in it begins one. Where moments are plain whole
            numbers, every number is one.
        stop_ids: Tokens that end an answer, allowed only where it may end; the tokenizer's ``eos`` if None, or
            ArgumentError where it has none.

    >>> constraint = SpanConstraint(tt, max_spans=3)  # doctest: +SKIP
    >>> model.generate(**inputs, logits_processor=[constraint.processor(durations)])  # doctest: +SKIP
    """

    def __init__(
        self,
        tt: Any,
        *,
        min_spans: int = 1,
        max_spans: int | None = 1,
        separator: str = " ",
        free_text: bool = False,
        stop_ids: Sequence[int] | None = None,
    ) -> None:
        eos = tt.tokenizer.eos_token_id
        self.stop_ids = frozenset(stop_ids if stop_ids is not None else [] if eos is None else [eos])
        if not self.stop_ids:
            raise ArgumentError("stop_ids must be given: the tokenizer has no eos token")
        # some tokenizers have no token for the space between two: WordPiece, and the one of LITA
        two = tt.tokenizer.encode(" ".join(tt.codec.tokens[:2]), add_special_tokens=False)
        layout: Any = {"separator": separator, "free_text": free_text, "tight": len(two) == 2}
        grammar_of = partial(SpanGrammar, tt.codec, min_spans=min_spans, max_spans=max_spans, **layout)
        self.grammar = lru_cache(256)(grammar_of)
        longest = grammar_of()
        self._codec, self._texts = tt.codec, _token_texts(tt, longest.own_characters, self.stop_ids)
        examples: dict[str, str] = {}  # of each kind of characters; in the tree they stand for all of it
        example = lru_cache(None)(lambda character: examples.setdefault(longest.kind(character), character))
        self._tree: list[dict[str, int]] = [{}]  # of the texts of tokens: the children of each node, which come later
        ends = {token: 0 for token, text in self._texts.items() if free_text or longest.alphabet.issuperset(text)}
        for token in ends:
            for character in map(example, self._texts[token]):
                child = self._tree[ends[token]].setdefault(character, len(self._tree))
                if child == len(self._tree):
                    self._tree.append({})
                ends[token] = child
        self._tokens, self._ends = torch.tensor([*ends.items()], dtype=torch.long).reshape(-1, 2).T.contiguous()
        self.mask = lru_cache(256)(self._mask)

    def processor(self, durations: Sequence[float] | float | None = None) -> "SpanLogitsProcessor":
        """A logits processor for one call of ``generate``: greedy, sampled, or with beams.

        ``durations`` are lengths of videos in seconds, one a prompt or one for all; spans stay within. Index tokens
        need none. Ids that are there at the first step are the prompt, of which there are none where it is given as
        embeddings.
        """
        each = durations if isinstance(durations, Sequence) else [ANY_SECONDS if durations is None else durations]
        if isinstance(self._codec, IndexCodec):
            each = [ANY_SECONDS] * len(each)  # only the order of marks matters: one grammar for all videos
        return SpanLogitsProcessor(self, each)

    def follow(self, duration: float, state: State | None, token: int) -> State | None:
        """Where an answer stands after a token; None where it is not well-formed."""
        step = self.grammar(duration).step
        if token not in self._texts:
            return None
        for character in self._texts[token]:
            state = state and step(state, character)
        return state

    def _mask(self, duration: float, state: State, size: int, device: torch.device) -> Tensor:
        """Which tokens may come next: bool ``[v]``."""
        grammar, states = self.grammar(duration), [state, *[None] * (len(self._tree) - 1)]
        for reached, children in zip(states, self._tree, strict=True):
            if reached:
                for character, child in children.items():
                    states[child] = grammar.step(reached, character)
        allowed = self._tokens[torch.tensor([reached is not None for reached in states])[self._ends]]
        stops = sorted(self.stop_ids) if grammar.accepts(state) else []
        if not (stops or len(allowed)):
            raise TokenizerError(f"tt: no token of its vocabulary may follow {state.written!r} in {state.place!r}")
        mask = torch.zeros(size, dtype=torch.bool)
        mask[allowed] = mask[stops] = True
        return mask.to(device)


class SpanLogitsProcessor(LogitsProcessor):
    """Leaves only tokens that keep an answer well-formed; made by `SpanConstraint.processor` for one ``generate``."""

    def __init__(self, constraint: SpanConstraint, durations: Sequence[float]) -> None:
        self._constraint, self._durations, self._prompt_length = constraint, durations, -1
        self._states: dict[tuple[float, tuple[int, ...]], State | None] = {}

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Set the scores ``[b v]`` of what may not come next to ``-inf``.

        ArgumentError: rows do not divide among the durations; MalformedAnswerError: no row is well-formed so far.
        """
        if self._prompt_length < 0:
            self._prompt_length = input_ids.shape[1]
        rows, each = input_ids[:, self._prompt_length :].tolist(), self._durations
        if len(rows) % len(each):
            raise ArgumentError(f"durations: expected one for each prompt, got {len(each)} for {len(rows)} rows")
        states: dict[tuple[float, tuple[int, ...]], State | None] = {}
        allowed = torch.ones_like(scores, dtype=torch.bool)
        for k, row in enumerate(rows):
            duration, answer = each[k * len(each) // len(rows)], tuple(row)
            if self._constraint.stop_ids.isdisjoint(answer):  # else it has ended, and padding follows
                state = states[duration, answer] = self._state(duration, answer)
                # a beam that is no answer fills up a search with too few others
                allowed[k] = self._constraint.mask(duration, state, scores.shape[1], scores.device) if state else False
        if states and not any(states.values()):
            where = f"behind its first {self._prompt_length} ids; make a processor for each call of generate"
            raise MalformedAnswerError(f"input_ids: no row is a well-formed answer {where}")
        self._states = states
        return scores.masked_fill(~allowed, -torch.inf)

    def _state(self, duration: float, answer: tuple[int, ...]) -> State | None:
        known = (duration, answer[:-1]) in self._states
        state = self._states[duration, answer[:-1]] if known else self._constraint.grammar(duration).start
        for token in answer[-1:] if known else answer:
            state = self._constraint.follow(duration, state, token)
        return state


def _token_texts(tt: Any, characters: str, stop_ids: frozenset[int]) -> dict[int, str]:
    """What each token adds to a text; the codec's own ones, as in `SpanGrammar`, one of ``characters`` each."""
    own = dict(zip(tt.time_token_ids, characters, strict=True))
    tokenizer, left_out = tt.tokenizer, stop_ids.union(tt.tokenizer.all_special_ids, own)
    ids = sorted(set(tokenizer.get_vocab().values()) - left_out)
    anchor = tokenizer.encode("a", add_special_tokens=False)[-1:]  # what stands first may lose its space
    front = len(tokenizer.decode(anchor))
    texts = tokenizer.batch_decode([[*anchor, token] for token in ids], clean_up_tokenization_spaces=False)
    return {**{token: text[front:] for token, text in zip(ids, texts, strict=True) if text[front:]}, **own}
