"""Losses refuse tensors that would broadcast: as many episodes as tokens, and a wrong number would come in silence."""

from __future__ import annotations

import pytest
import torch

from agents.losses import kl_estimate, kl_loss, kl_rewards, masked_average, policy_loss, value_loss
from toolenv.errors import ConfigError

TENSORS = {
    policy_loss: ("logprobs", "old_logprobs", "advantages", "mask", "weights", "turn_ids"),
    value_loss: ("values", "old_values", "returns", "mask", "turn_ids"),
    kl_loss: ("logprobs", "ref_logprobs", "mask", "old_logprobs", "turn_ids"),
    masked_average: ("values", "mask", "turn_ids"),
    kl_rewards: ("logprobs", "ref_logprobs", "mask"),
    kl_estimate: ("logprobs", "ref_logprobs"),
}
SETTINGS = {kl_rewards: {"coef": 0.1}, kl_estimate: {}}


@pytest.mark.parametrize(("loss", "name"), [(loss, name) for loss, names in TENSORS.items() for name in names[1:]])
@pytest.mark.parametrize("shape", [(3,), (1, 3), (3, 1)])
def test_a_tensor_of_another_shape_is_refused_by_name(loss, name, shape):
    settings = SETTINGS.get(loss, {"normalizer": "turn-mean"})
    tensors = {key: torch.ones(3, 3, dtype=torch.int64 if key == "turn_ids" else None) for key in TENSORS[loss]}
    loss(**tensors, **settings)
    tensors[name] = tensors[name].flatten()[:3].view(shape)
    with pytest.raises(ConfigError) as error:
        loss(**tensors, **settings)
    like = "the mask" if name == "turn_ids" else TENSORS[loss][0]
    assert str(error.value) == f"{name} must have shape (3, 3) as {like} has, not {shape}"
