"""Questions from tables: CSV or TSV with a line of names."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from toolenv.data.jsonl import ANSWERS
from toolenv.data.text_files import read_lines, short
from toolenv.errors import DataError

ANSWER_COLUMNS = ("possible_answers", *ANSWERS)


def read_table(path: str | Path) -> Iterator[tuple[str, int, Mapping[str, Any]]]:
    """The rows of a table, lazily, as records; columns are separated by tabs where the first line has one.

    Names of columns are read in lower case. An answer that is written as a JSON list, as PopQA has it, is that list.

    Yields:
        Where the row stands, for errors; its number, from 1; and the record.

    Raises:
        DataError: The file cannot be read, has no column with questions or answers, or a row has too few or too many.
    """
    first = next((line for _, line in read_lines(path)), "")
    names: list[str] = next(_reader([first], first), [])
    columns = [name.strip().lower() for name in names]
    if "question" not in columns or not any(name in columns for name in ANSWER_COLUMNS):
        raise DataError(
            f"{path}: is no file of questions that is known: neither JSON nor parquet, and its first line names no "
            f"columns 'question' and 'answer': {short(first.strip())}"
        )
    rows = _reader((line for _, line in read_lines(path)), first)
    number = -1
    try:
        for row in rows:
            number += bool(row)
            if number < 1 or not row:
                continue
            where = f"{path}, line {rows.line_num}"
            if len(row) != len(columns):
                raise DataError(f"{where}: has {len(row)} columns; the first line names {len(columns)}")
            yield where, number, _record(dict(zip(columns, row, strict=True)))
    except csv.Error as error:
        raise DataError(f"{path}, line {rows.line_num}: not a table: {error}") from error


def _reader(lines: Any, first: str) -> Any:
    # Quotes stand in PopQA's cells doubled, as in CSV; a cell of a long list is longer than the module's default.
    return csv.reader(lines, delimiter="\t" if "\t" in first else ",")


def _record(row: dict[str, Any]) -> Mapping[str, Any]:
    record: dict[str, Any] = {name: value for name, value in row.items() if value}
    for name in ANSWER_COLUMNS[1:]:
        if str(record.get(name, "")).startswith("["):
            try:
                record[name] = json.loads(record[name])
            except ValueError:
                continue  # an answer that begins with a bracket
    return record
