"""Passages from corpus files: JSONL, DPR's TSV, SQuAD's and HotpotQA's JSON; plain or gzipped, read as a stream."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from toolenv.data.assets import ASSETS, fetched
from toolenv.data.hotpot import Paragraphs, has_paragraphs
from toolenv.data.jsonl import ID, read_records, text_of
from toolenv.data.squad import read_paragraphs
from toolenv.data.text_files import first_letter, read_lines
from toolenv.errors import DataError
from toolenv.retrieval.base import Passage

CORPORA = tuple(sorted(name for name, asset in ASSETS.items() if asset.made is not None))
"""Names of the corpora that ``toolenv fetch`` brings."""


def read_corpus(corpus: str | Path) -> Iterator[Passage]:
    """Read passages, one at a time.

    The name of the file says the format, ``.gz`` aside:

    - ``.tsv``: DPR's, with the columns id, text and title, and a first line that names them.
    - ``.jsonl``: objects with ``title`` and ``text``, or Search-R1's ``contents``, whose first line is the title.
      Without an ``id``, the number of the line, from 1, is the id. Or questions with their paragraphs, as HotpotQA,
      2WikiMultihopQA and MuSiQue have them: each paragraph is given once, and its title is its id.
    - ``.json``: an array of such objects, or SQuAD's format.

    Args:
        corpus: A file, or the name of a corpus that was fetched, such as ``"wikipedia-2006"``.

    Raises:
        DataError: The format is not known, the corpus was not fetched, or a line is not a passage; the message names
            file, line and reason.
    """
    path = corpus_path(corpus)
    match _suffix(path):
        case ".tsv":
            yield from _read_tsv(path)
        case ".jsonl":
            yield from _read_objects(path)
        case ".json":
            yield from read_paragraphs(path) if first_letter(path) == "{" else _read_objects(path)
        case other:
            raise DataError(f"{path}: no corpus format has the suffix {other!r}; use .jsonl, .json or .tsv")


def corpus_path(corpus: str | Path) -> Path:
    """The file of a corpus.

    Args:
        corpus: A file, or the name of a corpus that was fetched.

    Raises:
        DataError: A known corpus that was not fetched, or a name that is neither.

    Example:
        >>> corpus_path("passages.tsv").name
        'passages.tsv'
    """
    if isinstance(corpus, str) and corpus in CORPORA:
        made = ASSETS[corpus].made
        assert made is not None
        return fetched(corpus) / made.file
    path = Path(corpus)
    if not path.suffix and not path.exists():
        known = ", ".join(CORPORA)
        raise DataError(f"there is no corpus {str(corpus)!r}: it is no file, and toolenv fetch knows {known}")
    return path


def corpus_kind(corpus: str | Path) -> str:
    """What format a corpus file has, by its name and its first record.

    Raises:
        DataError: As for ``read_corpus``.
    """
    path = corpus_path(corpus)
    if _suffix(path) == ".tsv":
        return "DPR's TSV"
    if _suffix(path) == ".json" and first_letter(path) == "{":
        return "SQuAD's JSON"
    record = next((record for _, _, record in read_records(path)), {})
    lines = "JSONL" if first_letter(path) == "{" else "a JSON array"
    if has_paragraphs(record):
        return f"{'MuSiQue' if 'paragraphs' in record else 'HotpotQA'}'s questions, {lines}"
    return f"Search-R1's {lines}" if _is_search_r1(record) else f"{lines} with title and text"


def _suffix(path: Path) -> str:
    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"]
    return suffixes[-1] if suffixes else ""


def _read_objects(path: Path) -> Iterator[Passage]:
    paragraphs = Paragraphs()
    for where, number, record in read_records(path):
        if has_paragraphs(record):
            yield from (passage for passage, is_new, _ in paragraphs.of(record, where) if is_new)
        else:
            yield _passage(record, str(number), where)


def _is_search_r1(record: Mapping[str, Any]) -> bool:
    return record.get("text") is None and record.get("contents") is not None


def _passage(record: Mapping[str, Any], default_id: str, where: str) -> Passage:
    identity = text_of(record, ID, where, default=default_id)
    if not _is_search_r1(record):
        blank = not str(record.get("title") or "").strip()
        title = "" if blank else text_of(record, ("title",), where)
        return Passage(identity, title, text_of(record, ("text",), where))
    title, _, text = text_of(record, ("contents",), where).partition("\n")
    if not text.strip():
        raise DataError(f"{where}: field 'contents' needs a first line with the title, then the text")
    title = title.strip()
    quoted = len(title) > 1 and title[0] == title[-1] == '"'
    return Passage(identity, title[1:-1] if quoted else title, text.strip())


def _read_tsv(path: Path) -> Iterator[Passage]:
    lines = (line for _, line in read_lines(path))
    rows = csv.reader(lines, delimiter="\t")
    try:
        for number, row in enumerate(rows, start=1):
            where = f"{path}, line {rows.line_num}"
            if number == 1 and row[:2] == ["id", "text"]:
                continue
            if len(row) != 3:
                raise DataError(f"{where}: needs the 3 columns id, text and title; got {len(row)}")
            record = dict(zip(("id", "text", "title"), row, strict=True))
            yield _passage(record, str(number), where)
    except csv.Error as error:
        raise DataError(f"{path}, line {rows.line_num}: not tab-separated text: {error}") from error
