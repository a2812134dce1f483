"""Losses: hand-worked values and gradients, averages over global counts, KL estimates."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.advantages import turn_loo
from agents.batch import TurnBatch, token_advantages
from agents.losses import (
    explained_variance,
    kl_estimate,
    kl_loss,
    kl_rewards,
    masked_average,
    policy_loss,
    token_weights,
    unit_count,
    value_loss,
)
from toolenv.errors import ConfigError

NORMALIZERS = ["token-mean", "turn-mean", "episode-mean"]


def example(seed=0, rows=4, length=9, turns=3):
    """Random log-probabilities with three turns a row, observation tokens between them, and padding."""
    generator = torch.Generator().manual_seed(seed)
    turn_ids = torch.full((rows, length), -1)
    for b in range(rows):
        for turn in range(1 + b % turns):
            turn_ids[b, 3 * turn : 3 * turn + 1 + (b + turn) % 2] = turn
    old = -torch.rand(rows, length, generator=generator, dtype=torch.float64)
    new = (old + 0.5 * torch.randn(rows, length, generator=generator, dtype=torch.float64)).requires_grad_()
    advantages = torch.randn(rows, length, generator=generator, dtype=torch.float64)
    return new, old, advantages, turn_ids >= 0, turn_ids


def one_token(ratio, advantage, **settings):
    new = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    out = policy_loss(new, torch.zeros_like(new), torch.tensor([[float(advantage)]]), torch.ones(1, 1), **settings)
    out.loss.backward()
    return out, float(new.grad)


# Hand-worked ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.1, 2.0, -2.2, -2.2),
        (1.5, 1.0, -1.25, 0.0),  # above 1 + clip_high: no gradient
        (1.5, -1.0, 1.5, 1.5),  # moving the wrong way is never clipped
        (0.5, -1.0, 0.9, 0.0),  # below 1 - clip_low
        (0.5, 1.0, -0.5, -0.5),
    ],
)
def test_clipping_by_hand(ratio, advantage, loss, gradient):
    out, got = one_token(ratio, advantage, clip_low=0.1, clip_high=0.25)
    assert out.loss.item() == pytest.approx(loss)
    assert got == pytest.approx(gradient)
    assert out.clip_fraction_high == float(ratio == 1.5 and advantage > 0)
    assert out.clip_fraction_low == float(ratio == 0.5 and advantage < 0)


def test_dual_clip_by_hand():
    out, gradient = one_token(5.0, -1.0, dual_clip=3.0)
    assert (out.loss.item(), gradient, out.dual_clip_fraction) == (pytest.approx(3.0), 0.0, 1.0)
    out, gradient = one_token(2.0, -1.0, dual_clip=3.0)
    assert (out.loss.item(), gradient, out.dual_clip_fraction) == (pytest.approx(2.0), pytest.approx(2.0), 0.0)


def test_approx_kl_by_hand():
    out, _ = one_token(2.0, 0.0)
    assert out.approx_kl == pytest.approx(2 - 1 - math.log(2))


def test_a_turns_ratio_is_the_geometric_mean_of_its_tokens():
    # Turn 0 has ratios 2 and 0.5: together 1, unclipped, though each alone would be. Turn 1 has ratio 4.
    new = torch.tensor([[2.0, 0.5, 9.0, 4.0]]).log().requires_grad_()
    turn_ids = torch.tensor([[0, 0, -1, 1]])
    out = policy_loss(
        new, torch.zeros(1, 4), torch.ones(1, 4), turn_ids >= 0, ratio="turn", turn_ids=turn_ids, normalizer="constant",
        count=1,
    )  # fmt: skip
    assert out.loss.item() == pytest.approx(-(1 + 1 + 1.2))
    out.loss.backward()
    np.testing.assert_allclose(new.grad, [[-1, -1, 0, 0]], rtol=1e-6)
    out = policy_loss(new, torch.zeros(1, 4), torch.ones(1, 4), turn_ids >= 0, ratio="sequence")
    assert out.loss.item() == pytest.approx(-1.2)  # (2 * 0.5 * 4)^(1/3) = 1.59, clipped


@pytest.mark.parametrize(
    ("normalizer", "want"),
    [("token-mean", (1 + 2 + 3 + 4) / 4), ("turn-mean", (1.5 + 3 + 4) / 3), ("episode-mean", (2 + 4) / 2)],
)
def test_normalizers_by_hand(normalizer, want):
    values = torch.tensor([[1.0, 2.0, 99.0, 3.0], [99.0, 4.0, 99.0, 99.0], [99.0, 99.0, 99.0, 99.0]])
    turn_ids = torch.tensor([[0, 0, -1, 1], [-1, 0, -1, -1], [-1, -1, -1, -1]])
    got = masked_average(values, turn_ids >= 0, normalizer=normalizer, turn_ids=turn_ids)
    assert got.item() == pytest.approx(want)


# Laws ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("ratio", ["token", "turn", "sequence"])
@settings(deadline=None, max_examples=10)
@given(st.integers(0, 1000), st.integers(1, 3))
def test_micro_batches_add_up_to_the_batch(ratio, normalizer, seed, size):
    new, old, advantages, mask, turn_ids = example(seed)
    options = {"ratio": ratio, "normalizer": normalizer, "dual_clip": 3.0}
    whole = policy_loss(new, old, advantages, mask, turn_ids=turn_ids, **options).loss
    (want,) = torch.autograd.grad(whole, new)
    count = unit_count(mask, normalizer, turn_ids)
    parts = []
    for rows in torch.arange(len(new)).split(size):
        part = policy_loss(
            new[rows], old[rows], advantages[rows], mask[rows], turn_ids=turn_ids[rows], count=count, **options
        )
        part.loss.backward()
        parts.append(part.loss.item())
    assert sum(parts) == pytest.approx(whole.item(), rel=1e-12)
    torch.testing.assert_close(new.grad, want)


@pytest.mark.parametrize("ratio", ["token", "turn", "sequence"])
def test_what_is_masked_has_no_say(ratio):
    new, old, advantages, mask, turn_ids = example()
    want = policy_loss(new, old, advantages, mask, ratio=ratio, turn_ids=turn_ids)
    filler = float("nan")
    dirty = new.detach().masked_fill(~mask, filler).requires_grad_()
    got = policy_loss(
        dirty, old.masked_fill(~mask, filler), advantages.masked_fill(~mask, filler), mask, ratio=ratio,
        turn_ids=turn_ids,
    )  # fmt: skip
    assert got.loss.item() == want.loss.item()
    assert got.approx_kl == want.approx_kl
    got.loss.backward()
    assert not dirty.grad[~mask].any()


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("ratio", ["token", "turn", "sequence"])
def test_on_policy_the_gradient_is_the_policy_gradient(ratio, normalizer):
    _, old, advantages, mask, turn_ids = example()
    new = old.clone().requires_grad_()
    policy_loss(new, old, advantages, mask, ratio=ratio, normalizer=normalizer, turn_ids=turn_ids).loss.backward()
    weights = token_weights(mask, normalizer, turn_ids)
    torch.testing.assert_close(new.grad, -advantages * weights / weights.sum())


def test_turn_credit_reaches_the_gradient():
    # Two episodes; turn 0 pays 0 in both, turn 1 pays 1 in the first and 0 in the second.
    rewards = np.array([[0.0, 1.0, np.nan], [0.0, 0.0, np.nan]])
    batch = TurnBatch(rewards, np.array([0.0, 0.0]), np.ones((2, 3), bool), np.zeros(2, int))
    turn_ids = torch.tensor([[-1, 0, 0, -1, 1, -1, 2], [-1, 0, -1, 1, 1, 2, -1]])
    advantages = token_advantages(turn_loo(batch), turn_ids)
    new = torch.zeros(2, 7, requires_grad=True)
    policy_loss(new, torch.zeros(2, 7), advantages, turn_ids >= 0, normalizer="constant", count=1).loss.backward()
    # Descent raises what the first episode did up to its paid turn, zero turn reward or not, and nothing after it.
    np.testing.assert_array_equal(-new.grad, [[0, 1, 1, 0, 1, 0, 0], [0, -1, 0, -1, -1, 0, 0]])


def test_kl_estimates_agree_with_the_exact_kl_and_k2_has_its_gradient():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, generator=generator, dtype=torch.float64).requires_grad_()
    ref = (logits + 0.1 * torch.randn(5, generator=generator, dtype=torch.float64)).detach().log_softmax(0)
    policy = logits.log_softmax(0)
    exact = (policy.exp() * (policy - ref)).sum()
    (want,) = torch.autograd.grad(exact, logits, retain_graph=True)
    chance = policy.detach().exp()  # the expectation over samples, with no gradient through the sampling
    for kind in ("k1", "k3"):
        assert (chance * kl_estimate(policy, ref, kind)).sum().item() == pytest.approx(exact.item(), rel=1e-9)
    (got,) = torch.autograd.grad((chance * kl_estimate(policy, ref, "k2")).sum(), logits, retain_graph=True)
    torch.testing.assert_close(got, want)
    (got,) = torch.autograd.grad((chance * kl_estimate(policy, ref, "k1")).sum(), logits, retain_graph=True)
    torch.testing.assert_close(got, torch.zeros(5, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_kl_loss_has_the_exact_gradient_on_and_off_policy(kind):
    generator = torch.Generator().manual_seed(1)
    logits, ref, other = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    logits.requires_grad_()
    policy, ref, old = logits.log_softmax(0), ref.log_softmax(0), other.log_softmax(0)
    exact = (policy.exp() * (policy - ref)).sum()
    (want,) = torch.autograd.grad(exact, logits, retain_graph=True)
    every = torch.ones(1, 5, dtype=torch.bool)
    for chance, sampled_by in ((policy.detach().exp(), None), (old.exp(), old)):
        # Each action is one token; the constant normalizer lets the chances do the averaging.
        losses = [
            kl_loss(policy[None], ref[None], every & (torch.arange(5) == action), kind=kind,
                    old_logprobs=None if sampled_by is None else sampled_by[None], normalizer="constant", count=1)
            for action in range(5)
        ]  # fmt: skip
        loss = (chance * torch.stack(losses)).sum()
        if kind != "k2":  # k2 is biased as a number
            assert loss.item() == pytest.approx(exact.item(), rel=1e-9)
        (got,) = torch.autograd.grad(loss, logits, retain_graph=True)
        torch.testing.assert_close(got, want)


def test_far_from_the_reference_the_gradient_of_the_kl_does_not_vanish():
    far = torch.tensor([[-100.0]], requires_grad=True)
    kl_loss(far, torch.zeros(1, 1), torch.ones(1, 1)).backward()
    assert far.grad.item() == pytest.approx(-20.0)


def two_steps(seed):
    """Log-probabilities of the nine two-token episodes over three actions; the second step sees the first."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 3, generator=generator, dtype=torch.float64).requires_grad_()
    logprobs = logits.log_softmax(1)
    first, second = torch.arange(9) // 3, torch.arange(9) % 3
    return logits, torch.stack([logprobs[0][first], logprobs[1 + first, second]], dim=1)


