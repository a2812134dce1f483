"""Ablations: what is run, what is compared, and a run of it all."""

from __future__ import annotations

import fcntl
import itertools
import json
import signal
import sys
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
from agents.ablation import cell
from agents.ablation.compare import difference, holm, mean, sign_flip_p
from agents.ablation.page import page, write
from agents.ablation.plan import Cell, Plan, shipped_plans
from agents.ablation.results import summarise
from agents.ablation.side_by_side import Job, Process, ended_as_by_ctrl_c, run_side_by_side
from agents.config import PPOConfig
from agents.models import played_as
from agents.run_envs import make_eval_envs
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
        config = one.config(one.cells()[0], Path("runs"))
        envs = make_eval_envs(config, played_as(config.model), 1)
        assert len(envs.envs[0].tasks) >= one.held_out, name
        envs.close()


def test_a_setting_is_a_value_of_each_axis_and_the_later_axis_wins(tmp_path: Path) -> None:
    axes = {**AXES, "learner": {"GRPO": {}, "PPO": {"learner": "ppo", "estimator": "token_gae", "alpha": 0.5}}}
    found = plan(
        axes=axes, leave_out=[{"credit": "outcome", "learner": "PPO"}], against={"credit": "turn", "learner": "GRPO"}
    )
    assert found.settings == ("outcome / GRPO", "turn / GRPO", "turn / PPO")
    assert [found.base_of(name) for name in found.settings] == ["turn / GRPO", None, "turn / GRPO"]
    within = plan(axes=axes)  # by default against the first value of the first axis, all else equal
    assert (within.base_of("turn / PPO"), within.base_of("outcome / PPO")) == ("outcome / PPO", None)
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
        ({"seeds": [0, 0]}, "seeds must be a list of different"),
        ({"seeds": []}, "seeds must be a list of different"),
        ({"held_out": 0}, "held_out must be a whole number from 1"),
        ({"against": {"credit": "nobody"}}, "against must name values of axes"),
        ({"axes": {"x": {"<1": {}, ">1": {"alpha": 1.0}}}}, "would share the folder -1-seed-0"),
        ({"axes": {"x": {"a / b": {}, "c": {}}}}, "a value is called 'a / b'"),
        ({"measures": {"success": "rewards:OracleFn"}}, "measure 'success'"),
        ({"measures": {"u": "rewards:Nope"}}, "rewards:Nope"),
        ({"measures": "x"}, "measures must be a table"),
        ({"seeds": 3}, "seeds must be a list"),
        ({"shared": 3}, "shared must be a table"),
        ({"leave_out": {"x": "a"}}, "leave_out must be a list of tables"),
        ({"held_out": True}, "held_out must be a whole number"),
        ({"title": 3}, "title and source are texts"),
        ({"leave_out": [{"credit": "nobody"}]}, "leave_out must name values of axes"),
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
    tasks = [f"t{i}" for i in range(len(success))]
    held_out = {**columns, "success": success}
    return {"setting": setting, "seed": seed, "tasks": tasks, "held_out": held_out, "metrics": metrics}


def test_settings_are_compared_on_the_seeds_that_all_have_and_measures_on_their_own_tasks() -> None:
    results = [
        result("outcome", 0, [0.0, 0.0, None, 0.0]),
        result("turn", 0, [1.0, 0.0, 1.0, 1.0], calls=2.0),
        result("outcome", 1, [0.0, 1.0, 1.0, 0.0]),
    ]
    found = summarise(plan(), results)
    assert (list(found["settings"]), found["seeds"], found["done"], found["runs"]) == (["outcome", "turn"], [0], 3, 4)
    assert found["settings"]["turn"]["success"]["tasks"] == 3  # on one task a run has no opinion
    assert found["settings"]["turn"]["calls"]["tasks"] == 4  # which does not touch what is known of it
    assert "3 of 4 runs are done" in page(found)
    assert "] on 3 tasks |" in page(found)
    found = summarise(plan(), [*results, result("turn", 1, [1.0, 1.0, 1.0, 1.0], calls=2.0)])
    (success,) = [one for one in found["differences"] if one["measure"] == "success"]
    assert (success["setting"], success["against"]) == ("turn", "outcome")
    assert success["value"] == pytest.approx(5 / 6 - 1 / 6)
    assert found["settings"]["turn"]["calls"]["value"] == 2.0
    assert found["settings"]["turn"]["seeds"] == [0.6667, 1.0]
    assert found["curves"]["turn"]["success_rate"][1] == {"update": 2, "value": 0.7, "low": 0.2, "high": 1.2}
    assert "are done" not in page(found)
    assert "0 of 4 runs are done" in page(summarise(plan(), []))


