"""Credit by turn, from what the group's other episodes did: no critic, no state."""

from __future__ import annotations

from functools import partial
from typing import Literal, get_args

import numpy as np

from agents.advantages.base import Floats
from agents.advantages.groups import alone, centre_columns, leave_one_out, per_group, standardise, standardise_columns
from agents.advantages.returns import episode_returns, known_rewards, masked, returns_to_go, rewards_due
from agents.batch import TurnBatch
from rewards.options import check_choice

Normalize = Literal["turn", "group"]
"""Among which turn rewards ``trm_grpo`` normalises: those of the same number of a call, or all of the group."""
Pool = Literal["position", "joint", "separate"]
"""What ``igpo`` compares with: returns at the same turn, or rewards normalised with or without the outcome."""


def turn_loo(batch: TurnBatch, alpha: float = 1.0, gamma: float = 1.0, hold_outcome: bool = False) -> Floats:
    """Return-to-go minus the leave-one-out mean of the group, in which an episode that ended counts 0.

    ``A[b, t] = G[b, t] - mean over the others j of the group of G[j, t]``, where ``G[b, t] = sum_{k >= t}
    gamma^(k - t) * (alpha * r[b, k] + outcome[b] at the last turn)``, and ``G[j, t] = 0`` where j ended before t.

    The baseline of a turn is a function of the other episodes only, and of the turn's index, which is known before the
    turn is played. So the gradient is unbiased also where the policy itself chooses when to stop; a mean over those
    still playing is not: its number of terms depends on the choice that it judges, and reaching a turn then earns
    nothing. (In the two-action stopping problem of the tests the gradient is 0.25; a mean over the living gives 0.)

    Args:
        batch: The turns.
        alpha: Weight of turn rewards against the outcome.
        gamma: Discount a turn, of outcome and turn rewards alike.
        hold_outcome: Whether an episode that ended goes on counting with its outcome instead of 0. As unbiased, and of
            lower variance where the outcome outweighs the turn rewards: then a group of equal outcomes of different
            lengths gets no outcome credit at all.

    Source:
        The leave-one-out baseline of Kool et al. (2019), turn by turn. verl issue 7244 describes the bias avoided here.

    Example:
        >>> rewards = np.array([[0.0, 1.0], [0.0, 0.0]])
        >>> mask = np.array([[True, True], [True, False]])
        >>> turn_loo(TurnBatch(rewards, np.zeros(2), mask, np.array([0, 0]))).tolist()
        [[1.0, 1.0], [-1.0, 0.0]]
    """
    returns = returns_to_go(rewards_due(batch, alpha), gamma)
    if hold_outcome:
        returns = np.where(batch.mask, returns, batch.outcome[:, None])
    return masked(batch, per_group(returns, batch.groups, leave_one_out))