def test_kl_in_the_reward_has_the_gradient_of_the_kl_between_episodes():
    logits, logprobs = two_steps(0)
    _, ref = two_steps(1)
    chance = logprobs.sum(1).exp()
    exact = (chance * (logprobs - ref.detach()).sum(1)).sum()
    (want,) = torch.autograd.grad(-0.3 * exact, logits, retain_graph=True)
    rewards = kl_rewards(logprobs, ref, torch.ones(9, 2), 0.3)
    assert not rewards.requires_grad
    assert (chance * rewards.sum(1)).sum().item() == pytest.approx(-0.3 * exact.item())
    to_go = rewards.flip(1).cumsum(1).flip(1)
    (got,) = torch.autograd.grad((chance.detach()[:, None] * to_go * logprobs).sum(), logits, retain_graph=True)
    torch.testing.assert_close(got, want)
    # In the loss, the KL at each state alone; what the first token does to the second state is not in there.
    (at_states,) = torch.autograd.grad(
        kl_loss(logprobs, ref.detach(), torch.ones(9, 2, dtype=torch.bool), normalizer="constant", count=1),
        logprobs, retain_graph=True,
    )  # fmt: skip
    torch.testing.assert_close(at_states, (logprobs - ref).detach())


def test_what_is_masked_has_no_kl():
    new, old, _, mask, turn_ids = example()
    dirty = new.detach().masked_fill(~mask, float("nan")).requires_grad_()
    filled = old.masked_fill(~mask, float("nan"))
    loss = kl_loss(dirty, filled, mask, old_logprobs=filled, normalizer="turn-mean", turn_ids=turn_ids)
    assert loss.item() == kl_loss(new, old, mask, old_logprobs=old, normalizer="turn-mean", turn_ids=turn_ids).item()
    loss.backward()
    assert not dirty.grad[~mask].any()
    assert not kl_rewards(dirty, filled, mask, 1.0)[~mask].any()


