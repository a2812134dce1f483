"""The file of a query cache: shared by threads and processes, and never a reason for a search to fail."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

MAX_QUERIES = 1_000_000
BUSY_TIMEOUT_S = 5.0
_AT_ONCE = 500  # keys in one statement
_BESIDE = ("", "-wal", "-shm")
_TABLE = "CREATE TABLE IF NOT EXISTS found (place INTEGER PRIMARY KEY, key BLOB UNIQUE NOT NULL, answer TEXT NOT NULL)"


class QueryFile:
    """Texts by key, in SQLite.

    A file that is damaged is set aside under another name, with a warning, and begun anew. Where the file cannot be
    used otherwise, as on a full disk, the search goes on without it, with one warning.

    Args:
        path: The file; its folder is made.
        max_queries: How many keys are kept; those written first go first.
        busy_timeout_s: Longest wait for another process that writes.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = QueryFile(f"{folder}/queries.sqlite")
        ...     file.put({b"k": "found"})
        ...     file.get([b"k", b"other"])
        {b'k': 'found'}
    """

    def __init__(
        self, path: str | Path, *, max_queries: int = MAX_QUERIES, busy_timeout_s: float = BUSY_TIMEOUT_S
    ) -> None:
        self.path = Path(path).absolute()
        self._max_queries, self._busy_timeout_s = max_queries, busy_timeout_s
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._inherited: sqlite3.Connection | None = None
        self._owner = 0
        self._warned = False

    def get(self, keys: Sequence[bytes]) -> dict[bytes, str]:
        """The texts that are there."""

        def read(connection: sqlite3.Connection) -> dict[bytes, str]:
            found: dict[bytes, str] = {}
            for start in range(0, len(keys), _AT_ONCE):
                part = keys[start : start + _AT_ONCE]
                marks = ", ".join("?" * len(part))
                found.update(connection.execute(f"SELECT key, answer FROM found WHERE key IN ({marks})", part))
            return found

        return self._try(read) or {}

    def put(self, texts: Mapping[bytes, str]) -> None:
        """Write texts down, or not."""

        def write(connection: sqlite3.Connection) -> None:
            with connection:
                connection.executemany("INSERT OR REPLACE INTO found (key, answer) VALUES (?, ?)", texts.items())
                oldest = "SELECT max(place) FROM found"
                connection.execute(f"DELETE FROM found WHERE place <= ({oldest}) - ?", [self._max_queries])

        self._try(write)

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            self._close()

    def _try(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """Do it, once more with a new file where this one is damaged; ``None`` where it cannot be done."""
        with self._lock:
            for _ in range(2):
                try:
                    return work(self._open())
                except (sqlite3.DatabaseError, OSError) as error:
                    if not _is_damage(error):  # locked, full, read-only, not there
                        self._warn(
                            f"the query cache {self.path} cannot be used now, searches go on without it: {error}"
                        )
                        return None
                    self._close()
                    self._set_aside(error)
        return None

    def _open(self) -> sqlite3.Connection:
        """This process's connection: one that a parent process made must not be used."""
        if self._connection is None or self._owner != os.getpid():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Autocommit for reads, so that they never hold up a writer; threads take turns by our lock.
            connection = sqlite3.connect(self.path, timeout=self._busy_timeout_s, check_same_thread=False)
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")
                connection.execute(_TABLE)
            except sqlite3.Error:
                connection.close()
                raise
            self._inherited = self._connection  # kept, since closing it here would take the parent's locks away
            self._connection, self._owner = connection, os.getpid()
        return self._connection

    def _close(self) -> None:
        if self._connection is not None and self._owner == os.getpid():
            self._connection.close()
            self._connection = None

    def _set_aside(self, error: Exception) -> None:
        """Rename a damaged file; of several processes that find it damaged, the first one does."""
        try:
            with self.path.with_name(f"{self.path.name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if self._is_sound():
                    return
                aside = f"{self.path}.damaged-{time.time_ns()}"
                for ending in _BESIDE:
                    if os.path.exists(f"{self.path}{ending}"):
                        os.replace(f"{self.path}{ending}", f"{aside}{ending}")
        except OSError as reason:
            self._warn(f"the query cache {self.path} cannot be used; searches go on without it: {reason}")
            return
        warnings.warn(f"the query cache {self.path} was damaged ({error}); it is now {aside}", stacklevel=2)

    def _is_sound(self) -> bool:
        try:
            connection = sqlite3.connect(self.path, timeout=self._busy_timeout_s)
            try:
                return bool(connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))
            finally:
                connection.close()
        except sqlite3.Error:
            return False

    def _warn(self, message: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(message, stacklevel=2)


def _is_damage(error: Exception) -> bool:
    """Whether the file may be damaged; a file that was cut short is an I/O error to SQLite."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR)