def trm_grpo(
    batch: TurnBatch, alpha: float = 0.01, gamma: float = 1.0, normalize: Normalize = "turn", eps: float = 1e-6
) -> Floats:
    """TRM's turn-level GRPO: the normalised outcome, plus the normalised turn rewards still to come.

    ``A[b, t] = o[b] + alpha * sum_{k >= t} gamma^(k - t) * r[b, k]``, where ``o`` is the outcome normalised over the
    group and ``r`` the turn rewards, normalised over the scores that the group's episodes got for a call of the same
    number (``"turn"``: first calls with first calls), or over all scores of the group (``"group"``). A turn that was
    not scored, as an answer or an action that could not be read, is no call and is not counted. Statistics are
    unbiased, ``(x - mean) / (std + eps)``; ``alpha`` comes after them, else it would cancel. The outcome is never
    discounted.

    ``"group"`` is the baseline that the paper warns of: where later calls score lower than first ones, it makes every
    further call cost, and the policy learns to call less. ``"turn"`` cures that, at a price of its own: a turn that
    few episodes reach is compared with those few alone, so reaching it earns nothing (see ``turn_loo``).

    Args:
        batch: The turns.
        alpha: Weight of turn rewards against the outcome.
        gamma: Discount a turn. (The paper's exponent counts tokens, which means something only at 1.)
        normalize: ``"turn"`` or ``"group"``.
        eps: Added to the standard deviations.

    Raises:
        ConfigError: Another ``normalize``.

    Source:
        Empowering LLM Tool Invocation with Tool-call Reward Model, the section on GRPO, equation 9. The paper says
        nothing of actions that are no calls; that they are not counted is ours.

    Example:
        >>> rewards = np.array([[1.0, np.nan], [np.nan, 0.0]])  # the second one's first action could not be read
        >>> batch = TurnBatch(rewards, np.ones(2), np.ones((2, 2), dtype=bool), np.zeros(2))
        >>> trm_grpo(batch, alpha=1.0, eps=0.0).round(4).tolist()
        [[0.7071, 0.0], [-0.7071, -0.7071]]
    """
    check_choice("normalize", normalize, get_args(Normalize))
    scored = known_rewards(batch)
    if normalize == "turn":
        calls_first = np.argsort(np.isnan(scored), axis=1, kind="stable")
        calls = np.take_along_axis(scored, calls_first, axis=1)
        rewards = np.zeros_like(scored)
        normalised = per_group(calls, batch.groups, partial(standardise_columns, eps=eps))
        np.put_along_axis(rewards, calls_first, normalised, axis=1)
    else:
        rewards = per_group(_without_singletons(scored, batch), batch.groups, partial(standardise, eps=eps))
    outcome = per_group(batch.outcome, batch.groups, partial(standardise, eps=eps))
    return masked(batch, outcome[:, None] + alpha * returns_to_go(rewards, gamma))


def mt_grpo(batch: TurnBatch, alpha: float = 1.0, eps: float = 1e-4) -> Floats:
    """MT-GRPO: the normalised outcome, plus the normalised rewards of this turn and of those after it.

    ``A[b, t] = o[b] + alpha * sum_{k >= t} r[b, k]``, with ``o`` the outcome normalised over the group and ``r[., k]``
    the rewards of turn ``k`` normalised over those episodes of the group that were scored at it. An episode without a
    scored turn gets its normalised return, outcome plus turn rewards, instead.

    Published for two turns: a call, whose tokens get ``o + alpha * r``, and an answer, whose tokens get ``o``. What
    stands before a tool result gets the credit of that result; taken for each of many results, that is the sum above.

    Biased where the policy chooses when to stop: a turn is compared with those alone who reached it, so reaching it
    earns nothing (0 instead of 0.25 in the stopping problem of the tests; ``turn_loo`` is right). Episodes with and
    without calls are measured on two scales.

    Args:
        batch: The turns.
        alpha: Weight of turn credit against outcome credit.
        eps: Added to the standard deviations.

    Source:
        Zeng et al., Reinforcing Multi-Turn Reasoning in LLM Agents (arXiv 2505.11821), and the authors' trainer. With
        more than two turns, the estimator that verl issue 7244 describes. A single scored episode gets 0 for its turn.

    Example:
        >>> rewards = np.array([[1.0, np.nan], [0.0, np.nan]])
        >>> mask = np.ones((2, 2), dtype=bool)
        >>> mt_grpo(TurnBatch(rewards, np.array([0.0, 1.0]), mask, np.zeros(2)), eps=0.0).round(4).tolist()
        [[0.0, -0.7071], [0.0, 0.7071]]
    """
    normalise = partial(standardise, eps=eps)
    scored = known_rewards(batch)
    turns = returns_to_go(per_group(scored, batch.groups, partial(standardise_columns, eps=eps)), gamma=1.0)
    outcome = per_group(batch.outcome, batch.groups, normalise)[:, None]
    combined = per_group(episode_returns(batch), batch.groups, normalise)[:, None]
    has_scores = ~np.isnan(scored).all(axis=1, keepdims=True)
    return masked(batch, np.where(has_scores, outcome + alpha * turns, combined))


