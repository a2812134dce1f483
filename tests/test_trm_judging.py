"""How reward models of calls are judged: metrics with hand-worked values, the surface baseline, best-of-n."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.metrics import roc_auc_score

from rewards.training.estimates import Estimate
from rewards.training.labels.records import LabelledCall, LabelledEpisode
from rewards.training.trm.evaluate import Scored, ScoredCall, evaluate, join_scores
from rewards.training.trm.metrics import (
    expected_calibration_error,
    mean_estimate,
    reliability,
    resampled_weights,
    weighted_auc,
)
from rewards.training.trm.surface import BASELINES, OF_EPISODE, SurfaceBaseline, surface_features
from toolenv import ConfigError, Episode, Message, Task, ToolCall, Turn


def test_the_weighted_auc_is_that_of_scikit_learn():
    draws = np.random.default_rng(0)
    scores, good = draws.integers(0, 6, 60) / 6, draws.random(60) < 0.4  # with ties
    weights = draws.integers(0, 4, (20, 60)).astype(float)
    wanted = [roc_auc_score(good, scores, sample_weight=row) for row in weights]
    assert weighted_auc(scores, good, weights) == pytest.approx(wanted)
    assert math.isnan(weighted_auc(scores, np.ones(60, bool), weights)[0])


def test_calibration_by_hand():
    bins = reliability([0.1, 0.1, 0.3, 0.9, 1.0], [False, True, False, True, True], bins=2)
    assert [(b.mean_score, b.share_good, b.count) for b in bins] == [
        (pytest.approx(0.5 / 3), pytest.approx(1 / 3), 3),
        (pytest.approx(0.95), 1.0, 2),
    ]
    assert expected_calibration_error(bins) == pytest.approx((3 * (1 / 3 - 0.5 / 3) + 2 * 0.05) / 5)


def test_tasks_are_drawn_whole():
    """A task's calls told twice tell nothing more: the interval stays as wide."""
    groups = [str(i) for i in range(30)]
    values = np.random.default_rng(0).random(30)
    once = mean_estimate(values, resampled_weights(groups, 400, 0))
    twice = mean_estimate(np.tile(values, 2), resampled_weights(groups * 2, 400, 0))
    assert twice == pytest.approx(once)
    apart = mean_estimate(np.tile(values, 2), resampled_weights([str(i) for i in range(60)], 400, 0))
    assert apart.high - apart.low < 0.85 * (once.high - once.low)


def call(score: float, good: bool, kind: str, turn: int = 0, group: str = "t") -> ScoredCall:
    return ScoredCall(group, turn, kind, good, score)


def test_each_kind_of_bad_call_is_held_against_the_good_ones():
    calls = [
        call(0.9, True, "good", group="a"),
        call(0.6, True, "good", group="b", turn=1),
        call(0.7, False, "needed, made badly", group="c"),
        call(0.1, False, "neither", group="d", turn=9),
    ]
    found = evaluate(Scored(tuple(calls), unknown=2), resamples=50)
    assert found.auc.value == pytest.approx(0.75)  # 3 of 4 pairs
    assert {name: part.auc.value for name, part in found.by_kind.items() if name != "good"} == {
        "needed, made badly": 0.5,
        "neither": 1.0,
    }
    assert {name: part.calls for name, part in found.by_turn.items()} == {
        "turn 0": 2,
        "turn 1": 1,
        "turn 4 and later": 1,
    }
    assert found.bce.value == pytest.approx(-np.mean(np.log([0.9, 0.6, 0.3, 0.9])))
    assert (found.accuracy.value, found.unknown) == (0.75, 2)
    assert found.to_json()["by_kind"]["good"]["auc"] == [None, None, None]
    assert "2 unknown left out" in str(found)
    with pytest.raises(ConfigError, match="no labelled call"):
        evaluate(Scored(()))


def look_up(query: str, result: str, index: int) -> Turn:
    calls = (ToolCall("search", {"query": query}),)
    return Turn(index, query, calls, observation=(Message("tool", result),))


