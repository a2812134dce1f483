"""Ablations: what is run, what is compared, and a run of it all."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("transformers")
pytest.importorskip("matplotlib")

from agents import cli
from agents.ablation.compare import difference, holm, mean, sign_flip_p
from agents.ablation.page import page, summarise
from agents.ablation.plan import Cell, Plan, shipped_plans
from agents.ablation.side_by_side import Job, run_side_by_side
from agents.config import PPOConfig
from toolenv import ConfigError

AXES = {"credit": {"outcome": {}, "turn": {"estimator": "turn_loo", "alpha": 1.0, "process": ["rewards:OracleFn"]}}}


def plan(**changes: Any) -> Plan:
    return Plan(**{"title": "t", "axes": AXES, "shared": {"estimator": "grpo"}, "seeds": (0, 1), **changes})


def test_every_plan_that_ships_can_be_read_and_run() -> None:
    plans = {name: Plan.read(path) for name, path in shipped_plans().items()}
    assert len(plans) >= 9
    for name, one in plans.items():
        assert len(one.settings) > 1, name
        assert one.source, name
        folders = [cell.folder for cell in one.cells()]
        assert len(set(folders)) == len(folders) == len(one.settings) * 3, name


def test_a_setting_is_a_value_of_each_axis_and_the_later_axis_wins(tmp_path: Path) -> None:
    axes = {**AXES, "learner": {"GRPO": {}, "PPO": {"learner": "ppo", "estimator": "token_gae", "alpha": 0.5}}}
    found = plan(axes=axes, leave_out=[{"credit": "outcome", "learner": "PPO"}], against="turn / GRPO")
    assert found.settings == ("outcome / GRPO", "turn / GRPO", "turn / PPO")
    ppo = found.config(Cell("turn / PPO", 1), tmp_path)
    assert isinstance(ppo, PPOConfig)
    assert (ppo.estimator, ppo.alpha, ppo.process, ppo.seed) == ("token_gae", 0.5, ("rewards:OracleFn",), 1)
    assert ppo.output_dir.parent == tmp_path


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"axes": {}}, "there is no axis"),
        ({"axes": {"credit": {}}}, "axis 'credit' must hold a table"),
        ({"axes": {"credit": {"a": 1}}}, "axis 'credit' must hold a table"),
        ({"seeds": [0, 0]}, "seeds must be different"),
        ({"seeds": []}, "seeds must be different"),
        ({"held_out": 0}, "held_out must be at least 1"),
        ({"against": "nobody"}, "none of the settings: outcome, turn"),
        ({"leave_out": [{"credit": "nobody"}]}, "must name values of axes"),
        ({"leave_out": [{"credit": "outcome"}, {"credit": "turn"}]}, "leaves nothing"),
        ({"shared": {"learner": "dpo"}}, "learner is one of grpo, ppo"),
        ({"shared": {"seed": 3}}, "grpo has no seed that a plan may set"),
        ({"shared": {"learning_speed": 3}}, "has no learning_speed"),
        ({"shared": {"estimator": "grpo", "group_size": 0}}, "setting 'outcome': group_size"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        plan(**changes)


def test_a_file_that_is_no_plan_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.toml"
    for text, problem in (("title = ", "cannot read"), ("titel = 1", "unknown titel"), ("title = 't'", "axes missing")):
        file.write_text(text)
        assert cli.main(["ablate", str(file)]) > 0
        assert f"{file}" in (told := capsys.readouterr().err)
        assert problem in told
    assert cli.main(["ablate", "trm-turn"]) == 2
    assert "trm-turns" in capsys.readouterr().err


# Numbers ------------------------------------------------------------------------------------------------------------


def test_a_mean_has_its_interval_and_a_ratio_its_denominator() -> None:
    found = mean([[1, 0, 1, 1], [0, 0, 1, 1]])
    assert found.value == 0.625
    assert found.low < 0.625 < found.high
    assert mean([[2, 4]], per=[[1, 2]]).value == 2.0
    assert mean([[3.0, 3.0]] * 2) == (3.0, 3.0, 3.0)
    with pytest.raises(ConfigError, match="a value for each seed and task"):
        mean([1.0, 2.0])


def test_pairing_takes_out_what_both_have_in_common() -> None:
    hard = np.linspace(0, 1, 50)[None]
    found = difference(hard + 0.1, hard)
    assert found.high - found.low < 1e-9
    assert found.value == pytest.approx(0.1)
    alone = mean(hard)
    assert alone.high - alone.low > 0.1
    with pytest.raises(ConfigError, match="not paired"):
        difference([[1.0, 2.0]], [[1.0]])


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=8))
def test_the_sign_flip_test_counts_the_sign_patterns(differences: list[int]) -> None:
    patterns = [sum(s * d for s, d in zip(signs, differences, strict=True))
                for signs in itertools.product((1, -1), repeat=len(differences))]  # fmt: skip
    exact = np.mean([abs(total) >= abs(sum(differences)) for total in patterns])
    zeros = [[0.0] * len(differences)]
    assert sign_flip_p([differences], zeros) == pytest.approx(exact, abs=0.02)
    assert sign_flip_p(zeros, [differences]) == sign_flip_p([differences], zeros)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_raises_p_values_and_keeps_their_order(ps: list[float]) -> None:
    adjusted = holm(ps)
    assert all(p <= a <= 1 for p, a in zip(ps, adjusted, strict=True))
    assert min(adjusted) == pytest.approx(min(1.0, len(ps) * min(ps)))
    assert [a for _, a in sorted(zip(ps, adjusted, strict=True))] == sorted(adjusted)


def result(setting: str, seed: int, success: list[float | None], calls: float = 1.0) -> dict[str, Any]:
    columns = dict.fromkeys(("calls", "repeated", "errors", "no_call", "score"), [calls] * len(success))
    metrics = [{"update": u, "success_rate": 0.1 * u + seed, "calls_per_episode": calls} for u in (1, 2)]
    return {"setting": setting, "seed": seed, "held_out": {**columns, "success": success}, "metrics": metrics}


def test_settings_are_compared_on_the_seeds_and_tasks_that_all_have() -> None:
    results = [
        result("outcome", 0, [0.0, 0.0, None, 0.0]),
        result("turn", 0, [1.0, 0.0, 1.0, 1.0], calls=2.0),
        result("outcome", 1, [0.0, 1.0, 1.0, 0.0]),
    ]
    found = summarise(plan(), results)
    # The setting that lacks a seed is left out, and the task on which a run has no opinion.
    assert (list(found["settings"]), found["seeds"], found["held_out"], found["missing"]) == (["outcome"], [0, 1], 3, 1)
    found = summarise(plan(), [*results, result("turn", 1, [1.0, 1.0, 1.0, 1.0], calls=2.0)])
    (success,) = [one for one in found["differences"] if one["measure"] == "success"]
    assert success["value"] == pytest.approx(5 / 6 - 1 / 6)
    assert found["settings"]["turn"]["calls"]["value"] == 2.0
    assert found["settings"]["turn"]["seeds"] == [0.6667, 1.0]
    assert found["curves"]["turn"]["success_rate"][1] == {"update": 2, "value": 0.7, "low": 0.2, "high": 1.2}
    text = page(found)
    assert "| turn | 0.833 [" in text
    assert "not done" not in text
    assert "1 runs are not done" in page(summarise(plan(), results))
    assert "4 runs are not done" in page(summarise(plan(), []))


# Runs ---------------------------------------------------------------------------------------------------------------


class Fake:
    """A run that ends when it was looked at so many times."""

    running = 0
    most = 0

    def __init__(self, cell: Cell) -> None:
        self.cell, self.looks, self.stopped = cell, 0, False
        Fake.running += 1
        Fake.most = max(Fake.most, Fake.running)

    def failed(self) -> bool | None:
        self.looks += 1
        if self.looks < 2 + self.cell.seed:
            return None
        Fake.running -= 1
        return self.cell == Cell("turn", 1)

    def stop(self) -> None:
        self.stopped = True


def test_no_more_runs_than_jobs_and_a_failure_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    Fake.running = Fake.most = 0
    started: list[Fake] = []

    def start(cell: Cell) -> Job:
        started.append(Fake(cell))
        return started[-1]

    assert run_side_by_side(plan(), plan().cells(), tmp_path, start, jobs=2) == [Cell("turn", 1)]
    assert [fake.cell for fake in started] == plan().cells()
    assert (Fake.most, Fake.running) == (2, 0)


def test_ctrl_c_stops_every_run_that_was_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Fake] = []

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    def start(cell: Cell) -> Job:
        started.append(Fake(cell))
        return started[-1]

    monkeypatch.setattr(time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_side_by_side(plan(), plan().cells(), tmp_path, start, jobs=2)
    assert [fake.stopped for fake in started] == [True, True]


SMALL = """
title = "in small"
seeds = [0]
held_out = 4
measures = { useful = "rewards:OracleFn" }

