"""Dumps of MediaWiki: read as a stream, told apart, cut into passages; jobs that are killed go on."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolenv import ConfigError, DataError
from toolenv.data.corpus_info import corpus_info
from toolenv.data.wiki import WikiPage, cut, is_article, read_dump
from toolenv.data.wiki.make import make_corpus
from toolenv.data.wiki.passages import SHORTEST
from toolenv.progress import Progress, duration
from toolenv.retrieval.corpus import read_corpus

pytestmark = pytest.mark.core

HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11"><siteinfo><namespaces>
<namespace key="0" /><namespace key="1">Talk</namespace><namespace key="4">Wikipedia</namespace></namespaces></siteinfo>
"""
END = "</mediawiki>\n"


def page(number: int, title: str, *revisions: str, more: str = "") -> str:
    texts = "".join(f"<revision><id>9</id><text>{escape(text)}</text></revision>" for text in revisions)
    return f"<page><title>{escape(title)}</title>{more}<id>{number}</id>{texts}</page>\n"


def dump(pages: Iterable[str]) -> bytes:
    return (HEAD + "".join(pages) + END).encode()


LYON = page(7, "Lyon", "'''Lyon''' is a [[city]] &ndash; on the [[Rhone]]. " + "It is old. " * 40)
PAGES = [
    LYON,
    page(8, "Lyons", "#redirect [[Lyon]]"),
    page(9, "Talk:Lyon", "Is it a city? " * 20),
    page(10, "List of rivers", "* [[Rhone]] " * 20),
    page(11, "Rhone", "An old text. " * 10, "The '''Rhone''' is a river. " * 10),
]


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [
        (".xml", lambda data: data),
        (".xml.gz", gzip.compress),
        (".xml.xz", lzma.compress),
        (".xml.bz2", lambda data: bz2.compress(data[:700]) + bz2.compress(data[700:])),  # of several streams
    ],
)
def test_pages_of_a_dump(tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / f"wiki{suffix}"
    path.write_bytes(pack(dump(PAGES)))
    seen: list[int] = []
    pages = list(read_dump(path, progress=seen.append))
    assert [(p.id, p.title, p.namespace, p.redirect) for p in pages] == [
        ("7", "Lyon", 0, False),
        ("8", "Lyons", 0, True),
        ("9", "Talk:Lyon", 1, False),
        ("10", "List of rivers", 0, False),
        ("11", "Rhone", 0, False),
    ]
    assert pages[0].text.startswith("'''Lyon''' is a [[city]] &ndash; on")
    assert pages[4].text.startswith("The '''Rhone'''")  # the last revision
    assert [p.title for p in pages if is_article(p)] == ["Lyon", "Rhone"]
    assert seen[-1] == path.stat().st_size


def test_what_a_newer_dump_says_itself_goes_first(tmp_path: Path) -> None:
    path = tmp_path / "wiki.xml"
    told = [page(1, "Talk: The Book", "x", more="<ns>0</ns>"), page(2, "Old", "x", more='<redirect title="New" />')]
    path.write_bytes(dump(told))
    assert [(p.namespace, p.redirect) for p in read_dump(path)] == [(0, False), (0, True)]


@pytest.mark.parametrize(
    ("text", "article"),
    [
        ("{{Disambig}}", False),
        ("x {{ TLAdisambig }}", False),
        ("{{geodis|a=b}}", False),
        ("{{disambiguation needed}}", False),
        ("{{Infobox disaster}} {{dabs}} {{about|a}}", True),
    ],
)
def test_pages_that_point_on_are_no_articles(text: str, article: bool) -> None:
    assert is_article(WikiPage("1", "Lyon", 0, text, False)) is article


def test_a_dump_that_is_cut_off(tmp_path: Path) -> None:
    whole = dump(PAGES)
    for name, content in (
        ("wiki.xml", whole[: whole.index(b"An old text")]),
        ("wiki.xml.bz2", bz2.compress(whole[:-50]) + bz2.compress(whole[-50:])[:-20]),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(DataError, match="the file ends in the middle"):
            list(read_dump(path))
        assert [p.title for p in read_dump(path, cut_off=True)][:4] == ["Lyon", "Lyons", "Talk:Lyon", "List of rivers"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.xml", b"<html><body/></html>", "is no MediaWiki XML dump"),
        ("a.xml", b"", "the file ends in the middle"),
        ("a.xml", b"plain text", "before its first page: not well-formed XML"),
        ("a.xml", dump([LYON, LYON.replace("&amp;", "&")]), "after the page 'Lyon': not well-formed XML"),
        ("a.xml", dump([LYON, "<page><b></page>"]), "after the page 'Lyon': not well-formed XML"),
        ("a.xml.bz2", b"not bz2 at all", "cannot be read"),
        ("a.xml.gz", b"not gzip at all", "cannot be read"),
    ],
)
def test_what_is_no_dump_says_so(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    for cut_off in (False, True):
        with pytest.raises(DataError, match=reason) as caught:
            list(read_dump(path, cut_off=cut_off))
        assert str(path) in str(caught.value)
    with pytest.raises(DataError, match="does not exist"):
        list(read_dump(tmp_path / "absent.xml"))


# Passages --------------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.sampled_from(["a", "bb", "c,"]), max_size=60), max_size=8), st.integers(1, 50))
def test_passages_hold_every_word_once_and_in_order(lines: list[list[str]], words: int) -> None:
    all_words = [word for line in lines for word in line]
    passages = list(cut("7", "Lyon", [" ".join(line) for line in lines], words))
    assert (not passages) == (len(all_words) < SHORTEST)
    if passages:
        assert " ".join(p.text for p in passages).split() == all_words
        assert [p.id for p in passages] == sorted(p.id for p in passages)
        assert all(len(p.text.split()) == words for p in passages[:-1])
        assert len(passages[-1].text.split()) < words + SHORTEST
    assert {p.title for p in passages} <= {"Lyon"}


# The command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def dumps(tmp_path: Path) -> list[Path]:
    """A dump in two parts, of 300 articles and some other pages."""
    pytest.importorskip("mwparserfromhell")
    more = [page(100 + n, f"City {n}", f"'''City {n}''' is {{{{x}}}} one of many. " * (5 + n % 60)) for n in range(300)]
    first, second = tmp_path / "part1.xml", tmp_path / "part2.xml.bz2"
    first.write_bytes(dump([*PAGES, *more[:150]]))
    second.write_bytes(bz2.compress(dump(more[150:])))
    return [first, second]


def test_a_corpus_is_made_whatever_the_number_of_workers(dumps: list[Path], tmp_path: Path) -> None:
    one = make_corpus(dumps, tmp_path / "one.jsonl", workers=1, progress=False)
    two = make_corpus(dumps, tmp_path / "two.jsonl", workers=2, progress=False)
    assert one.path.read_bytes() == two.path.read_bytes()
    assert (one.pages, one.passages) == (two.pages, two.passages) == (305, len(list(read_corpus(one.path))))
    passages = list(read_corpus(one.path))
    assert passages[0].id == "7-0001"
    assert passages[0].text.startswith("Lyon is a city – on the Rhone. It is old. It")
    assert {p.title for p in passages} == {"Lyon", "Rhone", *(f"City {n}" for n in range(300))}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.jsonl", "part1.xml", "part2.xml.bz2", "two.jsonl"]


KILLED = """
import os, sys
from toolenv.data.wiki import make
make.SAVE_EVERY_S = 0.0
batches = make.passages_of
def killed(pages, words, left=[3]):
    left[0] -= 1
    return batches(pages, words) if left[0] >= 0 else os._exit(9)
make.passages_of = killed
make.make_corpus(sys.argv[2:], sys.argv[1], workers=1, progress=False)
"""


def test_a_job_that_was_killed_goes_on(dumps: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = make_corpus(dumps, tmp_path / "whole.jsonl", workers=1, progress=False)
    output = tmp_path / "out.jsonl"
    words = [sys.executable, "-c", KILLED, str(output), *map(str, dumps)]
    assert subprocess.run(words, check=False, timeout=120).returncode == 9
    assert not output.exists()
    with output.with_name("out.jsonl.part").open("ab") as file:
        file.write(b'{"id": "half a li')  # what was written after the last save
    made = make_corpus(dumps, output, workers=1)
    assert "going on after 192 pages" in capsys.readouterr().err
    assert output.read_bytes() == whole.path.read_bytes()
    assert (made.pages, made.passages) == (whole.pages, whole.passages)
    assert not list(tmp_path.glob("out.jsonl.*"))


def test_a_job_over_other_dumps_starts_anew(dumps: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    words = [sys.executable, "-c", KILLED, str(output), *map(str, dumps)]
    assert subprocess.run(words, check=False, timeout=120).returncode == 9
    make_corpus(dumps[:1], output, workers=1, words=50, progress=False)
    assert (
        output.read_bytes() == make_corpus(dumps[:1], tmp_path / "b.jsonl", words=50, progress=False).path.read_bytes()
    )


def test_what_breaks_a_job_is_told(dumps: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out.jsonl"
    with pytest.raises(ConfigError, match=r"ends in \.jsonl, not 'out.tsv'"):
        make_corpus(dumps, tmp_path / "out.tsv")
    with pytest.raises(ConfigError, match="must be at least 1; got 0 and"):
        make_corpus(dumps, output, words=0)
    with pytest.raises(DataError, match=r"absent\.xml does not exist"):
        make_corpus([*dumps, tmp_path / "absent.xml"], output)
    empty = tmp_path / "empty.xml"
    empty.write_bytes(dump(PAGES[1:4]))
    with pytest.raises(DataError, match="no article gave a passage"):
        make_corpus([empty], output, workers=1, progress=False)

    def full(file: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("toolenv.data.wiki.make._flush", full)
    with pytest.raises(
        DataError, match=r"out\.jsonl: cannot be written: .*No space left on device; call again to go on"
    ):
        make_corpus(dumps, output, workers=1, progress=False)
    assert not output.exists()


def test_what_a_corpus_holds(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    rows = [("1", "Lyon", "one two"), ("2", "Lyon", "three"), ("3", "Rhone", "four"), ("1", "Lyon", "five")]
    path.write_text("".join(json.dumps(dict(zip(("id", "title", "text"), row, strict=True))) + "\n" for row in rows))
    info = corpus_info(path)
    assert (info.passages, info.titles, info.words, info.repeated_ids) == (4, 2, 5, 1)
    assert info.first.text == "one two"
    assert info.kind == "JSONL with title and text"
    assert "1 passages have an id that an earlier one has" in str(info)
    (tmp_path / "none.jsonl").write_text("\n")
    with pytest.raises(DataError, match="holds no passage"):
        corpus_info(tmp_path / "none.jsonl")


# Progress --------------------------------------------------------------------------------------------------------


class Terminal:
    """Collects what is written, and says that it is a terminal."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal_replaces_its_line_and_counts_what_this_run_did() -> None:
    seconds = iter([0.0, 2.0, 2.1, 12.0])
    stream = Terminal()
    progress = Progress("job", 100, stream=stream, clock=lambda: next(seconds))  # type: ignore[arg-type]
    progress.show(50)
    progress.start_at(50)
    progress.show(75)
    progress.close("done")
    assert stream.text.split("\r\x1b[K") == ["", "job: 50 %, 0:02 left", "job: 75 %, 0:10 left", "job: done\n"]
    assert duration(86_399.6) == "24:00:00"
