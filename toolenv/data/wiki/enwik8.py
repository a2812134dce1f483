"""The passages of ``toolenv fetch wikipedia-2006``, made of enwik8: the first 100 MB of a dump of March 2006."""

from __future__ import annotations

from pathlib import Path

from toolenv.data.wiki.dump import read_dump
from toolenv.data.wiki.markup import plain_text
from toolenv.data.wiki.passages import cut, is_article, to_json
from toolenv.data.wiki.prose import prose
from toolenv.progress import Progress


def make_passages(folder: Path, target: Path) -> None:
    """Cut ``enwik8.gz`` of the folder into passages, the same bytes every time.

    The article in whose middle the 100 MB end is left out.

    Raises:
        DataError: The file cannot be read.
    """
    source = folder / "enwik8.gz"
    progress = Progress("cutting passages", source.stat().st_size)
    read_bytes = passages = 0

    def note(count: int) -> None:
        nonlocal read_bytes
        read_bytes = count

    with target.open("w", encoding="utf-8", newline="\n") as file:
        for page in read_dump(source, cut_off=True, progress=note):
            if is_article(page):
                for passage in cut(page.id, page.title, prose(plain_text(page.text))):
                    file.write(to_json(passage))
                    passages += 1
            progress.show(read_bytes, f"{passages} passages")
    progress.close(f"{passages} passages")
