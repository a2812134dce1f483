"""Environments on Ray actors play as those in this process do, and an actor that dies costs its episodes alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agents_fixtures import TextSampler, make_tokenizer
from gymnasium.error import ResetNeeded

from agents.environments import make_envs
from agents.rollout import CollectResult, collect
from agents.rollout_async import collect_async
from agents.tokens import ConversationEncoder
from toolenv.env import ToolEnv
from toolenv.episode import Task
from toolenv.errors import ConfigError, DataError, InfrastructureError
from toolenv.messages import ToolCall
from toolenv.ray_envs import RayToolVectorEnv, _Actor, make_ray_vec
from toolenv.tools import tool
from toolenv.vector import ToolVectorEnv

ray = pytest.importorskip("ray", reason="ray is not installed; run: pip install 'toolenv[ray]'")

PATIENCE_S = 60.0  # a test that would hang fails after this
PLAYS = (collect, collect_async)
OnActors = Callable[..., RayToolVectorEnv]
SEEDS = [3, 3, 8, 1, 0]


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")  # no token in the home of whoever runs the tests
        ray.init(
            address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=80_000_000
        )
        yield
        ray.shutdown()


@pytest.fixture
def on_actors() -> Iterator[OnActors]:
    """Makes environments on actors, and ends them."""
    made: list[RayToolVectorEnv] = []

    def make(*args: Any, **kwargs: Any) -> RayToolVectorEnv:
        made.append(RayToolVectorEnv(*args, **kwargs))
        return made[-1]

    yield make
    for envs in made:
        envs.close()


def run(play: Any, sampler: Any, envs: ToolVectorEnv, seeds: list[int] = SEEDS, **options: Any) -> CollectResult:
    encoder = ConversationEncoder(make_tokenizer(), envs.envs[0].format)
    return play(sampler, envs, seeds, encoder=encoder, sampler_seed=4, **options)


def toys(search: Callable[[str], str]) -> Callable[[int], ToolVectorEnv]:
    """What makes environments with one tool; a function in a function, for actors cannot import the tests."""
    tasks = [Task(id=f"t{i}", prompt=f"What is town {i}?", answers=(str(i),)) for i in range(5)]

    def make(count: int) -> ToolVectorEnv:
        env = ToolEnv(tasks, [tool(search)], format="search_r1", max_turns=3)
        return ToolVectorEnv([env.sibling] * count, "Disabled")

    return make


def quick_toys() -> Callable[[int], ToolVectorEnv]:
    def search(query: str) -> str:
        """Look something up."""
        return f"{query} is a town."

    return toys(search)


class Scripted(TextSampler):
    """Calls, then answers; with a hook before each batch."""

    def __init__(self, *texts: str, hook: Callable[[int], None] = lambda batch: None) -> None:
        super().__init__(*(texts or ("<search>Lyon</search>", "<search>Nice</search>", "<answer>4</answer>")))
        self.hook = hook

    def generate(self, prompts: Any, *, seeds: Any) -> Any:
        self.hook(len(self.batches))
        return super().generate(prompts, seeds=seeds)


def test_the_episodes_are_those_of_this_process_also_in_a_sandbox_on_an_actor(on_actors: OnActors) -> None:
    def make(count: int) -> ToolVectorEnv:
        return make_envs("ToolPythonMath-v0", count, {"sandbox": "process", "workers": 1, "max_turns": 3})

    here, there = make(2), on_actors(make, 3, num_actors=1)
    write = here.envs[0].format.write_call
    texts = [write(ToolCall("python", {"code": code})) for code in ("print(2 ** 70)", "1 / 0")]
    expected = run(collect, Scripted(*texts, "<answer>4</answer>"), here)
    for play in PLAYS:
        got = run(play, Scripted(*texts, "<answer>4</answer>"), there)
        assert [r.episode for r in got.rollouts] == [r.episode for r in expected.rollouts]
        assert [r.tokens.ids for r in got.rollouts] == [r.tokens.ids for r in expected.rollouts]
        turns = got.rollouts[0].episode.turns
        assert turns[0].results[0].content == "1180591620717411303424"
        assert turns[1].results[0].error == "tool_error"


def test_it_is_the_same_vector_environment(on_actors: OnActors) -> None:
    make = quick_toys()
    here, there = make(3), on_actors(make, 3, num_actors=2)
    call, answer = "<search>Lyon</search>", "<answer>4</answer>"
    script = [[call, "what?", answer], [answer, "hm", "x"], ["y", "z", ""]]
    assert here.action_space == there.action_space
    assert here.observation_space == there.observation_space
    for seed in (0, [5, 5, 7]):
        same_step(here.reset(seed=seed), there.reset(seed=seed))
    same_step(here.reset(options={"task": ["t1", 2, "t0"]}), there.reset(options={"task": ["t1", 2, "t0"]}))
    for actions in script:
        same_step(here.step(actions), there.step(actions))
    assert [env.episode for env in here.envs] == [env.episode for env in there.envs]
    one = {"reset_mask": [False, True, False]}
    same_step(here.reset(seed=1, options=one), there.reset(seed=1, options=one))
    there.truncate(1, "token_budget")
    assert (there.envs[1].episode.reason, there.envs[1].episode.turns) == ("token_budget", ())


def same_step(first: tuple[Any, ...], second: tuple[Any, ...]) -> None:
    """Equal observations, rewards, flags and infos."""
    for one, other in zip(first[:-1], second[:-1], strict=True):
        assert list(one) == list(other)
    assert {name: list(column) for name, column in first[-1].items()} == {
        name: list(column) for name, column in second[-1].items()
    }


def test_a_dead_actor_costs_the_episodes_that_run_on_it(on_actors: OnActors) -> None:
    envs = on_actors(quick_toys(), 4, num_actors=2)
    for play, options in ((collect, {}), (collect_async, {"linger_s": PATIENCE_S})):
        doomed, other = (actor.handle for actor in envs.actors)

        def kill(batch: int, doomed: Any = doomed) -> None:
            if batch == 1:
                ray.kill(doomed)

        result = run(play, Scripted(hook=kill), envs, [0, 1, 2, 3, 4, 5, 6], **options)
        lost = [seed for seed, _ in result.dropped]
        assert len(lost) == 2
        assert all("is lost" in why for _, why in result.dropped)
        assert [r.episode.seed for r in result.rollouts] == [seed for seed in range(7) if seed not in lost]
        assert {(r.episode.reason, r.episode.num_calls) for r in result.rollouts} == {("answer", 2)}
        assert envs.actors[0].handle is not doomed
        assert envs.actors[1].handle is other


@pytest.mark.parametrize(
    "loss",
    [
        ray.exceptions.OutOfMemoryError("the memory monitor ended it"),
        ray.exceptions.NodeDiedError("its machine is gone"),
        ray.exceptions.ObjectLostError("00", None, ""),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_whatever_takes_an_actor_is_a_failure_of_the_machinery(
    loss: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(answer: Any) -> Any:
        raise loss

    ended: list[str] = []
    handles = iter(["first", "second"])
    monkeypatch.setattr(_Actor, "_start", lambda actor: next(handles))
    monkeypatch.setattr(ray, "get", lost)
    monkeypatch.setattr(ray, "kill", ended.append)
    actor = _Actor(quick_toys(), 1, {})
    with pytest.raises(InfrastructureError, match="a Ray actor of 1 environments is lost"):
        actor.get("first", "answer")
    assert (ended, actor.handle) == (["first"], "second")


def test_a_tool_that_cannot_be_served_costs_its_episode(on_actors: OnActors) -> None:
    def search(query: str) -> str:
        """Look something up."""
        raise InfrastructureError("the index is down")

    envs = on_actors(toys(search), 2)
    for play in PLAYS:
        result = run(play, Scripted(), envs, [5, 6])
        assert (result.rollouts, result.dropped) == ([], [(5, "the index is down"), (6, "the index is down")])
        assert envs.envs[0].episode.reason == "infrastructure"
    envs.envs[0].reset(seed=0)
    with pytest.raises(InfrastructureError, match="the index is down"):
        envs.envs[0].step("<search>Lyon</search>")
    with pytest.raises(ResetNeeded):
        envs.envs[0].step("<search>Lyon</search>")


def test_a_slow_tool_holds_up_nobody_on_its_actor(tmp_path: Path, on_actors: OnActors) -> None:
    others_done, patience_s = tmp_path / "others_done", PATIENCE_S

    def search(query: str) -> str:
        """Look something up."""
        until = time.monotonic() + patience_s
        while query == "slow" and not others_done.exists():
            if time.monotonic() > until:
                return "waited in vain"
            time.sleep(0.01)
        return "found"

    class OneIsSlow(TextSampler):
        def generate(self, prompts: Any, *, seeds: Any) -> Any:
            slow = ["town 2" in make_tokenizer().decode(prompt.ids) for prompt in prompts]
            return [
                self._say("<answer>4</answer>" if p.num_turns else f"<search>{'slow' if s else 'quick'}</search>", 0)
                for p, s in zip(prompts, slow, strict=True)
            ]

    def progress(done: int, total: int) -> None:
        if done == total - 1:
            others_done.touch()

    envs = on_actors(toys(search), 2, num_actors=1)
    result = run(collect_async, OneIsSlow("?"), envs, [0] * 4, tasks=[2, 0, 1, 3], progress=progress)
    assert [r.episode.turns[0].results[0].content for r in result.rollouts] == ["found"] * 4


def test_a_registered_environment_by_its_id() -> None:
    envs = make_ray_vec("ToolFunctionCall-v0", 2, num_actors=1, split="validation", max_turns=2)
    local = make_envs("ToolFunctionCall-v0", 2, {"split": "validation", "max_turns": 2})
    try:
        assert [task.id for task in envs.envs[0].tasks] == [task.id for task in local.envs[0].tasks]
        same_step(envs.reset(seed=3), local.reset(seed=3))
        assert envs.envs[0].episode == local.envs[0].episode
        with pytest.raises(DataError, match="no task 'nowhere'"):  # as itself, whatever process raised it
            envs.envs[0].reset(options={"task": "nowhere"})
    finally:
        envs.close()


def test_settings_that_do_not_fit() -> None:
    toy = quick_toys()

    def resets_by_itself(count: int) -> ToolVectorEnv:
        return ToolVectorEnv([toy(1).envs[0].sibling] * count)

    with pytest.raises(ConfigError, match="between 1 and num_envs; got 3 and 2"):
        RayToolVectorEnv(quick_toys(), 2, num_actors=3)
    with pytest.raises(ConfigError, match=r"could not make its 2 environments: .*takes no argument 'no_such_argument'"):
        make_ray_vec("ToolFunctionCall-v0", 2, num_actors=1, no_such_argument=1)
    with pytest.raises(ConfigError, match="autoreset_mode=DISABLED"):
        RayToolVectorEnv(resets_by_itself, 1, num_actors=1)
