"""The site: every public name is in its reference, every page in its navigation, and it builds without a warning."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from test_docs import BLOCKS, ROOT, modules, skip_without_extra

OURS = ("toolenv", "rewards", "agents")
REFERENCE = ROOT / "docs" / "reference"
ENTRY = re.compile(r"^::: (?P<path>\S+)\n(?:    options:\n      members: (?P<members>.+)\n)?", re.MULTILINE)


def origin(path: str) -> str:
    """Where what a path names was defined: a name that a package hands on is the same thing under both."""
    module, _, name = path.rpartition(".")
    thing = getattr(importlib.import_module(module), name)
    return f"{thing.__module__}.{thing.__qualname__}" if hasattr(thing, "__qualname__") else path


def public_names(module: Any) -> list[str]:
    """What a page about a module shows: what it hands on, else what it defines."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [n for n, v in vars(module).items() if not n.startswith("_") and defined_in(module, v)]


def defined_in(module: Any, value: Any) -> bool:
    return getattr(value, "__module__", None) == module.__name__ or not hasattr(value, "__qualname__")


def entries(text: str) -> Iterator[str]:
    """Paths of all that a page of the reference shows."""
    for match in ENTRY.finditer(text):
        path, members = match["path"], match["members"]
        if not is_module(path):
            yield path
        elif members is None:
            names = (f"{path}.{name}" for name in public_names(importlib.import_module(path)))
            # Of a function and its module, which have one name, griffe shows the module.
            yield from (name for name in names if not is_module(name))
        elif members != "false":
            yield from (f"{path}.{name}" for name in members.strip("[]").split(", "))


def is_module(path: str) -> bool:
    return (ROOT / path.replace(".", "/")).is_dir() or (ROOT / (path.replace(".", "/") + ".py")).is_file()


@cache
def shown() -> set[str]:
    """All that the reference shows, each by where it was defined."""
    return {origin(path) for page in sorted(REFERENCE.glob("*.md")) for path in entries(page.read_text("utf-8"))}


def handed_on() -> list[str]:
    """What the packages say is public."""
    return [name for name in modules() if re.search(r"^__all__", source(name), re.MULTILINE)]


def source(module: str) -> str:
    path = ROOT / module.replace(".", "/")
    return (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")


def imported(code: str) -> list[str]:
    """What an example takes from us."""
    nodes = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]
    return [f"{n.module}.{a.name}" for n in nodes if (n.module or "").split(".")[0] in OURS for a in n.names]


EXAMPLES = sorted({path for block in BLOCKS for path in imported(block.code) if not is_module(path)})


@pytest.mark.parametrize("module", handed_on())
def test_the_reference_shows_what_a_module_hands_on(module: str, request: pytest.FixtureRequest) -> None:
    try:
        missing = [path for path in paths_of(module) if not_shown(path)]
    except ImportError as error:
        skip_without_extra(error, request.config)
        raise
    assert missing == [], f"add them to a page in docs/reference, such as ::: {module}"


def paths_of(module: str) -> list[str]:
    handed = importlib.import_module(module)
    return [f"{module}.{name}" for name in handed.__all__ if not isinstance(getattr(handed, name), ModuleType)]


def test_the_reference_shows_what_examples_use() -> None:
    assert len(EXAMPLES) > 50
    assert [path for path in EXAMPLES if not_shown(path)] == [], "add them to a page in docs/reference"


def not_shown(path: str) -> bool:
    return origin(path) not in shown()


def test_what_a_page_leaves_out_is_found() -> None:
    page = "::: agents.check\n    options:\n      members: [load_golden]\n\n::: toolenv.Task\n\n::: toolenv.seeding\n"
    found = set(entries(page))
    assert {"agents.check.load_golden", "toolenv.Task", "toolenv.seeding.rng", "toolenv.seeding.derive"} <= found
    assert "agents.check.check_estimator" not in found
    assert origin("toolenv.Task") == origin("toolenv.episode.Task") == "toolenv.episode.Task"
    assert imported("from toolenv import Task\nimport numpy\nfrom json import loads\n") == ["toolenv.Task"]
    assert "agents.advantages.gigpo" not in set(entries("::: agents.advantages\n"))
    assert not_shown("toolenv.env.is_count")


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
    public = [path for module in handed_on() for path in paths_of(module)]
    assert [path for path in public if not {path, origin(path)} & anchors] == [], "not there, or without a docstring"
    for name, page in pages.items():
        asked = re.findall(r'<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)="?(https?:[^">]*)', page)
        assert asked == [], f"{name} asks the network"
        assert "&gt;&gt;&gt;" not in re.sub(r"<pre.*?</pre>", "", page, flags=re.DOTALL), f"{name} has code as text"
