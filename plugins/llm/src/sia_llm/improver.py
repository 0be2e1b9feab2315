"""An improver that is a language model: the paper's Meta-Agent in ``draft``, its Feedback-Agent in ``decide``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import Field

from sia_core.decision import Stop
from sia_core.errors import BudgetExhausted, ModelError, SiaError
from sia_core.evidence import Evidence, TaskView
from sia_core.harness import HarnessTree
from sia_core.run.candidate import make_agent
from sia_core.run.record import DRAFT, decided
from sia_core.run.run_view import RunView
from sia_llm import prompts
from sia_llm.archive import Archive
from sia_llm.conversation import Conversation, Ending, GivenUpOn
from sia_llm.models import Ask, Patience, Provider, told
from sia_llm.parents import DEFAULT, parents
from sia_llm.proposal import Decided, Proposal, Proposals
from sia_llm.recorded import Recorded
from sia_llm.settings import Settings
from sia_llm.toolbox import Arguments, Offered, ToolError
from sia_llm.workbench import Workbench
from sia_llm.workshop import Workshop, public_files, runs, shown

_Result = TypeVar("_Result")


class Finish(Arguments):
    """The working copy is the first harness."""

    summary: str = Field(min_length=1, max_length=8000, description="what you changed, and why")


class ModelImprover:
    """Drafts with ``settings.draft_model``, decides with ``settings.model``, through one provider."""

    def __init__(self, provider: Provider, settings: Settings) -> None:
        self.settings = settings
        self._provider = Recorded.read(settings.replay, provider) if settings.replay else provider
        self._bench: Workbench | None = None

    def check(self) -> None:
        """UsageError where the provider could not be asked; here nothing is known that it would want."""

    def equip(self, run: RunView) -> None:
        """Set up to ask the model on behalf of a run."""
        patience = Patience(tries=self.settings.tries, first=self.settings.first_wait)
        self._bench = Workbench(run, self._provider, patience)

    def draft(self, task: TaskView, seed: int) -> HarnessTree:
        """The model's own first harness, once it runs."""
        first = make_agent(task.seed, None, None)
        workshop = Workshop(self._needed().run, {}, [first])

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
        return self._conversation(DRAFT, ask, workshop.offered, ending)

    def decide(self, evidence: Evidence) -> Sequence[Decided]:
        """The model's decisions; where the dollars do not cover another call, those set aside, or a stop."""
        run = self._needed().run
        rule = self.settings.parents or DEFAULT[run.kind]
        begins = parents(rule, evidence, run.rewards)
        workshop = Workshop(run, evidence.agents, begins)
        proposals = Proposals(evidence, workshop)
        ending = Ending("decide", "What to change next. This ends the conversation.", Proposal, proposals.decided)
        first = prompts.first_agent(evidence).files
        system = prompts.system(evidence.brief, evidence.metric, first, discovers=evidence.discovers)
        told_first = prompts.decide(evidence, public_files(run.public), prompts.start_of(rule, begins))
        ask = self._ask(self.settings.model, system, told_first)
        offered = [*Archive(run, evidence).offered, *workshop.offered, *proposals.offered]
        try:
            return self._conversation(decided(evidence.generation), ask, offered, ending, proposals.aside)
        except BudgetExhausted as error:
            gone = f"no call of {ask.model} fits into the budget any more: {error}"
            return proposals.aside or [Stop(reason=gone)]

    def _ask(self, model: str, system: tuple[str, ...], first: str) -> Ask:
        return Ask(model, system, (told(first),), max_tokens=self.settings.max_tokens)

    def _conversation(
        self, of: str, ask: Ask, offered: list[Offered], ending: Ending[_Result], aside: _Result | None = None
    ) -> _Result:
        """The conversation's result; where the model gets to none, what was set ``aside``, else ModelError."""
        bench = self._needed()
        purpose = bench.begin(of)
        try:
            return Conversation(bench.calls, purpose, ask, offered, ending, self.settings.replies).run()
        except GivenUpOn as error:
            if aside:
                bench.run.notice(f"{error}; what it had set aside is tried")
                return aside
            bench.give_up(purpose, str(error))
            raise ModelError(
                f"{error}. All that was said is kept in the run's record; `sia resume` asks anew, from the beginning "
                f"of this {'draft' if of == 'draft' else 'decision'}"
            ) from error

    def _needed(self) -> Workbench:
        if self._bench is None:
            raise SiaError(f"{type(self).__qualname__} was not equipped by a run, so it cannot ask a model")
        return self._bench
