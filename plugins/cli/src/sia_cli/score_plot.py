"""The scores along a run as a small SVG picture, for notebooks."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from sia_reading.possible import clipped

WIDTH, HEIGHT, LEFT, EDGE = 640.0, 220.0, 56.0, 24.0

MOST_POINTS = 100
"""The last candidates are drawn."""


def score_plot(report: Mapping[str, Any]) -> str:
    """Each compared candidate with the interval of its paired change, and the incumbent as a line; empty before one.

    A candidate stands at the incumbent of its moment plus its change, as in the report.
    """
    rows = [row for row in report["generations"] if row["gate"]][-MOST_POINTS:]
    if not rows:
        return ""
    spans = [[row["gate"]["incumbent"] + each for each in (*row["gate"]["ci95"], row["gate"]["delta"])] for row in rows]
    if bounds := report["metric"].get("bounds"):
        spans = [clipped(span, bounds) for span in spans]
    now = rows[0]["gate"]["incumbent"]
    values = [now, *(value for span in spans for value in span)]
    low, high = min(values), max(values)
    room = (high - low) * 0.05 or 0.05

    def y(value: float) -> float:
        share = float((value - low + room) / (high - low + 2 * room))
        return round(HEIGHT - EDGE - share * (HEIGHT - 2 * EDGE), 1)

    step = (WIDTH - LEFT - EDGE) / (len(rows) + 1)
    path, marks = [f"{LEFT},{y(now)}"], []
    for place, (row, (least, most, score)) in enumerate(zip(rows, spans, strict=True), 1):
        x = round(LEFT + place * step, 1)
        path.append(f"{x},{y(now)}")
        if row["accepted"]:
            now = score
            path.append(f"{x},{y(now)}")
        title = escape(f"{row['name']}: {score:.4f}, {row['outcome']}")
        fill = "currentColor" if row["accepted"] else "none"
        marks.append(
            f'<g><title>{title}</title><path d="M{x} {y(least)}V{y(most)}"/>'
            f'<circle cx="{x}" cy="{y(score)}" r="4" fill="{fill}"/></g>'
        )
    path.append(f"{WIDTH - EDGE},{y(now)}")
    labels = "".join(f'<text x="4" y="{y(value) + 4}">{value:.3f}</text>' for value in {low, high})
    return (
        f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" width="{WIDTH:g}" role="img" style="max-width:100%" '
        'font-size="12" fill="currentColor"><title>Scores on the gate</title>'
        f'<polyline points="{" ".join(path)}" fill="none" stroke="currentColor" stroke-width="2"/>'
        f'<g stroke="currentColor">{"".join(marks)}</g>{labels}'
        f'<text x="{LEFT:g}" y="{HEIGHT - 4:g}">candidates in order; filled: accepted; line: incumbent</text></svg>'
    )
