"""Where an action ends: with the token in which a stop string is complete. One rule for every sampler."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from agents.sampling.base import Generation
from toolenv.formats import Format, letter


class StopStrings:
    """Finds stop strings in the tail of an action, decoding only where a token could complete one.

    Args:
        tokenizer: A transformers tokenizer.
        stop: The strings.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str]) -> None:
        self.tokenizer = tokenizer
        self.stop = tuple(stop)
        self.longest = max(map(len, self.stop), default=0)
        self.last_characters = {text[-1] for text in self.stop}
        # A character beyond ASCII may be spread over several tokens.
        self.always = any(not character.isascii() for character in self.last_characters)
        self.could_end: dict[int, bool] = {}

    def complete(self, ids: Sequence[int]) -> bool:
        """Whether a stop string stands in the last tokens, which the last one completed."""
        if not self.stop:
            return False
        last = ids[-1]
        if last not in self.could_end:
            text = self.tokenizer.decode([last])
            self.could_end[last] = self.always or any(character in text for character in self.last_characters)
        if not self.could_end[last]:
            return False
        # Tokens of one incomplete character decode to nothing sensible, so some more than the longest string.
        tail = self.tokenizer.decode(ids[-self.longest - 4 :], clean_up_tokenization_spaces=False)
        return any(text in tail for text in self.stop)

    def end(self, ids: Sequence[int]) -> int | None:
        """How many of these tokens there are up to the first that completes a stop string; ``None``: none does."""
        window = self.longest + 4
        return next((n for n in range(1, len(ids) + 1) if self.complete(ids[max(0, n - window) : n])), None)


def without_rest(generation: Generation, format: Format, tokenizer: Any) -> Generation:
    """An action without the tokens after what the format counts of it, which no stop string could end in time.

    The token in which the cut lies is kept whole, as the one that completes a stop string is.
    """
    counts = len(letter.cut(format, generation.text))
    if counts >= len(generation.text):
        return generation

    def length(tokens: int) -> int:
        return len(tokenizer.decode(generation.ids[:tokens], clean_up_tokenization_spaces=False))

    kept = bisect_left(range(len(generation.ids)), counts, key=length)
    if kept >= len(generation.ids):
        return generation
    ids = generation.ids[:kept]
    text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    return replace(generation, ids=ids, logprobs=generation.logprobs[:kept], text=text, finish_reason="stop")
