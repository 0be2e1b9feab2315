"""A stronger model that decides on what a cheaper one proposes. It is asked once, when a conversation is to end."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Literal

from pydantic import Field

from sia_core.decision import RewriteHarness, Stop
from sia_core.errors import BudgetExhausted, excerpt
from sia_core.evidence import Evidence
from sia_core.harness import apply_edits, unified_diff
from sia_llm import prompts
from sia_llm.check_report import summary
from sia_llm.conversation import Conversation, Ending, GivenUpOn
from sia_llm.models import Ask
from sia_llm.proposal import Decided, Proposals
from sia_llm.quoting import fenced, visible
from sia_llm.toolbox import SHOWN, Arguments, ToolError
from sia_llm.workbench import Workbench
from sia_llm.workshop import Workshop

SENT_BACK = 2
"""Times that a conversation may be sent back."""

REPLIES = 8
"""Of the model that decides, for one verdict: more than one only where it declines, is cut short or uses no tool."""

LINE = 300
"""Characters of a reason in a notice."""

_PROPOSER = "written by the model that proposes"


class Verdict(Arguments):
    verdict: Literal["confirm", "send_back", "abandon"]
    why: str = Field(min_length=1, max_length=4000, description="one paragraph; on sending back, what is to change")


class LastVerdict(Verdict):
    verdict: Literal["confirm", "abandon"]


class Decider:
    """Decides for one conversation. ``asks`` makes the request of a message."""

    def __init__(
        self,
        bench: Workbench,
        purpose: str,
        evidence: Evidence,
        workshop: Workshop,
        proposals: Proposals,
        asks: Callable[[str], Ask],
    ) -> None:
        self._bench, self._purpose, self._evidence = bench, f"{purpose}/{prompts.DECIDER}", evidence
        self._workshop, self._proposals, self._asks = workshop, proposals, asks
        self._sent_back = 0

    def around(self, talk: Callable[[], list[Decided]]) -> Callable[[], list[Decided]]:
        """The conversation, after which nothing is left that was set aside and not confirmed, where it is given up."""

        def run() -> list[Decided]:
            try:
                return talk()
            except GivenUpOn:
                self._proposals.aside.clear()
                raise

        return run

    def decided(self, proposal: Any) -> list[Decided]:
        """The decisions, once they are confirmed. ToolError where they are sent back, GivenUpOn where abandoned.

        Where the dollars do not cover the question, they stand as they were proposed.
        """
        decisions = self._proposals.decided(proposal)
        ask = self._asks(self._message(decisions))
        takes = Verdict if self._left else LastVerdict
        ending: Ending[Verdict] = Ending(
            "verdict", "Your verdict. It ends this conversation.", takes, lambda verdict: verdict
        )
        try:
            verdict = Conversation(self._bench.calls, self._purpose, ask, [], ending, REPLIES).run()
        except BudgetExhausted:
            self._bench.run.notice(f"no call of {ask.model} fits into the budget any more; what was proposed is tried")
            return decisions
        if verdict.verdict == "send_back":
            self._sent_back += 1
            reason = fenced(verdict.why, "its reason", SHOWN, by="written by the model that decides")
            raise ToolError(f"{ask.model}, which decides, sends this back. Work on it and decide again.\n{reason}")
        if verdict.verdict == "abandon":
            why = excerpt(visible(" ".join(verdict.why.split())), LINE)
            raise GivenUpOn(f"{ask.model} abandoned what was proposed: {why}")
        return decisions

    @property
    def _left(self) -> int:
        return SENT_BACK - self._sent_back

    def _message(self, decisions: Sequence[Decided]) -> str:
        changes = "\n\n".join(self._change(number, each) for number, each in enumerate(decisions, 1))
        times = "once more" if self._left == 1 else "twice"
        turns = f"You may send it back {times}." if self._left else "It was sent back twice: confirm or abandon it."
        return prompts.proposed(self._evidence, changes, turns)

    def _change(self, number: int, decision: Decided) -> str:
        """One decision in full: title, reason, prediction, then the diff and checks, or the settings of training."""
        if isinstance(decision, Stop):
            return f"{number}. Stop the run.\n{fenced(decision.reason, 'the reason', SHOWN, by=_PROPOSER)}"
        parent = self._evidence.agents[decision.parent or self._evidence.incumbent]
        parts = [
            f"{number}. A change of the {decision.lever} of agent {parent.id}; predicted gain "
            f"{decision.prediction.gain:+.4f}.",
            fenced(f"{decision.name}: {decision.reason}", "name and reason", SHOWN, by=_PROPOSER),
            fenced(decision.prediction.where, "where it is to help", by=_PROPOSER),
        ]
        if isinstance(decision, RewriteHarness):
            tree = apply_edits(parent.files, decision.edits)
            parts.append(fenced(unified_diff(parent.files, tree), "diff", SHOWN, by=_PROPOSER))
            checks = self._workshop.checks(tree, parent.adapter)
            before = self._workshop.run.rollouts(parent.id) if checks else []
            bounds = self._evidence.metric.reward_bounds
            parts += [f"A check: {summary(each, before, f'agent {parent.id}', bounds)}" for each in checks]
        else:
            settings = {**decision.training.model_dump(exclude_none=True), **decision.config}
            parts.append(fenced(json.dumps(settings, sort_keys=True), "settings of the training", by=_PROPOSER))
        return "\n".join(parts)
