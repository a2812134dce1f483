"""verl: an agent loop that plays our environments, and our estimators among its own.

``VERL_USE_EXTERNAL_MODULES=agents.bridges.verl`` makes verl import this page in each of its processes, which
registers the estimators ``toolenv_turn_loo``, ``toolenv_grpo`` and so on (``algorithm.adv_estimator``). The loop is
named in verl's file of agent loops: ``_target_: agents.bridges.verl.ToolEnvLoop``, with ``env_id``, ``rewards`` (as on
our command line) and ``settings``; a row of the data set carries ``extra_info: {"seed": 7}``. Written for verl 0.9.1.

verl hands an estimator one tensor of rewards by token, and its loop may put one number into it, at the last token. So
the loop pays the whole episode there, which any estimator can read; each turn's part also stands in
``extra_fields["turn_rewards"]``, and ``place_turn_rewards`` moves it to the end of its turn, for a trainer that calls
it on its batch before the advantages. Nothing here has been run inside verl, whose training needs GPUs: the numbers and
the tokens have been, on their own.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import uuid4

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

import toolenv  # noqa: F401  registers the ids
from agents.advantages import ESTIMATORS, make_estimator
from agents.advantages.making import NEEDS
from agents.batch import TurnBatch, token_advantages
from agents.reward_spec import make_terms
from agents.tokens import ConversationEncoder, TokenHistory
from rewards.wrappers import RewardSum
from toolenv.env import ToolEnv
from toolenv.extras import require
from toolenv.wrappers import tool_env

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def turn_ids(response_mask: Ints) -> Ints:
    """Which turn each response token was sampled in, -1 for all others, ``(B, L)``.

    Between two turns there is at least one token that was not sampled: the observation's.

    Example:
        >>> turn_ids(np.array([[1, 1, 0, 1, 0]]))
        array([[ 0,  0, -1,  1, -1]])
    """
    sampled = response_mask > 0
    begins = sampled & ~np.pad(sampled[:, :-1], ((0, 0), (1, 0)))
    return np.where(sampled, begins.cumsum(axis=1) - 1, -1)


def as_turns(token_level_rewards: Floats, response_mask: Ints, index: Sequence[Any]) -> TurnBatch:
    """What verl hands an estimator, as turns.

    A reward counts for the turn that it stands in or comes after, also where it stands on a token that was not
    sampled; what the last turn earned is the outcome.

    Args:
        token_level_rewards: ``(B, L)``.
        response_mask: ``(B, L)``, 1 where the policy sampled the token.
        index: ``(B,)``, verl's ``uid`` of the prompt: the group.

    Example:
        >>> batch = as_turns(np.array([[0.0, 0.2, 0.0, 0.0, 1.0]]), np.array([[1, 1, 0, 1, 0]]), ["a"])
        >>> batch.rewards, batch.outcome
        (array([[0.2, nan]]), array([1.]))
    """
    ids = turn_ids(response_mask)
    counts = ids.max(axis=1, initial=-1) + 1
    rewards = np.zeros((len(ids), max(int(counts.max(initial=0)), 1)))
    np.add.at(rewards, (np.arange(len(ids))[:, None], np.maximum.accumulate(ids, axis=1).clip(0)), token_level_rewards)
    last = (np.arange(len(ids)), (counts - 1).clip(0))
    outcome = rewards[last].copy()
    rewards[last] = np.nan
    return TurnBatch(
        rewards=rewards,
        outcome=outcome,
        mask=np.arange(rewards.shape[1])[None, :] < counts[:, None],
        groups=np.unique([str(uid) for uid in index], return_inverse=True)[1],
        bootstrap=np.zeros(len(ids)),
    )


def estimator(name: str, **settings: Any) -> Callable[..., tuple[Any, Any]]:
    """One of our estimators, as verl calls it: it returns advantages and returns, both ``(B, L)``.

    Example:
        >>> import torch
        >>> rewards = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
        >>> mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
        >>> estimator("rloo")(rewards, mask, index=["q", "q"])[0]
        tensor([[ 1.,  1.,  0.],
                [-1., -1., -1.]])
    """
    estimate = make_estimator(name, **settings)

    def compute(token_level_rewards: Any, response_mask: Any, index: Any = None, **_: Any) -> tuple[Any, Any]:
        torch = require("torch", "train")
        mask = response_mask.cpu().numpy().astype(np.int64)
        groups = list(range(len(mask))) if index is None else index
        batch = as_turns(token_level_rewards.double().cpu().numpy(), mask, groups)
        advantages = token_advantages(estimate(batch), torch.from_numpy(turn_ids(mask)))
        advantages = advantages.to(token_level_rewards)
        return advantages, advantages

    return compute


def register(**settings: Mapping[str, Any]) -> list[str]:
    """Register our estimators with verl, all that read rewards alone.

    Args:
        settings: Of an estimator, by its name: ``register(turn_loo={"gamma": 0.6})``.

    Returns:
        The names, as ``algorithm.adv_estimator`` takes them.

    Raises:
        MissingExtraError: verl is not installed.
    """
    algorithms = require("verl.trainer.ppo.core_algos", "verl")
    names = [name for name in ESTIMATORS if name not in NEEDS]
    for name in names:
        algorithms.register_adv_est(f"toolenv_{name}")(estimator(name, **settings.get(name, {})))
    return [f"toolenv_{name}" for name in names]


def place_turn_rewards(data: Any) -> None:
    """Move each turn's reward to the last token of its turn, in a ``DataProto`` that holds the episode's at the end."""
    rewards, mask = data.batch["token_level_rewards"], data.batch["response_mask"]
    ids = turn_ids(mask.cpu().numpy().astype(np.int64))
    for row, parts in enumerate(data.non_tensor_batch["turn_rewards"]):
        ends = [int(np.flatnonzero(ids[row] == turn)[-1]) for turn in range(ids[row].max(initial=-1) + 1)]
        for end, part in list(zip(ends, parts, strict=False))[:-1]:
            rewards[row, end] += part
            rewards[row, ends[-1]] -= part


async def play(
    env: ToolEnv, seed: int, encoder: ConversationEncoder, generate: Callable[[list[int]], Any], max_tokens: int
) -> tuple[TokenHistory, int]:
    """Play an episode token by token, as ``agents.rollout`` does.

    Args:
        env: The environment.
        seed: Chooses the task.
        encoder: Writes the tokens that the environment adds.
        generate: Awaited with the tokens so far; returns what was sampled: ``token_ids`` and ``log_probs``.
        max_tokens: Most tokens after the prompt.

    Returns:
        The tokens, and how many of them are the prompt.
    """
    messages, _ = env.reset(seed=seed)
    history = TokenHistory()
    history.append_context(encoder.encode_prompt(messages))
    prompt = len(history)
    while True:
        sampled = await generate(history.ids)
        ids = list(sampled.token_ids)[: max_tokens + prompt - len(history)]
        logprobs = list(sampled.log_probs or [float("nan")] * len(ids))[: len(ids)]  # NaN: not told, which is not 0.0
        history.append_action(ids, logprobs)
        text = encoder.tokenizer.decode(ids, skip_special_tokens=True)
        await asyncio.to_thread(env.step, text)
        episode = env.episode
        if episode.terminated or episode.truncated:
            return history, prompt
        assert env.last_turn is not None
        new = encoder.encode_observation(env.last_turn.observation, closed=encoder.is_closed(history))
        if len(history) - prompt + len(new) >= max_tokens:
            env.truncate("token_budget")
            return history, prompt
        history.append_context(new)


def __getattr__(name: str) -> Any:
    """``ToolEnvLoop``, made when it is asked for: it subclasses what verl brings."""
    if name != "ToolEnvLoop":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    loops = require("verl.experimental.agent_loop.agent_loop", "verl")

    class ToolEnvLoop(loops.AgentLoopBase):  # type: ignore[misc, name-defined]
        """Plays one episode of one of our environments."""

        def __init__(self, *args: Any, env_id: str, rewards: Sequence[str], settings: Any = None, **kwargs: Any):
            super().__init__(*args, **kwargs)
            self.env = tool_env(gym.make(env_id, **dict(settings or {})))
            self.reward = RewardSum(make_terms(rewards))
            self.encoder = ConversationEncoder(self.tokenizer, self.env.format)

        async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> Any:
            env, request = self.env.sibling(), uuid4().hex

            def generate(ids: list[int]) -> Any:
                return self.server_manager.generate(request_id=request, prompt_ids=ids, sampling_params=sampling_params)

            limit = self.rollout_config.response_length
            history, prompt = await play(env, int(kwargs["extra_info"]["seed"]), self.encoder, generate, limit)
            (terms,) = self.reward.score([env.episode])
            logprobs = history.logprobs[prompt:]
            return loops.AgentLoopOutput(
                prompt_ids=history.ids[:prompt],
                response_ids=history.ids[prompt:],
                response_mask=[int(turn >= 0) for turn in history.turn_ids[prompt:]],
                response_logprobs=None if np.isnan(logprobs).any() else logprobs,
                reward_score=float(terms.total.sum()),
                num_turns=len(env.episode.turns),
                metrics={},
                extra_fields={"turn_rewards": terms.total.tolist(), "episode": env.episode.to_json()},
            )

    globals()[name] = ToolEnvLoop
    return ToolEnvLoop


if __name__ in os.environ.get("VERL_USE_EXTERNAL_MODULES", "").split(","):
    register()
