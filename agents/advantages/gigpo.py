"""GiGPO: turns of a group that began in the same state are compared with one another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from agents.advantages.base import Floats, check_batch
from agents.advantages.groups import alone, centre, per_group, standardise
from agents.advantages.returns import masked, returns_to_go, rewards_due
from agents.batch import TurnBatch
from toolenv.episode import Episode
from toolenv.errors import ConfigError


def gigpo(
    batch: TurnBatch,
    alpha: float = 1.0,
    gamma: float = 0.95,
    anchor_weight: float = 1.0,
    divide_by_std: bool = True,
    eps: float = 1e-6,
) -> Floats:
    """GiGPO: credit of the episode, plus credit of the turn among those that began in the same state.

    ``A[b, t] = E[b] + anchor_weight * S[b, t]``: ``E`` is ``outcome + alpha * sum of turn rewards``, normalised over
    the group; ``S`` the discounted return-to-go, the outcome in it, normalised over the turns of the group with the
    same key in ``batch.anchors``, whichever their index. A state that only one turn began in gives 0, as does
    the key ``None``.

    An episode may pass through a state twice, and both turns are then compared with each other. Where states rarely
    repeat, as with free text, ``S`` is mostly 0 and GRPO on the whole return remains.

    Args:
        batch: The turns, with ``anchors``.
        alpha: Weight of turn rewards against the outcome; 1 as published.
        gamma: Discount a turn in ``S``.
        anchor_weight: Weight of ``S`` (the paper's omega).
        divide_by_std: Whether both parts are divided by their spread (``mean_std_norm``) or not (``mean_norm``).
        eps: Added to the standard deviations.

    Raises:
        ConfigError: The batch has no anchors.

    Source:
        Feng et al., Group-in-Group Policy Optimization (arXiv 2505.10978), and ``gigpo/core_gigpo.py`` of verl-agent.
        There, an episode alone in its group keeps its raw return in ``E``, and its turns are compared with one another
        in ``S``; here it gets 0.

    Example:
        >>> anchors = np.array([["start", "page"], ["start", "page"]], dtype=object)
        >>> batch = TurnBatch(
        ...     np.zeros((2, 2)), np.array([1.0, 0.0]), np.ones((2, 2), dtype=bool), np.zeros(2), anchors=anchors
        ... )
        >>> gigpo(batch, gamma=1.0, divide_by_std=False).tolist()
        [[1.0, 1.0], [-1.0, -1.0]]
    """
    check_batch(batch, TurnBatch)
    if batch.anchors is None:
        raise ConfigError(
            "gigpo compares turns that began in the same state, but batch.anchors is None; fill it with a key of each "
            "turn's state, (B, T), as agents.advantages.observation_anchors does, or take turn_loo, which needs none"
        )
    normalise = partial(standardise, eps=eps) if divide_by_std else centre
    due = rewards_due(batch, alpha)
    returns = returns_to_go(due, gamma)
    turns = np.zeros_like(returns)
    for rows, columns in _turns_by_state(batch, batch.anchors):
        turns[rows, columns] = normalise(returns[rows, columns])
    episode = per_group(due.sum(axis=1), batch.groups, normalise)
    return masked(batch, episode[:, None] + anchor_weight * turns)


def _turns_by_state(batch: TurnBatch, anchors: NDArray[np.object_]) -> list[tuple[list[int], list[int]]]:
    """Rows and columns of the turns that began in each state of each group."""
    found: defaultdict[tuple[int, Hashable], tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for b, t in np.argwhere(batch.mask & ~alone(batch.groups)[:, None]).tolist():
        if anchors[b, t] is not None:
            rows, columns = found[int(batch.groups[b]), anchors[b, t]]
            rows.append(b)
            columns.append(t)
    return list(found.values())


def observation_anchors(episodes: Sequence[Episode]) -> NDArray[np.object_]:
    """Keys of the states in which turns began: what the environment said last, ``(B, T)``, ``None`` at padding.

    At the first turn that is the prompt. Two turns count as the same state where the model saw the same page, however
    it came to it; an environment that knows its own state can give better keys.

    Args:
        episodes: B episodes; T is the most turns of one.

    Example:
        >>> from toolenv import Message, Task, Turn
        >>> turns = (Turn(0, "look", observation=(Message("tool", "a page"),)), Turn(1, "done"))
        >>> episode = Episode("env", Task("t", "Find it."), "hermes", (Message("user", "Find it."),), turns)
        >>> observation_anchors([episode]).tolist()
        [['Find it.', 'a page']]
    """
    anchors = np.full((len(episodes), max(len(episode.turns) for episode in episodes)), None, dtype=object)
    for b, episode in enumerate(episodes):
        seen = [episode.prompt, *(turn.observation for turn in episode.turns[:-1])]
        for t, _ in enumerate(episode.turns):
            anchors[b, t] = "\n".join(message.content for message in seen[t])
    return anchors