def test_a_measure_that_no_task_has_is_said(tmp_path: Path) -> None:
    found = summarise(plan(), [result(name, seed, [None, None]) for name in ("outcome", "turn") for seed in (0, 1)])
    assert "| no task has a value |" in page(found)
    assert not [one for one in found["differences"] if one["measure"] == "success"]
    write(found, tmp_path)
    assert not (tmp_path / "success.png").exists()


def test_what_runs_were_rewarded_with_is_compared_only_where_it_is_the_same() -> None:
    axes = {"outcome": {"em": {"outcome": "em"}, "f1": {"outcome": "f1"}}}
    results = [result(name, 0, [1.0, 0.0]) for name in ("em", "f1")]
    found = summarise(plan(axes=axes, seeds=(0,)), results)
    assert "score" in found["settings"]["em"]
    assert {one["measure"] for one in found["differences"]} == {"success", "calls", "repeated", "errors", "no_call"}
    assert set(found["curves"]["em"]) == {"calls_per_episode"}


def test_policies_that_were_asked_other_tasks_are_not_compared() -> None:
    other = {**result("turn", 0, [1.0]), "tasks": ["another"]}
    with pytest.raises(ConfigError, match="different held-out tasks"):
        summarise(plan(), [result("outcome", 0, [1.0]), other])


# Runs ---------------------------------------------------------------------------------------------------------------


class Fake:
    """A run that ends when it was looked at so many times."""

    running = 0
    most = 0
    impatient = False

    def __init__(self, cell: Cell) -> None:
        self.cell, self.looks, self.told = cell, 0, list[str]()
        Fake.running += 1
        Fake.most = max(Fake.most, Fake.running)

    def failed(self) -> bool | None:
        self.looks += 1
        if self.looks < 2 + self.cell.seed:
            return None
        Fake.running -= 1
        return self.cell == Cell("turn", 1)

    def interrupt(self) -> None:
        self.told.append("interrupt")

    def wait(self) -> None:
        self.told.append("wait")
        if Fake.impatient:
            raise KeyboardInterrupt

    def kill(self) -> None:
        self.told.append("kill")


def test_no_more_runs_than_jobs_and_a_failure_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    Fake.running = Fake.most = 0
    started: list[Fake] = []

    def start(one: Cell) -> Job:
        started.append(Fake(one))
        return started[-1]

    assert run_side_by_side(plan(), plan().cells(), tmp_path, start, jobs=2) == [Cell("turn", 1)]
    assert [fake.cell for fake in started] == plan().cells()
    assert (Fake.most, Fake.running) == (2, 0)


@pytest.mark.parametrize("impatient", [False, True])
def test_ctrl_c_reaches_every_run_and_a_second_one_ends_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, impatient: bool
) -> None:
    started: list[Fake] = []

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    def start(one: Cell) -> Job:
        started.append(Fake(one))
        return started[-1]

    monkeypatch.setattr(time, "sleep", interrupted)
    monkeypatch.setattr(Fake, "impatient", impatient)
    with pytest.raises(KeyboardInterrupt):
        run_side_by_side(plan(), plan().cells(), tmp_path, start, jobs=2)
    told = [["interrupt", "wait", "kill"], ["interrupt", "kill"]] if impatient else [["interrupt", "wait"]] * 2
    assert [fake.told for fake in started] == told


