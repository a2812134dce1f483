"""``toolenv corpus make``: passages from dumps of MediaWiki, on all cores, in bounded memory, resumed after a kill."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

from toolenv.data.wiki.dump import WikiPage, read_dump
from toolenv.data.wiki.parsed import parse_text
from toolenv.data.wiki.passages import WORDS, cut, is_article, to_json
from toolenv.data.wiki.prose import prose
from toolenv.errors import ConfigError, DataError
from toolenv.extras import require
from toolenv.progress import Progress

PAGES_A_BATCH = 64
SAVE_EVERY_S = 5.0
VERSION = 1  # of what is made of a page: raised where the same dump gives other passages


@dataclass(frozen=True, slots=True)
class Made:
    """What ``make_corpus`` made.

    Attributes:
        pages: Pages of the dumps.
        passages: Passages of those that are articles.
        path: Where they are.
    """

    pages: int
    passages: int
    path: Path


@dataclass(frozen=True, slots=True)
class _Done:
    """How far a job is: all that was written up to here is whole."""

    pages: int = 0
    passages: int = 0
    bytes: int = 0


def make_corpus(
    dumps: Sequence[str | Path],
    output: str | Path,
    *,
    words: int = WORDS,
    workers: int | None = None,
    progress: bool = True,
) -> Made:
    """Cut the articles of dumps into passages, as JSONL with id, title and text.

    The result does not depend on the number of workers. It is written to ``OUTPUT.part`` and renamed when it is whole;
    a call that was killed goes on from there, if dumps and settings are the same.

    Args:
        dumps: ``.xml`` files, plain or with ``.bz2``, ``.gz`` or ``.xz``, of one wiki.
        output: The ``.jsonl`` file to write.
        words: Words a passage.
        workers: Processes that read wikitext; ``None``: one a core. With 1, this process does it.
        progress: Whether to say on stderr how far the job is.

    Raises:
        ConfigError: Another suffix, or a number below 1.
        DataError: A dump cannot be read or ends in the middle, or the disk is full; what was made so far is kept.
        MissingExtraError: mwparserfromhell is not installed.
    """
    output = Path(output)
    workers = (os.cpu_count() or 1) if workers is None else workers
    if output.suffix != ".jsonl":
        raise ConfigError(
            f"passages are written as JSONL; give --output a name that ends in .jsonl, not {output.name!r}"
        )
    if words < 1 or workers < 1:
        raise ConfigError(f"words and workers must be at least 1; got {words} and {workers}")
    require("mwparserfromhell", "wiki")
    try:
        return _Job([Path(dump) for dump in dumps], output, words, workers, progress).run()
    except BrokenProcessPool as error:
        raise DataError(
            f"a worker process was killed, perhaps for want of memory ({error}); call again to go on"
        ) from error
    except OSError as error:
        raise DataError(f"{output}: cannot be written: {error}; call again to go on") from error


def passages_of(pages: Iterable[WikiPage], words: int) -> tuple[str, int]:
    """The passages of the articles among some pages, as lines of JSON, and how many there are."""
    lines = [
        to_json(passage)
        for page in pages
        if is_article(page)
        for passage in cut(page.id, page.title, prose(parse_text(page.text)), words)
    ]
    return "".join(lines), len(lines)


class _Job:
    """One call of ``make_corpus``."""

    def __init__(self, dumps: list[Path], output: Path, words: int, workers: int, progress: bool) -> None:
        self.dumps, self.output, self.words, self.workers = dumps, output, words, workers
        self.part = output.with_name(output.name + ".part")
        self.state = output.with_name(output.name + ".part.json")
        self.read_bytes = 0
        self.progress = Progress("cutting passages", self._total_bytes()) if progress else None

    def run(self) -> Made:
        done = self._resume()
        self.output.parent.mkdir(parents=True, exist_ok=True)
        with self.part.open("r+b" if done.bytes else "wb") as file:
            file.truncate(done.bytes)
            file.seek(done.bytes)
            batches = _batches(islice(self._pages(), done.pages, None))
            saved = time.monotonic()
            goes_on = done.pages > 0
            for pages, text, passages in self._made(batches):
                data = text.encode("utf-8")
                file.write(data)
                done = _Done(done.pages + pages, done.passages + passages, done.bytes + len(data))
                if time.monotonic() - saved >= SAVE_EVERY_S:
                    saved = time.monotonic()
                    _flush(file)
                    self._save(done)
                if self.progress and goes_on:
                    self.progress.start_at(self.read_bytes)
                    goes_on = False
                if self.progress:
                    self.progress.show(self.read_bytes, f"{done.pages} pages, {done.passages} passages")
            _flush(file)
        if not done.passages:
            raise DataError(
                f"{', '.join(map(str, self.dumps))}: no article gave a passage; is it a dump of pages with text?"
            )
        os.replace(self.part, self.output)
        self.state.unlink(missing_ok=True)
        if self.progress:
            self.progress.close(f"{done.pages} pages, {done.passages} passages in {self.output}")
        return Made(done.pages, done.passages, self.output)

    def _total_bytes(self) -> int:
        for dump in self.dumps:
            if not dump.is_file():
                raise DataError(f"{dump} {'is no file' if dump.exists() else 'does not exist'}")
        return sum(dump.stat().st_size for dump in self.dumps)

    def _pages(self) -> Iterator[WikiPage]:
        before = 0
        for dump in self.dumps:

            def note(count: int, before: int = before) -> None:
                self.read_bytes = before + count

            yield from read_dump(dump, progress=note)
            before += dump.stat().st_size

    def _made(self, batches: Iterator[list[WikiPage]]) -> Iterator[tuple[int, str, int]]:
        """What each batch gives, in order; only some batches are on their way at any time."""
        if self.workers == 1:
            for batch in batches:
                yield len(batch), *passages_of(batch, self.words)
            return
        context = get_context("spawn" if sys.platform == "darwin" else "forkserver")
        with ProcessPoolExecutor(self.workers, mp_context=context, initializer=_be_a_worker) as pool:
            waiting: deque[tuple[int, Future[tuple[str, int]]]] = deque()
            try:
                for batch in batches:
                    waiting.append((len(batch), pool.submit(passages_of, batch, self.words)))
                    if len(waiting) > 3 * self.workers:
                        pages, future = waiting.popleft()
                        yield pages, *future.result()
                while waiting:
                    pages, future = waiting.popleft()
                    yield pages, *future.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _key(self) -> str:
        """What must be the same for a job to go on."""
        files = [(str(d.absolute()), d.stat().st_size, d.stat().st_mtime_ns) for d in self.dumps]
        version = require("mwparserfromhell", "wiki").__version__
        return hashlib.sha256(json.dumps([VERSION, version, self.words, files]).encode()).hexdigest()

    def _resume(self) -> _Done:
        """Where an earlier call was stopped; the beginning where there was none, or one over other dumps."""
        try:
            record = json.loads(self.state.read_text(encoding="utf-8"))
            if record.pop("key") == self._key() and self.part.stat().st_size >= record["bytes"]:
                done = _Done(**record)
                if self.progress:
                    print(f"going on after {done.pages} pages, {done.passages} passages", file=sys.stderr)
                return done
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass
        return _Done()

    def _save(self, done: _Done) -> None:
        record = {"key": self._key(), "pages": done.pages, "passages": done.passages, "bytes": done.bytes}
        aside = self.state.with_name(self.state.name + ".new")
        aside.write_text(json.dumps(record), encoding="utf-8")
        os.replace(aside, self.state)


def _batches(pages: Iterator[WikiPage]) -> Iterator[list[WikiPage]]:
    while batch := list(islice(pages, PAGES_A_BATCH)):
        yield batch


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _be_a_worker() -> None:
    """Leave Ctrl-C to the first process, and end with it, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