[shared]
model = "nano"
env_id = "ToolSearchQA-v0"
device = "cpu"
num_updates = 1
groups_per_update = 2
group_size = 2
num_envs = 4
max_new_tokens = 24

[axes.credit.outcome]
estimator = "grpo"

[axes.credit.turn]
estimator = "turn_loo"
process = ["rewards:OracleFn"]
alpha = 1.0
"""


def test_an_ablation_is_run_once_and_goes_on_where_it_was_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, folder = tmp_path / "small.toml", tmp_path / "runs"
    file.write_text(SMALL)
    words = ["ablate", str(file), "--output-dir", str(folder)]
    assert cli.main([*words, "--only", "outcome"]) == 0
    assert "1 runs are not done" in capsys.readouterr().out
    before = (folder / "outcome-seed-0" / "result.json").stat().st_mtime_ns
    assert cli.main([*words, "--jobs", "2"]) == 0  # the other one, in a process of its own
    assert (folder / "outcome-seed-0" / "result.json").stat().st_mtime_ns == before
    out = capsys.readouterr().out
    assert "| turn | " in out
    assert "not done" not in out
    found = json.loads((folder / "results.json").read_text())
    assert list(found["settings"]) == ["outcome", "turn"]
    assert found["settings"]["turn"]["useful"]["low"] <= found["settings"]["turn"]["useful"]["value"]
    assert {p.name for p in folder.glob("*.png")} == {"success.png", "success_rate.png", "calls_per_episode.png"}
    assert cli.main([*words, "--dry-run"]) == 0
    assert "turn, seed 0: 1 updates, done" in capsys.readouterr().out
    file.write_text(SMALL.replace("alpha = 1.0", "alpha = 0.5"))  # what has other settings is run again
    assert cli.main([*words, "--dry-run"]) == 0
    assert "turn, seed 0: 1 updates, to run" in capsys.readouterr().out
    assert cli.main([*words, "--only", "nobody"]) == 2
