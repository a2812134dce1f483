"""Pairs: each right against wrong, as many of a kind as asked, without give-aways, the same again after a kill."""

import json
from collections import Counter
from itertools import groupby

import pytest

from agents.cli import main
from rewards.training.pairs.gold_tasks import is_gradable, load_gold_tasks, load_xlam
from rewards.training.pairs.making import PairMaker, Recipe
from rewards.training.pairs.overlap import ANSWER, FUNCTIONS, QUESTION, Benchmark
from rewards.training.pairs.records import Pair, PairWriter, pair_conversations, read_pairs
from rewards.training.pairs.report import PairReport
from rewards.training.pairs.wrong_answers import WrongAnswer, WrongAnswers, read_samples, read_wrong_calls
from toolenv.data.functions import function_tasks
from toolenv.episode import Task
from toolenv.errors import ConfigError, DataError
from toolenv.grading.calls import match_calls
from toolenv.messages import Message, ToolCall

pytestmark = pytest.mark.core

TASKS = [task for task in function_tasks("test") if is_gradable(task)][:60]
BY_ID = {task.id: task for task in TASKS}


@pytest.fixture(scope="module")
def pairs():
    return list(PairMaker(TASKS, Recipe(pairs=250, seed=3)).make())


def test_plain_pairs_are_right_against_wrong(pairs):
    checked = 0
    for pair in pairs:
        task = BY_ID[pair.test_id]
        if pair.origin["obfuscated"] is not None or pair.origin["withheld"]:
            continue
        checked += 1
        chosen, rejected = (
            match_calls(() if isinstance(o, str) else o, task.gold_calls, task.metadata["accepted"], task.functions)
            for o in (pair.chosen_output, pair.rejected_output)
        )
        assert chosen.ok
        assert not rejected.ok
        assert pair.tools == task.functions
    assert checked > 100


def test_pairs_of_a_prompt_stand_together_and_none_comes_twice(pairs):
    runs = [key for key, _ in groupby(pairs, key=lambda pair: (pair.prompt_key, pair.origin["copy"]))]
    assert len(runs) == len(set(runs))
    assert max(Counter((p.prompt_key, p.origin["copy"]) for p in pairs).values()) == 5
    assert len({(pair.prompt_key, str(pair.rejected_output)) for pair in pairs}) == len(pairs)


def test_shares_and_balance(pairs):
    report = PairReport.of(pairs)
    assert report.pairs == 250
    assert 0.4 < report.counts["names"]["replaced"] / 250 < 0.6
    assert 0.3 < report.counts["error type"]["incorrect parameter value"] / 250 < 0.42
    for feature in ("characters", "calls", "arguments"):
        less, more = report.accuracy(feature)
        assert less + more == pytest.approx(1)
        assert 0.4 < less < 0.6
    withheld = [pair for pair in pairs if pair.origin["withheld"]]
    assert withheld
    assert all(isinstance(pair.chosen_output, str) and pair.error_type == "call where none fits" for pair in withheld)


def test_the_same_settings_make_the_same_pairs(pairs):
    again = PairMaker(TASKS, Recipe(pairs=40, seed=3)).make()
    assert list(again) == pairs[:40]
    assert next(PairMaker(TASKS, Recipe(pairs=40, seed=4)).make()) != pairs[0]


def test_weights_of_one_kind_and_no_names_replaced():
    kind = "incorrect function name"
    recipe = Recipe(pairs=20, obfuscated=0.0, weights={kind: 1.0})
    made = list(PairMaker(TASKS, recipe).make())
    assert {pair.error_type for pair in made} == {kind}
    assert {pair.origin["obfuscated"] for pair in made} == {None}


def test_tasks_without_a_right_call_do_not_swamp_the_others():
    tasks = [task for task in TASKS if not task.gold_calls]
    tasks += [task for task in TASKS if task.gold_calls][:4]
    made = PairReport.of(PairMaker(tasks, Recipe(pairs=90)).make())
    assert made.counts["error type"]["call where none fits"] <= 0.06 * made.pairs + 21


def test_more_calls_than_are_right_do_not_give_themselves_away():
    # To tasks of one call, too many is the only wrong number there is.
    tasks = [task for task in TASKS if len(task.gold_calls) == 1]
    made = list(PairMaker(tasks, Recipe(pairs=60, weights={"incorrect number of functions": 1.0})).make())
    assert 0 < len(made) <= 20