# Weights of tokens ---------------------------------------------------------------------------------------------------


def test_weights_multiply_losses_and_leave_the_count_alone():
    # Ratios 1, 1, 1.5 with advantage 1: losses -1, -1, -1.2. A token of weight 0 still counts: the sum is over 3.
    new = torch.tensor([[1.0, 1.0, 1.5]]).log().requires_grad_()
    weights = torch.tensor([[0.0, 2.0, 0.5]], requires_grad=True)
    out = policy_loss(new, torch.zeros(1, 3), torch.ones(1, 3), torch.ones(1, 3), weights=weights)
    assert out.loss.item() == pytest.approx(-(2 * 1 + 0.5 * 1.2) / 3)
    out.loss.backward()
    np.testing.assert_allclose(new.grad, [[0, -2 / 3, 0]], rtol=1e-6)
    assert weights.grad is None


def test_masked_weights_have_no_say():
    new, old, advantages, mask, _ = example()
    weights = torch.full(mask.shape, float("nan")).masked_fill(mask, 1.0)
    out = policy_loss(new, old, advantages, mask, weights=weights)
    assert out.loss.item() == policy_loss(new, old, advantages, mask).loss.item()
    out.loss.backward()
    assert not new.grad[~mask].any()


# The critic ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "returned", "clip", "loss", "gradient"),
    [
        (0.5, 1.0, None, 0.125, -0.5),
        (0.5, 1.0, 0.6, 0.125, -0.5),  # within the range
        (0.5, 1.0, 0.2, 0.32, 0.0),  # beyond it, towards the return: it gains nothing more
        (-0.5, 1.0, 0.2, 1.125, -1.5),  # beyond it, away from the return: it is pulled back
        (-0.5, -1.0, 0.2, 0.32, 0.0),
        (2.0, 1.0, 0.5, 0.5, 1.0),  # past the return, further off than the clipped value: pulled back
    ],
)
def test_the_critics_loss_by_hand(value, returned, clip, loss, gradient):
    values = torch.tensor([[value]], requires_grad=True)
    out = value_loss(values, torch.zeros(1, 1), torch.tensor([[returned]]), torch.ones(1, 1), clip=clip)
    out.loss.backward()
    assert out.loss.item() == pytest.approx(loss)
    assert values.grad.item() == pytest.approx(gradient)
    assert out.clip_fraction == float(gradient == 0.0)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@settings(deadline=None, max_examples=10)
