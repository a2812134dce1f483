"""One run of an ablation: training, and what the trained policy does on the tasks that all are asked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agents import grpo, ppo
from agents.ablation.plan import Cell, Plan
from agents.behaviour import failed, repeated_calls
from agents.config import GRPOConfig, TrainConfig
from agents.evaluate import evaluate
from agents.metrics import OUTCOME, SUCCESS, read_metrics
from agents.models import load_model, played_as, room_for_history
from agents.resume import METRICS_FILE
from agents.reward_spec import make_reward
from agents.run import make_rewards
from agents.run_envs import make_eval_envs
from agents.sampling.base import SamplingParams
from agents.sampling.hf import HFSampler
from agents.tokens import ConversationEncoder
from rewards import OutcomeFn, RewardFn, score_episodes
from toolenv.data.text_files import replace_file
from toolenv.episode import Episode
from toolenv.errors import InfrastructureError
from toolenv.progress import Progress

RESULT = "result.json"
KEY = "key.json"
EVAL_SEED = 1
ENVS = 64
CURVES = ("update", "success_rate", "return", "calls_per_episode", "entropy", "approx_kl")
"""Metrics that a result keeps."""

Result = dict[str, Any]


def run_cell(plan: Plan, cell: Cell, folder: Path) -> Result:
    """Train and play; read back where the same was done before, and gone on with where it was stopped.

    Args:
        plan: The ablation.
        cell: Which of its runs.
        folder: Where its runs stand.

    Returns:
        ``held_out``: columns, a value a task; ``metrics``: the curves of training.

    Raises:
        KeyboardInterrupt: It was stopped.
        ToolEnvError: It failed.
    """
    if result := finished(plan, cell, folder):
        return result
    config = plan.config(cell, folder)
    _begin(config.output_dir, _key(plan, config))
    trained = grpo.train(config) if isinstance(config, GRPOConfig) else ppo.train(config)  # type: ignore[arg-type]
    if trained.interrupted:
        raise KeyboardInterrupt
    episodes = _play(config, trained.checkpoint, plan.held_out, f"{cell.setting}, seed {cell.seed}")
    result = {
        "setting": cell.setting,
        "seed": cell.seed,
        "held_out": _measured(plan, config, episodes),
        "metrics": [{name: row[name] for name in CURVES if name in row} for row in trained_metrics(config)],
    }
    replace_file(config.output_dir / RESULT, json.dumps(result).encode())
    return result


def finished(plan: Plan, cell: Cell, folder: Path) -> Result | None:
    """The result of a run that was done before, under the same plan."""
    config = plan.config(cell, folder)
    done = config.output_dir / RESULT
    if not done.is_file() or not _is_of(config.output_dir, _key(plan, config)):
        return None
    result: Result = json.loads(done.read_text(encoding="utf-8"))
    return result


def trained_metrics(config: TrainConfig) -> list[dict[str, Any]]:
    """The metrics that a run has written so far."""
    path = config.output_dir / METRICS_FILE
    return read_metrics(path) if path.is_file() else []


# Inside ------------------------------------------------------------------------------------------------------------


def _key(plan: Plan, config: TrainConfig) -> dict[str, Any]:
    """All that a result depends on."""
    settings = {name: value for name, value in config.to_json().items() if name not in ("output_dir", "resume")}
    key = {"settings": settings, "held_out": plan.held_out, "measures": dict(plan.measures)}
    plain: dict[str, Any] = json.loads(json.dumps(key, default=str))
    return plain


def _is_of(folder: Path, key: Mapping[str, Any]) -> bool:
    noted = folder / KEY
    return noted.is_file() and bool(json.loads(noted.read_text(encoding="utf-8")) == key)


def _begin(folder: Path, key: Mapping[str, Any]) -> None:
    """Make room: a run of other settings makes way, and one that was stopped stays."""
    if folder.exists() and not _is_of(folder, key):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / KEY, json.dumps(key).encode())


def _play(config: TrainConfig, model_name: Any, count: int, title: str) -> list[Episode]:
    """The episodes of a trained policy, each of the same tasks in the same order; actions are sampled."""
    model, tokenizer = load_model(str(model_name), device=config.device, precision="float32")
    envs = make_eval_envs(config, played_as(config.model), min(count, ENVS))
    progress = Progress(f"held-out tasks, {title}", count)
    try:
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
    finally:
        envs.close()
    if played.dropped:  # the tasks of two settings would no longer be the same ones
        raise InfrastructureError(f"{len(played.dropped)} of {count} episodes were lost: {played.dropped[0]}")
    return [rollout.episode for rollout in played.rollouts]


def _measured(plan: Plan, config: TrainConfig, episodes: Sequence[Episode]) -> dict[str, list[float | None]]:
    """Columns, a value an episode; ``None`` where a reward had no opinion on any turn.

    Success is what the environment's own outcome says, whatever the run was rewarded with, which is ``score``.
    """
    own = {"score": make_rewards(config).fns[OUTCOME]}
    measured = {name: _totals(fn, episodes) for name, fn in (own | _measures(plan)).items()}
    success = _totals(OutcomeFn(), episodes)
    return {
        "success": [None if score is None else float(score >= SUCCESS) for score in success],
        "calls": [float(episode.num_calls) for episode in episodes],
        "repeated": [float(repeated_calls(episode)) for episode in episodes],
        "errors": [float(sum(map(failed, episode.turns))) for episode in episodes],
        "no_call": [float(episode.num_calls == 0) for episode in episodes],
        **measured,
    }


def _measures(plan: Plan) -> dict[str, RewardFn]:
    return {name: make_reward(spec)[1] for name, spec in plan.measures.items()}


def _totals(fn: RewardFn, episodes: Sequence[Episode]) -> list[float | None]:
    """A reward, summed over the turns of each episode."""
    columns = score_episodes(fn, episodes)
    return [None if np.isnan(column).all() else float(np.nansum(column)) for column in columns]
