"""The picture of what each lever earns, drawn from the tables of results.md: `python docs/two_levers.py`.

A section whose first table holds none, weights, harness and both, each with its interval, becomes a panel.
"""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot

DOCS = Path(__file__).parent
ARMS = ("none", "weights", "harness", "both")
SCORE = re.compile(r"\b(none|weights|harness|both) \**(\d[\d.]*)\** \[([\d.]+), ([\d.]+)\]")


def tables() -> dict[str, dict[str, tuple[float, float, float]]]:
    """Each arm's sealed score and its interval's ends, by the title of their section."""
    by_section = {}
    for section in (DOCS / "results.md").read_text(encoding="utf-8").split("\n## ")[1:]:
        scores = {arm: (float(mean), float(low), float(high)) for arm, mean, low, high in SCORE.findall(section)}
        if set(scores) == set(ARMS):
            by_section[section.partition(":")[0]] = scores
    return by_section


def main() -> None:
    mpl.rcParams.update({"svg.hashsalt": "sia", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 11})
    panels = tables()
    figure, axes = pyplot.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.4), sharey=True, squeeze=False)
    for axis, (title, scores) in zip(axes[0], panels.items(), strict=True):
        for place, arm in enumerate(ARMS):
            mean, low, high = scores[arm]
            color = "#1f6feb" if arm == "both" else "#9aa4b2"
            axis.bar(place, mean, color=color, width=0.7)
            axis.errorbar(place, mean, [[mean - low], [high - mean]], color="#1c2128", capsize=3, linewidth=1)
            axis.text(place, min(high, 1.0) + 0.03, f"{mean:.2f}", ha="center")
        axis.set(title=title, xticks=range(len(ARMS)), xticklabels=ARMS, ylim=(0, 1.15), yticks=(0, 0.5, 1))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("sealed score")
    figure.tight_layout()
    figure.savefig(DOCS / "images" / "two-levers.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
