"""One run of an ablation: training, and what the trained policy does on the tasks that all are asked."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from agents import grpo, ppo
from agents.ablation.plan import Cell, Plan
from agents.behaviour import failed, repeated_calls
from agents.config import GRPOConfig, TrainConfig
from agents.environments import check_held_out
from agents.evaluate import choose_tasks, evaluate
from agents.metrics import OUTCOME, read_metrics
from agents.models import load_model, played_as, room_for_history
from agents.resume import MAY_CHANGE, METRICS_FILE
from agents.reward_spec import make_reward
from agents.run import make_rewards
from agents.run_envs import make_eval_envs, make_train_envs
from agents.sampling.base import SamplingParams
from agents.sampling.hf import HFSampler
from agents.tokens import ConversationEncoder
from rewards import RewardFn, score_episodes
from rewards.training.trm.rows import successes
from toolenv.data.text_files import replace_file
from toolenv.episode import Episode, read_episodes, write_episodes
from toolenv.errors import ConfigError, InfrastructureError
from toolenv.progress import Progress
from toolenv.vector import ToolVectorEnv

RESULT, EPISODES, ASKED, LOCK = "result.json", "held_out.jsonl", "held_out.json", "lock"
EVAL_SEED = 1
ENVS = 64
KEPT = ("update", "success_rate", "return", "calls_per_episode", "entropy", "approx_kl")
"""Metrics that a result keeps."""

Result = dict[str, Any]


def run_cell(plan: Plan, cell: Cell, folder: Path) -> Result:
    """Train, play and measure; what was done is not done again, and what was stopped goes on.

    The held-out episodes are kept, so that other measures need no other training.

    Args:
        plan: The ablation.
        cell: Which of its runs.
        folder: Where its runs stand.

    Returns:
        ``held_out``: columns, a value a task; ``tasks``: their ids; ``metrics``: the curves of training.

    Raises:
        ConfigError: What cannot be run, before anything is; or the folder holds a run of other settings, or one that
            is running.
        KeyboardInterrupt: It was stopped.
        ToolEnvError: It failed.
    """
    if result := finished(plan, cell, folder):
        return result
    config = plan.config(cell, folder)
    with _locked(config.output_dir):
        _check_asked(plan, config)
        checkpoint = _train(config)
        episodes = _held_out(plan, cell, config, checkpoint)
        result = {
            "key": _key(plan, config),
            "tasks": [episode.task.id for episode in episodes],
            "held_out": _measured(plan, config, episodes),
            "metrics": [{name: row[name] for name in KEPT if name in row} for row in trained_metrics(config)],
        }
        replace_file(config.output_dir / RESULT, json.dumps(result).encode())
    return {**result, "setting": cell.setting, "seed": cell.seed}


def finished(plan: Plan, cell: Cell, folder: Path) -> Result | None:
    """The result of a run that was done before, under the same plan."""
    config = plan.config(cell, folder)
    done = config.output_dir / RESULT
    if not done.is_file():
        return None
    result: Result = json.loads(done.read_text(encoding="utf-8"))
    return {**result, "setting": cell.setting, "seed": cell.seed} if result["key"] == _key(plan, config) else None


def trained_metrics(config: TrainConfig) -> list[dict[str, Any]]:
    """The metrics that a run has written so far."""
    path = config.output_dir / METRICS_FILE
    return read_metrics(path) if path.is_file() else []


# Inside ------------------------------------------------------------------------------------------------------------


def _asked(plan: Plan, config: TrainConfig) -> dict[str, Any]:
    """All that the held-out episodes depend on. What may change in a run that is resumed changes no policy."""
    settings = {name: value for name, value in config.to_json().items() if name not in MAY_CHANGE}
    key = {"settings": settings, "num_updates": config.num_updates, "held_out": plan.held_out,
           "eval_env_kwargs": config.eval_env_kwargs}  # fmt: skip
    plain: dict[str, Any] = json.loads(json.dumps(key, default=str))
    return plain


def _key(plan: Plan, config: TrainConfig) -> dict[str, Any]:
    """All that a result depends on."""
    return {**_asked(plan, config), "measures": dict(plan.measures)}


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a run's folder, so that no other process trains in it.

    Raises:
        ConfigError: Another one does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"{folder} is being worked on by another process; wait for it, or end it") from error
        yield


def _check_asked(plan: Plan, config: TrainConfig) -> None:
    """Check before training that the held-out tasks can be asked after it.

    Raises:
        ConfigError: They cannot, or they are those of the training.
    """
    policy = played_as(config.model)
    train, asked = make_train_envs(config, policy, 1), make_eval_envs(config, policy, 1)
    try:
        check_held_out(train, asked)
        choose_tasks(len(asked.envs[0].tasks), plan.held_out, EVAL_SEED)
    finally:
        train.close()
        asked.close()


def _train(config: TrainConfig) -> Path:
    """The checkpoint of a finished training; nothing else of it is kept in memory."""
    trained = grpo.train(config) if isinstance(config, GRPOConfig) else ppo.train(config)  # type: ignore[arg-type]
    if trained.interrupted or trained.checkpoint is None:
        raise KeyboardInterrupt
    return trained.checkpoint


def _held_out(plan: Plan, cell: Cell, config: TrainConfig, checkpoint: Path) -> list[Episode]:
    """The held-out episodes of a trained policy: read, or played."""
    path, asked = config.output_dir / EPISODES, _asked(plan, config)
    noted = config.output_dir / ASKED
    if path.is_file() and noted.is_file() and json.loads(noted.read_text(encoding="utf-8")) == asked:
        return list(read_episodes(path))
    noted.unlink(missing_ok=True)
    episodes = _play(config, checkpoint, plan.held_out, f"{cell.setting}, seed {cell.seed}")
    path.unlink(missing_ok=True)
    write_episodes(path, episodes)
    replace_file(noted, json.dumps(asked).encode())
    return episodes


def _play(config: TrainConfig, checkpoint: Path, count: int, title: str) -> list[Episode]:
    """A policy's episodes, each of the same tasks in the same order; actions are sampled."""
    model, tokenizer = load_model(str(checkpoint), device=config.device, precision="float32")
    envs = make_eval_envs(config, played_as(config.model), min(count, ENVS))
    try:
        return _ask(config, envs, model, tokenizer, count, Progress(f"held-out tasks, {title}", count))
    finally:
        envs.close()


