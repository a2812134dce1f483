"""``toolenv trm label`` by a judge and by continuations, as a user calls it."""

from __future__ import annotations

import json
import os

import pytest

from agents.cli import main
from rewards.training.labels.records import read_labels
from tests.judges import serve_chat

pytestmark = pytest.mark.core

EXPERT = "scripted:agents.experts:FunctionCallExpert"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trm") / "played"
    words = ["--policy", EXPERT, "--env-id", "ToolFunctionCall-v0", "--episodes", "6", "--num-envs", "6"]
    assert main(["trm", "collect", *words, "--output", str(folder)]) == 0
    return folder


def label(folder, output, *words):
    return main(["trm", "label", str(folder), "--output", str(output), *words])


def test_a_judge_behind_a_server_labels(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    output = tmp_path / "judge.jsonl"
    with serve_chat() as served:
        words = ["--by", "judge", "--judge", f"{served.url}#expert", "--votes", "2"]
        assert label(folder, output, *words) == 0
        whole = output.read_bytes()
        asked = len(served.requests)
        os.truncate(output, len(whole) - 7)  # as a kill may leave it
        assert label(folder, output, *words) == 0
        assert output.read_bytes() == whole
        assert len(served.requests) == asked  # what it said stood in the cache
        output.unlink()
        assert label(folder, output, "--by", "judge", "--judge", f"{served.url}#expert", "--votes", "1") == 0
    shown = capsys.readouterr().out
    calls = sum(len(record.labels) for record in read_labels(output))
    assert f"votes on necessity: {calls} calls, {2 * calls} votes: kappa" in shown
    assert all(label.votes == ((int(label.necessity), 1),) for r in read_labels(output) for label in r.labels)


def test_continuations_label(folder, tmp_path, capsys):
    output, words = tmp_path / "gain.jsonl", ["--by", "monte-carlo", "--estimate", "gain", "--continuations", "3"]
    assert label(folder, output, *words) == 0
    whole = output.read_bytes()
    assert "standard error of a soft label" in capsys.readouterr().out
    lines = whole.splitlines(keepends=True)
    output.write_bytes(b"".join(lines[:2]) + lines[2][:50])
    assert label(folder, output, *words, "--continue-envs", "1") == 0
    assert output.read_bytes() == whole
    record = json.loads(lines[0])
    assert record["by"] == "monte-carlo"
    assert (record["settings"]["n"], record["settings"]["policy"]["name"]) == (3, EXPERT)
    assert all(len(label.votes) == 3 for r in read_labels(output) for label in r.labels)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--by", "judge"], "--by judge needs --judge"),
        (["--by", "judge", "--judge", "http://localhost:1/v1"], "written as ADDRESS#MODEL"),
        (["--by", "judge", "--judge", "http://localhost:1/v1#m", "--judge-temperature", "0"], "give --votes 1"),
        (["--by", "monte-carlo", "--votes", "5"], "--votes: of --by judge, and has no meaning with --by monte-carlo"),
        (["--by", "hindsight", "--order", "chain"], "--order: of --by oracle"),
        (["--by", "monte-carlo", "--margin", "0.1"], "with estimate='gain' alone"),
        (["--by", "monte-carlo", "--continue-server", "http://localhost:1"], "give both"),
        (["--by", "monte-carlo", "--reward", "rewards:NoSuch"], "cannot load 'rewards:NoSuch'"),
    ],
)
def test_what_does_not_fit_together(folder, tmp_path, capsys, words, why):
    assert label(folder, tmp_path / "labels.jsonl", *words) == 2
    assert why in capsys.readouterr().err


def test_continuations_need_to_know_the_environment(folder, tmp_path, capsys):
    assert label(folder / "episodes.jsonl", tmp_path / "labels.jsonl", "--by", "monte-carlo") == 2
    assert "needs a folder of 'trm collect'" in capsys.readouterr().err
