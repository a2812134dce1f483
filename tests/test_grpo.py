"""The trainer: it resumes bitwise, it stops cleanly, and it says what does not fit."""

from __future__ import annotations

import json
import os
import re
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from agents_fixtures import make_model, make_tokenizer
from peek import peek_envs, peek_model, peek_rewards, peek_tokenizer, peek_train, timeless
from transformers import AutoModelForCausalLM

from agents import ppo
from agents.checkpoint import latest, read_state
from agents.command_line import parse_command_line
from agents.config import GRPOConfig, PPOConfig
from agents.curves import MAIN_METRICS
from agents.dynamic_sampling import task_seeds
from agents.environments import make_envs
from agents.grpo import main, train
from agents.metrics import read_metrics
from agents.models import played_as
from agents.nano import nano_format
from agents.records import read_scored_episodes
from agents.resume import MAY_CHANGE, check_settings
from agents.rollout import Rollout
from agents.run import Run, make_rewards, open_run
from agents.score import score
from agents.tokens import TokenHistory
from rewards import OutcomeFn, RewardSum
from toolenv.data.functions import function_tasks
from toolenv.errors import ConfigError, InfrastructureError, RewardError

ROOT = Path(__file__).resolve().parents[1]


def settings(directory, **changes):
    """A small run with everything in it: KL, entropy, minibatches, warm-up, evaluations."""
    return GRPOConfig(
        **{
            "output_dir": directory,
            "num_updates": 4,
            "groups_per_update": 3,
            "group_size": 4,
            "max_new_tokens": 1,
            "learning_rate": 3e-3,
            "warmup": 3,
            "inner_epochs": 2,
            "minibatch_episodes": 6,
            "micro_batch_episodes": 4,
            "kl_coef": 0.1,
            "entropy_coef": 0.01,
            "dual_clip": 3.0,
            "weight_decay": 0.1,
            "alpha": 0.5,
            "correction": "mask",
            "checkpoint_every": 2,
            "eval_every": 2,
            "eval_episodes": 4,
            **changes,
        }
    )