def _ask(
    config: TrainConfig, envs: ToolVectorEnv, model: Any, tokenizer: Any, count: int, progress: Progress
) -> list[Episode]:
    form = envs.envs[0].format
    params = SamplingParams(config.max_new_tokens, config.temperature, stop=tuple(form.stop))
    played, _ = evaluate(
        HFSampler(model, tokenizer, params),
        envs,
        count,
        encoder=ConversationEncoder(tokenizer, form),
        seed=EVAL_SEED,
        max_tokens=config.max_tokens or room_for_history(model, config.max_new_tokens),
        progress=lambda done, _: progress.show(done),
    )
    if played.dropped:  # the tasks of two settings would no longer be the same ones
        raise InfrastructureError(f"{len(played.dropped)} of {count} episodes were lost: {played.dropped[0]}")
    return [rollout.episode for rollout in played.rollouts]


def _measured(plan: Plan, config: TrainConfig, episodes: Sequence[Episode]) -> dict[str, list[float | None]]:
    """Columns, a value an episode; ``None`` where a reward had no opinion on any turn.

    Success is what the environment's own outcome says, whatever the run was rewarded with, which is ``score``.
    """
    own = make_rewards(config)
    own.set_update(config.num_updates)
    fns: Mapping[str, RewardFn] = {
        "score": own.fns[OUTCOME],
        **{name: make_reward(spec)[1] for name, spec in plan.measures.items()},
    }
    return {
        "success": [None if success is None else float(success) for success in successes(episodes)],
        "calls": [float(episode.num_calls) for episode in episodes],
        "repeated": [float(repeated_calls(episode)) for episode in episodes],
        "errors": [float(sum(map(failed, episode.turns))) for episode in episodes],
        "no_call": [float(episode.num_calls == 0) for episode in episodes],
        **{name: _totals(fn, episodes) for name, fn in fns.items()},
    }


def _totals(fn: RewardFn, episodes: Sequence[Episode]) -> list[float | None]:
    """A reward, summed over the turns of each episode."""
    columns = score_episodes(fn, episodes)
    return [None if np.isnan(column).all() else float(np.nansum(column)) for column in columns]