def test_a_process_hears_ctrl_c_once_and_may_take_its_time(tmp_path: Path) -> None:
    script = tmp_path / "slow.py"
    script.write_text(
        "import sys, time\nprint('up', flush=True)\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n"
        "    time.sleep(0.2); print('kept', flush=True); sys.exit(130)\n"
    )
    job = Process([sys.executable, str(script)], tmp_path / "log")
    while "up" not in (tmp_path / "log").read_text():
        assert job.failed() is None
    job.interrupt()
    job.wait()
    assert job.failed() is True
    assert "kept" in (tmp_path / "log").read_text()


def test_being_told_to_end_is_as_ctrl_c() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with ended_as_by_ctrl_c(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


SMALL = """
title = "in small"
seeds = [0]
held_out = 4

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
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, folder = tmp_path / "small.toml", tmp_path / "runs"
    file.write_text(SMALL)
    words = ["ablate", str(file), "--output-dir", str(folder)]

    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # after training, before the held-out tasks are played
        patch.setattr(cell, "_play", stopped)
        assert cli.main([*words, "--only", "outcome"]) == 130
    trained = folder / "outcome-seed-0" / "checkpoints" / "update-000001"
    stamp = trained.stat().st_mtime_ns
    assert cli.main([*words, "--only", "outcome"]) == 0
    assert "1 of 2 runs are done" in capsys.readouterr().out
    result = folder / "outcome-seed-0" / "result.json"
    before = result.stat().st_mtime_ns
    assert cli.main([*words, "--jobs", "2"]) == 0  # the other one, in a process of its own
    assert (trained.stat().st_mtime_ns, result.stat().st_mtime_ns) == (stamp, before)
    out = capsys.readouterr().out
    assert "| turn | " in out
    assert "are done" not in out
    found = json.loads((folder / "results.json").read_text())
    assert list(found["settings"]) == ["outcome", "turn"]
    assert {p.name for p in folder.glob("*.png")} == {"success.png", "success_rate.png", "calls_per_episode.png"}
    # Another measure needs neither another training nor other episodes.
    file.write_text(SMALL.replace("held_out = 4", 'held_out = 4\nmeasures = { useful = "rewards:OracleFn" }'))
    with monkeypatch.context() as patch:
        patch.setattr(cell, "_play", stopped)
        assert cli.main(words) == 0
    assert trained.stat().st_mtime_ns == stamp
    assert "useful" in json.loads((folder / "results.json").read_text())["settings"]["turn"]


def test_what_is_in_the_way_is_kept_and_the_other_runs_are_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, folder = tmp_path / "small.toml", tmp_path / "runs"
    file.write_text(SMALL)
    words = ["ablate", str(file), "--output-dir", str(folder)]
    assert cli.main([*words, "--only", "turn"]) == 0
    before = {path: path.read_bytes() for path in (folder / "turn-seed-0").rglob("*") if path.is_file()}
    file.write_text(SMALL.replace("alpha = 1.0", "alpha = 0.5"))
    assert cli.main(words) == 1
    told = capsys.readouterr()
    assert "failed: turn, seed 0" in told.err
    assert "alpha was 1.0, now 0.5" in told.err
    assert "1 of 2 runs are done" in told.out
    assert {path: path.read_bytes() for path in before} == before
    with (folder / "turn-seed-0" / "lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert cli.main([*words, "--only", "turn"]) == 1
    assert "worked on by another process" in capsys.readouterr().err
    assert cli.main([*words, "--only", "nobody"]) == 2
    assert cli.main([*words, "--dry-run"]) == 0
    assert "outcome, seed 0: 1 updates, done" in capsys.readouterr().out
    assert cli.main(["ablate"]) == 0
    assert "trm-turns: " in capsys.readouterr().out


def test_what_cannot_be_asked_is_said_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "small.toml"
    for old, new, problem in (
        ("held_out = 4", "held_out = 601", "asked for 601 different tasks"),
        ("num_envs = 4", 'num_envs = 4\neval_env_kwargs = { split = "train" }', "the evaluation has the same"),
    ):
        file.write_text(SMALL.replace(old, new))
        assert cli.main(["ablate", str(file), "--output-dir", str(tmp_path / "runs")]) == 1
        assert problem in capsys.readouterr().err
    assert not list((tmp_path / "runs").rglob("metrics.jsonl"))
