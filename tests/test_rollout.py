"""Episodes are played in lock-step, and every token is kept as it was made."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import pytest
import torch
from agents_fixtures import SPECIALS, TextSampler, make_env, make_envs, make_model, make_tokenizer
from gymnasium.vector import AutoresetMode

from agents.batch import pack
from agents.logprobs import action_logprobs
from agents.rollout import CollectResult, collect, play
from agents.sampling import FixedScript, SamplingParams
from agents.sampling.hf import HFSampler
from agents.tokens import ConversationEncoder
from toolenv import tools
from toolenv.errors import ConfigError, InfrastructureError
from toolenv.vector import ToolVectorEnv

SEEDS = [3, 3, 3, 8, 8, 1, 0]


def encoder_of(envs: ToolVectorEnv) -> ConversationEncoder:
    return ConversationEncoder(make_tokenizer(), envs.envs[0].format)


def run(sampler: Any, envs: ToolVectorEnv, seeds: list[int] | None = None, **options: Any) -> CollectResult:
    return collect(
        sampler, envs, SEEDS if seeds is None else seeds, encoder=encoder_of(envs), sampler_seed=4, **options
    )


def policy(model: Any, stop: tuple[str, ...] = (), temperature: float = 1.0) -> HFSampler:
    return HFSampler(model, make_tokenizer(), SamplingParams(12, temperature, stop), version=5)


def talkative_model() -> Any:
    """Ends about half of its actions with ``<|im_end|>``, and is cut in the others."""
    model = make_model()
    model.get_input_embeddings().weight.data[2] *= 3
    return model


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("format", ["search_r1", "hermes", "torl"])
def test_recorded_logprobs_are_those_of_the_packed_rollout(format: str, temperature: float) -> None:
    model = talkative_model()
    result = run(policy(model, ("n", "is"), temperature), make_envs(4, format))
    assert {reason for r in result.rollouts for reason in r.finish_reasons} == {"stop", "length"}
    assert {len(r.episode.turns) for r in result.rollouts} == {3}
    batch = pack(result.rollouts, pad_id=0)
    with torch.no_grad():
        logprobs, _ = action_logprobs(model, batch, temperature)
    assert batch.action_mask.sum() > 40
    assert (logprobs - batch.logprobs).abs().max() < 1e-5
    assert (batch.logprobs[batch.action_mask] < 0).all()


@pytest.mark.parametrize("format", ["search_r1", "hermes"])
def test_the_tokens_say_what_the_episode_says(format: str) -> None:
    tokenizer = make_tokenizer()
    envs = make_envs(4, format)
    encoder = encoder_of(envs)
    for rollout in run(policy(talkative_model(), ("n",)), envs).rollouts:
        history = rollout.tokens
        expected = encoder.encode_prompt(rollout.episode.prompt)
        assert history.ids[: len(expected)] == expected
        for turn in rollout.episode.turns:
            ids = [token for token, owner in zip(history.ids, history.turn_ids, strict=True) if owner == turn.index]
            assert tokenizer.decode(ids[:-1] if ids[-1] in encoder.end_ids else ids) == turn.action
            expected += ids
            expected += encoder.encode_observation(turn.observation, closed=ids[-1] == 2)
        assert history.ids == expected
        assert history.num_turns == len(rollout.episode.turns) == len(rollout.finish_reasons)
        assert history.versions == [5] * history.num_turns


def test_rollouts_do_not_depend_on_how_many_environments_play() -> None:
    model = talkative_model()
    results = [run(policy(model, ("n",)), make_envs(count)).rollouts for count in (1, 3, 12)]
    for other in results[1:]:
        assert [r.episode for r in other] == [r.episode for r in results[0]]
        assert [r.tokens.ids for r in other] == [r.tokens.ids for r in results[0]]


def test_rollouts_keep_the_order_of_the_seeds_and_a_repeated_seed_is_a_group() -> None:
    rollouts = run(policy(talkative_model()), make_envs(2)).rollouts
    assert [r.episode.seed for r in rollouts] == SEEDS
    assert len({r.episode.task.id for r in rollouts[:3]}) == 1
    assert len({tuple(r.tokens.ids) for r in rollouts[:3]}) == 3


def test_tasks_choose_instead_of_seeds() -> None:
    rollouts = run(TextSampler("<answer>x</answer>"), make_envs(2), [0, 0, 0], tasks=["t4", 1, "t0"]).rollouts
    assert [r.episode.task.id for r in rollouts] == ["t4", "t1", "t0"]


def test_all_running_episodes_take_a_turn_together(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    real = tools.execute
    monkeypatch.setattr("toolenv.vector.execute", lambda jobs: sizes.append(len(jobs)) or real(jobs))
    sampler = TextSampler("<search>Lyon</search>", "<search>Nice</search>", "<answer>4</answer>")
    seen: list[tuple[int, int]] = []
    result = run(sampler, make_envs(5), progress=lambda done, total: seen.append((done, total)))
    assert sampler.batches == [5, 5, 5, 2, 2, 2]  # seven episodes over five slots
    assert sizes == [5, 5, 2, 2]  # a call in each of the first two turns, none in the third
    assert seen == [(n, 7) for n in range(1, 8)]
    assert {(r.episode.reason, r.episode.num_calls) for r in result.rollouts} == {("answer", 2)}


def test_tool_text_never_becomes_special_tokens() -> None:
    [rollout] = run(TextSampler("<search>Lyon</search>", "<answer>4</answer>"), make_envs(1), [0]).rollouts
    assert "Lyon is a town.<|im_end|>" in rollout.episode.turns[0].observation[0].content
    ids = rollout.tokens.ids
    prompt = len(encoder_of(make_envs(1)).encode_prompt(rollout.episode.prompt))
    assert not [token for token in ids[prompt:] if token < len(SPECIALS)]
    assert make_tokenizer().decode(ids).endswith("is a town.<|im_end|></information>\n\n<answer>4</answer>")


def test_a_cut_episode_keeps_its_last_observation() -> None:
    [rollout] = run(TextSampler("<search>Lyon</search>"), make_envs(1, max_turns=2), [0]).rollouts
    assert (rollout.episode.truncated, rollout.episode.reason) == (True, "max_turns")
    assert rollout.tokens.turn_ids[-1] == -1
    assert make_tokenizer().decode(rollout.tokens.ids).endswith("</information>\n\n")
    [ended] = run(TextSampler("<answer>4</answer>"), make_envs(1), [0]).rollouts
    assert ended.tokens.turn_ids[-1] == 0


def test_the_token_budget_ends_an_episode() -> None:
    envs = make_envs(2, max_turns=None)
    sampler = TextSampler("<search>Lyon</search>")
    free = run(sampler, make_envs(1, max_turns=3), [0]).rollouts[0].tokens
    last_action = max(i for i, turn in enumerate(free.turn_ids) if turn == 2) + 1
    for budget, turns in ((len(free) - 1, 3), (last_action - 1, 3), (len(free), 4)):
        for rollout in run(sampler, envs, [0, 1, 2], max_tokens=budget).rollouts:
            assert rollout.episode.reason == "token_budget"
            assert rollout.episode.truncated
            assert len(rollout.episode.turns) == turns
            assert rollout.tokens.turn_ids[-1] == turns - 1  # without the observation that did not fit


def test_a_prompt_beyond_the_budget_is_dropped() -> None:
    result = run(TextSampler("<answer>4</answer>"), make_envs(2), [7, 8, 9], max_tokens=10)
    assert result.rollouts == []
    assert [seed for seed, _ in result.dropped] == [7, 8, 9]
    assert "max_tokens is 10" in result.dropped[0][1]


def test_episodes_that_the_machine_lost_are_dropped_and_counted() -> None:
    class Sometimes(TextSampler):
        def generate(self, prompts: Any, *, seeds: Any) -> Any:
            calls = [f"<search>{'outage' if len(self.batches) == 1 and i == 1 else 'Lyon'}</search>" for i in range(3)]
            self.batches.append(len(prompts))
            return [self._say(text, 0) for text in calls[: len(prompts)]]

    result = run(Sometimes("x"), make_envs(3), [5, 6, 7])
    assert [r.episode.seed for r in result.rollouts] == [5, 7]
    assert [seed for seed, _ in result.dropped] == [6]
    assert "the index is down" in result.dropped[0][1]


def test_an_episode_lost_without_a_word_is_lost_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(jobs: Any) -> list[Any]:
        return [InfrastructureError("") for _ in jobs]

    monkeypatch.setattr("toolenv.vector.execute", silent)
    result = run(TextSampler("<search>Lyon</search>"), make_envs(2), [5, 6])
    assert result.rollouts == []
    assert result.dropped == [(5, "InfrastructureError"), (6, "InfrastructureError")]

    envs = make_envs(1)
    real = envs.step

    def wordless(actions: Any) -> Any:
        *step, info = real(actions)
        return *step, {**info, "failure": [""]}

    monkeypatch.setattr(envs, "step", wordless)
    result = run(TextSampler("<search>Lyon</search>"), envs, [5])
    assert (result.rollouts, result.dropped) == ([], [(5, "")])


def test_settings_that_do_not_fit() -> None:
    sampler, envs = TextSampler("x"), make_envs(1)
    with pytest.raises(ConfigError, match="DISABLED"):
        run(sampler, ToolVectorEnv([make_env], AutoresetMode.NEXT_STEP))
    with pytest.raises(ConfigError, match="'hermes'"):
        collect(sampler, envs, [0], encoder=encoder_of(make_envs(1, "hermes")), sampler_seed=0)
    with pytest.raises(ConfigError, match="one a seed"):
        run(sampler, envs, [0, 1], tasks=["t0"])
    assert run(sampler, envs, []) == CollectResult([], [])


def test_play_records_what_a_script_does() -> None:
    episode = play(make_env(), FixedScript("<search>Lyon</search>", "<answer>4</answer>"), seed=2)
    assert (episode.seed, episode.reason, episode.num_calls, episode.answer) == (2, "answer", 1, "4")
    limited = gym.wrappers.TimeLimit(make_env(max_turns=None), max_episode_steps=2)
    episode = play(limited, FixedScript("<search>Lyon</search>"), seed=2)
    assert (episode.truncated, episode.reason, len(episode.turns)) == (True, "max_turns", 2)
