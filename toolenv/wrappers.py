"""Gymnasium wrappers around a tool environment that change no reward."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import gymnasium as gym

from toolenv.env import ToolEnv
from toolenv.episode import Episode, write_episodes
from toolenv.errors import ConfigError
from toolenv.messages import Message
from toolenv.spaces import Conversation, UnicodeText

Observation = tuple[Message, ...]


def tool_env(env: gym.Env[Any, Any]) -> ToolEnv:
    """The ``ToolEnv`` under any wrappers.

    Raises:
        ConfigError: There is none.
    """
    inner = env.unwrapped
    if not isinstance(inner, ToolEnv):
        raise ConfigError(f"this wrapper needs a ToolEnv inside; got {type(inner).__name__}")
    return inner


def note_cut(inner: ToolEnv, truncated: bool, info: dict[str, Any], reason: str = "max_turns") -> None:
    """Write a cut that a wrapper made (Gymnasium's ``TimeLimit``) into the record and into ``info``."""
    if truncated:
        inner.truncate(reason)
        info.setdefault("reason", inner.episode.reason)


class TextObservation(gym.ObservationWrapper[str, str, Observation], gym.utils.RecordConstructorArgs):
    """Shows the conversation as one string.

    Args:
        env: The environment.
        template: Text of one message, with ``{role}`` and ``{content}``.
        max_length: Length that the observation space states, in characters.

    Example:
        >>> import gymnasium as gym, toolenv
        >>> env = TextObservation(gym.make("ToolFunctionCall-v0"))
        >>> env.reset(seed=0)[0].startswith("system: ")
        True
    """

    def __init__(
        self,
        env: gym.Env[Observation, str],
        template: str = "{role}: {content}\n",
        max_length: int = 10_000_000,
    ) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, template=template, max_length=max_length)
        gym.ObservationWrapper.__init__(self, env)
        self.template = template
        self.observation_space = UnicodeText(max_length, ("user: hello\n",))

    def observation(self, observation: Observation) -> str:
        """Join the messages."""
        return "".join(self.template.format(role=m.role, content=m.content) for m in observation)


class TokenBudget(gym.Wrapper[Observation, str, Observation, str], gym.utils.RecordConstructorArgs):
    """Cuts an episode whose conversation has grown past a number of tokens.

    Args:
        env: The environment.
        max_tokens: The budget, prompt included.
        count: Counts the tokens of a text, such as ``lambda text: len(tokenizer.encode(text))``.

    Raises:
        ConfigError: A budget below one.
    """

    def __init__(self, env: gym.Env[Observation, str], max_tokens: int, count: Callable[[str], int]) -> None:
        if max_tokens < 1:
            raise ConfigError(f"max_tokens must be at least 1, not {max_tokens!r}")
        gym.utils.RecordConstructorArgs.__init__(self, max_tokens=max_tokens, count=count)
        gym.Wrapper.__init__(self, env)
        tool_env(env)
        if not isinstance(env.observation_space, Conversation):
            raise ConfigError("TokenBudget counts messages; put TextObservation around it, not inside")
        self.max_tokens = max_tokens
        self.count = count
        self._counted: tuple[Observation, int] = ((), 0)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Reset; nothing is counted yet."""
        self._counted = ((), 0)
        return self.env.reset(seed=seed, options=options)

    def step(self, action: str) -> tuple[Observation, Any, bool, bool, dict[str, Any]]:
        """Step; truncate with reason ``"token_budget"`` where the budget is spent and no answer came."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self._used(observation) > self.max_tokens and not terminated and not truncated:
            truncated = True
            note_cut(tool_env(self), True, info, "token_budget")
        return observation, reward, terminated, truncated, info

    def _used(self, observation: Observation) -> int:
        """Tokens of a conversation; what was counted before is not counted again, unless ``set_state`` went back."""
        known, used = self._counted
        if observation[: len(known)] != known:
            known, used = (), 0
        used += sum(self.count(message.content) for message in observation[len(known) :])
        self._counted = (observation, used)
        return used


class EpisodeLog(gym.Wrapper[Observation, str, Observation, str], gym.utils.RecordConstructorArgs):
    """Keeps every finished episode, and writes it to a JSONL file where one is named.

    Args:
        env: The environment.
        path: JSONL file to append to.

    Example:
        >>> import gymnasium as gym, toolenv
        >>> env = EpisodeLog(gym.make("ToolFunctionCall-v0"))
        >>> _ = env.reset(seed=0)
        >>> _ = env.step("I cannot help with that.")
        >>> env.episodes[0].reason
        'answer'
    """

    def __init__(self, env: gym.Env[Observation, str], path: str | Path | None = None) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, path=path)
        gym.Wrapper.__init__(self, env)
        self.path = Path(path) if path is not None else None
        self.episodes: list[Episode] = []

    def step(self, action: str) -> tuple[Observation, Any, bool, bool, dict[str, Any]]:
        """Step; keep the episode where it ended."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        note_cut(tool_env(self), truncated, info)
        if terminated or truncated:
            self._keep(tool_env(self).episode)
        return observation, cast("Any", reward), terminated, truncated, info

    def _keep(self, episode: Episode) -> None:
        self.episodes.append(episode)
        if self.path is not None:
            write_episodes(self.path, [episode], append=True)
