"""Rows of parquet files, which the model hub and Search-R1 have their questions in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from toolenv.errors import DataError
from toolenv.extras import require

ROWS = 1024


def is_parquet(path: Path) -> bool:
    """Whether a file begins as parquet files do."""
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PAR1"
    except OSError:
        return False  # reading it as text says what is wrong


def read_rows(path: Path) -> Iterator[tuple[str, int, Mapping[str, Any]]]:
    """The rows, some at a time, as records.

    Yields:
        Where the row stands, for errors; its number, from 1; and the record.

    Raises:
        DataError: The file cannot be read.
        MissingExtraError: pyarrow is not installed.
    """
    parquet = require("pyarrow.parquet", "data")
    arrow_error: type[Exception] = require("pyarrow", "data").ArrowException
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", number, {name: v for name, v in row.items() if v is not None}
    except (arrow_error, OSError) as error:
        after = f", after row {number}" if number else ""
        raise DataError(f"{path}{after}: cannot be read as parquet: {error}") from error
