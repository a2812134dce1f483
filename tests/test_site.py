"""The site: every public name is in its reference, every page in its navigation, and it builds without a warning."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from test_docs import BLOCKS, ROOT, modules

ENTRY = re.compile(r"^::: (?P<path>\S+)\n(?:    options:\n      members: (?P<members>.+)\n)?", re.MULTILINE)


def file_of(path: str) -> Path | None:
    """The file of a module, ``None`` where the path names none."""
    place = ROOT / path.replace(".", "/")
    return next((file for file in (place / "__init__.py", place.with_suffix(".py")) if file.is_file()), None)


@cache
def names_of(module: str) -> tuple[dict[str, str], list[str]]:
    """Names at the top of a module with where they come from, and those that are public."""
    file = file_of(module)
    assert file is not None, module
    places: dict[str, str] = {}
    handed_on: list[str] | None = None
    top = ast.parse(file.read_text(encoding="utf-8")).body
    for node in [*top, *(inner for outer in top if isinstance(outer, ast.If) for inner in outer.body)]:
        if isinstance(node, ast.ImportFrom):
            places |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            places[node.name] = f"{module}.{node.name}"
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            named = [target.id for target in targets if isinstance(target, ast.Name)]
            places |= {name: f"{module}.{name}" for name in named}
            if named == ["__all__"] and node.value is not None:
                handed_on = ast.literal_eval(node.value)
    own = [name for name, place in places.items() if place == f"{module}.{name}" and not name.startswith("_")]
    return places, own if handed_on is None else handed_on


def origin(path: str) -> str:
    """Where what a path names is defined: a name that a package hands on is the same thing under both."""
    module, _, name = path.rpartition(".")
    if file_of(module) is None:
        return path  # not ours
    place = names_of(module)[0].get(name, path)
    return path if place == path else origin(place)


def entries(page: str) -> Iterator[str]:
    """Paths of all that a page of the reference shows."""
    for match in ENTRY.finditer(page):
        path, members = match["path"], match["members"]
        if file_of(path) is None:
            yield path
        elif members is None:
            # Where a function and its module have one name, the module is meant.
            yield from (f"{path}.{name}" for name in names_of(path)[1] if file_of(f"{path}.{name}") is None)
        elif members != "false":
            yield from (f"{path}.{name}" for name in members.strip("[]").split(", "))


def imported(code: str) -> list[str]:
    """What an example takes from us, but for modules."""
    nodes = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]
    taken = [f"{node.module}.{alias.name}" for node in nodes for alias in node.names]
    return [path for path in taken if file_of(path.split(".")[0]) and not file_of(path)]


SHOWN = {
    path: origin(path)
    for page in sorted((ROOT / "docs" / "reference").glob("*.md"))
    for path in entries(page.read_text(encoding="utf-8"))
}
HANDED_ON = [
    f"{module}.{name}" for module in modules() if "__all__" in names_of(module)[0] for name in names_of(module)[1]
]
EXAMPLES = sorted({path for block in BLOCKS for path in imported(block.code)})


@pytest.mark.core
@pytest.mark.parametrize("paths", [HANDED_ON, EXAMPLES], ids=["what a module hands on", "what an example imports"])
def test_the_reference_shows(paths: list[str]) -> None:
    assert len(paths) > 50
    assert [path for path in paths if origin(path) not in SHOWN.values()] == [], "add them to a page in docs/reference"


@pytest.mark.core
def test_the_reference_shows_what_there_is() -> None:
    assert [
        path for path in SHOWN.values() if path.rpartition(".")[2] not in names_of(path.rpartition(".")[0])[0]
    ] == []


@pytest.mark.core
def test_what_a_page_leaves_out_is_found() -> None:
    page = "::: agents.check\n    options:\n      members: [load_golden]\n\n::: toolenv.Task\n\n::: toolenv.seeding\n"
    assert sorted(entries(page)) == [
        "agents.check.load_golden", "toolenv.Task", "toolenv.seeding.derive", "toolenv.seeding.rng"
    ]  # fmt: skip
    assert origin("toolenv.Task") == origin("toolenv.episode.Task") == "toolenv.episode.Task"
    assert "agents.advantages.gigpo" not in set(entries("::: agents.advantages\n"))
    assert imported("from toolenv import Task\nimport numpy\nfrom json import loads\n") == ["toolenv.Task"]


@pytest.mark.core
def test_every_page_stands_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    named = re.findall(r"([\w/-]+\.md)$", navigation, flags=re.MULTILINE)
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")]
    assert len(named) == len(set(named)), "a page stands there twice"
    assert sorted(set(pages) - set(named)) == [], "add them to nav in mkdocs.yml"


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    for name in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(name, reason="the site needs pip install 'toolenv[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    pages = {page.relative_to(tmp_path).as_posix(): page.read_text("utf-8") for page in tmp_path.rglob("*.html")}
    assert {"index.html", "overview.html", "trainers.html", "rewards/index.html", "recipes/tool.html"} <= set(pages)
    anchors = {name for page in pages.values() for name in re.findall(r'\bid="([\w.]+)"', page)}
    there = {place for path, place in SHOWN.items() if path in anchors}
    assert [path for path in HANDED_ON + EXAMPLES if origin(path) not in there] == [], "these have no docstring"
    for name, page in pages.items():
        asked = re.findall(r'<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)="?(https?:[^">]*)', page)
        assert asked == [], f"{name} asks the network"
        assert '<details class="example"' not in page, f"{name} shows an example as text"