def matchtir(batch: TurnBatch, alpha: float = 1.0, gamma: float = 0.9, eps: float = 1e-6) -> Floats:
    """MatchTIR: half the normalised return of the episode, half the normalised return-to-go of the turn.

    ``A[b, t] = (E[b] + D[b, t]) / 2``: ``E`` is ``outcome + alpha * sum of turn rewards``, normalised over the group;
    ``D`` the discounted return-to-go, the outcome in it, normalised over those episodes of the group that play turn
    ``t``.

    Who plays turn ``t`` is settled before that turn, and returns are compared, not rewards; so, unlike in ``mt_grpo``,
    going on is judged by what comes of it. But late turns are compared with few others, and where episodes of one group
    end at different turns, the last turn of one is compared with a middle turn of another.

    Args:
        batch: The turns.
        alpha: Weight of turn rewards against the outcome; 1 as published.
        gamma: Discount a turn.
        eps: Added to the standard deviations.

    Source:
        MatchTIR's released code, ``core_algos.py``. There, a turn that one episode alone plays keeps its raw return;
        here it gets 0, since a raw return pays for being the only one.

    Example:
        >>> rewards = np.array([[1.0, np.nan], [0.0, np.nan]])
        >>> batch = TurnBatch(rewards, np.array([1.0, 0.0]), np.ones((2, 2), dtype=bool), np.zeros(2))
        >>> matchtir(batch, eps=0.0).round(4).tolist()
        [[0.7071, 0.7071], [-0.7071, -0.7071]]
    """
    due = rewards_due(batch, alpha)
    to_go = np.where(batch.mask, returns_to_go(due, gamma), np.nan)
    turns = per_group(to_go, batch.groups, partial(standardise_columns, eps=eps))
    episode = per_group(due.sum(axis=1), batch.groups, partial(standardise, eps=eps))
    return masked(batch, (episode[:, None] + turns) / 2)


def igpo(
    batch: TurnBatch, alpha: float = 1.0, gamma: float = 1.0, normalize: Pool = "position", eps: float = 1e-6
) -> Floats:
    """IGPO: the return-to-go of a turn, minus its mean over those episodes of the group that play that turn.

    ``A[b, t] = G[b, t] - mean of G[j, t]`` over the episodes j of the group that play turn ``t``, b among them, with
    ``G[b, t] = sum_{k >= t} gamma^(k - t) * (alpha * r[b, k] + outcome[b] at the last turn)``; nothing is divided. The
    other two choices normalise first and sum then: the rewards in ``G`` are measured from the group's mean and divided
    by its spread, and nothing is taken off the sum. ``"joint"`` does so with turn rewards and outcomes together,
    ``"separate"`` with each by itself. IGPO's turn reward is how much likelier the turn made the right answer; here it
    is whatever ``batch.rewards`` holds.

    ``"position"`` is biased in scale only. Who plays turn ``t`` is settled before it, so the others' returns are a fair
    baseline, unlike the rewards of ``mt_grpo``; but b's own return is in the mean too. Where m episodes play a turn,
    ``1/m`` of its credit is lost, all of it where b is alone: in a group of n, a turn that each reaches with chance q
    keeps ``1 - (1 - (1 - q)^n) / (n q)``. So every decision keeps its sign, but late ones, which few reach, weigh less
    than they should against early ones. (0.219 instead of 0.25 in the stopping problem of the tests.)

    The other two are biased in sign: an episode has as many terms as it has scored turns. Where a turn's reward is
    below the mean, a further turn costs, and where it is above, a further turn pays, whatever it does for the outcome.

    Args:
        batch: The turns. One that was not scored adds nothing to the return, and counts as played.
        alpha: Weight of turn rewards against the outcome, in ``"joint"`` and ``"separate"`` after the normalisation
            (before it, it would cancel in ``"separate"``); 1 as published.
        gamma: Discount a turn, of outcome and turn rewards alike; 1 as published, 0.5 in a variant.
        normalize: ``"position"``, ``"joint"`` or ``"separate"``.
        eps: Added to the standard deviations of ``"joint"`` and ``"separate"``, which are unbiased here.

    Raises:
        ConfigError: Another ``normalize``.

    Source:
        Wang et al., Information Gain-based Policy Optimization (arXiv 2510.14967). ``"joint"`` is the paper's.
        ``"position"`` is the code as first released: there the positions are those of tokens, and a response that
        ended counts 0; that turns are compared with turns, among those who play them, is ours. Later releases have
        ``"joint"`` and ``"separate"`` to choose from.

    Example:
        >>> rewards = np.array([[1.0, np.nan], [0.0, np.nan]])
        >>> batch = TurnBatch(rewards, np.array([1.0, 0.0]), np.ones((2, 2), dtype=bool), np.zeros(2))
        >>> igpo(batch).tolist()
        [[1.0, 0.5], [-1.0, -0.5]]
        >>> igpo(batch, normalize="separate", eps=0.0).round(4).tolist()
        [[1.4142, 0.7071], [-1.4142, -0.7071]]
    """
    check_choice("normalize", normalize, get_args(Pool))
    if normalize == "position":
        to_go = np.where(batch.mask, returns_to_go(rewards_due(batch, alpha), gamma), np.nan)
        return masked(batch, per_group(to_go, batch.groups, centre_columns))
    due = rewards_due(_pooled(batch, normalize, eps), alpha)
    return masked(batch, returns_to_go(due, gamma))


