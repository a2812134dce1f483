"""TRL's ``GRPOTrainer`` over our environments: the real trainer, with a policy that says what the test wants."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import toolenv
from rewards import InvalidCallFn, OutcomeFn, RewardSum
from toolenv.errors import ConfigError
from toolenv.wrappers import tool_env

pytest.importorskip("trl", reason="needs the train extra")
torch = pytest.importorskip("torch", reason="needs the train extra")

from agents_fixtures import make_model, make_tasks, make_tokenizer, search  # noqa: E402

from agents.bridges.played import SYSTEM  # noqa: E402
from agents.bridges.trl import TRLBridge  # noqa: E402

REWARD = RewardSum({"outcome": OutcomeFn(), "invalid": (InvalidCallFn(), 0.5)})


def toy_env(format: Any = None, **settings: Any) -> toolenv.ToolEnv:
    format = format or toolenv.Hermes(system=SYSTEM)
    return toolenv.ToolEnv(make_tasks(), [search], **{"format": format, "max_turns": 3, **settings})


def call(name: str, **arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


ASK = [call("search", query=f"town {i}") for i in range(3)]
RIGHT, WRONG = "<answer>{answer}</answer>", "<answer>I do not know</answer>"
SCRIPTS = (
    [f"Two at once.\n{ASK[0]}\n{ASK[1]}", call("search", query="nothing"), RIGHT],
    [WRONG],
    [f"{ASK[0]}\n{call('serach', query='x')}", ASK[1], RIGHT],
    [ASK[0], call("search"), ASK[2]],
    [call("search", query="outage"), RIGHT],
    [call("serach", query="x"), RIGHT],
)


def speak(model: Any, tokenizer: Any, scripts: Sequence[Sequence[str]]) -> None:
    """Make a model say, row by row of a batch, the turns of a script."""
    running: list[list[str]] = []

    def generate(input_ids: Any, **_: Any) -> Any:
        if not running:
            running.extend(list(script) for script in scripts)
            rows = running
        else:  # TRL goes on with those that called something, in their order
            rows = [turns for turns in running if turns and calling[id(turns)]]
        assert len(rows) == len(input_ids)
        texts = [turns.pop(0) for turns in rows]
        calling.update({id(turns): "<tool_call>" in text for turns, text in zip(rows, texts, strict=True)})
        ids = [tokenizer.encode(text + "<|im_end|>", add_special_tokens=False) for text in texts]
        width = max(map(len, ids))
        padded = [row + [tokenizer.pad_token_id] * (width - len(row)) for row in ids]
        return torch.cat([input_ids, torch.tensor(padded)], dim=1)

    calling: dict[int, bool] = {}
    model.generate = generate


def by_hand(script: Sequence[str], seed: int) -> tuple[float, toolenv.Episode]:
    """The same turns through the environment itself, under its reward wrappers."""
    env = REWARD.wrap(toy_env())
    env.reset(seed=seed)
    total = 0.0
    for text in script:
        _, reward, terminated, truncated, _ = env.step(text)
        total += float(reward)
        if terminated or truncated:
            break
    return total, tool_env(env).episode


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from trl.chat_template_utils import qwen3_chat_template

    made = copy.deepcopy(make_tokenizer())
    made.chat_template, made.eos_token = qwen3_chat_template, "<|im_end|>"
    return made


def test_an_update_of_the_real_trainer_scores_what_the_environment_would(tokenizer: Any, tmp_path: Path) -> None:
    from trl import GRPOConfig, GRPOTrainer

    seed = 3
    bridge = TRLBridge(toy_env, REWARD, seeds=[seed])
    answer = bridge._env.reset(seed=seed)[1]["task_id"].removeprefix("t")
    scripts = [[text.replace("{answer}", answer) for text in script] for script in SCRIPTS]
    model = make_model()
    before = copy.deepcopy(model.state_dict())
    config = GRPOConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=len(scripts),
        num_generations=len(scripts),
        max_completion_length=1500,
        max_steps=1,
        max_tool_calling_iterations=bridge.max_tool_calling_iterations,
        learning_rate=0.01,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        logging_steps=1,
    )
    trainer = GRPOTrainer(model=model, args=config, processing_class=tokenizer, **bridge.arguments)
    speak(model, tokenizer, scripts)
    trainer.train()

    assert bridge.episodes[4] is None  # the tool was out of service: no fault of the model
    for script, episode in zip(scripts, bridge.episodes, strict=True):
        if episode is None:
            continue
        _, expected = by_hand(script, seed)
        assert [turn.calls for turn in episode.turns] == [turn.calls for turn in expected.turns]
        assert [turn.results for turn in episode.turns] == [turn.results for turn in expected.turns]
        assert (episode.answer, episode.terminated) == (expected.answer, expected.terminated)
    kept = [e for e in bridge.episodes if e is not None]
    paid = [by_hand(script, seed)[0] for i, script in enumerate(scripts) if i != 4]
    assert [float(terms.total.sum()) for terms in REWARD.score(kept)] == paid
    logged = next(entry for entry in trainer.state.log_history if "reward" in entry)
    assert logged["rewards/episode_reward/mean"] == pytest.approx(sum(paid) / len(paid))
    assert logged["toolenv/lost"] == 1.0
    assert any(not torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_transformers_reads_the_schema_of_every_bundled_function_back() -> None:
    from transformers.utils import get_json_schema

    bridge = TRLBridge("ToolFunctionCall-v0", OutcomeFn(), seeds=range(40))
    tools = bridge.arguments["environment_factory"]
    assert len(tools) > 1  # tasks offer functions of their own
    for key, factory in tools.items():
        rollout = factory()
        for schema in json.loads(key):
            read = get_json_schema(getattr(rollout, schema["name"]))["function"]
            assert (read["name"], read["description"]) == (schema["name"], " ".join(schema["description"].split()))
            wanted = schema["parameters"]
            assert set(read["parameters"].get("required", [])) == set(wanted.get("required", []))
            for name, field in wanted["properties"].items():
                got = read["parameters"]["properties"][name]
                assert (got.get("type"), got.get("enum")) == (field.get("type"), field.get("enum"))
                assert got["description"].startswith(" ".join(field.get("description", "").split()))


def test_a_row_is_the_task_that_the_seed_chooses() -> None:
    bridge = TRLBridge("ToolFunctionCall-v0", OutcomeFn(), seeds=range(5), eval_seeds=[7])
    rows = [*bridge.arguments["train_dataset"], *bridge.arguments["eval_dataset"]]
    for row, seed in zip(rows, [0, 1, 2, 3, 4, 7], strict=True):
        env = gym.make("ToolFunctionCall-v0")
        messages, _ = env.reset(seed=seed)
        assert row["seed"] == seed
        assert row["prompt"][-1] == {"role": "user", "content": messages[-1].content}
        assert "<tool_call>" not in row["prompt"][0]["content"]  # the chat template says how to call
        assert row["environment"] in bridge.arguments["environment_factory"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(toy_env, format="toolrl"), "format 'toolrl' cannot be spoken here"),
        (partial(toy_env, max_turns=None), "give max_turns"),
    ],
)
def test_what_trl_cannot_play_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TRLBridge(make, OutcomeFn(), seeds=[0])
