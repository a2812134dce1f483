"""Our agent loop and estimators as verl calls them; with verl's own registry where it can be imported."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import toolenv
from toolenv.errors import MissingExtraError

torch = pytest.importorskip("torch", reason="needs the train extra")

from agents_fixtures import make_tokenizer  # noqa: E402

from agents.advantages import turn_loo  # noqa: E402
from agents.batch import TurnBatch  # noqa: E402
from agents.bridges import verl as bridge  # noqa: E402
from agents.tokens import ConversationEncoder  # noqa: E402

# Two turns, one turn, two turns of which the last was cut before its observation ended, and padding.
MASK = [[1, 1, 0, 0, 1, 0], [1, 1, 1, 0, 0, 0], [1, 0, 0, 1, 1, 0]]


def test_each_turn_gets_what_stands_in_or_after_it() -> None:
    rewards = np.array([[0, 0.5, 0, 0.25, 1, 0], [0, 0, 2, 0, 0, 0], [0.5, 0, 0, 0, 0, 3.0]])
    batch = bridge.as_turns(rewards, np.array(MASK), ["q", "p", "q"])
    assert batch.outcome.tolist() == [1, 2, 3]  # 3.0 stands on a token that was not sampled, and is not lost
    np.testing.assert_array_equal(batch.rewards[:, 0], [0.75, np.nan, 0.5])
    assert batch.mask.tolist() == [[True, True], [True, False], [True, True]]
    assert batch.groups[0] == batch.groups[2] != batch.groups[1]


def test_a_row_without_a_sampled_token_has_no_turn() -> None:
    batch = bridge.as_turns(np.zeros((2, 3)), np.array([[0, 0, 0], [1, 0, 0]]), ["q", "q"])
    assert batch.mask.tolist() == [[False], [True]]


def test_an_estimator_gives_tokens_the_advantage_of_their_turn() -> None:
    rewards = torch.tensor([[0, 0.5, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0], [0.25, 0, 0, 0, 0, 0]])
    advantages, returns = bridge.estimator("turn_loo", gamma=0.5)(rewards, torch.tensor(MASK), index=["q"] * 3)
    by_turn = turn_loo(
        TurnBatch(
            rewards=[[0.5, None], [None, None], [0.25, None]],
            outcome=[1, 0, 0],
            mask=[[1, 1], [1, 0], [1, 1]],
            groups=[0, 0, 0],
        ),
        gamma=0.5,
    )
    wanted = torch.tensor(
        [[by_turn[b, 0 if token < 3 else 1] if MASK[b][token] else 0 for token in range(6)] for b in range(3)]
    )
    torch.testing.assert_close(advantages, wanted.float())
    assert torch.equal(advantages, returns)


def test_turn_rewards_move_to_the_ends_of_their_turns() -> None:
    data = SimpleNamespace(
        batch={
            "token_level_rewards": torch.tensor([[0, 0, 0, 0, 1.5, 0], [0, 0, 2.0, 0, 0, 0], [0, 0, 0, 0, 1.0, 0]]),
            "response_mask": torch.tensor(MASK),
        },
        non_tensor_batch={"turn_rewards": np.array([[0.5, 1.0], [2.0], [0.25, 0.75]], dtype=object)},
    )
    bridge.place_turn_rewards(data)
    assert data.batch["token_level_rewards"].tolist() == [
        [0, 0.5, 0, 0, 1.0, 0],
        [0, 0, 2.0, 0, 0, 0],
        [0.25, 0, 0, 0, 0.75, 0],
    ]


@toolenv.tool
def look(at: str) -> str:
    """Look at something.

    Args:
        at: What to look at.
    """
    return f"{at} is a town."


def played(texts: list[str], max_tokens: int = 1000) -> tuple[Any, int, toolenv.Episode, list[list[int]]]:
    tokenizer = make_tokenizer()
    env = toolenv.ToolEnv([toolenv.Task("t", "What?", answers=("1",))], [look], max_turns=4)
    asked: list[list[int]] = []

    async def generate(ids: list[int]) -> Any:
        asked.append(list(ids))
        said = tokenizer.encode(texts[len(asked) - 1] + "<|im_end|>", add_special_tokens=False)
        return SimpleNamespace(token_ids=said, log_probs=[-0.5] * len(said))

    encoder = ConversationEncoder(tokenizer, env.format)
    history, prompt = asyncio.run(bridge.play(env, 0, encoder, generate, max_tokens))
    return history, prompt, env.episode, asked


def test_the_loop_appends_what_was_sampled_and_never_encodes_it_again() -> None:
    texts = ['<tool_call>{"name": "look", "arguments": {"at": "Lyon"}}</tool_call>', "<answer>1</answer>"]
    history, prompt, episode, asked = played(texts)
    assert (episode.num_calls, episode.answer) == (1, "1")
    assert asked[0] == history.ids[:prompt]
    assert history.ids[: len(asked[1])] == asked[1]  # each request goes on from the one before
    sampled = [[i for i, t in zip(history.ids, history.turn_ids, strict=True) if t == turn] for turn in (0, 1)]
    tokenizer = make_tokenizer()
    assert [tokenizer.decode(ids, skip_special_tokens=True) for ids in sampled] == texts
    assert [p for p, t in zip(history.logprobs, history.turn_ids, strict=True) if t < 0] == [0.0] * (
        len(history) - sum(map(len, sampled))
    )


def test_the_loop_stops_where_verl_has_no_room_left() -> None:
    text = '<tool_call>{"name": "look", "arguments": {"at": "Lyon"}}</tool_call>'
    room = len(make_tokenizer().encode(text + "<|im_end|>", add_special_tokens=False)) + 3
    history, prompt, episode, asked = played([text] * 4, max_tokens=room)
    assert len(asked) == 1
    assert len(history) - prompt <= room
    assert (episode.truncated, episode.reason) == (True, "token_budget")


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "verl", None)
    with pytest.raises(MissingExtraError, match=r"verl"):
        bridge.register()


def test_verl_finds_our_estimators_in_its_registry() -> None:
    core_algos = pytest.importorskip("verl.trainer.ppo.core_algos", reason="needs verl, which wants GPUs")
    names = bridge.register(turn_loo={"gamma": 0.5})
    assert "toolenv_turn_loo" in names
    compute = core_algos.get_adv_estimator_fn("toolenv_turn_loo")
    rewards, mask = torch.tensor([[0, 1.0], [0, 0]]), torch.tensor([[1, 1], [1, 1]])
    advantages, _ = compute(token_level_rewards=rewards, response_mask=mask, config=None, index=np.array(["a", "a"]))
    assert advantages.tolist() == [[1.0, 1.0], [-1.0, -1.0]]