run = partial(peek_train, train)


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Four updates that nothing interrupted."""
    torch.set_num_threads(1)
    return run(settings(tmp_path_factory.mktemp("whole") / "run"))


# Learning ------------------------------------------------------------------------------------------------------------


def test_without_credit_nothing_moves(tmp_path):
    class Constant:
        name = "outcome"

        def score(self, views):
            return [0.3 if view.final else None for view in views]

    config = settings(tmp_path / "run", num_updates=1, kl_coef=0.0, entropy_coef=0.0, weight_decay=0.0, warmup=0)
    model = peek_model()
    for estimator, changes in (("grpo", {"alpha": None}), ("turn_loo", {"estimator_kwargs": {"hold_outcome": True}})):
        config = replace(config, output_dir=tmp_path / estimator, estimator=estimator, **changes)
        assert same_weights(run(config, model=model, rewards=RewardSum({"outcome": Constant()})).model, peek_model())


@pytest.mark.parametrize(
    "changes", [{}, {"normalizer": "turn-mean", "ratio": "turn"}, {"normalizer": "constant", "dual_clip": 1.5}]
)
def test_micro_batches_change_nothing_but_speed(tmp_path, changes):
    results = []
    for size in (12, 5):
        config = settings(
            tmp_path / str(size), num_updates=1, micro_batch_episodes=size, minibatch_episodes=None, warmup=0, **changes
        )
        results.append(run(config))
    for one, other in zip(results[0].model.parameters(), results[1].model.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    for name in ("loss", "entropy", "approx_kl", "grad_norm"):
        assert results[0].metrics[0][name] == pytest.approx(results[1].metrics[0][name], rel=1e-4, abs=1e-6)


# Nothing is lost -----------------------------------------------------------------------------------------------------


def test_a_resumed_run_is_bitwise_the_run_that_never_stopped(tmp_path, whole):
    config = settings(tmp_path / "run", num_updates=2)
    first = run(config)
    assert first.update == 2
    second = run(replace(config, num_updates=4, resume=True), model=peek_model())
    assert second.update == 4
    assert same_weights(second.model, whole.model)
    assert not same_weights(second.model, first.model)
    folder, other = whole.checkpoint.parents[1], tmp_path / "run"
    assert timeless(folder) == timeless(other)
    assert (folder / "episodes.jsonl").read_bytes() == (other / "episodes.jsonl").read_bytes()


def test_a_run_that_died_between_checkpoints_writes_nothing_twice(tmp_path, whole):
    def die(metrics):
        if metrics["update"] == 3:
            raise MemoryError

    config = settings(tmp_path / "run")
    with pytest.raises(MemoryError):
        run(config, on_update=die)
    assert [line["update"] for line in read_metrics(config.output_dir / "metrics.jsonl")] == [0, 1, 2, 3]
    (config.output_dir / "checkpoints" / "update-000003.partial").mkdir()
    result = run(replace(config, resume=True))
    assert same_weights(result.model, whole.model)
    assert timeless(config.output_dir) == timeless(whole.checkpoint.parents[1])


def test_ctrl_c_after_an_update_keeps_it(tmp_path, whole):
    def press(metrics):
        if metrics["update"] == 3:
            os.kill(os.getpid(), signal.SIGINT)

    config = settings(tmp_path / "run")
    result = run(config, on_update=press)
    assert result.interrupted
    assert result.checkpoint.name == "update-000003"
    assert same_weights(run(replace(config, resume=True)).model, whole.model)


def test_ctrl_c_while_playing_keeps_the_update_before(tmp_path, whole):
    class Pressed(OutcomeFn):
        calls = 0

        def score(self, views):
            self.calls += len(views) > 10  # evaluations are smaller
            if self.calls == 2:
                os.kill(os.getpid(), signal.SIGINT)
            return super().score(views)

    config = settings(tmp_path / "run", eval_every=0)
    rewards = RewardSum({"outcome": Pressed("em"), "asked": (peek_rewards().fns["asked"], 1.0)})
    result = run(config, rewards=rewards)
    assert result.interrupted
    assert (result.update, result.checkpoint.name) == (1, "update-000001")
    assert same_weights(run(replace(config, resume=True)).model, whole.model)


def test_a_resumed_run_keeps_its_settings(whole):
    folder = whole.checkpoint.parents[1]
    before = (folder / "config.json").read_bytes()
    with pytest.raises(ConfigError, match=r"learning_rate was 0\.003, now 0\.004; clip_high was 0\.2, now 0\.3"):
        run(settings(folder, resume=True, learning_rate=0.004, clip_high=0.3))
    with pytest.raises(ConfigError, match=r"num_updates is 3, but the run in .* has done 4"):
        run(settings(folder, resume=True, num_updates=3))
    assert (folder / "config.json").read_bytes() == before
    elsewhere = {
        "num_envs": 7,
        "device": "cpu",
        "micro_batch_episodes": 3,
        "checkpoint_every": 5,
        "keep_checkpoints": 9,
    }
    again = {"eval_every": 1, "eval_episodes": 3, "eval_env_kwargs": {"split": "test"}}
    check_settings(settings(folder.parent, num_updates=9, **elsewhere, **again), read_state(whole.checkpoint))


def test_every_other_setting_is_held(whole):
    state = read_state(whole.checkpoint)
    for name in settings(whole.checkpoint).to_json():
        torn = {**state, "config": {**state["config"], name: "something else"}}
        if name in MAY_CHANGE:
            check_settings(settings(whole.checkpoint), torn)
        else:
            with pytest.raises(ConfigError, match=f"{name} was 'something else'"):
                check_settings(settings(whole.checkpoint), torn)


def test_a_run_is_not_overwritten(tmp_path, whole, capsys):
    folder = whole.checkpoint.parents[1]
    with pytest.raises(ConfigError, match="--resume"):
        run(settings(folder))
    assert main(["--output-dir", str(folder)]) == 2
    assert "holds a run already" in capsys.readouterr().err


def test_the_result_loads_with_transformers(whole):
    assert whole.checkpoint == latest(whole.checkpoint.parent)
    assert same_weights(AutoModelForCausalLM.from_pretrained(whole.checkpoint), whole.model)


# What it writes ------------------------------------------------------------------------------------------------------


def test_episodes_stand_beside_their_scores(whole):
    records = list(read_scored_episodes(whole.checkpoint.parents[1] / "episodes.jsonl"))
    assert len(records) == 4 * 12
    for record in records:
        turns = record.episode.turns
        assert len(record.advantages) == len(turns)
        assert [len(column) for column in record.rewards.values()] == [len(turns)] * 2
        assert [score is None for score in record.rewards["asked"]] == [turn.answer is not None for turn in turns]
        assert [score is None for score in record.rewards["outcome"]] == [True] * (len(turns) - 1) + [False]
    groups = {}
    for record in records:
        groups.setdefault((record.update, record.group), []).append(record.episode.task.id)
    assert all(len(members) == 4 and len(set(members)) == 1 for members in groups.values())


def test_metrics_tell_the_reference_and_the_parity(whole):
    lines = read_metrics(whole.checkpoint.parents[1] / "metrics.jsonl")
    assert [line["update"] for line in lines] == [0, 1, 2, 3, 4]
    assert [("eval/success_rate" in line) for line in lines] == [True, False, True, False, True]
    rates = [line["learning_rate"] for line in lines[1:]]
    assert rates == pytest.approx([1e-3, 2e-3, 3e-3, 3e-3])
    assert 0 < lines[1]["kl_reference"] < lines[4]["kl_reference"]
    assert max(line["parity_max"] for line in lines[1:]) < 1e-5


def test_evaluation_takes_the_outcome_of_the_run_and_counts_what_is_left_out(tmp_path):
    class Halves:
        """Another outcome than the environment's own, with no opinion on an episode without an answer."""

        name = "outcome"

        def score(self, views):
            return [0.5 if view.final and view.turn.answer is not None else None for view in views]

    result = run(settings(tmp_path / "run", num_updates=2), rewards=RewardSum({"outcome": (Halves(), 4.0)}))
    last = result.metrics[-1]
    assert (last["eval/outcome"], last["eval/success_rate"]) == (0.5, 0.0)
    assert last["eval/episodes"] + last["eval/unscored"] == 4
    assert last["eval/episodes_dropped"] == 0
    # Its weight makes no success of a half either.
    assert (last["outcome"], last["success_rate"], last["groups/too_easy"]) == (2.0, 0.0, 0.0)


