"""Credit: which turn earned what. Estimators are pure functions of a ``TurnBatch`` or of a ``TokenBatch``.

Of turns, each returns advantages ``(B, T)``, float64, 0 at padding; ``agents.batch.token_advantages`` hands them to the
tokens. Of tokens, each returns ``(B, L)``, 0 where the policy did not sample the token. Rows of one group are episodes
of one task, and no estimator but ``rebn`` lets one group see another. Cases that all share:

- *Singleton group.* Nothing to compare with: 0. (Dividing by a made-up spread of 1 instead would hand an episode its
  raw reward, which pays for being the only one.)
- *Zero spread.* Decided by ``max == min``, never by a standard deviation that rounding left above 0: 0.
- *Turn that was not scored* (NaN, as an answer turn is not by a tool-call reward model). It enters no statistic of turn
  rewards and adds nothing to a return. An episode whose outcome is NaN must be left out before.
- *Episode without a scored turn.* Its outcome alone counts.
- *Failed episode, turn cut by the token limit.* No special rule: the outcome says what it was worth. With a critic,
  ``bootstrap`` may stand for what a cut episode would still have earned (see ``agents.advantages.gae``).

``docs/estimators.md`` compares them; ``check_estimator`` tests anybody's.
"""

from __future__ import annotations

from agents.advantages.base import AdvantageEstimator, Floats, TokenEstimator
from agents.advantages.episode import dr_grpo, grpo, rloo
from agents.advantages.gae import token_gae, turn_aware_gae, turn_gae
from agents.advantages.gigpo import gigpo, observation_anchors
from agents.advantages.making import (
    ESTIMATORS,
    NEEDS,
    TOKEN_ESTIMATORS,
    load_attribute,
    make_estimator,
    make_token_estimator,
)
from agents.advantages.placement import trm_ppo_rewards
from agents.advantages.turn import Normalize, Pool, igpo, matchtir, mt_grpo, rebn, trm_grpo, turn_loo
from agents.check import EstimatorError, check_estimator

__all__ = [
    "ESTIMATORS",
    "NEEDS",
    "TOKEN_ESTIMATORS",
    "AdvantageEstimator",
    "EstimatorError",
    "Floats",
    "Normalize",
    "Pool",
    "TokenEstimator",
    "check_estimator",
    "dr_grpo",
    "gigpo",
    "grpo",
    "igpo",
    "load_attribute",
    "make_estimator",
    "make_token_estimator",
    "matchtir",
    "mt_grpo",
    "observation_anchors",
    "rebn",
    "rloo",
    "token_gae",
    "trm_grpo",
    "trm_ppo_rewards",
    "turn_aware_gae",
    "turn_gae",
    "turn_loo",
]
