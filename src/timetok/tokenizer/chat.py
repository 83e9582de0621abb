"""Chats in which what the user typed is not trusted."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from timetok.errors import ArgumentError

_PRIVATE_USE = range(0xE000, 0xF900)


def chat_parts(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    literals: re.Pattern[str],
    trusted_roles: Collection[str],
    **template_kwargs: Any,
) -> list[tuple[str, bool]]:
    """A rendered chat in parts that are trusted or not, for ``TimeTokenizer.encode_parts``.

    A template may cut, reorder or repeat what it is given. So the ``literals`` of roles that are not trusted go
    through it as one private character for each different one, and are put back behind it. A content may be a text or a
    list of ``{"type": "text", "text": …}``. Raises ArgumentError where ``tokenize`` is given, or the messages hold
    thousands of different literals.
    """
    if "tokenize" in template_kwargs:
        raise ArgumentError("tokenize: encode_chat always does; call tt.tokenizer.apply_chat_template for the text")
    everything = json.dumps(messages, ensure_ascii=False, default=str)
    free = (chr(code) for code in _PRIVATE_USE if chr(code) not in everything)
    stands_for: dict[str, str] = {}

    def hide(literal: re.Match[str]) -> str:
        if literal[0] not in stands_for:
            stands_for[literal[0]] = next(free, "")
        return stands_for[literal[0]]

    def safe(value: Any) -> Any:
        if isinstance(value, str):
            return literals.sub(hide, value)
        if isinstance(value, Mapping):
            return {key: safe(each) for key, each in value.items()}
        return [safe(each) for each in value] if isinstance(value, list | tuple) else value

    shown: list[Any] = [
        message if message["role"] in trusted_roles else {**message, "content": safe(message["content"])}
        for message in messages
    ]
    if "" in stands_for.values():
        raise ArgumentError(f"messages hold more than {len(_PRIVATE_USE)} different time tokens")
    text = str(tokenizer.apply_chat_template(shown, tokenize=False, **template_kwargs))
    hidden = {character: literal for literal, character in stands_for.items()}
    pieces = re.split(f"([{''.join(hidden)}])", text) if hidden else [text]
    return [(hidden.get(piece, piece), piece not in hidden) for piece in pieces if piece]