def test_an_evaluation_is_by_the_policy_of_its_update(tmp_path, monkeypatch):
    versions = []
    monkeypatch.setattr(Run, "evaluate", lambda run: versions.append(run.sampler.version) or {})
    run(settings(tmp_path / "run"))
    assert versions == [0, 2, 4]


def explained_metrics():
    glossary = (ROOT / "agents" / "README.md").read_text(encoding="utf-8").partition("## Every logged name")[2]
    return re.findall(r"^\| `([^`]+)`", glossary, flags=re.MULTILINE)


def test_the_report_shows_metrics_that_are_logged():
    assert set(MAIN_METRICS) <= set(explained_metrics())


def test_every_metric_is_explained(tmp_path, whole):
    config = PPOConfig(
        output_dir=tmp_path, num_updates=1, episodes_per_update=8, max_new_tokens=1, value_clip=0.2, overlap=True
    )
    peek_train(ppo.train, config, envs=peek_envs(8), eval_envs=None)
    explained = explained_metrics()
    patterns = [re.sub(r"[A-Z]+", "[a-z0-9_]+", name) for name in explained]
    files = (whole.checkpoint.parents[1] / "metrics.jsonl", tmp_path / "metrics.jsonl")
    names = {name for file in files for line in read_metrics(file) for name in line}
    for name in names:
        assert any(re.fullmatch(pattern, name) for pattern in patterns), f"agents/README.md does not explain {name!r}"
    for pattern in patterns:
        assert any(re.fullmatch(pattern, name) for name in names), f"agents/README.md explains {pattern!r}; never seen"


# Its parts -----------------------------------------------------------------------------------------------------------


def test_a_group_is_a_repeated_seed_and_updates_differ(tmp_path):
    config = settings(tmp_path, groups_per_update=5, group_size=3)
    one, two = (np.array(task_seeds(config, update)).reshape(5, 3) for update in (1, 2))
    assert (one == one[:, :1]).all()
    assert len({*one[:, 0], *two[:, 0]}) == 10
    assert task_seeds(replace(config, seed=1), 1) != task_seeds(config, 1)


def episode_of(answer):
    """An episode of one turn, played by hand."""
    envs = peek_envs(1)
    envs.reset(seed=0)
    envs.step([answer])
    return Rollout(envs.envs[0].episode, TokenHistory(), ("stop",))


def test_an_episode_without_an_outcome_is_left_out_and_not_scored_zero():
    class Shy:
        name = "outcome"

        def score(self, views):
            return [None if view.turn.answer == "A" else 1.0 for view in views]

    a, b = episode_of("A"), episode_of("B")
    kept, terms, turns, masked, *_ = score(RewardSum({"outcome": (Shy(), 2.0)}), [a, b])
    assert kept == [b]
    assert (len(terms), masked) == (1, [])
    assert turns.outcome.tolist() == [2.0]
    with pytest.raises(InfrastructureError, match="none of these was given an outcome"):
        score(RewardSum({"outcome": Shy()}), [a])