def test_real_answers_are_told_in_the_names_of_the_copy():
    task = next(task for task in TASKS if len(task.gold_calls) == 1)
    wrong = (ToolCall(task.gold_calls[0].name, {"made_up_name": 1}),)
    found = WrongAnswers()
    found.add(task, wrong, "some-model", "file")
    found.add(task, wrong, "another-model", "file")
    found.add(task, task.gold_calls, "some-model", "file")
    found.add(task, (), "some-model", "file")
    assert found.counts == Counter({"kept": 1, "twice": 1, "right": 1, "empty": 1, "other kind": 0})
    (answer,) = found.by_task[task.id]
    recipe = Recipe(pairs=60, weights={answer.error_type: 1.0}, withheld=0.0)
    made = list(PairMaker([task], recipe, found.by_task).make())
    real = [pair for pair in made if pair.model_name == "some-model"]
    assert {pair.origin["obfuscated"] is None for pair in real} == {True, False}
    for pair in real:
        hidden = pair.origin["obfuscated"] is not None
        assert ("made_up_name" in str(pair.rejected_output)) != hidden
        assert (pair.rejected_output[0].name == task.gold_calls[0].name) != hidden


@pytest.mark.parametrize("settings", [{"pairs": 0}, {"obfuscated": 1.2}, {"weights": {"typo": 1.0}}, {"weights": {}}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError):
        Recipe(**settings)


def test_a_benchmark_keeps_its_questions_answers_and_functions():
    schema = {"name": "f", "parameters": {"properties": {"x": {"type": "integer"}}, "required": []}}
    swapped = {"parameters": {"required": [], "properties": {"x": {"type": "integer"}}}, "name": "f"}
    asked = (Message("user", "What is f of 1?"),)
    held = Benchmark.of([Pair((schema,), asked, (ToolCall("f", {"x": 1}),), (), "other")])

    def task(prompt, functions, x):
        return Task("t", prompt, gold_calls=(ToolCall("f", {"x": x}),), functions=functions)

    assert held.clash(task("what is F of 1 ?", ({"name": "g"},), 2)) == QUESTION
    assert held.clash(task("Tell f of one.", (swapped,), 1)) == ANSWER
    assert held.clash(task("Tell f of two.", (swapped,), 2)) is None
    assert held.clash(task("Tell f of two.", (swapped,), 2), functions=True) == FUNCTIONS
    assert held.clash(task("Tell f of two.", ({"name": "g"},), 2), functions=True) is None


def test_a_stopped_file_goes_on_to_the_same_bytes(tmp_path, pairs):
    whole, torn = tmp_path / "whole.jsonl", tmp_path / "torn.jsonl"
    for path in (whole, torn):
        with PairWriter(path) as writer:
            writer.write(pairs[:20])
    torn.write_bytes(torn.read_bytes()[:-700])
    with PairWriter(torn, resume=True) as writer:
        assert 0 < writer.kept < 20
        writer.write(pairs[:20])
    assert torn.read_bytes() == whole.read_bytes()
    assert list(read_pairs(whole)) == pairs[:20]
    notes = tmp_path / "notes.txt"
    notes.write_text("mine, with no last line end")
    with pytest.raises(DataError, match="is it another file"):
        PairWriter(notes, resume=True)
    assert notes.read_text() == "mine, with no last line end"
    with PairWriter(torn, resume=True) as writer, pytest.raises(ConfigError, match=r"line 1, was made with other"):
        writer.write(pairs[1:2])
    with pytest.raises(ConfigError, match="exists"):
        PairWriter(torn)
    assert torn.read_bytes() == whole.read_bytes()


def test_what_is_no_pair_is_named(tmp_path, pairs):
    record = pairs[0].to_json()
    path = tmp_path / "pairs.jsonl"
    for broken, told in (
        ({**record, "conversation": [{"role": "user"}]}, "role and content"),
        ({**record, "chosen_output": [{"f": 1}]}, "chosen_output"),
        ({key: record[key] for key in record if key != "tools"}, "tools"),
    ):
        path.write_text(f"{json.dumps(record)}\n{json.dumps(broken)}\n")
        with pytest.raises(DataError, match=rf"line 2.*{told}"):
            list(read_pairs(path))


def test_conversations_differ_in_the_answer_alone(pairs):
    for pair in pairs[:20]:
        chosen, rejected = pair_conversations(pair)
        assert chosen[:-1] == rejected[:-1]
        assert chosen[-1] != rejected[-1]
        assert chosen[0].role == "system"


def test_wrong_calls_of_a_file_are_judged_again(tmp_path):
    schema = {"name": "math.add", "parameters": {"properties": {"a": {"type": "integer"}}, "required": ["a"]}}
    task = Task("add", "Add 1!", gold_calls=(ToolCall("math.add", {"a": 1}),), functions=(schema,))
    base = {"question": "add 1", "function": [schema], "model": "m", "error_type": "value_error:others"}
    records = [
        {**base, "wrong_call": [{"math_add": {"a": 2}}]},  # an interface without dots
        {**base, "wrong_call": [{"math.add": {"a": 1}}]},  # right, by the matcher
        {**base, "wrong_call": None, "wrong_raw": "[math.add(a=1)]"},
        {**base, "wrong_call": [{"math.add": {"a": 3}}], "question": "Something else"},
    ]
    path = tmp_path / "wrong.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    found = read_wrong_calls(path, [task])
    assert found.by_task["add"] == [
        WrongAnswer(
            "add",
            (ToolCall("math.add", {"a": 2}),),
            "incorrect parameter value",
            "m",
            "wrong calls file",
            "incorrect parameter value",
        ),
        WrongAnswer(
            "add", "[math.add(a=1)]", "incorrect output format", "m", "wrong calls file", "incorrect parameter value"
        ),
    ]
    assert found.counts == Counter({"kept": 2, "right": 1, "no such task": 1, "other kind": 1})
    path.write_text(json.dumps({**base, "wrong_call": [{"a": 1, "b": 2}]}))
    with pytest.raises(DataError, match=r"line 1.*wrong_call"):
        read_wrong_calls(path, [task])


def test_samples_of_a_model_are_judged(tmp_path):
    task = TASKS[0]
    wrong = [{"name": task.gold_calls[0].name, "arguments": {}}]
    path = tmp_path / "samples.jsonl"
    lines = [{"task_id": task.id, "model": "m", "output": output} for output in (wrong, "No.", None)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = read_samples(path, TASKS)
    assert [answer.model for answer in found.by_task[task.id]] == ["m", "m"]
    assert found.counts["empty"] == 1


def test_xlam_files(tmp_path):
    parameters = {
        "city": {"type": "str", "description": "Where."},
        "days": {"type": "int, optional", "default": 3},
        "tags": {"type": "List[str]", "default": ""},
    }
    record = {
        "query": "Rome?",
        "tools": json.dumps([{"name": "f", "description": "F.", "parameters": parameters}]),
        "answers": json.dumps([{"name": "f", "arguments": {"city": "Rome"}}]),
    }
    path = tmp_path / "xlam.json"
    path.write_text(json.dumps([record]))
    (task,) = load_gold_tasks(str(path))
    assert task.gold_calls == (ToolCall("f", {"city": "Rome"}),)
    schema = task.functions[0]["parameters"]
    assert [p.get("type") for p in schema["properties"].values()] == ["string", "integer", "array"]
    assert schema["required"] == ["city", "tags"]
    assert task.metadata["category"] == "xlam"
    path.write_text(json.dumps([{**record, "answers": "[{"}]))
    with pytest.raises(DataError, match=r"item 1.*answers"):
        load_xlam(path)
    with pytest.raises(ConfigError, match="there are no tasks"):
        load_gold_tasks(str(tmp_path / "missing.jsonl"))


def test_the_command_makes_pairs_and_goes_on_after_a_kill(tmp_path, capsys):
    output, benchmark = tmp_path / "pairs.jsonl", tmp_path / "bench.jsonl"
    (held,) = PairMaker(TASKS[:1], Recipe(pairs=1, obfuscated=0)).make()
    fields = ("tools", "conversation", "chosen_output", "rejected_output")  # as texts, which ours has not
    benchmark.write_text(json.dumps({name: json.dumps(held.to_json()[name]) for name in fields}) + "\n")
    words = ["toolrm", "pairs", "--tasks", "bundled:test", "--pairs", "20", "--output", str(output)]
    words += ["--against", str(benchmark), "--per-type", '{"incorrect output format": 0}']
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "20 pairs" in said
    assert "1 left out: its question stands in the benchmark" in said
    whole = output.read_bytes()
    made = list(read_pairs(output))
    assert TASKS[0].id not in {pair.test_id for pair in made}
    assert "incorrect output format" not in {pair.error_type for pair in made}
    report = json.loads((tmp_path / "pairs.report.json").read_text())
    assert report["pairs"] == 20
    assert report["settings"]["tasks"] == ["bundled:test"]
    output.write_bytes(whole[: len(whole) // 2])
    assert main(words) == 0
    assert output.read_bytes() == whole
    assert main([*words, "--seed", "1"]) == 2
    assert "other settings" in capsys.readouterr().err
    assert main([*words, "--per-type", '{"typo": 1}']) == 2
