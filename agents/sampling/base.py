"""What every sampler speaks: token ids and seeds in; ids, log-probabilities and the weights' version out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from agents.tokens import TokenHistory
from toolenv.errors import ConfigError


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to sample.

    There is no top-p, top-k or penalty on purpose: they change the distribution that tokens come from, and the ratio
    of new to old policy would be wrong by the mass they cut away.

    Attributes:
        max_new_tokens: Longest action, in tokens.
        temperature: Divides the logits, for the draw and for the recorded log-probabilities.
        stop: An action ends with the token in which one of these strings is complete.
        greedy: Take the likeliest token instead of a draw: for evaluation.

    Raises:
        ConfigError: A value out of range.
    """

    max_new_tokens: int = 256
    temperature: float = 1.0
    stop: tuple[str, ...] = ()
    greedy: bool = False

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens must be at least 1, not {self.max_new_tokens!r}")
        if not self.temperature > 0:
            raise ConfigError(f"temperature must be above 0, not {self.temperature!r}; for no draw use greedy=True")
        if isinstance(self.stop, str) or "" in self.stop:
            raise ConfigError(f"stop must be a tuple of non-empty strings, not {self.stop!r}")


@dataclass(frozen=True, slots=True)
class Generation:
    """One action, as it was sampled.

    Attributes:
        ids: Sampled token ids, the end token included where one was sampled.
        logprobs: Log-probability of each under the sampling distribution (after the temperature).
        text: What the ids say, without the end token. A stop string that ends inside the last token does not cut it.
        finish_reason: ``"stop"`` (end token or stop string) or ``"length"`` (cut by ``max_new_tokens``).
        version: Version of the weights that sampled it.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    finish_reason: Literal["stop", "length"]
    version: int = 0


def check_prompts(prompts: Sequence[TokenHistory], seeds: Sequence[int]) -> None:
    """Refuse what no sampler can answer.

    Raises:
        ConfigError: Not one seed a prompt, or an empty prompt.
    """
    if len(prompts) != len(seeds):
        raise ConfigError(f"generate needs one seed a prompt, {len(prompts)}; got {len(seeds)}")
    if not all(len(prompt) for prompt in prompts):
        raise ConfigError("generate needs prompts of at least one token")


def action_text(tokenizer: Any, ids: Sequence[int], ends: frozenset[int]) -> str:
    """What the ids of an action say, without the end token."""
    spoken = ids[:-1] if ids[-1] in ends else ids
    text: str = tokenizer.decode(spoken, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


class Sampler(Protocol):
    """Draws actions from a policy."""

    def generate(self, prompts: Sequence[TokenHistory], *, seeds: Sequence[int]) -> list[Generation]:
        """Draw one action for each history.

        Args:
            prompts: Histories that end where the policy goes on writing.
            seeds: One seed a prompt. What is drawn for a prompt depends on it and its seed, not on its neighbours.

        Returns:
            One generation a prompt, in order.

        Raises:
            SamplerError: The model or its server could not answer.
        """
        ...


class SyncedSampler(Sampler, Protocol):
    """A sampler that follows a model which is trained; what every trainer needs.

    Attributes:
        params: How it samples.
    """

    params: SamplingParams

    @property
    def version(self) -> int:
        """Version of its weights, which it writes into each generation."""
        ...

    @property
    def concurrent(self) -> bool:
        """Whether ``generate`` may be called from several threads at once."""
        ...

    def sync(self, model: Any, version: int) -> None:
        """Take over the weights of a model; what is generated from here on is sampled from them.

        Args:
            model: The trained model: transformers', also under PEFT, also sharded (then every rank calls this).
            version: Their version, from now on written into each generation.

        Raises:
            ConfigError: A model that does not fit the sampler's.
            SamplerError: The weights could not be handed over.
        """
        ...

    def close(self) -> None:
        """Free what it holds; nothing is generated afterwards."""
        ...
