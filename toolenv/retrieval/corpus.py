"""Passages from corpus files: JSONL, DPR's TSV, SQuAD's JSON, a JSON array; plain or gzipped, read as a stream."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from toolenv.data.jsonl import ID, read_lines, read_records, text_of
from toolenv.data.squad import load_squad
from toolenv.errors import DataError
from toolenv.retrieval.base import Passage


def read_corpus(path: str | Path) -> Iterator[Passage]:
    """Read passages, one at a time.

    The name of the file says the format, ``.gz`` aside:

    - ``.tsv``: DPR's, with the columns id, text and title, and a first line that names them.
    - ``.jsonl``: objects with ``title`` and ``text``, or Search-R1's ``contents``, whose first line is the title.
      Without an ``id``, the number of the line, from 1, is the id.
    - ``.json``: an array of such objects, or SQuAD's format.

    Raises:
        DataError: The format is not known, or a line is not a passage; the message names file, line and reason.
    """
    path = Path(path)
    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"]
    match suffixes[-1] if suffixes else "":
        case ".tsv":
            yield from _read_tsv(path)
        case ".jsonl":
            yield from _read_objects(path)
        case ".json":
            first = next((line for _, line in read_lines(path) if line.strip()), "")
            yield from _read_objects(path) if first.lstrip().startswith("[") else load_squad(path).passages
        case other:
            raise DataError(f"{path}: no corpus format has the suffix {other!r}; use .jsonl, .json or .tsv")


def _read_objects(path: Path) -> Iterator[Passage]:
    for where, number, record in read_records(path):
        yield _passage(record, str(number), where)


def _passage(record: Mapping[str, Any], default_id: str, where: str) -> Passage:
    identity = text_of(record, ID, where, default=default_id)
    if record.get("text") is not None or record.get("contents") is None:
        blank = not str(record.get("title") or "").strip()
        title = "" if blank else text_of(record, ("title",), where)
        return Passage(identity, title, text_of(record, ("text",), where))
    title, _, text = text_of(record, ("contents",), where).partition("\n")
    if not text.strip():
        raise DataError(f"{where}: field 'contents' needs a first line with the title, then the text")
    return Passage(identity, title.strip().strip('"'), text.strip())


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