def searched(good: list[bool], task: str = "t") -> LabelledEpisode:
    """A good call finds what the question names; a bad one does not."""
    turns = tuple(look_up("peru", "Peru has a capital" if g else "chess is a game", i) for i, g in enumerate(good))
    episode = Episode("e", Task(task, "Where is Peru?"), "hermes", (Message("user", "Where is Peru?"),), turns)
    labels = tuple(LabelledCall(i, 0, "search", g, g, g) for i, g in enumerate(good))
    return LabelledEpisode(episode, labels, by="test")


def test_surface_features_by_hand():
    first, second = surface_features(searched([True, False]).episode)
    told = dict(zip(OF_EPISODE, second, strict=True))
    assert told["turn"] == 1
    assert told["log words of the result"] == pytest.approx(math.log(5))
    assert dict(zip(OF_EPISODE, first, strict=True))["share of the question's words in the result"] == 1 / 3
    assert told["share of the question's words in the result"] == 1 / 3  # "is"
    assert told["share of the call's words in earlier calls"] == 1
    assert told["share of the result's words in earlier results"] == 1 / 4  # "a"


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_learns_what_the_look_tells(name):
    records = [searched([bool(i % 2), bool(i % 3)], task=str(i)) for i in range(40)]
    baseline = SurfaceBaseline(*BASELINES[name]).fit(records)
    found = evaluate(join_scores(records, baseline.probabilities(records)), resamples=20)
    assert found.auc.value == 1.0
    with pytest.raises(ConfigError, match="of the 2 labels, 2 are good"):
        SurfaceBaseline().fit([searched([True, True])])
    with pytest.raises(ConfigError, match="not from renamed copies"):
        SurfaceBaseline().fit([replace(records[0], origin={"renamed": 0}), *records])


def test_pictures_are_files(tmp_path: Path):
    pytest.importorskip("matplotlib")
    from rewards.training.plots import draw_bars, draw_curves, draw_reliability

    points = [(1.0, Estimate(0.5, 0.4, 0.6)), (1000.0, Estimate(0.7))]
    made = [
        draw_curves({"a": points, "b": points}, tmp_path / "new" / "c.png", log_x=True, lines={"oracle": 0.9}),
        draw_bars({"x": {"a": Estimate(0.5, 0.4, 0.6)}, "y": {"b": Estimate(0.5)}}, tmp_path / "b.svg"),
        draw_reliability({"a": [(0.1, 0.2, 5)], "none": []}, tmp_path / "r.png"),
    ]
    assert all(path.stat().st_size > 1000 for path in made)
    again = draw_bars({"x": {"a": Estimate(0.5, 0.4, 0.6)}, "y": {"b": Estimate(0.5)}}, tmp_path / "again.svg")
    assert len(again.read_bytes()) == len(made[1].read_bytes())


# Best-of-n -----------------------------------------------------------------------------------------------------------


def test_the_best_of_n_by_hand():
    pytest.importorskip("torch")
    from agents.best_of_n import Sample, best_of_n

    def sample(answer: str | None, success: bool) -> Sample:
        turns = (Turn(0, "...", answer=answer),)
        return Sample(Episode("e", Task("t", "?", answers=("x",)), "hermes", (), turns), success)

    easy = [sample("x", True), sample("The X", True), sample("y", False)]
    hard = [sample("y", False), sample(None, False), sample("x", True)]
    scores = {
        "right": [np.array([1.0, 2.0, 0.0]), np.array([0.0, np.nan, 5.0])],
        "wrong": [np.array([0.0, 0.0, 1.0]), np.array([0.0, np.nan, np.nan])],
        "none": [np.full(3, np.nan)] * 2,
    }
    found = best_of_n([easy, hard], scores, [1, 3], draws=2000)
    at = {name: {n: estimate.value for n, estimate in points} for name, points in found.items()}
    assert {name: values[3] for name, values in at.items() if name in ("right", "wrong")} == {"right": 1, "wrong": 0}
    # One of three at random: 2/3 and 1/3. The easy task's vote is settled, in the hard one x and y have one vote each.
    for values in at.values():
        assert values[1] == pytest.approx(0.5, abs=0.03)
    assert at["random"][3] == at["none"][3] == pytest.approx(0.5, abs=0.03)
    assert at["majority"][3] == pytest.approx((1 + 0.5) / 2, abs=0.03)
    with pytest.raises(ConfigError, match="sizes must be from 1 to 3"):
        best_of_n([easy, hard], scores, [4])


