"""An improver that is a language model: the paper's Meta-Agent in ``draft``, its Feedback-Agent in ``decide``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import Field

from sia_core.agentic import prompts
from sia_core.agentic.archive import Archive
from sia_core.agentic.conversation import Conversation, Ending, GivenUpOn
from sia_core.agentic.parents import DEFAULT, parents
from sia_core.agentic.proposal import Decided, Proposal, Proposals
from sia_core.agentic.settings import Settings
from sia_core.agentic.toolbox import Arguments, Offered, ToolError
from sia_core.agentic.workshop import Workshop, public_files, runs, shown
from sia_core.calls import Calls
from sia_core.candidate import make_agent
from sia_core.decision import Stop
from sia_core.desk import Desk
from sia_core.errors import BudgetExhausted, ModelError, SiaError
from sia_core.evidence import Evidence, TaskView
from sia_core.harness import HarnessTree
from sia_core.models import Ask, Patience, Provider, told
from sia_core.recorded import Recorded

_Result = TypeVar("_Result")


class Finish(Arguments):
    """The working copy is the first harness."""

    summary: str = Field(min_length=1, max_length=8000, description="what you changed, and why")


class ModelImprover:
    """Drafts with ``settings.draft_model``, decides with ``settings.model``, through one provider."""

    def __init__(self, provider: Provider, settings: Settings) -> None:
        self.settings = settings
        self._provider = Recorded.read(settings.replay, provider) if settings.replay else provider
        self._desk: Desk | None = None
        self._calls: Calls | None = None

    def check(self) -> None:
        """UsageError where the provider could not be asked; here nothing is known that it would want."""

    def equip(self, desk: Desk) -> None:
        """Take what a run hands to improvers that ask a model."""
        patience = Patience(tries=self.settings.tries, first=self.settings.first_wait)
        self._desk, self._calls = desk, desk.calls(self._provider, patience=patience)

    def draft(self, task: TaskView, seed: int) -> HarnessTree:
        """The model's own first harness, once it runs."""
        first = make_agent(task.seed, None, None)
        workshop = Workshop(self._needed(), {}, [first])

        def finished(_: Any) -> HarnessTree:
            if workshop.tree.digest == task.seed.digest:
                return task.seed
            checked = workshop.checked()
            if not runs(checked):
                raise ToolError(f"It must run before you finish. {shown(checked)}")
            return workshop.tree

        ending = Ending("finish", "Your working copy is to be the first harness.", Finish, finished)
        told_first = prompts.draft(public_files(task.public))
        system = prompts.system(task.brief, task.metric, task.seed, discovers=task.kind == "discover")
        ask = self._ask(self.settings.draft_model or self.settings.model, system, told_first)
        return self._conversation("draft", ask, workshop.offered, ending)

    def decide(self, evidence: Evidence) -> Sequence[Decided]:
        """What the model decided; where the dollars do not cover another call, what it had set aside, or to stop."""
        desk = self._needed()
        rule = self.settings.parents or DEFAULT[desk.kind]
        begins = parents(rule, evidence, desk.rewards)
        workshop = Workshop(desk, evidence.agents, begins)
        proposals = Proposals(evidence, workshop)
        ending = Ending("decide", "What to change next. This ends the conversation.", Proposal, proposals.decided)
        first = prompts.first_agent(evidence).files
        system = prompts.system(evidence.brief, evidence.metric, first, discovers=evidence.discovers)
        told_first = prompts.decide(evidence, public_files(desk.public), prompts.start_of(rule, begins))
        ask = self._ask(self.settings.model, system, told_first)
        offered = [*Archive(desk, evidence).offered, *workshop.offered, *proposals.offered]
        try:
            return self._conversation(f"generation/{evidence.generation}/decide", ask, offered, ending, proposals.aside)
        except BudgetExhausted as error:
            gone = f"no call of {ask.model} fits into the budget any more: {error}"
            return proposals.aside or [Stop(reason=gone)]

    def _ask(self, model: str, system: tuple[str, ...], first: str) -> Ask:
        return Ask(model, system, (told(first),), max_tokens=self.settings.max_tokens)

    def _conversation(
        self, of: str, ask: Ask, offered: list[Offered], ending: Ending[_Result], aside: _Result | None = None
    ) -> _Result:
        """What the conversation ends with; where the model does not get there, what was set ``aside`` until then."""
        desk, calls = self._needed(), self._calls
        assert calls is not None  # it comes with the desk
        purpose = desk.begin(of)
        try:
            return Conversation(calls, purpose, ask, offered, ending, self.settings.replies).run()
        except GivenUpOn as error:
            if aside:
                desk.notice(f"{error}; what it had set aside is tried")
                return aside
            desk.give_up(purpose, str(error))
            raise ModelError(
                f"{error}. All that was said is kept in the run's record; `sia resume` asks anew, from the beginning "
                f"of this {'draft' if of == 'draft' else 'decision'}"
            ) from error

    def _needed(self) -> Desk:
        if self._desk is None:
            raise SiaError(f"{type(self).__qualname__} was not equipped by a run, so it cannot ask a model")
        return self._desk
