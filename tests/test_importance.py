"""Weights between sampler and trainer: hand-worked numbers, and the laws of importance sampling."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.importance import importance_weights
from agents.losses import policy_loss
from toolenv.errors import ConfigError

LEVELS = [("token", False), ("turn", False), ("turn", True), ("sequence", False), ("sequence", True)]

# Ratios 2 and 4 in turn 0, an observation, 0.5 in turn 1; then an episode of one token with ratio 0.25.
TURN_IDS = torch.tensor([[-1, 0, 0, -1, 1], [-1, 0, -1, -1, -1]])
RATIOS = torch.tensor([[9.0, 2.0, 4.0, 9.0, 0.5], [9.0, 0.25, 9.0, 9.0, 9.0]])
TRAINER = RATIOS.log()
SAMPLER = torch.zeros(2, 5)


def weigh(**options):
    return importance_weights(TRAINER, SAMPLER, TURN_IDS >= 0, turn_ids=TURN_IDS, **options)


def example(seed, rows=3, length=8):
    generator = torch.Generator().manual_seed(seed)
    turn_ids = torch.randint(-1, 2, (rows, length), generator=generator).sort(dim=1).values
    sampler = -torch.rand(rows, length, generator=generator, dtype=torch.float64)
    trainer = sampler + 0.5 * torch.randn(rows, length, generator=generator, dtype=torch.float64)
    return trainer, sampler, turn_ids


# By hand -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "want"),
    [
        ({"high": 100}, [2, 4, 0.5, 0.25]),
        ({"high": 3}, [2, 3, 0.5, 0.25]),
        ({"mode": "mask", "low": 0.3, "high": 3}, [2, 0, 0.5, 0]),
        ({"mode": "mask", "high": 3}, [2, 0, 0.5, 0.25]),
        ({"level": "turn", "high": 100}, [8, 8, 0.5, 0.25]),
        ({"level": "turn", "geometric": True, "high": 100}, [8**0.5, 8**0.5, 0.5, 0.25]),
        ({"level": "turn", "high": 3, "mode": "mask", "low": 0.3}, [0, 0, 0.5, 0]),
        ({"level": "sequence", "high": 100}, [4, 4, 4, 0.25]),
        ({"level": "sequence", "geometric": True, "high": 100}, [4 ** (1 / 3)] * 3 + [0.25]),
        ({"level": "sequence", "high": 3}, [3, 3, 3, 0.25]),
    ],
)
def test_weights_by_hand(options, want):
    out = weigh(**options)
    torch.testing.assert_close(out.weights[TURN_IDS >= 0], torch.tensor(want, dtype=torch.float32))
    assert not out.weights[TURN_IDS < 0].any()


def test_what_is_logged_by_hand():
    out = weigh(high=3)
    assert (out.mean, out.max, out.limited, out.units) == (pytest.approx(6.75 / 4), pytest.approx(4), 0.25, 4)
    assert out.effective_share == pytest.approx((2 + 3 + 0.5 + 0.25) ** 2 / (4 * (4 + 9 + 0.25 + 0.0625)))
    assert out.mean_delta == pytest.approx(6 * torch.log(torch.tensor(2.0)).item() / 4)  # 1 + 2 + 1 + 2 times log 2
    assert out.max_delta == pytest.approx(2 * torch.log(torch.tensor(2.0)).item())
    # Of sequences, each counts once, however long: 4 and 0.25.
    out = weigh(level="sequence", mode="mask", low=0.5, high=5)
    assert (out.mean, out.max, out.limited, out.units) == (pytest.approx(4.25 / 2), pytest.approx(4), 0.5, 2)
    assert out.effective_share == pytest.approx(0.5)
    assert weigh(level="turn", high=100).units == 3


def test_all_weights_masked_is_an_effective_sample_of_none():
    out = weigh(mode="mask", low=0.9, high=1.1)
    assert (out.effective_share, out.limited) == (0.0, 1.0)
    assert not out.weights.any()


def test_a_sampler_that_said_nothing_is_believed_and_counted():
    silent = SAMPLER.clone()
    silent[0, 2] = float("nan")
    silent[0, 3] = float("nan")  # an observation, which nobody asked
    out = importance_weights(TRAINER, silent, TURN_IDS >= 0, level="turn", turn_ids=TURN_IDS, high=100)
    assert out.unknown == 1
    torch.testing.assert_close(out.weights[0], torch.tensor([0, 2, 2, 0, 0.5]))
    assert out.max_delta == pytest.approx(2 * torch.log(torch.tensor(2.0)).item())


# Laws ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("level", "geometric"), LEVELS)
@pytest.mark.parametrize("mode", ["truncate", "mask"])
def test_equal_engines_change_nothing(level, geometric, mode):
    _, sampler, turn_ids = example(0)
    mask = turn_ids >= 0
    low = 1.0 if mode == "mask" else None
    out = importance_weights(
        sampler, sampler, mask, mode=mode, level=level, geometric=geometric, low=low, high=1.0, turn_ids=turn_ids
    )
    assert torch.equal(out.weights, mask.double())
    assert (out.mean, out.max, out.limited, out.effective_share) == (1.0, 1.0, 0.0, 1.0)
    assert (out.mean_delta, out.max_delta, out.unknown) == (0.0, 0.0, 0)


@pytest.mark.parametrize(("level", "geometric"), LEVELS)
@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000))
def test_observations_and_padding_change_nothing(level, geometric, seed):
    trainer, sampler, turn_ids = example(seed)
    generator = torch.Generator().manual_seed(seed)
    # Each token moves to a place of its own in a row twice as long; what stands between is noise.
    places = torch.stack([torch.randperm(16, generator=generator)[:8].sort().values for _ in trainer])
    wide_ids = torch.full((3, 16), -1).scatter(1, places, turn_ids)
    wide_trainer = torch.full((3, 16), float("nan"), dtype=torch.float64).scatter(1, places, trainer)
    wide_sampler = torch.randn(3, 16, generator=generator, dtype=torch.float64).scatter(1, places, sampler)
    options = {"level": level, "geometric": geometric, "high": 1.5}
    narrow = importance_weights(trainer, sampler, turn_ids >= 0, turn_ids=turn_ids, **options)
    wide = importance_weights(wide_trainer, wide_sampler, wide_ids >= 0, turn_ids=wide_ids, **options)
    torch.testing.assert_close(wide.weights.gather(1, places), narrow.weights, rtol=1e-12, atol=0)
    assert wide.weights.sum().item() == pytest.approx(narrow.weights.sum().item())
    for name in ("mean", "max", "limited", "effective_share", "mean_delta", "max_delta", "units"):
        assert getattr(wide, name) == pytest.approx(getattr(narrow, name))


def test_weighed_by_the_product_a_sample_of_the_sampler_speaks_for_the_trainer():
    # All nine episodes of two tokens, under two policies; the second token sees the first.
    generator = torch.Generator().manual_seed(0)
    first, second = torch.arange(9) // 3, torch.arange(9) % 3

    def episodes():
        logprobs = torch.randn(4, 3, generator=generator, dtype=torch.float64).log_softmax(1)
        return torch.stack([logprobs[0][first], logprobs[1 + first, second]], dim=1)

    trainer, sampler = episodes(), episodes()
    worth = torch.randn(9, generator=generator, dtype=torch.float64)
    out = importance_weights(trainer, sampler, torch.ones(9, 2), level="sequence", high=1e6)
    got = (sampler.sum(1).exp() * out.weights[:, 0] * worth).sum()
    assert got.item() == pytest.approx((trainer.sum(1).exp() * worth).sum().item())


def test_masking_does_not_weigh_up_what_is_kept():
    new = torch.zeros(1, 4, requires_grad=True)
    trainer = torch.tensor([[3.0, 0.0, 0.0, 3.0]])
    weights = importance_weights(trainer, torch.zeros(1, 4), torch.ones(1, 4), mode="mask", high=2.0).weights
    policy_loss(new, torch.zeros(1, 4), torch.ones(1, 4), torch.ones(1, 4), weights=weights).loss.backward()
    torch.testing.assert_close(new.grad, torch.tensor([[0, -0.25, -0.25, 0]]))


def test_weights_have_no_gradient():
    trainer = TRAINER.clone().requires_grad_()
    assert not importance_weights(trainer, SAMPLER, TURN_IDS >= 0, high=3).weights.requires_grad


def test_an_empty_batch_has_nothing_to_say():
    out = importance_weights(TRAINER, SAMPLER, torch.zeros(2, 5), level="sequence", high=2)
    assert (out.units, out.mean, out.max, out.limited, out.mean_delta) == (0, 0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mode": "clip"}, "truncate, mask"),
        ({"level": "word"}, "token, turn, sequence"),
        ({"geometric": True}, "single tokens"),
        ({"low": 0.5}, "low=0.5 is for mode 'mask'"),
        ({"high": 0.5}, "high must be at least 1"),
        ({"high": float("nan")}, "high must be at least 1"),
        ({"mode": "mask", "low": 1.5}, r"low in \[0, 1\]"),
        ({"level": "turn", "turn_ids": None}, "turn_ids are needed"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        importance_weights(TRAINER, SAMPLER, TURN_IDS >= 0, **{"turn_ids": TURN_IDS, **options})