@given(st.integers(0, 1000), st.integers(1, 3))
def test_micro_batches_of_critic_and_kl_add_up(normalizer, seed, size):
    values, old, returns, mask, turn_ids = example(seed)
    options = {"normalizer": normalizer}

    def both(rows, **more):
        critic = value_loss(values[rows], old[rows], returns[rows], mask[rows], clip=0.2, **more, **options).loss
        return critic + kl_loss(values[rows], old[rows], mask[rows], old_logprobs=returns[rows], **more, **options)

    whole = both(slice(None), turn_ids=turn_ids)
    (want,) = torch.autograd.grad(whole, values)
    count = unit_count(mask, normalizer, turn_ids)
    parts = [both(rows, turn_ids=turn_ids[rows], count=count) for rows in torch.arange(len(values)).split(size)]
    assert sum(part.item() for part in parts) == pytest.approx(whole.item(), rel=1e-12)
    sum(parts).backward()
    torch.testing.assert_close(values.grad, want)


def test_what_is_masked_teaches_the_critic_nothing():
    values, old, returns, mask, _ = example()
    want = value_loss(values, old, returns, mask, clip=0.2)
    dirty = values.detach().masked_fill(~mask, float("nan")).requires_grad_()
    nan_old, nan_returns = old.masked_fill(~mask, float("nan")), returns.masked_fill(~mask, float("nan"))
    got = value_loss(dirty, nan_old, nan_returns, mask, clip=0.2)
    assert (got.loss.item(), got.clip_fraction) == (want.loss.item(), want.clip_fraction)
    got.loss.backward()
    assert not dirty.grad[~mask].any()
    assert explained_variance(dirty, nan_returns, mask) == explained_variance(values, returns, mask)


