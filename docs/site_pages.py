"""A hook of MkDocs: what stands outside ``docs/`` is on the site too, and links to it lead there.

The pages link to one another as the repository lays them out, so that they read well there. On the site a page outside
``docs/`` has another place (``OUTSIDE``), and a file that a page links to is copied to ``files/``.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = {
    "README.md": "overview.md",
    "agents/README.md": "trainers.md",
    "rewards/README.md": "rewards/compared.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "toolenv/data/world/README.md": "world.md",
}
"""Pages outside ``docs/``, and where they are on the site."""

FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<=\]\()(?P<target>[^)\s#:]+)(?=[)#])")
CODE = re.compile(r"`[^`\n]+`")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages outside ``docs/``, and the files that any page links to."""
    for place, shown in OUTSIDE.items():
        files.append(File.generated(config, shown, abs_src_path=str(ROOT / place)))
    for page in [page for page in files if page.src_uri.endswith(".md")]:
        for place in _links(page.content_string, _place(page.src_uri)):
            if _shown(place) not in files.src_uris and (ROOT / place).is_file():
                files.append(File.generated(config, _shown(place), abs_src_path=str(ROOT / place)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Have links lead to where things are on the site, and tables read as they do in the repository."""
    here = page.file.src_uri

    def moved(match: re.Match[str]) -> str:
        return posixpath.relpath(_shown(_resolve(_place(here), match["target"])), posixpath.dirname(here) or ".")

    def adapted(prose: str) -> str:
        # A bar within code is escaped in a table of the repository's pages, and is itself in one of Python-Markdown.
        return CODE.sub(lambda code: code[0].replace(r"\|", "|"), LINK.sub(moved, prose))

    # A fence is every second part, and no prose.
    return "".join(part if i % 2 else adapted(part) for i, part in enumerate(FENCE.split(markdown)))


def _links(markdown: str, place: str) -> Iterator[str]:
    """What a page links to in the repository, as paths from its root."""
    return (_resolve(place, match["target"]) for match in LINK.finditer(FENCE.sub("", markdown)))


def _place(shown: str) -> str:
    """Path in the repository of what is on the site."""
    return next((place for place, there in OUTSIDE.items() if there == shown), f"docs/{shown}")


def _shown(place: str) -> str:
    """Path on the site of what is in the repository; of a folder, that of its page."""
    place = f"{place}/README.md" if (ROOT / place / "README.md").is_file() else place
    return OUTSIDE.get(place) or (place.removeprefix("docs/") if place.startswith("docs/") else f"files/{place}")


def _resolve(place: str, target: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(place), target))
