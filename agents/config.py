"""A run's whole configuration: one dataclass a trainer, checked at construction, whose ``--help`` is its manual."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from agents.advantages import NEEDS, AdvantageEstimator, TokenEstimator, make_estimator, make_token_estimator
from agents.advantages.making import ESTIMATORS, TOKEN_ESTIMATORS, check_name
from agents.config_checks import check_ranges, check_together, check_types
from agents.losses import Normalizer, Ratio
from agents.models import Precision
from agents.overlong import CutEpisodes, FlawedTurns, OverlongPolicy
from agents.sampling.making import SamplerKind
from agents.trackers import TrackerName
from rewards.base import OnError
from toolenv.errors import ConfigError


@dataclass(frozen=True)
class TrainConfig(ABC):
    """Settings that ``agents.grpo`` and ``agents.ppo`` share.

    Attributes:
        env_id: Gymnasium id of the environment.
        env_kwargs: Keyword arguments of the environment, as JSON. For the nano policy they go on top of its own.
        format: How the model speaks (hermes, search_r1, torl, toolrl, simpletir, retool, recall), also with settings as
            JSON behind the name, in which texts for the model are files; by default what the model was made for, else
            hermes.
        max_turns: Most turns of an episode; by default the environment's own limit.
        model: What agents.models.load_model takes: nano, a folder, a .gguf file, a model hub's name.
        device: Where the model runs: cpu, cuda, cuda:1, ...; auto: CUDA where there is one.
        precision: Of the weights: float32 or bfloat16. The latter is for LoRA, whose matrices stay float32: a step of
            less than a few thousandths of a weight leaves it where it was in bfloat16.
        lora_rank: Train LoRA matrices of this rank instead of the weights; 0: the weights.
        lora_alpha: Scale of LoRA, over the rank; by default twice the rank.
        gradient_checkpointing: Make activations again in the backward pass instead of keeping them.
        output_dir: Where metrics, episodes and checkpoints go.
        resume: Go on from the last checkpoint in output_dir.
        seed: Names every random stream of the run: tasks, samples, minibatches.
        num_updates: Updates of the whole run, those before a resume included.
        num_envs: Episodes that are played side by side; of several processes, each plays as many.
        ray_actors: Over how many Ray actors the environments are spread; 0: they stand in this process.
        sampler: hf: the trained model itself; vllm: an engine in this process; vllm-server: servers at sampler_urls.
        sampler_urls: Addresses of vLLM servers; may be given several times.
        sampler_kwargs: Further settings of the sampler, as JSON.
        rollout: lockstep: all episodes take their turns together; async: an episode goes on when its own tool returns.
        overlap: Play the episodes of the next update while this one trains, with weights one update older.
        max_new_tokens: Longest action, in tokens.
        max_tokens: Longest episode, in tokens; a longer one is cut. By default what the model can take.
        temperature: Sampling temperature, also in the policy that is trained.
        outcome: Outcome reward: a metric of rewards.OutcomeFn (auto, em, f1, math, calls), or module:attribute[{JSON
            settings}][*WEIGHT] of what makes a reward, such as rewards:ToolRMFn{"scorer": "runs/toolrm"}.
        process: Turn rewards, each [NAME=]module:attribute[{JSON settings}][*WEIGHT] of what makes a reward; may be
            given several times; by default there is none.
        on_reward_error: When a reward fails on an episode: stop the run, or mask the episode, which is left out and
            counted.
        cut_episodes: What an episode counts for that was truncated: keep (its outcome says), mask (not learned from),
            penalise, or bootstrap (PPO: what the critic expects after the cut counts as the last reward).
        cut_turns: What a turn counts for that max_new_tokens cut: keep, mask, mask-episode, penalise.
        void_turns: What a turn counts for that could not be read, neither as a call nor as an answer: keep, mask,
            mask-episode, penalise.
        cut_episode_penalty: What penalise takes off such an episode's outcome.
        cut_turn_penalty: What penalise takes off such a turn's reward.
        void_turn_penalty: What penalise takes off such a turn's reward.
        soft_limit: Tokens of an episode above which 1 comes off its outcome; by default there is no such limit.
        soft_buffer: Tokens below soft_limit over which that penalty rises from 0.
        estimator_kwargs: Further settings of the estimator, as JSON.
        learning_rate: Of AdamW.
        warmup: Updates over which the learning rate rises from 0.
        weight_decay: Decoupled weight decay.
        max_grad_norm: Gradients are clipped to this norm.
        inner_epochs: Passes over an update's episodes.
        minibatch_episodes: Episodes an optimiser step; by default all of the update.
        micro_batch_episodes: Episodes that go through the model at once; it changes memory and speed only.
        clip_low: How far a ratio may fall below 1 before the loss stops caring.
        clip_high: How far it may rise above 1.
        dual_clip: Bound on the loss of one token with a negative advantage, above 1; by default there is none.
        ratio: Importance ratio of a token, of its turn, or of its sequence.
        normalizer: What the loss averages over; "constant" divides by episodes times max_new_tokens.
        correction: Weights for where sampler and trainer give a token different probabilities: none, truncate (at
            correction_high) or mask (0 outside of the limits). With it, ratios are those to the trainer's own policy
            from before the update.
        correction_level: What such a weight is of: a token, its turn, or its sequence.
        correction_geometric: Geometric mean over the tokens of a turn or sequence, instead of the product.
        correction_low: Lower limit of mask, in [0, 1]; by default there is none.
        correction_high: Upper limit, at least 1.
        max_parity: The run stops where the sampler's log-probability of a token differs from the trainer's by more; by
            default by 1e-3 where the weights are float32, and nowhere where they are bfloat16 and rounding alone can
            come to more. A sampler with weights of its own is also probed after each sync (agents.sampling.parity).
        kl_coef: Weight of the KL penalty towards the initial model; 0: no penalty.
        entropy_coef: Weight of the entropy bonus.
        trackers: Where metrics go beside metrics.jsonl: tensorboard, trackio, wandb; may be given several times.
        checkpoint_every: Updates between checkpoints; the last update always makes one.
        keep_checkpoints: How many checkpoints are kept.
        eval_every: Updates between evaluations on other tasks; 0: none.
        eval_episodes: Episodes an evaluation.
        eval_env_kwargs: What differs from env_kwargs in an evaluation, as JSON; for bundled tasks, by default, the
            split: "validation".

    Raises:
        ConfigError: Values that are out of range or do not fit together.
    """

    env_id: str = "ToolSearchQA-v0"
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    format: str | None = None
    max_turns: int | None = None
    model: str = "nano"
    device: str = "auto"
    precision: Precision = "float32"
    lora_rank: int = 0
    lora_alpha: float | None = None
    gradient_checkpointing: bool = False
    output_dir: Path = Path("runs/train")
    resume: bool = False
    seed: int = 0
    num_updates: int = 50
    num_envs: int = 64
    ray_actors: int = 0
    sampler: SamplerKind = "hf"
    sampler_urls: tuple[str, ...] = ()
    sampler_kwargs: dict[str, Any] = field(default_factory=dict)
    rollout: Literal["lockstep", "async"] = "lockstep"
    overlap: bool = False
    max_new_tokens: int = 64
    max_tokens: int | None = None
    temperature: float = 1.0
    outcome: str = "auto"
    process: tuple[str, ...] = ()
    on_reward_error: OnError = "stop"
    cut_episodes: CutEpisodes = "keep"
    cut_turns: FlawedTurns = "keep"
    void_turns: FlawedTurns = "keep"
    cut_episode_penalty: float = 0.5
    cut_turn_penalty: float = 0.1
    void_turn_penalty: float = 0.1
    soft_limit: int | None = None
    soft_buffer: int = 256
    estimator_kwargs: dict[str, Any] = field(default_factory=dict)
    learning_rate: float = 1e-4
    warmup: int = 0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    inner_epochs: int = 1
    minibatch_episodes: int | None = None
    micro_batch_episodes: int = 16
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = None
    ratio: Ratio = "token"
    normalizer: Normalizer = "token-mean"
    correction: Literal["none", "truncate", "mask"] = "none"
    correction_level: Ratio = "token"
    correction_geometric: bool = False
    correction_low: float | None = None
    correction_high: float = 2.0
    max_parity: float | None = None
    kl_coef: float = 0.0
    entropy_coef: float = 0.0
    trackers: tuple[TrackerName, ...] = ()
    checkpoint_every: int = 10
    keep_checkpoints: int = 2
    eval_every: int = 0
    eval_episodes: int = 100
    eval_env_kwargs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "output_dir", Path(self.output_dir))
        for name in ("process", "sampler_urls", "trackers"):
            given = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, str) else tuple(given))
        check_types(self)
        check_ranges(self)
        check_together(self)
        self.overlong  # noqa: B018  # it checks itself

    @property
    @abstractmethod
    def episodes(self) -> int:
        """Episodes an update."""

    @property
    def overlong(self) -> OverlongPolicy:
        """What cut episodes, cut turns and void turns count for."""
        return OverlongPolicy(**{f.name: getattr(self, f.name) for f in fields(OverlongPolicy)})

    @property
    def kl_in_loss(self) -> bool:
        """Whether ``kl_coef`` weighs a penalty in the loss."""
        return True

    def to_json(self) -> dict[str, Any]:
        """The settings as a JSON object."""
        return {**asdict(self), "output_dir": str(self.output_dir)}


@dataclass(frozen=True)
class GRPOConfig(TrainConfig):
    """Train by GRPO with credit for each turn. Guide: agents/README.md; the estimators: docs/estimators.md.

    Attributes:
        output_dir: Where metrics, episodes and checkpoints go.
        groups_per_update: Tasks an update.
        group_size: Episodes a task: the group that an advantage compares within.
        dynamic_sampling: How many times, at most, groups in which no turn has any advantage are replaced by groups of
            other tasks; 0: never.
        estimator: A name in agents.advantages.ESTIMATORS, or module:attribute.
        alpha: Weight of turn rewards against the outcome; by default the estimator's own.
        gamma: Discount a turn; by default the estimator's own.

    Raises:
        ConfigError: Values that are out of range or do not fit together.

    Example:
        >>> GRPOConfig(group_size=1)
        Traceback (most recent call last):
        toolenv.errors.ConfigError: group_size must be at least 2, not 1: an episode is compared with its group
    """

    output_dir: Path = Path("runs/grpo")
    groups_per_update: int = 16
    group_size: int = 8
    dynamic_sampling: int = 0
    estimator: str = "turn_loo"
    alpha: float | None = None
    gamma: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.group_size, int) and self.group_size < 2:
            raise ConfigError(
                f"group_size must be at least 2, not {self.group_size!r}: an episode is compared with its group"
            )
        super().__post_init__()
        check_name(self.estimator, (name for name in ESTIMATORS if "values" not in NEEDS.get(name, ())))
        estimator = self.make_estimator()
        if "values" in NEEDS.get(self.estimator, ()):
            raise ConfigError(f"estimator {self.estimator!r} needs a critic, which GRPO has not; take agents.ppo")
        if self.cut_episodes == "bootstrap":
            raise ConfigError("cut_episodes='bootstrap' needs a critic, which GRPO has not; take agents.ppo")
        if (self.process or self.overlong.charges_turns) and _ignores_turns(estimator):
            what = f"the turn rewards of process {self.process}" if self.process else "what penalise takes off a turn"
            raise ConfigError(
                f"estimator {self.estimator!r} would not look at {what}; give "
                """--estimator-kwargs '{"include_turn_rewards": true}' or a turn-level estimator (turn_loo, trm_grpo)"""
            )

    @property
    def episodes(self) -> int:
        """Episodes an update."""
        return self.groups_per_update * self.group_size

    def make_estimator(self) -> AdvantageEstimator:
        """The estimator with its settings bound."""
        return make_estimator(self.estimator, **_settings(self.estimator_kwargs, alpha=self.alpha, gamma=self.gamma))


@dataclass(frozen=True)
class PPOConfig(TrainConfig):
    """Train by PPO with credit for each turn. Guide: agents/README.md; the estimators: docs/estimators.md.

    Attributes:
        output_dir: Where metrics, episodes and checkpoints go.
        episodes_per_update: Episodes an update, each of a task of its own.
        estimator: turn_aware_gae (over tokens, with a discount and a trace a turn), token_gae (over tokens alone),
            turn_gae (a turn is one action), or module:attribute of a function of a TokenBatch.
        alpha: Weight of turn rewards against the outcome, and the outcome is never scaled; TRM takes 0.05.
        gamma: Discount a turn, of token_gae a token; by default the estimator's own.
        gae_lambda: Trace decay a turn, of token_gae a token; by default the estimator's own.
        whiten: Whether advantages are centred and scaled to spread 1 over the action tokens of an update.
        kl_in: Whether kl_coef weighs a penalty in the loss, or the rewards of the tokens.
        critic_learning_rate: Of the critic's AdamW.
        critic_warmup: First updates, in which the critic alone is trained.
        value_clip: How far a value may move in an update before its loss stops caring; by default there is no limit.

    Raises:
        ConfigError: Values that are out of range or do not fit together.

    Example:
        >>> PPOConfig(estimator="grpo")
        Traceback (most recent call last):
        toolenv.errors.ConfigError: estimator 'grpo' is one of turns; of tokens there are token_gae, turn_aware_gae
    """

    output_dir: Path = Path("runs/ppo")
    episodes_per_update: int = 128
    estimator: str = "turn_aware_gae"
    alpha: float = 1.0
    gamma: float | None = None
    gae_lambda: float | None = None
    whiten: bool = True
    kl_in: Literal["loss", "reward"] = "loss"
    critic_learning_rate: float = 3e-4
    critic_warmup: int = 0
    value_clip: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.over_turns and "alpha" in self.estimator_kwargs:
            raise ConfigError(
                f"alpha stands in estimator_kwargs, {self.estimator_kwargs['alpha']!r}, where it would scale the "
                "outcome too, which is in the rewards by then; give it as a setting of its own"
            )
        if self.kl_in == "reward" and not self.kl_coef:
            raise ConfigError(
                "kl_in is 'reward', but with kl_coef 0 there is no penalty; give kl_coef, or leave it out"
            )
        check_name(self.estimator, (*TOKEN_ESTIMATORS, "turn_gae"))
        self.make_estimator()

    @property
    def episodes(self) -> int:
        """Episodes an update."""
        return self.episodes_per_update

    @property
    def kl_in_loss(self) -> bool:
        """Whether ``kl_coef`` weighs a penalty in the loss, and not in the rewards."""
        return self.kl_in == "loss"

    @property
    def over_turns(self) -> bool:
        """Whether the estimator takes a turn as one action."""
        return self.estimator == "turn_gae"

    def make_estimator(self) -> AdvantageEstimator | TokenEstimator:
        """The estimator with its settings bound: of turns where ``over_turns``, else of tokens."""
        names = ("turn_gamma", "turn_lambda") if self.estimator == "turn_aware_gae" else ("gamma", "gae_lambda")
        given = dict(zip(names, (self.gamma, self.gae_lambda), strict=True))
        make = make_estimator if self.over_turns else make_token_estimator
        return make(self.estimator, **_settings(self.estimator_kwargs, **given))


def _settings(kwargs: Mapping[str, Any], **own: float | None) -> dict[str, Any]:
    """An estimator's settings: those that the trainer has under a name of their own, where given, and the rest.

    Raises:
        ConfigError: One is given in both places.
    """
    given = {name: value for name, value in own.items() if value is not None}
    for name in given.keys() & kwargs.keys():
        raise ConfigError(
            f"{name} of the estimator is given twice: {given[name]!r}, and {kwargs[name]!r} in estimator_kwargs; leave "
            "one out"
        )
    return {**kwargs, **given}


def _ignores_turns(estimator: AdvantageEstimator) -> bool:
    """Whether an estimator could add up turn rewards, and was not told to."""
    parameter = inspect.signature(estimator).parameters.get("include_turn_rewards")
    return parameter is not None and not parameter.default
