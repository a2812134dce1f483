"""Estimators written a second time, straight from their formulas: plain loops over plain lists, sums instead of scans.

They share nothing with ``agents.advantages``; the tests hold the golden vectors, and ours on random batches, to them.
"""

from __future__ import annotations

import math
import statistics


def norm(value, values, eps):
    if len(values) < 2 or max(values) == min(values):
        return 0.0
    return (value - statistics.fmean(values)) / (statistics.stdev(values) + eps)


class Turns:
    """A batch as lists: what each episode's turns were paid, without padding."""

    def __init__(self, batch):
        self.lengths = [int(row.sum()) for row in batch.mask]
        self.scores = [
            [None if math.isnan(x) else x for x in row[:n].tolist()]
            for row, n in zip(batch.rewards, self.lengths, strict=True)
        ]
        self.outcome = batch.outcome.tolist()
        self.groups = batch.groups.tolist()
        self.shape = batch.mask.shape
        self.batch = batch

    def group(self, b):
        return [j for j, group in enumerate(self.groups) if group == self.groups[b]]

    def paid(self, b, t, alpha):
        last = self.outcome[b] if t == self.lengths[b] - 1 else 0.0
        return alpha * (self.scores[b][t] or 0.0) + last

    def to_go(self, b, t, alpha, gamma):
        return sum(gamma ** (k - t) * self.paid(b, k, alpha) for k in range(t, self.lengths[b]))

    def total(self, b, alpha=1.0):
        return self.outcome[b] + alpha * sum(x or 0.0 for x in self.scores[b])

    def table(self, advantage):
        rows, columns = self.shape
        return [[advantage(b, t) if t < self.lengths[b] else 0.0 for t in range(columns)] for b in range(rows)]


def episode_value(turns, include):
    return [turns.total(b) if include else turns.outcome[b] for b in range(len(turns.outcome))]


def grpo(batch, eps=1e-6, include_turn_rewards=False):
    turns = Turns(batch)
    value = episode_value(turns, include_turn_rewards)
    return turns.table(lambda b, t: norm(value[b], [value[j] for j in turns.group(b)], eps))


def dr_grpo(batch, include_turn_rewards=False):
    turns = Turns(batch)
    value = episode_value(turns, include_turn_rewards)
    return turns.table(lambda b, t: value[b] - statistics.fmean([value[j] for j in turns.group(b)]))


def rloo(batch, include_turn_rewards=False):
    turns = Turns(batch)
    value = episode_value(turns, include_turn_rewards)

    def advantage(b, t):
        others = [value[j] for j in turns.group(b) if j != b]
        return value[b] - statistics.fmean(others) if others else 0.0

    return turns.table(advantage)


def turn_loo(batch, alpha=1.0, gamma=1.0, hold_outcome=False):
    turns = Turns(batch)

    def counted(j, t):
        if t < turns.lengths[j]:
            return turns.to_go(j, t, alpha, gamma)
        return turns.outcome[j] if hold_outcome else 0.0

    def advantage(b, t):
        others = [counted(j, t) for j in turns.group(b) if j != b]
        return counted(b, t) - statistics.fmean(others) if others else 0.0

    return turns.table(advantage)


def score_norm(turns, b, k, eps, pooled):
    if turns.scores[b][k] is None or len(turns.group(b)) == 1:
        return 0.0
    seen = [
        score
        for j in turns.group(b)
        for i, score in enumerate(turns.scores[j])
        if score is not None and (pooled or i == k)
    ]
    return norm(turns.scores[b][k], seen, eps)


def call_norm(turns, b, k, eps):
    """Of a call, among the calls of the same number."""
    if turns.scores[b][k] is None or len(turns.group(b)) == 1:
        return 0.0
    number = sum(score is not None for score in turns.scores[b][:k])
    calls = [[score for score in turns.scores[j] if score is not None] for j in turns.group(b)]
    return norm(turns.scores[b][k], [row[number] for row in calls if len(row) > number], eps)


def outcome_norm(turns, b, eps):
    return norm(turns.outcome[b], [turns.outcome[j] for j in turns.group(b)], eps)


def trm_grpo(batch, alpha=0.01, gamma=1.0, normalize="turn", eps=1e-6):
    turns = Turns(batch)
    return turns.table(
        lambda b, t: (
            outcome_norm(turns, b, eps)
            + alpha
            * sum(
                gamma ** (k - t)
                * (score_norm(turns, b, k, eps, pooled=True) if normalize == "group" else call_norm(turns, b, k, eps))
                for k in range(t, turns.lengths[b])
            )
        )
    )


def mt_grpo(batch, alpha=1.0, eps=1e-4):
    turns = Turns(batch)

    def advantage(b, t):
        if all(score is None for score in turns.scores[b]):
            return norm(turns.total(b), [turns.total(j) for j in turns.group(b)], eps)
        later = sum(score_norm(turns, b, k, eps, pooled=False) for k in range(t, turns.lengths[b]))
        return outcome_norm(turns, b, eps) + alpha * later

    return turns.table(advantage)


def matchtir(batch, alpha=1.0, gamma=0.9, eps=1e-6):
    turns = Turns(batch)

    def advantage(b, t):
        group = turns.group(b)
        episode = norm(turns.total(b, alpha), [turns.total(j, alpha) for j in group], eps)
        living = [turns.to_go(j, t, alpha, gamma) for j in group if t < turns.lengths[j]]
        return (episode + norm(turns.to_go(b, t, alpha, gamma), living, eps)) / 2

    return turns.table(advantage)


