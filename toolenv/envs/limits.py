"""How much of a result the model is shown: so many characters, or so many of the policy's tokens."""

from __future__ import annotations

import re
from bisect import bisect_right
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from toolenv.env import is_count
from toolenv.errors import ConfigError
from toolenv.extras import require
from toolenv.retrieval.encoders.hub import is_hub_name


class Limit(Protocol):
    """Keeps the head of a text."""

    def cut(self, text: str) -> str:
        """A head of the text that is within the limit; the text itself where all of it is."""
        ...


class CharLimit:
    """So many characters.

    Raises:
        ConfigError: A limit below 1.

    Example:
        >>> CharLimit(5).cut("a river")
        'a riv'
    """

    def __init__(self, max_chars: int) -> None:
        if not is_count(max_chars):
            raise ConfigError(f"max_observation_chars must be at least 1, not {max_chars!r}")
        self.max_chars = max_chars

    def cut(self, text: str) -> str:
        """The first characters."""
        return text[: self.max_chars]


class TokenLimit:
    """So many tokens of a tokenizer, as Search-R1 cuts observations.

    The head ends where a token ends, never within a character, and is itself at most so many tokens: a word that is cut
    in the middle may have more tokens than it had as a whole.

    Args:
        max_tokens: Most tokens.
        tokenizer: A tokenizer of transformers; or the folder or the hub name of one.

    Raises:
        ConfigError: A limit below 1, or a tokenizer that cannot be loaded.
        MissingExtraError: A name is given, and transformers is not installed.
    """

    def __init__(self, max_tokens: int, tokenizer: Any) -> None:
        if not is_count(max_tokens):
            raise ConfigError(f"max_observation_tokens must be at least 1, not {max_tokens!r}")
        self.max_tokens = max_tokens
        self.tokenizer = _load(str(tokenizer)) if isinstance(tokenizer, str | Path) else tokenizer
        if not callable(self.tokenizer):
            raise ConfigError(f"a tokenizer is one of transformers, or the name of one; got {tokenizer!r}")

    def cut(self, text: str) -> str:
        """The first tokens' characters."""
        if self._fits(text):
            return text
        # Only the fast tokenizers say where their tokens stand.
        return self._cut_at_token(text) if getattr(self.tokenizer, "is_fast", False) else self._cut_by_halves(text)

    def _cut_at_token(self, text: str) -> str:
        spans: list[tuple[int, int]] = self._encode(text, return_offsets_mapping=True)["offset_mapping"]
        for (_, end), (following, _) in reversed(list(pairwise(spans[: self.max_tokens + 1]))):
            # A character may be several tokens, each of which spans it: between them there is no end.
            if following >= end and self._fits(text[:end]):
                return text[:end]
        return ""

    def _cut_by_halves(self, text: str) -> str:
        """At the last word that fits; within the first word where that alone is too long."""
        words = [word.end() for word in re.finditer(r"\S+", text)]
        for ends in (words, range(1, len(text) + 1)):
            count = bisect_right(ends, 0, key=lambda end: 0 if self._fits(text[:end]) else 1)
            if count:
                return text[: ends[count - 1]]
        return ""

    def _fits(self, text: str) -> bool:
        return len(self._encode(text)["input_ids"]) <= self.max_tokens

    def _encode(self, text: str, **options: Any) -> Any:
        return self.tokenizer(text, add_special_tokens=False, **options)


def make_limit(max_chars: int, max_tokens: int | None, tokenizer: Any) -> Limit:
    """The limit in tokens where one is given, else the one in characters.

    Raises:
        ConfigError: Tokens without a tokenizer, a tokenizer without a number of tokens, or what the limits refuse.

    Example:
        >>> make_limit(5, None, None).cut("a river")
        'a riv'
    """
    if max_tokens is None:
        if tokenizer is not None:
            raise ConfigError("a tokenizer is for max_observation_tokens; give how many, or no tokenizer")
        return CharLimit(max_chars)
    if tokenizer is None:
        raise ConfigError(
            "max_observation_tokens needs the policy's tokenizer: give tokenizer=, an object, a folder or a name"
        )
    return TokenLimit(max_tokens, tokenizer)


@lru_cache(maxsize=4)
def _load(name: str) -> Any:
    transformers = require("transformers", "search")
    if not Path(name).is_dir() and not is_hub_name(name):  # else the hub is asked, again and again
        raise ConfigError(
            f"cannot load the tokenizer {name!r}: no such folder; give a folder, owner/name on the model hub, or the "
            "tokenizer itself, as agents.models.load_model gives it for the models that --model names"
        )
    try:
        return transformers.AutoTokenizer.from_pretrained(name, local_files_only=Path(name).is_dir())
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot load the tokenizer {name!r}: {' '.join(str(error).split())[:300]}") from error
