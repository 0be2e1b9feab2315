"""The report of a run as text for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sia_cli.figures import better, ended, held_out, interval, made_of, narrow, sees
from sia_cli.options import run_argument
from sia_cli.output import console, plain
from sia_cli.sandboxes import may_pass

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


def print_report(report: Mapping[str, Any], folder: Path) -> None:
    """The report for people."""
    out = console()
    if "task" not in report:
        out.print(plain(f"{report['run']} was stopped before its first step; start it again with `sia run`."))
        return
    out.print(plain("\n", (report["run"], "bold"), f": {_header(report)}"))
    if report["sandbox_lacks"]:
        out.print(plain((f"This sandbox does not guarantee: {', '.join(report['sandbox_lacks'])}.", "yellow")))
        if attacks := ", ".join(may_pass(report["sandbox_lacks"])):
            out.print(
                plain((f"Attacks that it may not stop (`sia doctor --attacks` tries them): {attacks}.", "yellow"))
            )
    if note := better(report["metric"]):
        out.print(plain(note))
    _print_candidates(report["generations"], out)
    if sorted_out := triaged(report.get("triage", {})):
        out.print(sorted_out)
    if report["smallest_gain"]:
        queries = report["gate_queries"]
        out.print(f"The gate was asked {queries} {'time' if queries == 1 else 'times'}; {sees(report)}.")
    if report.get("levels"):
        out.print(levels(report["levels"]))
    if note := held_out(report):
        out.print(note)
    if report.get("narrow"):
        out.print(plain((f"The first agent's {narrow(report['narrow'])}.", "yellow")))
    if count := report.get("out_of_bounds", 0):
        out.print(plain((out_of_bounds(count, report), "yellow")))
    for line in outcome_lines(report.get("outcomes", {})):
        out.print(line)
    _print_sealed(report, out)
    for row in report.get("parted", ()):
        out.print(plain((apart(row), "yellow")))
    _print_robustness(report["robustness"], out)
    if cut := cut_replies(report.get("replies", {})):
        out.print(plain((cut, "yellow")))
    spent = ", ".join(
        f"{amount:,.{4 if kind == 'dollars' else 0}f} {kind}"
        for kind, amount in report["budget"]["spent"].items()
        if amount
    )
    out.print(plain(f"Spent: {spent or 'nothing yet'}."))
    for model in model_lines(report.get("models", ())):
        out.print(plain(model), soft_wrap=True)
    name = run_argument(folder)
    if report.get("waiting"):
        what = "; ".join(report["waiting"])
        hint = f"It waits for your word: {what}. `sia resume {name}` takes --approve or --decline."
    elif report["status"] != "finished":
        hint = f"Not finished: `sia resume {name}` goes on with it."
    else:
        what = "best answer" if report.get("kind") == "discover" else "final agent"
        hint = f"`sia show {name}` tells more; `sia export {name} DIR` writes the {what}."
    out.print(plain(hint), soft_wrap=True)
    out.print("SIA's docs/glossary.md explains the words.")
    out.print(plain((str(folder), "dim")), soft_wrap=True)


def _header(report: Mapping[str, Any]) -> str:
    """The parts that the run is made of."""
    engine = report["policy"]
    policy = engine["settings"].get("policy", engine["name"]) if engine else None
    about = {**report, "policy": policy, "budget": report["budget"]["limit"]}
    return f"{made_of(about)}, sandbox {report['sandbox']}"


def _print_candidates(rows: Sequence[Mapping[str, Any]], out: Console) -> None:
    """A line for each candidate; below, whole, why some were not compared."""
    from rich.table import Table

    table = Table("gen", "lever", "change", "predicted gain", "gate: change of the mean [95%]", "verdict")
    refused = []
    for row in rows:
        gate = row["gate"]
        verdict = ("accepted", "green") if row["accepted"] else (_rejected(row), "")
        table.add_row(
            str(row["index"]),
            plain(row["lever"] + (f" ({row['algorithm']})" if row["algorithm"] else "")),
            plain(row["name"]),
            f"{row['predicted']:+.3f}",
            plain(interval({"value": gate["delta"], "ci95": gate["ci95"]}, "+") if gate else ""),
            plain(verdict),
            end_section=row["accepted"],
        )
        if not gate:
            refused.append(plain(f"{row['index']}.{row['candidate']} {row['name']} was not compared: {row['why']}"))
    out.print(table)
    for line in refused:
        out.print(line)


def triaged(triage: Mapping[str, int]) -> str:
    """The line on what was dropped before a full evaluation; empty if nothing."""
    clauses = []
    if triage.get("checked"):
        clauses.append(f"of {triage['checked']} harnesses that were checked {triage['not_running']} did not run")
    if drops := triage.get("refused", 0) + triage.get("failed", 0) + triage.get("screened", 0):
        tried, refused, screened = drops + triage["compared"], triage["refused"], triage.get("screened", 0)
        clauses.append(
            f"of {tried} candidate{'s' * (tried != 1)} {refused} {'was' if refused == 1 else 'were'} refused, "
            f"{triage['failed']} failed, {screened} {'was' if screened == 1 else 'were'} not better than the incumbent "
            "on search"
        )
    return f"Dropped early: {'; '.join(clauses)}." if clauses else ""


def levels(used: Mapping[str, Any]) -> str:
    """The sum of the comparisons' error levels, and its promise."""
    promise = (
        "nothing was compared"
        if not used["used"]
        else f"at most {used['used']:.3f} false promotions expected"
        if used["promotions"]
        else f"a chance of at most {used['used']:.1%} that a run like this promotes anything false"
    )
    return f"Levels used {used['used']:.3f} of {used['earned']:.3f}, {used['left']:.3f} left: {promise}."


