"""What tells one model from another: a hash of its files and settings."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from toolenv.data.assets import cache_dir

_DIGITS = 12


def fingerprint(files: Iterable[Path], settings: Any) -> str:
    """The first digits of a SHA-256 over the contents of files and over settings, which JSON can hold.

    Where the files lie does not matter. A file is read once; its hash is kept in the cache folder, under its place,
    size and time of change.

    Raises:
        OSError: A file cannot be read.

    Example:
        >>> fingerprint([], {"max_tokens": 256}) == fingerprint([], {"max_tokens": 512})
        False
    """
    hashes = [(path.name, _sha256_kept(path)) for path in sorted(files)]
    return hashlib.sha256(json.dumps([hashes, settings], sort_keys=True).encode()).hexdigest()[:_DIGITS]


def _sha256_kept(path: Path) -> str:
    status = path.stat()
    return _sha256_of(path.resolve(), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256_of(path: Path, size: int, mtime_ns: int) -> str:
    key = hashlib.sha256(f"{path}|{size}|{mtime_ns}".encode()).hexdigest()[:32]
    note = cache_dir() / "fingerprints" / key
    try:
        kept = note.read_text(encoding="ascii")
    except (OSError, ValueError):
        kept = ""
    if len(kept) == 64:
        return kept
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    _keep(note, digest)
    return digest


def _keep(note: Path, digest: str) -> None:
    """Write a hash down for other processes, in one step; without room or rights for it, they compute it again."""
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        descriptor, aside = tempfile.mkstemp(dir=note.parent)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(digest)
        os.replace(aside, note)
    except OSError:
        pass
