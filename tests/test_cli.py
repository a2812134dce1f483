from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from agents import cli
from tests.judges import chat_reply
from tests.servers import serve
from toolenv import DataError, read_episodes

ROOT = Path(__file__).resolve().parents[1]


def run_without(module: str, *words: str) -> subprocess.CompletedProcess[str]:
    """The console script, where ``module`` is not installed."""
    code = f"import sys; sys.modules[{module!r}] = None; from agents.cli import main; sys.exit(main({list(words)!r}))"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.core
@pytest.mark.parametrize(
    "words", [("eval", "--env-id", "ToolFunctionCall-v0"), ("train", "--env-id", "ToolFunctionCall-v0")]
)
def test_a_missing_extra_is_one_line_and_status_2(words: tuple[str, ...]) -> None:
    result = run_without("torch", *words)
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert "pip install 'toolenv[" in result.stderr


@pytest.mark.core
def test_fetch_lists_what_there_is_without_any_extra() -> None:
    result = run_without("torch", "fetch")
    assert result.returncode == 0, result.stderr
    names = [line.split()[0] for line in result.stdout.splitlines()]
    assert {"bfcl", "smollm2-135m"} <= set(names)
    assert "Apache-2.0" in result.stdout


@pytest.mark.core
def test_an_unknown_asset_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fetch", "smollm2"]) in (1, 2)
    error = capsys.readouterr().err
    assert error.startswith("toolenv: ")
    assert "'smollm2'" in error
    assert "smollm2-135m" in error


@pytest.mark.core
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["eval", "--env-id", "ToolFunctionCall-v0", "--episodes", "0"], "at least 1"),
        (["eval", "--env-id", "ToolNoSuch-v0", "--model", "x"], "ToolNoSuch"),
        (
            ["eval", "--env-id", "ToolPythonMath-v0", "--model", "nano"],
            "the nano policy plays ToolSearchQA-v0 only, not 'ToolPythonMath-v0'; give --model",
        ),
    ],
)
def test_wrong_settings_are_one_line_and_status_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("toolenv: ")
    assert message in error


@pytest.mark.core
@pytest.mark.parametrize("words", [["eval"], ["evaluate"], [], ["fetch", "bfcl", "--colour"]])
def test_wrong_usage_leaves_with_status_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2
    assert "usage: toolenv" in capsys.readouterr().err


@pytest.mark.core
@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [(KeyboardInterrupt(), 130, "interrupted"), (DataError("bad.jsonl, line 3: no id"), 1, "bad.jsonl, line 3: no id")],
)
def test_what_stops_a_command_is_one_line(
    raised: BaseException,
    status: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stop(options: argparse.Namespace, rest: list[str]) -> None:
        raise raised

    monkeypatch.setitem(cli.COMMANDS, "fetch", stop)
    assert cli.main(["fetch"]) == status
    assert capsys.readouterr().err == f"toolenv: {said}\n"


@pytest.mark.core
def test_an_unknown_trainer_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "dpo", "--help"]) == 2
    assert capsys.readouterr().err == "toolenv: there is no trainer 'dpo'; take grpo or ppo\n"


def test_a_device_or_sampler_setting_that_there_is_not_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    words = ["train", "--num-envs", "2", "--output-dir", str(tmp_path / "run")]
    assert cli.main([*words, "--device", "cdua"]) == 2
    said = "error: device must be 'auto' or as torch names it: 'cpu', 'cuda', 'cuda:1'; got 'cdua'\n"
    assert capsys.readouterr().err == said
    assert cli.main([*words, "--device", "cpu", "--sampler-kwargs", '{"top_p": 0.9}']) == 2
    error = capsys.readouterr().err
    assert "HFSampler takes no 'top_p' in sampler_kwargs; it takes reuse" in error
    assert "would bias the importance ratio" in error


def test_a_checkpoint_of_nano_is_played_as_nano(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    (tmp_path / "toolenv.json").write_text('{"played_as": "nano"}')
    assert cli.main(["eval", "--env-id", "ToolFunctionCall-v0", "--model", str(tmp_path)]) == 2
    assert "the nano policy plays ToolSearchQA-v0 only" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "expected"), [([], 2048 - 8), (["--max-tokens", "99"], 99)])
def test_eval_takes_what_the_model_takes(
    words: list[str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    from agents_fixtures import make_model, make_tokenizer

    def stop(*_: object, max_tokens: int | None, **__: object) -> None:
        raise DataError(f"room for {max_tokens}")

    monkeypatch.setattr("agents.evaluate.evaluate", stop)
    make_model().save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    options = ["--model", str(tmp_path), "--max-new-tokens", "8", "--device", "cpu", *words]
    assert cli.main(["eval", "--env-id", "ToolFunctionCall-v0", *options]) == 1
    assert f"room for {expected}\n" in capsys.readouterr().err


def test_eval_writes_episodes_and_a_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    from agents_fixtures import make_model, make_tokenizer

    make_model().save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    words = ["eval", "--env-id", "ToolFunctionCall-v0", "--model", str(tmp_path / "model"), "--episodes", "3"]
    words += ["--output", str(tmp_path / "run"), "--max-new-tokens", "8", "--max-tokens", "8192", "--device", "cpu"]
    assert cli.main(words) == 0
    episodes = list(read_episodes(tmp_path / "run" / "episodes.jsonl"))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert len({episode.task.id for episode in episodes}) == 3
    assert all(episode.turns and episode.reason for episode in episodes)
    assert (summary["episodes"], summary["dropped"], summary["masked"]) == (3, 0, 0)
    assert summary["successes"] == round(3 * summary["success_rate"])
    assert summary["interval_95"][0] <= summary["success_rate"] <= summary["interval_95"][1]
    assert f"success {summary['successes']}/3" in capsys.readouterr().out


@pytest.mark.core
def test_validate_reports_and_fails_where_a_task_does(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["validate", "--env-id", "ToolFunctionCall-v0", "--limit", "3"]
    assert cli.main(words) == 0
    assert "3 tasks, all well" in capsys.readouterr().out
    # A call and the reply after it take two turns.
    assert cli.main([*words, "--env-kwargs", '{"max_turns": 1}']) == 1
    assert "all well" not in capsys.readouterr().out


@pytest.mark.usefixtures("no_proxy")
def test_a_model_behind_a_server_is_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serve(lambda request: (200, {}, chat_reply("<answer>I do not know</answer>"))) as served:
        words = ["eval", "--env-id", "ToolSearchQA-v0", "--server", served.url, "--model", "qwen"]
        assert cli.main([*words, "--episodes", "3", "--greedy", "--output", str(tmp_path)]) == 0
        assert cli.main([*words, "--max-tokens", "100"]) == 2
    assert "--max-tokens counts tokens" in capsys.readouterr().err
    assert [episode.answer for episode in read_episodes(tmp_path / "episodes.jsonl")] == ["I do not know"] * 3
    assert {(request.path, request.body["model"]) for request in served.requests} == {("/v1/chat/completions", "qwen")}
    assert all(request.body["temperature"] == 0 for request in served.requests)
    assert json.loads((tmp_path / "summary.json").read_text())["episodes"] == 3
