"""The page: a folder of files that needs nothing but a browser, written from the runs that it shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agents.curves import SERIES_COLOURS, Run, draw_panels, series_names, smoothing_window
from agents.report import OUTCOME, clean, page_environment
from agents.viewer.compare import differing, series
from agents.viewer.files import DATA, ChunkWriter, write_index
from agents.viewer.index import Index
from agents.viewer.runs import Source, find_runs, read_scored
from toolenv.data.text_files import replace_file
from toolenv.errors import ConfigError
from toolenv.extras import require

FRONT = Path(__file__).parent / "front"
COPIED = ("view.css", "list.js", "transcript.js", "view.js")
PAGE = "index.html"
MARK = "<!-- written by toolenv view -->"
"""Stands in every page, so that no other folder is overwritten."""


def write_view(runs: Sequence[str | Path], folder: str | Path | None = None) -> tuple[Path, list[str]]:
    """Write a page over the episodes and metrics of runs.

    Args:
        runs: Folders of training runs or evaluations, or files of episodes. A run may still be going on.
        folder: Where to; ``None``: ``view`` in the first run's folder.

    Returns:
        The page, and what the reader should be told: lines that were left out.

    Raises:
        ConfigError: A run that is not there, no episode at all, or a folder that holds something else.
        DataError: A line that is no episode; the message names file, line and reason.
        MissingExtraError: jinja2 or matplotlib is not installed.

    Example:
        >>> import tempfile
        >>> from toolenv import Episode, Task
        >>> from toolenv.episode import write_episodes
        >>> run = Path(tempfile.mkdtemp())
        >>> write_episodes(run / "episodes.jsonl", [Episode("e", Task("t", "2 + 2?"), "hermes", ())])
        1
        >>> write_view([run])[0].relative_to(run).as_posix()
        'view/index.html'
    """
    notes: list[str] = []
    sources = find_runs([Path(run) for run in runs], notes)
    if not sources:
        raise ConfigError("name at least one run to view")
    folder = Path(folder) if folder is not None else sources[0].episodes.parent / "view"
    _check(folder)
    index, chunks, starts = Index(), ChunkWriter(folder), []
    for number, source in enumerate(sources):
        starts.append(len(index))
        for scored in read_scored(source.episodes, notes):
            index.add(number, scored)
            chunks.add(scored)
    chunks.finish()
    if not len(index):
        raise ConfigError(f"no episode yet in {', '.join(str(source.episodes) for source in sources)}")
    facts = index.to_json()
    names = [clean(source.name) for source in sources]
    write_index(folder, {"runs": names, "starts": starts, "chunks": chunks.chunks, "outcome": OUTCOME, **facts})
    for name in COPIED:
        replace_file(folder / name, (FRONT / name).read_bytes())
    replace_file(folder / PAGE, _html(sources, index, starts).encode("utf-8"))
    chunks.forget_old()
    return folder / PAGE, notes


def _check(folder: Path) -> None:
    """Refuse a folder that holds something else than such a page."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is no folder; give another --output")
    page = folder / PAGE
    if page.exists():
        ours = MARK in page.read_text(encoding="utf-8", errors="replace")
    else:  # a first writing that was stopped leaves some of the files
        names = {path.name.removesuffix(".partial") for path in folder.iterdir()} if folder.exists() else set()
        ours = names <= {DATA, PAGE, *COPIED}
    if not ours:
        raise ConfigError(f"{folder} holds other files; give another --output")


def _html(sources: Sequence[Source], index: Index, starts: Sequence[int]) -> str:
    environment = page_environment(FRONT)
    measured = [source for source in sources if source.metrics]
    drawn = [Run(name, source.metrics) for name, source in zip(series(measured), measured, strict=True)]
    names = series_names(drawn)
    page: str = environment.get_template(PAGE).render(
        mark=require("markupsafe", "train").Markup(MARK),
        runs=[_row(source, index, *span) for source, span in zip(sources, _spans(starts, len(index)), strict=True)],
        settings=differing([source.config for source in sources]),
        series=[(name, number % SERIES_COLOURS) for number, name in enumerate(names)],
        seeds=len(names) < len(drawn),
        repeated=len(names) > SERIES_COLOURS,
        panels=draw_panels(drawn) if drawn else [],
        window=smoothing_window(drawn),
        count=len(index),
    )
    return page


def _spans(starts: Sequence[int], end: int) -> list[tuple[int, int]]:
    return list(zip(starts, [*starts[1:], end], strict=True))


def _row(source: Source, index: Index, start: int, end: int) -> dict[str, str]:
    """What the table says of a run."""
    updates = [update for update in index.columns["update"][start:end] if update is not None]
    outcomes = [value for value in index.terms.get(OUTCOME, [])[start:end] if value is not None]
    calls = index.columns["calls"][start:end]
    held_out = [value for row in source.metrics if isinstance(value := row.get("eval/success_rate"), int | float)]
    return {
        "name": source.name,
        "episodes": f"{end - start:,}",
        "updates": f"{max(updates):,}" if updates else "–",
        "success": f"{sum(value >= 1.0 for value in outcomes) / len(outcomes):.1%}" if outcomes else "–",
        "held_out": f"{held_out[0]:.1%} → {held_out[-1]:.1%}" if len(held_out) > 1 else "–",
        "calls": f"{sum(calls) / len(calls):.2f}" if calls else "–",
    }