def cut_replies(replies: Mapping[str, int]) -> str:
    """How many replies of the policy were cut at a length that no harness had named; nothing where none was."""
    if not replies.get("cut"):
        return ""
    from sia_runtime.worker.chat import DEFAULT_TOKENS

    return (
        f"{replies['cut']:,} of {replies['replies']:,} replies of the policy were cut short, as the harness names no "
        f"max_tokens: such a reply ends at {DEFAULT_TOKENS} tokens, or where a model that is served elsewhere has its "
        "limit. Let the harness set max_tokens."
    )


def out_of_bounds(count: int, report: Mapping[str, Any]) -> str:
    """How many rollouts earned what the metric's bounds do not hold."""
    metric = report["metric"]
    low, high = metric["bounds"]
    return (
        f"{count:,} {'rollout counts as a failure' if count == 1 else 'rollouts count as failures'}: what was earned "
        f"is outside of {low:g} to {high:g}, the bounds of {metric['name']}. Give the metric bounds that hold it, or "
        "scale the rewards, and start a new run."
    )


def _rejected(row: Mapping[str, Any]) -> str:
    gate = row["gate"]
    if not gate:
        return "screened out" if row.get("outcome") == "screened" else "not compared"
    early = f" after {gate['n']:,} of {row['planned']:,}" if gate["n"] < row["planned"] else ""
    return f"rejected{early}"


def _print_sealed(report: Mapping[str, Any], out: Console) -> None:
    sealed, metric = report["sealed"], report["metric"]
    if not sealed:
        return
    gap = "; the gap is gate less sealed" if "gap" in sealed["final"] else ""
    about = f", on {sealed['final']['n']} instances that nothing in the loop saw, 95% intervals{gap}:"
    out.print(plain((f"Sealed {metric['name']}", "bold"), about))
    discovers = report.get("kind") == "discover"
    first, final = ("first agent's answer", "best answer") if discovers else ("initial agent", "final agent")
    out.print(plain(f"  {first}  {interval(sealed['initial'])}{_beside(sealed['initial'])}"))
    out.print(plain(f"  {final:{len(first)}}  ", (interval(sealed["final"]), "bold"), _beside(sealed["final"])))
    if discovers:
        answer = report["answer"]
        line = f"answer {answer['id']}, found by agent {answer['agent']}" if answer else "no valid answer was found"
        out.print(plain(f"  {line}"))
        _print_metrics(sealed, out)
    elif line := curse(sealed["final"], metric.get("direction", "")):
        out.print(line)
    for which in ("initial", "final"):
        if short := sealed[which].get("out_of_tokens", 0):
            line = f"{short} sealed rollouts of the {which} agent ran out of the tokens that the budget had left."
            out.print(plain((line, "yellow")))