class Fussy:
    """Fails on an answer."""

    name = "fussy"

    def score(self, views):
        if any(view.turn.answer == "A" for view in views):
            raise ValueError("not this one")
        return [0.5 for _ in views]


def test_an_episode_on_which_a_reward_fails_is_masked_or_stops_the_run():
    a, b = episode_of("A"), episode_of("B")
    terms = {"outcome": OutcomeFn("em"), "fussy": Fussy()}
    kept, _, turns, masked, *_ = score(RewardSum(terms, on_error="mask"), [a, b])
    assert kept == [b]
    assert turns.rewards.tolist() == [[0.5]]
    assert len(masked) == 1
    assert "reward 'fussy' raised ValueError('not this one') on task" in masked[0]
    with pytest.raises(InfrastructureError, match="a reward failed on 1 of 1 episodes: reward 'fussy' raised"):
        score(RewardSum(terms, on_error="mask"), [a])
    with pytest.raises(RewardError, match="not this one"):
        score(RewardSum(terms), [a, b])


def test_a_masked_episode_is_counted_and_the_update_told(tmp_path):
    seen = []

    class Scheduled:
        name = "scheduled"
        update = 0

        def score(self, views):
            seen.append(self.update)
            if any(view.turn.answer not in (None, *view.task.answers) for view in views):
                raise ValueError("a wrong answer")
            return [0.0 for _ in views]

    result = run(
        settings(tmp_path / "run", num_updates=2, eval_every=0),
        rewards=RewardSum({"outcome": OutcomeFn("em"), "scheduled": Scheduled()}, on_error="mask"),
    )
    assert set(seen) == {1, 2}
    assert any(line["episodes_masked"] for line in result.metrics)
    for line in result.metrics:
        assert line["episodes"] + line["episodes_masked"] == 12


def test_an_evaluation_masks_as_the_run_does(tmp_path):
    class Moody:
        """Cannot judge one of the tasks."""

        name = "outcome"

        def score(self, views):
            if any(view.task.id == "A" for view in views):
                raise ValueError("the grader was lost")
            return OutcomeFn("em").score(views)

    result = run(settings(tmp_path / "run", num_updates=2), rewards=RewardSum({"outcome": Moody()}, on_error="mask"))
    last = result.metrics[-1]
    assert (last["eval/episodes"], last["eval/masked"], last["eval/unscored"]) == (3, 1, 0)


def test_turn_rewards_are_the_weighted_sum_of_all_terms_but_the_outcome():
    first = partial(lambda value, views: [value] * len(views), 1.0)
    terms = {"outcome": OutcomeFn("em")}
    for name, value, weight in (("a", 1.0, 0.5), ("b", 2.0, 0.25), ("none", None, 9.0)):
        fn = type(name, (), {"name": name, "score": staticmethod(partial(first.func, value))})()
        terms[name] = (fn, weight)
    turns = score(RewardSum(terms), [episode_of("A")]).turns
    assert turns.rewards.tolist() == [[0.5 * 1.0 + 0.25 * 2.0]]


# What does not fit ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"group_size": 1}, "group_size"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"kl_coef": -1.0}, "kl_coef must be at least 0"),
        ({"minibatch_episodes": 1000}, "only 12 episodes"),
        ({"clip_low": 1.5}, "clip_low"),
        ({"dual_clip": 1.0}, "dual_clip"),
        ({"estimator": "gae"}, "unknown estimator 'gae'"),
        ({"estimator": "turn_lo"}, "igpo, rebn, or 'module:attribute'; did you mean turn_loo"),
        ({"estimator": "grpo", "alpha": 0.1}, "takes no 'alpha'"),
        ({"estimator_kwargs": {"hold": True}}, "hold_outcome"),
        ({"process": "asked"}, "module:attribute"),
        *(
            ({"estimator": name, "alpha": None, "process": "peek:Asked"}, "include_turn_rewards.*turn_loo")
            for name in ("grpo", "dr_grpo", "rloo")
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused_at_construction(tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said):
        settings(tmp_path, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"estimator": "rloo", "alpha": None, "estimator_kwargs": {"include_turn_rewards": True}},
        {"estimator": "trm_grpo"},
        {"estimator": "turn_loo"},
    ],
)
def test_turn_rewards_go_with_an_estimator_that_looks_at_them(tmp_path, changes):
    assert settings(tmp_path, process="peek:Asked", **changes).process == ("peek:Asked",)


def named_run(directory, **changes):
    """A run with the environments that its settings name."""
    changes = {"max_new_tokens": 1, "max_tokens": 1, "eval_every": 1, "num_updates": 1, **changes}
    config = settings(directory, env_id="ToolFunctionCall-v0", **changes)
    return open_run(config, make_model(), make_tokenizer(), None, None, None)


