"""The pictures of a run for a paper: PNG files through matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sia_core.errors import UsageError
from sia_core.types import LARGEST_REWARD
from sia_dashboard import charts
from sia_dashboard.bounds import SHOWN
from sia_dashboard.charts import CURVES
from sia_dashboard.records import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 200


def draw(record: Record, folder: Path) -> list[Path]:
    """Scores along the run, sealed scores, and the curves of each weight update, as far as there are any."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("--png draws with matplotlib: `pip install sia-dashboard[png]`") from None
    report = record.report()
    rows, sealed = report.get("generations", []), report.get("sealed")
    about: dict[str, Any] = report["metric"] if rows or sealed else {"name": ""}
    metric, lower = _label(about["name"]), ", lower is better" if about.get("direction") == "minimize" else ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--png {folder}: {error.strerror}") from None
    written = []

    def save(figure: Figure, name: str) -> None:
        figure.savefig(folder / name, dpi=DPI)
        written.append(folder / name)

    if any(row["gate"] for row in rows):
        figure = Figure(figsize=(6.4, 3.2), layout="constrained")
        _scores(figure.subplots(), f"{metric} on the gate{lower}", record.first_gate(), rows, about.get("bounds"))
        save(figure, "scores.png")
    if sealed:
        figure = Figure(figsize=(4.8, 1.8), layout="constrained")
        _sealed(figure.subplots(), f"sealed {metric}{lower}", sealed)
        save(figure, "sealed.png")
    for row in rows[:SHOWN]:
        steps = record.steps(row["index"], row["candidate"])
        drawn = [(key, title) for key, title in CURVES if sum(step.get(key) is not None for step in steps) > 1]
        if drawn:
            figure = Figure(figsize=(6.4, 2.0 * len(drawn)), layout="constrained")
            for axes, (key, title) in zip(figure.subplots(len(drawn), squeeze=False)[:, 0], drawn, strict=True):
                points = [(step["step"], _drawable(step[key])) for step in steps if step.get(key) is not None]
                axes.plot(*zip(*points, strict=True))
                _whole(axes, [value for _, value in points])
                axes.set_ylabel(title, fontsize="small")
            axes.set_xlabel("step")
            save(figure, f"learner-{row['index']}.{row['candidate']}.png")
    return written


def _label(text: str) -> str:
    """A text of the run under a picture: short, and no formula."""
    return text[:60].replace("$", r"\$")


def _drawable(value: float) -> float:
    """A figure as matplotlib can draw it: its axes overflow where the largest numbers stand."""
    return max(-LARGEST_REWARD, min(LARGEST_REWARD, value))


def _whole(axes: Axes, values: Sequence[float]) -> None:
    """An upright axis as on the pages."""
    axis = charts.Axis.over(values, 0, 1)
    axes.set_ylim(axis.low, axis.high)


def _scores(
    axes: Axes,
    label: str,
    first: Mapping[str, Any] | None,
    rows: Sequence[Mapping[str, Any]],
    bounds: Sequence[float] | None,
) -> None:
    """Each candidate on the gate, with the interval of its paired change; the incumbent as a line."""
    compared = charts.compared(first, rows, bounds)[-SHOWN:]
    incumbents = [_drawable(compared[0].before)]
    for place, each in enumerate(compared, 1):
        score, low, high = map(_drawable, (each.score, each.low, each.high))
        marker, fill = "s" if each.row["lever"] == "weights" else "o", "full" if each.row["accepted"] else "none"
        spread = [[max(0.0, score - low)], [max(0.0, high - score)]]
        axes.errorbar(place, score, spread, marker=marker, fillstyle=fill, color="black", capsize=2)
        incumbents.append(_drawable(each.after))
    _whole(axes, [*incumbents, *(end for each in compared for end in (each.low, each.high))])
    gated = [each.row for each in compared]
    axes.step(range(len(incumbents)), incumbents, where="post")
    axes.set_xticks(range(1, len(gated) + 1), [f"{row['index']}.{row['candidate']}" for row in gated], fontsize="small")
    axes.set_xlabel("candidate (square: weights; filled: accepted)")
    axes.set_ylabel(label)


def _sealed(axes: Axes, label: str, sealed: Mapping[str, Mapping[str, Any]]) -> None:
    for place, which in enumerate(("final", "initial")):
        value, low, high = map(_drawable, (sealed[which]["value"], *sealed[which]["ci95"]))
        axes.errorbar(
            value, place, xerr=[[max(0.0, value - low)], [max(0.0, high - value)]], fmt="o", color="black", capsize=3
        )
    axes.set_yticks((0, 1), ("final agent", "initial agent"))
    axes.set_ylim(-0.5, 1.5)
    axes.set_xlabel(label)