def gigpo(batch, alpha=1.0, gamma=0.95, anchor_weight=1.0, divide_by_std=True, eps=1e-6):
    turns = Turns(batch)

    def compare(value, values):
        return norm(value, values, eps) if divide_by_std else value - statistics.fmean(values)

    def advantage(b, t):
        group = turns.group(b)
        episode = compare(turns.total(b, alpha), [turns.total(j, alpha) for j in group])
        state = turns.batch.anchors[b, t]
        if state is None or len(group) == 1:
            return episode
        alike = [(j, k) for j in group for k in range(turns.lengths[j]) if turns.batch.anchors[j, k] == state]
        returns = [turns.to_go(j, k, alpha, gamma) for j, k in alike]
        return episode + anchor_weight * compare(turns.to_go(b, t, alpha, gamma), returns)

    return turns.table(advantage)


def igpo(batch, alpha=1.0, gamma=1.0, normalize="position", eps=1e-6):
    turns = Turns(batch)

    def advantage(b, t):
        group = turns.group(b)
        if normalize == "position":
            rivals = [turns.to_go(j, t, alpha, gamma) for j in group if j != b and t < turns.lengths[j]]
            own = turns.to_go(b, t, alpha, gamma)
            return sum(own - rival for rival in rivals) / (len(rivals) + 1)
        if len(group) == 1:
            return 0.0
        scores = [score for j in group for score in turns.scores[j] if score is not None]
        outcomes = [turns.outcome[j] for j in group]
        if normalize == "joint":
            scores = outcomes = scores + outcomes
        later = sum(
            gamma ** (k - t) * norm(turns.scores[b][k], scores, eps)
            for k in range(t, turns.lengths[b])
            if turns.scores[b][k] is not None
        )
        return alpha * later + gamma ** (turns.lengths[b] - 1 - t) * norm(turns.outcome[b], outcomes, eps)

    return turns.table(advantage)


def rebn(batch, alpha=1.0, gamma=1.0, eps=1e-6):
    turns = Turns(batch)
    returns = [turns.to_go(b, t, alpha, gamma) for b, length in enumerate(turns.lengths) for t in range(length)]
    return turns.table(lambda b, t: norm(turns.to_go(b, t, alpha, gamma), returns, eps))


def gae(rewards, values, bootstrap, steps):
    """Forward, by definition: later errors, each times the discounts and lambdas on the way to it.

    ``steps[i]`` is the pair of discount and lambda from step ``i`` to the next.
    """
    after = [*values[1:], bootstrap][: len(values)]
    errors = [r + step[0] * v - value for r, step, v, value in zip(rewards, steps, after, values, strict=True)]
    return [
        sum(error * math.prod(g * lam for g, lam in steps[i:k]) for k, error in enumerate(errors) if k >= i)
        for i in range(len(errors))
    ]


def turn_gae(batch, alpha=1.0, gamma=1.0, gae_lambda=0.95):
    turns = Turns(batch)
    bootstrap = [0.0] * len(turns.lengths) if batch.bootstrap is None else batch.bootstrap.tolist()
    rows = [
        gae(
            [turns.paid(b, t, alpha) for t in range(length)],
            batch.values[b, :length].tolist(),
            bootstrap[b],
            [(gamma, gae_lambda)] * length,
        )
        for b, length in enumerate(turns.lengths)
    ]
    return turns.table(lambda b, t: rows[b][t])


def token_gae(batch, gamma=1.0, gae_lambda=1.0):
    return turn_aware_gae(batch, gamma, gae_lambda, gamma, gae_lambda)


def turn_aware_gae(batch, gamma=1.0, gae_lambda=1.0, turn_gamma=1.0, turn_lambda=0.95):
    rows = []
    for b, mask in enumerate(batch.mask.tolist()):
        places = [i for i, sampled in enumerate(mask) if sampled]
        paid = dict.fromkeys(places, 0.0)
        for i, reward in enumerate(batch.rewards[b].tolist()):
            if places and not math.isnan(reward):
                paid[max([place for place in places if place <= i], default=places[0])] += reward
        if places and batch.outcome is not None:
            paid[places[-1]] += float(batch.outcome[b])
        ids = [0 if batch.turn_ids is None else int(batch.turn_ids[b, place]) for place in places]
        steps = [
            (gamma, gae_lambda) if here == after else (turn_gamma, turn_lambda)
            for here, after in zip(ids, [*ids[1:], None][: len(ids)], strict=True)
        ]
        values = [0.0 if batch.values is None else float(batch.values[b, place]) for place in places]
        bootstrap = 0.0 if batch.bootstrap is None else float(batch.bootstrap[b])
        row = [0.0] * len(mask)
        for place, advantage in zip(places, gae(list(paid.values()), values, bootstrap, steps), strict=True):
            row[place] = advantage
        rows.append(row)
    return rows


def trm_ppo_rewards(batch, turn_ids, alpha=0.05):
    turns = Turns(batch)
    rows = []
    for b, ids in enumerate(turn_ids.tolist()):
        row = [0.0] * len(ids)
        for t in range(turns.lengths[b]):
            row[len(ids) - 1 - ids[::-1].index(t)] = turns.paid(b, t, alpha)
        rows.append(row)
    return rows
