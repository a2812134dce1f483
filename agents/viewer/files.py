"""Data for the page as scripts, since a page that is opened from disk may load scripts and nothing else.

Transcripts stand in chunks that the page loads when it shows one of them. A chunk's name holds a hash of its content,
so that a page that was opened before a rewriting never mixes old facts with new texts.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from agents.viewer.runs import Scored
from agents.viewer.transcript import opening, transcript
from toolenv.data.text_files import replace_file

CHUNK_EPISODES = 200
CHUNK_CHARS = 4_000_000
"""A chunk ends after so many episodes, or characters, whichever comes first."""
DATA = "data"
_CHUNKS = "episodes-*.js"


def as_script(value: Any) -> str:
    r"""A JSON value as JavaScript in ASCII, harmless also where a script stands inside a page.

    Example:
        >>> as_script("</script>\u2028")
        '"\\u003c/script\\u003e\\u2028"'
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


class ChunkWriter:
    """Writes transcripts in chunks, and holds the texts of one chunk at most.

    Args:
        folder: Where the page stands; the chunks go to its folder ``data``.

    Attributes:
        chunks: Of each chunk written, its file's name and the number of its first episode.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / DATA
        self.folder.mkdir(parents=True, exist_ok=True)
        self.chunks: list[tuple[str, int]] = []
        self._written = 0
        self._start()

    def add(self, scored: Scored) -> None:
        """Take in the next episode."""
        prompt = as_script(opening(scored))
        text = as_script(transcript(scored) | {"prompt": self._prompts.setdefault(prompt, len(self._prompts))})
        self._episodes.append(text)
        self._chars += len(text)
        if len(self._episodes) >= CHUNK_EPISODES or self._chars >= CHUNK_CHARS:
            self._flush()

    def finish(self) -> None:
        """Write what is left."""
        if self._episodes:
            self._flush()

    def forget_old(self) -> None:
        """Remove the chunks of an earlier page, once nothing names them any more."""
        kept = {name for name, _ in self.chunks}
        for path in self.folder.glob(_CHUNKS):
            if path.name not in kept:
                path.unlink(missing_ok=True)

    def _start(self) -> None:
        self._episodes: list[str] = []
        self._prompts: dict[str, int] = {}
        self._chars = 0

    def _flush(self) -> None:
        prompts, episodes = ",".join(self._prompts), ",\n".join(self._episodes)
        body = f'{{"prompts":[{prompts}],\n"episodes":[{episodes}]}}'
        digest = hashlib.sha256(body.encode("ascii")).hexdigest()[:12]
        number = len(self.chunks)
        name = f"episodes-{number:05}-{digest}.js"
        replace_file(self.folder / name, f'view.chunks["{name}"] = {body};\n'.encode("ascii"))
        self.chunks.append((name, self._written))
        self._written += len(self._episodes)
        self._start()


def write_index(folder: Path, index: dict[str, Any]) -> None:
    """Write the script that the page loads first."""
    script = f"var view = {as_script({'index': index, 'chunks': {}})};\n"
    replace_file(folder / DATA / "index.js", script.encode("ascii"))