def model_lines(models: Sequence[Mapping[str, Any]]) -> list[str]:
    """The calls, tokens and dollars of each language model that was asked to improve, a line each."""
    lines = []
    for each in models:
        calls = f"{each['calls']:,} {'call' if each['calls'] == 1 else 'calls'}"
        prompt = f"{each['tokens_in']:,} tokens in ({each['cached']:,} of them cached)"
        cost = f"{each['dollars']:,.4f} dollars"
        lines.append(f"  {each['model']}: {calls}, {prompt}, {each['tokens_out']:,} out, {cost}")
    return lines


def outcome_lines(ends: Mapping[str, Any]) -> list[Text]:
    """How the rollouts of the first and the final agent ended, a line each; one where they are the same agent."""
    counted = {which: each for which, each in ends.items() if each["rollouts"]}
    if len({each["agent"] for each in counted.values()}) == 1 and len(counted) > 1:
        counted = {"first and final": counted["initial"]}
    lines = []
    for which, each in counted.items():
        who = {"initial": "first"}.get(which, which)
        style = "yellow" if each["null"] or each["failed"] else ""
        lines.append(plain((f"Outcomes, {who} agent: {ended(each)}.", style)))
    return lines


def _print_metrics(sealed: Mapping[str, Any], out: Console) -> None:
    """Print the verifier's other metrics of both answers."""
    first, best = (sealed[which].get("metrics", {}) for which in ("initial", "final"))
    if not best:
        return
    from rich.table import Table

    table = Table("measured on sealed", "first", "best")
    for name, value in best.items():
        table.add_row(plain(name), f"{first[name]:.4g}" if name in first else "", f"{value:.4g}")
    out.print(table)


def apart(row: Mapping[str, Any]) -> str:
    """The warning that the score got better and a metric beside it worse."""
    who = f"with {row['candidate']}" if row["candidate"] else "from the first to the final result"
    change = f"{row['before']:.4g} to {row['after']:.4g}, a change of {interval(row['change'], '+')}"
    return (
        f"On {row['split']}, {who}, the score got better and {row['metric']} worse, beyond noise: {change}. "
        "The reward may be gamed there: look at what was found before you rely on it."
    )


def _beside(score: Mapping[str, Any]) -> str:
    """The gate score beside a sealed one, and the gap."""
    if "gap" not in score:  # a run of before scores stood side by side
        return ""
    return f"   gate {interval(score['gate'])}   gap {interval(score['gap'], '+')}"


def curse(final: Mapping[str, Any], direction: str = "") -> str:
    """Explain a gap between gate and sealed; empty if within noise."""
    low, high = final["gap"]["ci95"] if "gap" in final else (0.0, 0.0)
    if direction == "minimize":
        low, high = -high, -low
    if low > 0:
        return (
            "The final agent does better on the gate than on sealed, beyond noise. It was chosen there, and what is "
            "chosen for its score was also lucky (the winner's curse): go by the sealed score."
        )
    if high < 0:
        return (
            "The final agent does better on sealed than on the gate, beyond noise: no winner's curse. "
            "For the sealed score it is set up with more labelled cases."
        )
    return ""


def _print_robustness(report: Mapping[str, Any] | None, out: Console) -> None:
    """How far the result holds: along the history, with one lever taken back, perturbed."""
    if not report:
        return
    from rich.table import Table

    if len(report["history"]) > 1:
        table = Table("incumbent", "gate", "sealed", "gap [95%]", title="Along the run", title_justify="left")
        for row in report["history"]:
            name = row["change"] or "initial agent"
            table.add_row(plain(name), interval(row["gate"]), interval(row), interval(row["gap"], "+"))
        out.print(table)
    searching = "" if report["history"] else ", searching on the gate"
    for row in report["taken_back"]:
        score = f"{row['value']:.4f}, a change of {interval(row['change'], '+')}"
        out.print(plain(f"  final agent with its {row['lever']} taken back{searching}: {score}"))
    for row in report["perturbed"]:
        which = "initial" if row["agent"] == report["history"][0]["agent"] else "final"
        score = f"{row['value']:.4f}, a change of {interval(row['change'], '+')}"
        out.print(plain(f"  {which} agent, {report['perturbation']}: {score}"))
    if report["left_out"]:
        out.print(plain(f"  {report['left_out']} more looks at robustness did not fit into the budget"))