def _pooled(batch: TurnBatch, normalize: Pool, eps: float) -> TurnBatch:
    """The batch with turn rewards and outcomes normalised over the group, ``"joint"`` or ``"separate"``."""
    normalise = partial(standardise, eps=eps)
    scored = known_rewards(batch)
    if normalize == "joint":
        pool = np.concatenate([scored, batch.outcome[:, None]], axis=1)
        pool = per_group(_without_singletons(pool, batch), batch.groups, normalise)
        rewards, outcome = pool[:, :-1], pool[:, -1]
    else:
        rewards = per_group(_without_singletons(scored, batch), batch.groups, normalise)
        outcome = per_group(batch.outcome, batch.groups, normalise)
    return TurnBatch(rewards, outcome, batch.mask, batch.groups)


def rebn(batch: TurnBatch, alpha: float = 1.0, gamma: float = 1.0, eps: float = 1e-6) -> Floats:
    """GEM's return batch normalisation: discounted returns-to-go, normalised over all turns of the batch.

    ``A[b, t] = (G[b, t] - mean G) / (std G + eps)`` over every turn of every episode, groups or not.

    The only estimator here that mixes groups: it has no baseline for a task, so every turn of an easy task goes up and
    every turn of a hard one down, and a long episode weighs more than a short one. Not unbiased: a turn's own return
    stands in its baseline, and the mean moves with how many turns were played. For batches of unlike tasks take a
    group's baseline; for single tasks without groups it is what there is.

    Args:
        batch: The turns.
        alpha: Weight of turn rewards against the outcome; 1 as published.
        gamma: Discount a turn, of outcome and turn rewards alike.
        eps: Added to the standard deviation.

    Source:
        Liu et al., GEM: A Gym for Agentic LLMs (arXiv 2510.01051).

    Example:
        >>> batch = TurnBatch(np.zeros((2, 1)), np.array([1.0, 0.0]), np.ones((2, 1), dtype=bool), np.arange(2))
        >>> rebn(batch, eps=0.0).round(4).tolist()
        [[0.7071], [-0.7071]]
    """
    returns = np.where(batch.mask, returns_to_go(rewards_due(batch, alpha), gamma), np.nan)
    return standardise(returns, eps)


def _without_singletons(x: Floats, batch: TurnBatch) -> Floats:
    """NaN for an episode alone in its group."""
    return np.where(alone(batch.groups)[:, None], np.nan, x)