@pytest.mark.parametrize(
    ("values", "want"),
    [([0.0, 1.0, 2.0], 1.0), ([7.0, 8.0, 9.0], 1.0), ([5.0, 5.0, 5.0], 0.0), ([2.0, 1.0, 0.0], -3.0)],
)
def test_explained_variance_by_hand(values, want):
    got = explained_variance(torch.tensor([values]), torch.tensor([[0.0, 1.0, 2.0]]), torch.ones(1, 3))
    assert got == pytest.approx(want)


def test_returns_that_are_all_equal_leave_nothing_to_explain():
    third = torch.full((1, 7), 0.1)  # seven times 0.1 has a mean that is not 0.1, so that a variance would not be 0
    assert explained_variance(torch.randn(1, 7, generator=torch.Generator().manual_seed(0)), third, third) is None
    assert explained_variance(third, third, torch.zeros(1, 7)) is None


# Edges ---------------------------------------------------------------------------------------------------------------


def test_an_empty_batch_is_zero_not_nan():
    new, old, advantages, mask, turn_ids = example()
    out = policy_loss(new, old, advantages, torch.zeros_like(mask), ratio="turn", turn_ids=turn_ids)
    assert out.loss.item() == 0.0
    assert out.tokens == 0
    critic = value_loss(new, old, advantages, torch.zeros_like(mask))
    assert (critic.loss.item(), critic.clip_fraction, critic.tokens) == (0.0, 0.0, 0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"clip_low": 0.0}, "clip_low"),
        ({"clip_high": float("nan")}, "clip_high"),
        ({"dual_clip": float("nan")}, "dual_clip"),
        ({"dual_clip": 0.5}, "dual_clip"),
        ({"ratio": "turn"}, "turn_ids"),
        ({"ratio": "word"}, "sequence"),
        ({"normalizer": "constant"}, "count"),
        ({"normalizer": "mean"}, "token-mean"),
        ({"weights": torch.ones(4, 1)}, r"\(4, 9\)"),
    ],
)
def test_bad_settings_say_what_is_wrong(options, said):
    new, old, advantages, mask, _ = example()
    with pytest.raises(ConfigError, match=said):
        policy_loss(new, old, advantages, mask, **options)


def test_bad_settings_of_critic_and_kl_say_what_is_wrong():
    new, old, returns, mask, _ = example()
    with pytest.raises(ConfigError, match="clip must be above 0"):
        value_loss(new, old, returns, mask, clip=0.0)
    with pytest.raises(ConfigError, match="k1, k2, k3"):
        kl_loss(new, old, mask, kind="k4")
    with pytest.raises(ConfigError, match="coef"):
        kl_rewards(new, old, mask, -0.1)
