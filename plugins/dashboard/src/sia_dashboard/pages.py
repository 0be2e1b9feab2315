"""Page contents: from a run's record to the values that a template prints."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import islice
from statistics import fmean
from typing import Any, Protocol
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from sia_cli.figures import better, narrow, sees
from sia_dashboard import cases, charts, diffs, words
from sia_dashboard.bounds import SHOWN
from sia_dashboard.lineage import lineage
from sia_dashboard.records import Record, Row

MOST_NODES = 1000
"""Of the lineage."""

DRAWN = 6
"""Histograms on a run's page; the rest is a click away."""


class Links(Protocol):
    """Where a page's links lead; None where there is nothing to lead to."""

    def candidate(self, name: str) -> str | None: ...

    def rollouts(self, purpose: str, agent: str, outcome: str = "") -> str | None: ...

    def harness(self, digest: str) -> str | None: ...


@dataclass(frozen=True)
class Served:
    """Links of a run that is served."""

    name: str = ""

    def of(self, name: str) -> Served:
        return Served(name)

    def run(self, name: str = "") -> str:
        return f"/runs/{quote(name or self.name, safe='')}"

    def find(self) -> str:
        return f"{self.run()}/find"

    def candidate(self, name: str) -> str:
        return f"{self.run()}/candidates/{name}"

    def rollouts(self, purpose: str = "", agent: str = "", outcome: str = "", words: str = "") -> str:
        query = {"purpose": purpose, "agent": agent, "outcome": outcome, "words": words}
        return f"{self.run()}/rollouts?{urlencode({key: value for key, value in query.items() if value})}"

    def rollout(self, row: Row) -> str:
        parts = (row.purpose, row.agent, row.batch, str(row.place))
        return f"{self.run()}/rollouts/{'/'.join(quote(part, safe='') for part in parts)}"

    def harness(self, digest: str) -> str:
        return f"{self.run()}/harness/{digest}"


class Filed:
    """Links of a page that stands alone: to its own sections."""

    def candidate(self, name: str) -> str:
        return f"#candidate-{name}"

    def rollouts(self, purpose: str, agent: str, outcome: str = "") -> None:
        return None

    def harness(self, digest: str) -> None:
        return None


