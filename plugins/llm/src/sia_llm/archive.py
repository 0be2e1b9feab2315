"""The tools with which a model reads the evidence: failures by class, whole trajectories, earlier decisions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from sia_core.errors import excerpt
from sia_core.evidence import Evidence, Rollout
from sia_core.run.run_view import RunView
from sia_llm.earlier import IMPROVER, cell, measured, numbered
from sia_llm.quoting import AGENT, EITHER, fenced
from sia_llm.toolbox import SHOWN, Arguments, Offered, ToolError, offer

ROWS = 40
PART = 4_000
NAMES = 600
TASK = "from the task's data"
VERIFIER = "written by the task's verifier, which may quote the agent"
MIXED = "from the task's data, its verifier, and the agent under test"


class Failures(Arguments):
    agent: str = Field(default="", description="an agent's id; the incumbent's, if empty")
    outcome: str = Field(default="", description="only those that ended so, such as ok (a valid answer) or timeout")
    skip: int = Field(default=0, ge=0, description="how many of the list to leave out, to read on where it ended")


class Trajectory(Arguments):
    instance: str = Field(description="an id, as `failures` and `check` name them")
    agent: str = Field(default="", description="an agent's id; the incumbent's, if empty")


class Earlier(Arguments):
    generation: int = Field(ge=0)
    candidate: int = Field(default=0, ge=0, description="its place: 1 for the decision that is listed as 2.1")


class Archive:
    """Earlier generations' records, for one decision."""

    def __init__(self, run: RunView, evidence: Evidence) -> None:
        self._run, self._evidence = run, evidence

    @property
    def offered(self) -> list[Offered]:
        return [
            offer(
                "failures",
                f"""The search instances on which an agent of the archive earned less than its most, worst first, {ROWS}
                at a time: how it ended, the reward, and the beginnings of the input, the answer and the verifier's
                words. For your working copy use `check`.""",
                Failures,
                self._failures,
            ),
            offer(
                "trajectory",
                f"""An agent of the archive on one search instance: its input, every call of the policy, what was
                answered, what the verifier said; of each the first {PART:,} characters.""",
                Trajectory,
                self._trajectory,
            ),
            offer(
                "earlier_decision",
                """A decision of an earlier generation, as `Earlier decisions` lists it (generation 0 has none before
                it): reason, prediction, diff, outcome, and the search instances on which the candidate earned more and
                less than its parent.""",
                Earlier,
                self._earlier,
            ),
        ]

    def _rollouts(self, agent: str) -> list[Rollout]:
        name = agent or self._evidence.incumbent
        if name not in self._evidence.agents:
            raise ToolError(f"no agent {name!r} in the archive; there are {', '.join(self._evidence.agents)}")
        return self._run.rollouts(name)

    def _failures(self, request: Failures) -> str:
        rollouts = self._rollouts(request.agent)
        best = max(each.reward for each in rollouts)
        failed = [each for each in rollouts if each.reward < best]
        classes = Counter(each.outcome for each in failed)
        matches = [each for each in failed if request.outcome in ("", each.outcome)]
        matches.sort(key=lambda each: (each.reward, each.instance))
        part = matches[request.skip : request.skip + ROWS]
        rows = [self._row(each) for each in part]
        remaining = len(matches) - request.skip - len(part)
        more = f"\n{remaining} more; skip={request.skip + len(part)} shows the next" if remaining > 0 else ""
        head = _counted(rollouts, best, classes)
        return f"{head}\n{fenced(chr(10).join(rows), 'failures', SHOWN, by=MIXED)}{more}"

    def _row(self, each: Rollout) -> str:
        note = excerpt(" ".join(part for part in (each.feedback, each.message) if part), 160)
        case = excerpt(_line(dict(self._run.instances[each.instance].input)), 160)
        answer = excerpt(each.answer or "", 120)
        return f"{each.instance}: {each.outcome}, reward {each.reward:g}, input {case}, answer {answer} {note}".rstrip()

    def _trajectory(self, request: Trajectory) -> str:
        rollout = next((each for each in self._rollouts(request.agent) if each.instance == request.instance), None)
        instance = self._run.instances.get(request.instance)
        if rollout is None or instance is None:
            raise ToolError(
                f"instance {request.instance!r} is not in the search sample; `failures` names some that are"
            )
        tokens = f", {rollout.tokens} tokens" if rollout.tokens else ""
        parts = [f"{rollout.outcome}, reward {rollout.reward:g}{tokens}"]
        texts = {
            "input": _json(dict(instance.input)),
            "answer": rollout.answer,
            "metrics": _json(dict(rollout.metrics)) if rollout.metrics else "",
            "what the verifier said": rollout.feedback,
            "message": rollout.message,
            "log": rollout.log,
            "step rewards, the harness's own word": _json(list(rollout.step_rewards)) if rollout.step_rewards else "",
            "calls of the policy": _json(list(rollout.turns)) if rollout.turns else "",
        }
        whose = {"input": TASK, "metrics": VERIFIER, "what the verifier said": VERIFIER, "message": EITHER}
        parts += [fenced(text, what, PART, by=whose.get(what, AGENT)) for what, text in texts.items() if text]
        return "\n".join(parts)

    @property
    def _listed(self) -> str:
        """The decisions that there are, for a model that asked for another."""
        if not (names := [name for name, _ in numbered(self._evidence.trials)]):
            return "none was made before this one, so look at `failures` and `trajectory`"
        return f"there are {excerpt(', '.join(names), NAMES)}"

    def _earlier(self, request: Earlier) -> str:
        trials = [trial for trial in self._evidence.trials if trial.generation == request.generation]
        decided = self._run.decided(request.generation, request.candidate)
        if decided is None or request.candidate >= len(trials):
            raise ToolError(f"there is no decision {request.generation}.{request.candidate}; {self._listed}")
        trial = trials[request.candidate]
        prediction = decided["prediction"]
        parts = [
            f"{trial.lever} {cell(trial.name)} on agent {trial.parent}: {trial.outcome}; predicted gain "
            f"{trial.predicted:+.4f}, gain on search {measured(trial)}",
            fenced(decided["reason"], "the reason given then", PART, by=IMPROVER),
            fenced(prediction["where"], "where it was to help", PART, by=IMPROVER),
        ]
        if trial.why:
            parts.append(fenced(trial.why, "what came of it", PART, by=EITHER))
        if decided["diff"]:
            parts.append(fenced(decided["diff"], "diff", SHOWN // 2, by=IMPROVER))
        if trial.agent:
            parts.append(_changes(self._run.rollouts(trial.parent), self._run.rollouts(trial.agent)))
        return "\n".join(parts)


def _counted(rollouts: Sequence[Rollout], best: float, classes: Counter[str]) -> str:
    """How many rollouts earned the most there is among them, and how the others ended."""
    ended = dict(classes.most_common())
    wrong, rest = ended.pop("ok", 0), [f"{count} ended as {outcome}" for outcome, count in ended.items()]
    right = len(rollouts) - sum(classes.values())
    if len({each.reward for each in rollouts}) <= 2:
        parts = [f"{right} right", *([f"{wrong} valid but wrong"] if wrong else []), *rest]
    else:
        less = [f"{wrong} gave a valid answer and earned less"] if wrong else []
        parts = [f"{right} earned its most, {best:g}", *less, *rest]
    return f"Of {len(rollouts)}: {'; '.join(parts)}."


def _changes(before: Sequence[Rollout], after: Sequence[Rollout]) -> str:
    """Which instances two agents differ on."""
    earned = {each.instance: each.reward for each in before}
    both = [(each.instance, each.reward - earned[each.instance]) for each in after if each.instance in earned]
    wins, losses = [name for name, gain in both if gain > 0], [name for name, gain in both if gain < 0]
    more, less = (f"on {len(names)}: {excerpt(' '.join(names), 800)}" for names in (wins, losses))
    return f"It earned more than its parent {more}\nIt earned less {less}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1)


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