def tasks_of(envs):
    return {task.id for task in envs.envs[0].tasks}


def test_an_evaluation_asks_what_was_not_trained_on(tmp_path):
    held_out = named_run(tmp_path / "a")
    assert not tasks_of(held_out.envs) & tasks_of(held_out.eval_envs)
    other = named_run(tmp_path / "b", eval_env_kwargs={"split": "test"})
    assert not tasks_of(held_out.eval_envs) & tasks_of(other.eval_envs)
    for number, kwargs in enumerate(({"split": "validation"}, {"tasks": function_tasks("test")})):
        with pytest.raises(ConfigError, match=r"the same \d+ tasks as the training.*eval_env_kwargs"):
            named_run(tmp_path / f"c{number}", env_kwargs=kwargs)
    assert named_run(tmp_path / "d", env_kwargs={"split": "validation"}, eval_every=0).eval_envs is None


def test_a_policy_of_nano_keeps_its_environment_and_format(tmp_path):
    config = settings(tmp_path / "run", num_updates=1)
    model = peek_model()
    assert played_as(run(config, model=model).checkpoint) is None
    model.name_or_path = "nano"  # what a model that is handed over was loaded from
    checkpoint = run(replace(config, output_dir=tmp_path / "second"), model=model).checkpoint
    assert played_as(checkpoint) == "nano"
    with pytest.raises(ConfigError, match="the nano policy plays ToolSearchQA-v0 only"):
        train(settings(tmp_path / "third", model=str(checkpoint), env_id="ToolPythonMath-v0"), quiet=True)
    [env] = make_envs("ToolSearchQA-v0", 1, {"retriever": "bm25"}, played_as(checkpoint)).envs
    assert (env.format.name, env.format.template) == ("search_r1", nano_format().template)


def test_objects_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="come together"):
        train(settings(tmp_path / "a"), model=peek_model(), quiet=True)
    with pytest.raises(ConfigError, match="no term 'outcome'"):
        run(settings(tmp_path / "b"), rewards=RewardSum({"em": OutcomeFn("em")}))
    with pytest.raises(ConfigError, match="max_new_tokens is 64"):
        run(settings(tmp_path / "c", max_new_tokens=64))
    with pytest.raises(ConfigError, match="NoSuchEnv"):
        train(
            settings(tmp_path / "d", env_id="NoSuchEnv-v0"), model=peek_model(), tokenizer=peek_tokenizer(), quiet=True
        )


def test_the_command_line(capsys):
    config = parse_command_line(GRPOConfig, ["--env-kwargs", '{"split": "train"}', "--estimator", "rloo"])
    assert (config.env_kwargs, config.estimator) == ({"split": "train"}, "rloo")
    with pytest.raises(SystemExit):
        parse_command_line(GRPOConfig, ["--env-kwargs", "[1]"])
    assert "not a JSON object" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--group-size", "1"])
    assert "group_size must be at least 2" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--help"])
    manual = capsys.readouterr().out
    assert "Guide: agents/README.md" in manual
    for name in GRPOConfig().to_json():
        assert f"--{name.replace('_', '-')}" in manual


def test_settings_can_be_written_as_json(tmp_path):
    config = settings(tmp_path)
    assert GRPOConfig(**json.loads(json.dumps(config.to_json()))) == config


def test_a_reward_that_is_named_twice_on_the_command_line_counts_twice():
    words = ["--process", "rewards:ToolFn*0.5", "--process", "rewards:GoldPassageFn"]
    config = parse_command_line(GRPOConfig, words)
    assert config.process == ("rewards:ToolFn*0.5", "rewards:GoldPassageFn")
    rewards = make_rewards(config)
    assert rewards.weights == {"outcome": 1.0, "tool": 0.5, "gold_passage": 1.0}
    with pytest.raises(ConfigError, match="cannot be called 'outcome'"):
        make_rewards(replace(config, process=("rewards:OutcomeFn",)))


def test_there_must_be_a_run_to_resume(tmp_path, capsys):
    assert main(["--resume", "--output-dir", str(tmp_path / "nowhere")]) == 2
    assert "there is no run to resume in" in capsys.readouterr().err


def test_trackers_get_what_the_metrics_file_gets(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = run(settings(tmp_path / "run", num_updates=2, trackers="tensorboard"))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    seen = [(event.step, event.value) for event in events.Scalars("success_rate")]
    assert seen == [(line["update"], pytest.approx(line["success_rate"])) for line in result.metrics]
