"""Pictures of reports, as files: calibration, curves with intervals, bars with intervals.

The end of the file's name says what is written: ``.png``, ``.svg`` or ``.pdf``.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rewards.training.estimates import Estimate
from toolenv.extras import require

SIZE_INCHES = (6.4, 4.0)
PIXELS_AN_INCH = 120
BAR_INCHES = 0.15
LEGEND_INCHES = 2.2
LABEL_INCHES = 0.85
LABEL_CHARS = 12
"""Longest line of a label under bars."""
COLOURS = ("#2563a8", "#d4722a", "#3a8f5d", "#8a4fa3", "#b23a48", "#6b6b6b")
MARKERS = "osD^vP"

Bin = tuple[float, float, int]
"""Of a reliability diagram: mean score, share of good calls, and how many calls there are."""


def draw_reliability(series: Mapping[str, Sequence[Bin]], path: str | Path, *, title: str = "") -> Path:
    """A reliability diagram: what was said against what was so; on the diagonal, a score is a probability.

    Args:
        series: Bins by name. The area of a dot says how many calls stand behind it.
        path: Where to.
        title: Over the picture.

    Raises:
        MissingExtraError: matplotlib is not installed.

    Example:
        >>> draw_reliability({"TRM": [(0.1, 0.12, 40), (0.9, 0.85, 60)]}, "reliability.png").name
        'reliability.png'
    """
    with _axes(path, title, "mean score", "share of good calls", (4.6, 4.6)) as axes:
        axes.plot([0, 1], [0, 1], color="#9a9a9a", linewidth=1, linestyle="--")
        for number, (name, bins) in enumerate(series.items()):
            most = max((count for _, _, count in bins), default=1)
            scores, shares = [b[0] for b in bins], [b[1] for b in bins]
            axes.plot(scores, shares, color=_colour(number), linewidth=1, alpha=0.5)
            areas = [12 + 150 * count / most for _, _, count in bins]
            axes.scatter(scores, shares, s=areas, color=_colour(number), label=name, alpha=0.8, linewidths=0)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        _legend(axes, series)
    return Path(path)


def draw_curves(
    series: Mapping[str, Sequence[tuple[float, Estimate]]],
    path: str | Path,
    *,
    title: str = "",
    x_label: str = "",
    y_label: str = "",
    log_x: bool = False,
    lines: Mapping[str, float] | None = None,
) -> Path:
    """Curves with a band for the interval.

    Args:
        series: Points by name: where on the x axis, and the estimate there.
        path: Where to.
        title: Over the picture.
        x_label: Of the x axis.
        y_label: Of the y axis.
        log_x: Whether the x axis is logarithmic; its ticks are then the points'.
        lines: Further values by name, as dashed lines across.

    Raises:
        MissingExtraError: matplotlib is not installed.

    Example:
        >>> points = [(1, Estimate(0.5, 0.4, 0.6)), (2, Estimate(0.7, 0.65, 0.75))]
        >>> draw_curves({"TRM": points}, "curve.png", x_label="n", lines={"oracle": 0.9}).name
        'curve.png'
    """
    with _axes(path, title, x_label, y_label, SIZE_INCHES) as axes:
        for number, (name, points) in enumerate(series.items()):
            xs, middle = [x for x, _ in points], [estimate.value for _, estimate in points]
            ends = [(e.value if e.low is None else e.low, e.value if e.high is None else e.high) for _, e in points]
            style = {"color": _colour(number), "marker": MARKERS[number % len(MARKERS)], "markersize": 4}
            axes.plot(xs, middle, label=name, linewidth=1.8, **style)
            axes.fill_between(xs, *zip(*ends, strict=True), color=_colour(number), alpha=0.15, linewidth=0)
            if len(points) == 1:  # there a band has no width
                axes.plot(xs * 2, ends[0], color=_colour(number), linewidth=1.2)
        for number, (name, value) in enumerate((lines or {}).items(), start=len(series)):
            axes.axhline(value, color=_colour(number), linewidth=1, linestyle="--", label=name)
        if log_x:
            _log_ticks(axes, sorted({x for points in series.values() for x, _ in points}))
        _legend(axes, [*series, *(lines or {})])
    return Path(path)


def draw_bars(
    groups: Mapping[str, Mapping[str, Estimate]],
    path: str | Path,
    *,
    title: str = "",
    y_label: str = "",
    lines: Mapping[str, float] | None = None,
) -> Path:
    """Bars with whiskers for the interval; the legend stands beside them. With many bars the picture is wider.

    Args:
        groups: By name on the x axis: the bars there, by name of their colour.
        path: Where to.
        title: Over the picture.
        y_label: Of the y axis.
        lines: Further values by name, as dashed lines across.

    Raises:
        MissingExtraError: matplotlib is not installed.

    Example:
        >>> bars = {"TRM": Estimate(0.9, 0.88, 0.92), "baseline": Estimate(0.7, 0.66, 0.74)}
        >>> draw_bars({"first call": bars, "later calls": bars}, "bars.png", y_label="AUC").name
        'bars.png'
    """
    names = list(dict.fromkeys(name for bars in groups.values() for name in bars))
    width = 0.8 / max(1, len(names))
    wide = max(SIZE_INCHES[0], max(BAR_INCHES * len(names), LABEL_INCHES) * len(groups) + LEGEND_INCHES)
    with _axes(path, title, "", y_label, (wide, SIZE_INCHES[1])) as axes:
        for number, name in enumerate(names):
            found = [(place, bars[name]) for place, bars in enumerate(groups.values()) if name in bars]
            xs = [place + (number - (len(names) - 1) / 2) * width for place, _ in found]
            axes.bar(xs, [e.value for _, e in found], width * 0.92, label=name, color=_colour(number))
            for x, (_, e) in zip(xs, found, strict=True):
                if e.low is not None and e.high is not None:
                    axes.plot([x, x], [e.low, e.high], color="#222222", linewidth=1.2)
        for number, (name, value) in enumerate((lines or {}).items(), start=len(names)):
            axes.axhline(value, color=_colour(number), linewidth=1, linestyle="--", label=name)
        labels = [textwrap.fill(name, LABEL_CHARS) for name in groups]
        axes.set_xticks(range(len(groups)), labels, fontsize=8 if wide > SIZE_INCHES[0] else None)
        if len(names) + len(lines or {}) > 1:
            axes.figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return Path(path)


# Inside ------------------------------------------------------------------------------------------------------------


@contextmanager
def _axes(path: str | Path, title: str, x_label: str, y_label: str, size: tuple[float, float]) -> Iterator[Any]:
    """Axes to draw on, in the style of all; what was drawn is then written."""
    require("matplotlib", "train")
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=PIXELS_AN_INCH, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.set_title(title, fontsize=11, loc="left")
    yield axes
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    # No date or version inside, so that the same numbers make the same file.
    kept_out = ("Software",) if Path(path).suffix == ".png" else ("Creator", "Date")
    figure.savefig(path, metadata=dict.fromkeys(kept_out))


def _legend(axes: Any, names: Sequence[str] | Mapping[str, Any]) -> None:
    if len(names) > 1:
        axes.legend(frameon=False, fontsize=8)


def _log_ticks(axes: Any, xs: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(xs, [f"{x:g}" if x < 1000 else f"{x / 1000:.3g}k" for x in xs])
    axes.minorticks_off()


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]