def test_an_episode_without_calls_has_no_score_of_calls():
    pytest.importorskip("torch")
    from agents.best_of_n import Sample, score_samples

    class Half:
        def score_turns(self, conversations):
            return [np.array([0.0, np.log(3)])[: sum(m.role == "tool" for m in c)] for c in conversations]

    two, none = searched([True, False]).episode, searched([]).episode
    found = score_samples([[Sample(two, True, -3.0), Sample(none, False, -1.0)]], trm=Half())
    at = {name: rows[0].tolist() for name, rows in found.items()}
    assert [at[f"TRM {way}"][0] for way in ("mean", "min", "last", "product")] == pytest.approx(
        [0.625, 0.5, 0.75, 0.375]
    )
    assert all(math.isnan(at[f"TRM {way}"][1]) for way in ("mean", "min", "last", "product"))
    assert at["log-likelihood"] == [-3.0, -1.0]


class Killed(BaseException):
    pass


def test_samples_go_on_after_a_kill_and_none_is_lost_or_played_twice(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    from agents_fixtures import make_tokenizer

    from agents import best_of_n as playing
    from agents.collecting import CollectSettings
    from agents.policies import LoadedPolicy, PolicySettings
    from agents.sampling.base import Generation
    from agents.tokens import ConversationEncoder
    from toolenv.formats import make_format

    form = make_format("search_r1")
    kwargs = {"split": "validation", "retriever": "bm25", "top_k": 1, "format": "search_r1", "max_turns": 3}
    asked = CollectSettings("ToolSearchQA-v0", PolicySettings("seeded"), episodes=4, samples=4, env_kwargs=kwargs)

    class Seeded:
        """What it says, and how likely it calls that, follows from the seed alone; it dies where it is told to."""

        dies_once_there_is: Path | None = None

        def generate(self, prompts, *, seeds):
            if self.dies_once_there_is and self.dies_once_there_is.stat().st_size:
                raise Killed
            return [self._say(seed) for seed in seeds]

        def _say(self, seed):
            call = form.write_call(ToolCall("search", {"query": "Lyon"}))
            text = call if seed % 3 else form.write_answer(str(seed % 5))
            ids = tuple(make_tokenizer().encode(text))
            return Generation(ids, (-(seed % 1000) / 1000,) * len(ids), text, "stop", 0)

    policy = LoadedPolicy(Seeded(), ConversationEncoder(make_tokenizer(), form), None)
    monkeypatch.setattr(playing, "load_policy", lambda *args, **options: policy)
    whole = playing.play_samples(asked, tmp_path / "whole", num_envs=16)
    assert [len(group) for group in whole] == [4] * 4
    assert len({sample.log_likelihood for group in whole for sample in group}) == 16

    parts = tmp_path / "parts"
    policy.sampler.dies_once_there_is = parts / playing.SAMPLES
    with pytest.raises(Killed):
        playing.play_samples(asked, parts, num_envs=2)
    policy.sampler.dies_once_there_is = None
    stood = (parts / playing.SAMPLES).read_bytes()
    assert 0 < stood.count(b"\n") < 16
    (parts / playing.SAMPLES).write_bytes(stood + b'{"task": 3, "log_li')  # and torn
    assert playing.play_samples(asked, parts, num_envs=3) == whole
    assert (parts / playing.SAMPLES).read_bytes() == (tmp_path / "whole" / playing.SAMPLES).read_bytes()

    monkeypatch.setattr(playing, "load_policy", None)  # all is played
    assert playing.play_samples(asked, parts) == whole
    with pytest.raises(ConfigError, match="holds episodes of other settings: seed is 0 there, 1 here"):
        playing.play_samples(replace(asked, seed=1), parts)


def test_a_policy_that_cannot_be_loaded_does_not_claim_the_folder(tmp_path):
    pytest.importorskip("torch")
    from agents.best_of_n import play_samples
    from agents.collecting import CollectSettings
    from agents.policies import PolicySettings

    kwargs = {"split": "validation", "retriever": "bm25"}
    for name in ("one.gguf", "other.gguf"):
        wrong = CollectSettings("ToolSearchQA-v0", PolicySettings(str(tmp_path / name)), 1, env_kwargs=kwargs)
        with pytest.raises(ConfigError, match="there is no model at"):
            play_samples(wrong, tmp_path / "samples")
