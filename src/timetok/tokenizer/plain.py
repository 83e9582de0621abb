"""Untrusted text: a tokenizer in which a literal ``<t12>`` is the characters a user typed."""

import copy
import json
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from timetok.errors import TokenizerError

_PRIVATE_USE = range(0xF0000, 0xFFFFE)


class PlainCopies:
    """Copies of a tokenizer whose time tokens have other names and the same ids.

    The names start with a private-use character that does not occur in the text at hand, so nothing in it can
    be taken for one, and trusted parts of a text can still name them. The last copy is kept.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> None:
        self.tokenizer, self.tokens = tokenizer, tokens
        self._last: tuple[tuple[Any, ...], Tokenizer] | None = None

    def names(self, text: str) -> dict[str, str]:
        """Other names of the time tokens, none of which stands in ``text``: all that will be encoded or was decoded."""
        mark = next(chr(code) for code in _PRIVATE_USE if chr(code) not in text)
        return {token: f"{mark}{index}{mark}" for index, token in enumerate(self.tokens)}

    def with_names(self, names: dict[str, str]) -> PreTrainedTokenizerBase:
        """A copy that shares the tokenizer's present settings; TokenizerError without a ``tokenizers`` backend."""
        backend: Tokenizer | None = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            lacks = (
                f"{type(self.tokenizer).__name__} has no `tokenizers` backend, without which a literal time token in"
            )
            remedy = "load a fast tokenizer or rephrase the text"
            raise TokenizerError(f"tokenizer: {lacks} untrusted text cannot be told from a real one; {remedy}")
        key = (*names.values(), *backend.get_added_tokens_decoder())
        if self._last is None or self._last[0] != key:
            description = json.loads(backend.to_str())
            for token in description["added_tokens"]:
                token["content"] = names.get(token["content"], token["content"])
            plain = Tokenizer.from_str(json.dumps(description))
            if any(plain.token_to_id(new) != backend.token_to_id(old) for old, new in names.items()):
                raise TokenizerError("tokenizer: its time tokens are part of its model, and not told from plain text")
            self._last = key, plain
        self._last[1].post_processor = backend.post_processor  # changes when a user sets add_bos_token
        tokenizer = copy.copy(self.tokenizer)
        tokenizer._tokenizer = self._last[1]
        return tokenizer

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_last": None}  # rebuilt when needed