def environment() -> Environment:
    """The templates. All that a run says is escaped; what its record does not hold is left out."""
    templates = Environment(
        loader=PackageLoader("sia_dashboard"),
        autoescape=True,
        finalize=words.safe,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(figure=words.figure, interval=words.interval, count=words.count, amount=words.amount)
    templates.filters.update(excerpt=words.excerpt)
    return templates


def render(templates: Environment, name: str, **values: Any) -> str:
    """A page. What a page has not is empty."""
    return templates.get_template(name).render(**{"trail": (), "live": "", **values})


def run_page(record: Record) -> dict[str, Any]:
    """A run at a glance."""
    report = record.report()
    rows = report["generations"]
    sealed, holds = report["sealed"], report["robustness"]
    names = record.names()
    agents = _by_agent(record.rows())
    visible = {key: rollouts for key, rollouts in agents.items() if key[0] != "smoke"}
    on_search = [(agent, rollouts) for (purpose, agent), rollouts in agents.items() if purpose == "search"][:DRAWN]
    drawn = {agent: [row.reward for row in rollouts] for agent, rollouts in on_search}
    ends = charts.ends(report["metric"], [reward for rewards in drawn.values() for reward in rewards])
    return {
        "report": report,
        "narrow": narrow(report["narrow"]) if report.get("narrow") else "",
        "sealed": sealed and charts.forest("Sealed scores", [(which, sealed[which]) for which in sealed]),
        "scores": charts.scores(record.first_gate(), rows, report["metric"].get("bounds")),
        "names": names,
        "sees": sees(report) if report["smallest_gain"] else "",
        "under_way": record.under_way(),
        "lineage": lineage(record.first, record.draft, rows[:MOST_NODES]),
        "beyond": max(0, len(rows) - MOST_NODES),
        "outcomes": [_outcome(*key, rollouts, names) for key, rollouts in islice(visible.items(), SHOWN)],
        "agents": len(visible),
        "histograms": [
            charts.histogram(rewards, f"Rewards on search: {names.get(agent, agent)}", ends)
            for agent, rewards in drawn.items()
        ],
        "history": holds
        and charts.forest(
            "The incumbents on sealed", [(row["change"] or "initial agent", row) for row in holds["history"]]
        ),
    }


def candidate_page(record: Record, generation: int, index: int) -> dict[str, Any] | None:
    """All of one candidate; None where there is none."""
    each = record.candidate(generation, index)
    if each is None:
        return None
    row, agent = each["row"], each["agent"]
    rewards = {who: [one.reward for one in record.rollouts_of(who, "search")] for who in (each["parent"], agent) if who}
    ends = charts.ends(record.metric, [reward for values in rewards.values() for reward in values])
    histograms = (
        charts.histogram(values, f"On search: {'this agent' if who == agent else 'its parent'}", ends)
        for who, values in rewards.items()
    )
    gate = row and row["gate"]
    change = gate and [(row["name"], {"value": gate["delta"], "ci95": gate["ci95"]})]
    purposes = {rollout.purpose: None for rollout in record.rows() if rollout.agent == agent} if agent else {}
    return {
        **each,
        "names": record.names(),
        "title": row["name"] if row else each["decision"].get("name") or each["decision"].get("algorithm"),
        "forest": change and charts.forest("Change on the gate against the incumbent", change, "+"),
        "curves": charts.curves(each["steps"]),
        "lines": diffs.diff(each["diff"]) if each["diff"] else [],
        "histograms": [chart for chart in histograms if chart],
        "purposes": list(purposes),
        "harness": row["harness"] if row else None,
    }


def comparison_page(reports: Sequence[Mapping[str, Any]], records: Sequence[Record]) -> dict[str, Any]:
    """Runs side by side."""
    ends = [(report, report["sealed"]) for report in reports if report["sealed"]]
    metrics = {_metric(report) for report, _ in ends}
    # Of one metric each: two on one axis would compare what does not compare.
    rows = {
        name: [
            (f"{report['run']}: {which}", sealed[which])
            for report, sealed in ends
            if _metric(report) == name
            for which in ("initial", "final")
        ]
        for name in sorted(metrics)
    }
    kinds = [kind for kind in ("rollouts", "tokens", "seconds", "dollars") if _spent(reports, kind)]
    return {
        "reports": reports,
        "forests": [charts.forest(f"Sealed {name}", scores) for name, scores in rows.items()],
        "mixed": len({(report["task"], report["seed"]) for report in reports}) > 1,
        "kinds": kinds,
        "cases": cases.compare(*records) if len(records) == 2 else None,
        "drawn": [
            (report, charts.scores(record.first_gate(), report["generations"], report["metric"].get("bounds")))
            for report, record in zip(reports, records, strict=True)
        ],
    }


def _metric(report: Mapping[str, Any]) -> str:
    """A run's metric, with what a reader has to know of its values."""
    return better(report["metric"]) or str(report["metric"]["name"])


def report_page(record: Record, pictures: Mapping[str, bytes], not_drawn: str) -> str:
    """A run as one page that loads nothing, with PNG pictures of its answer, or why there are none."""
    style = files("sia_dashboard").joinpath("static/style.css").read_text(encoding="utf-8")
    page = run_page(record)
    rows = page["report"]["generations"]
    page["report"] = {**page["report"], "generations": rows[:SHOWN]}
    names = [(row["index"], row["candidate"]) for row in rows[:SHOWN]]
    candidates = (candidate_page(record, *name) for name in names)
    return render(
        environment(),
        "report.html",
        title=record.name,
        page=page,
        left_out=max(0, len(rows) - SHOWN),
        candidates=[each for each in candidates if each],
        pictures={name: base64.b64encode(content).decode() for name, content in pictures.items()},
        not_drawn=not_drawn,
        links=Filed(),
        style=Markup(style),  # our own
        style_digest=_digest(style),
        trail=[(record.name, "")],
    )


def _digest(text: str) -> str:
    """A style sheet's SHA-256 for a content policy, base64."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _by_agent(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.purpose, row.agent), []).append(row)
    return groups


def _outcome(purpose: str, agent: str, rollouts: Sequence[Row], names: Mapping[str, str]) -> dict[str, Any]:
    ended = Counter((row.ended, row.failure) for row in rollouts)
    return {
        "purpose": purpose,
        "agent": agent,
        "name": f"{names[agent]} ({agent})" if agent in names else agent,
        "count": len(rollouts),
        "mean": fmean(row.reward for row in rollouts),
        "ended": [(number, name, failure) for (name, failure), number in ended.most_common(SHOWN)],
    }


def summary(report: Mapping[str, Any]) -> dict[str, Any]:
    """A run's line in the list: its scores, what it cost, and how long it took, as far as these are known."""
    sealed, spent = report.get("sealed"), report.get("budget", {}).get("spent", {})
    accepted = [row["gate"]["candidate"] for row in report["generations"] if row["accepted"] and row["gate"]]
    metric = report.get("metric", {})
    return {
        **report,
        "first": words.interval(sealed["initial"]) if sealed else "",
        "final": words.interval(sealed["final"]) if sealed else "",
        "so_far": words.figure(accepted[-1]) if accepted and not sealed else "",
        "metric_text": better(metric) or metric.get("name", ""),
        "tokens": words.count(spent["tokens"]) if spent.get("tokens") else "",
        "dollars": words.amount(spent["dollars"], "dollars") if spent.get("dollars") else "",
        "duration": words.duration(spent["seconds"]) if spent.get("seconds") else "",
    }


def _spent(reports: Sequence[Mapping[str, Any]], kind: str) -> bool:
    return any(report["budget"]["spent"].get(kind) for report in reports)
