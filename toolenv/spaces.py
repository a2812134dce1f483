"""Gymnasium spaces for text that a model writes and conversations that it reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from toolenv.messages import Message


class UnicodeText(spaces.Space[str]):
    """Every string of at most ``max_length`` characters, lone surrogates and NUL included.

    Gymnasium's ``Text`` names its characters one by one, which all of Unicode makes slow; and uniform characters
    would never reach a tool. So ``sample`` draws from examples.

    Args:
        max_length: Longest string, in characters.
        examples: What ``sample`` draws from: texts that reach every path of the environment.
        seed: Seed of the sampler.

    Example:
        >>> space = UnicodeText(100, examples=("hello", "<answer>4</answer>"), seed=0)
        >>> space.sample() in space
        True
    """

    def __init__(
        self, max_length: int, examples: Sequence[str] = ("",), seed: int | np.random.Generator | None = None
    ) -> None:
        self.max_length = max_length
        self.examples = tuple(examples)
        super().__init__(dtype=str, seed=seed)

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> str:
        """Draw one of the examples; masks are ignored, since no character has one."""
        return self.examples[int(self.np_random.integers(len(self.examples)))]

    def contains(self, x: Any) -> bool:
        """Whether ``x`` is a string that is short enough."""
        return isinstance(x, str) and len(x) <= self.max_length

    @property
    def is_np_flattenable(self) -> bool:
        """Text has no array form."""
        return False

    def __eq__(self, other: Any) -> bool:
        return (
            isinstance(other, UnicodeText) and self.max_length == other.max_length and self.examples == other.examples
        )

    def __repr__(self) -> str:
        return f"UnicodeText(max_length={self.max_length})"


class Conversation(spaces.Space[tuple[Message, ...]]):
    """Tuples of messages.

    Example:
        >>> (Message("user", "hello"),) in Conversation()
        True
    """

    def __init__(self, seed: int | np.random.Generator | None = None) -> None:
        super().__init__(dtype=None, seed=seed)

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> tuple[Message, ...]:
        """A short conversation with a drawn number in it."""
        return (Message("user", f"message {int(self.np_random.integers(1_000_000))}"),)

    def contains(self, x: Any) -> bool:
        """Whether ``x`` is a tuple of messages."""
        return isinstance(x, tuple) and all(isinstance(message, Message) for message in x)

    @property
    def is_np_flattenable(self) -> bool:
        """A conversation has no array form."""
        return False

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Conversation)

    def __repr__(self) -> str:
        return "Conversation()"
