"""An improver that is a language model: both agents of the paper, which write harnesses and read what they did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from sia_core.decision import Stop
from sia_core.errors import BudgetExhausted, LedgerError, ModelError, SiaError
from sia_core.evidence import AgentView, Evidence, TaskView
from sia_core.harness import HarnessTree
from sia_core.run.record import DRAFT, RunRecord, call, decided, proposers
from sia_core.run.run_view import RunView
from sia_llm import prompts
from sia_llm.archive import Archive
from sia_llm.choosing import chosen, drawn
from sia_llm.conversation import Conversation, Declined, Ending, GivenUpOn
from sia_llm.decider import Decider
from sia_llm.experiments import Experiments
from sia_llm.mistakes import mistakes
from sia_llm.models import Ask, Patience, Provider, told
from sia_llm.parents import DEFAULT, Rule, beside, dealt, parents
from sia_llm.proposal import Decided, Proposals
from sia_llm.recorded import Recorded
from sia_llm.settings import Settings
from sia_llm.side_by_side import Proposing, SideBySide
from sia_llm.workbench import Workbench
from sia_llm.workshop import Workshop, public_listing


class ModelImprover:
    """Decides with ``settings.model``, or one of ``settings.models``, through one provider."""

    def __init__(self, provider: Provider, settings: Settings) -> None:
        self.settings = settings
        self._provider = Recorded.read(settings.replay, provider) if settings.replay else provider
        self._patience = Patience(tries=settings.tries, first=settings.first_wait)
        self._bench: Workbench | None = None

    def check(self) -> None:
        """UsageError where the provider could not be asked; here nothing is known that it would want."""

    def equip(self, run: RunView) -> None:
        """Set up to ask the model on behalf of a run."""
        self._bench = Workbench(run, self._provider, self._patience)

    def draft(self, task: TaskView, seed: int) -> HarnessTree:
        """The agent as it was given. What the model would make of it is a candidate of generation 0.

        LedgerError where an earlier version had begun a conversation about it, which this one cannot end.
        """
        ledger = self._needed().run.ledger
        run = RunRecord(ledger)
        if run.draft is None and any(key.startswith(call(DRAFT, "")) for key, *_ in run.calls()):
            raise LedgerError(
                f"{ledger.folder} was stopped while a model wrote its first harness, as earlier versions began a run; "
                "start a new run, which begins with the agent as given"
            )
        return task.seed

    def decide(self, evidence: Evidence) -> Sequence[Decided]:
        """The model's decisions; none where it comes to no decision, which costs the run this generation alone.

        Where the dollars do not cover another call: those set aside, or a stop.
        """
        bench = self._needed()
        rule = self.settings.parents or DEFAULT[bench.run.kind]
        begins = parents(rule, evidence, bench.run.rewards)
        among = min(self.settings.parallel, len(begins))
        models = self._models(evidence, among)
        if among > 1:
            return self._several(evidence, rule, dealt(begins, among), models)
        decisions = self._one(evidence, rule, begins, models[0])
        self._credit(evidence, models, [len(decisions)])
        return decisions

    def _models(self, evidence: Evidence, count: int) -> list[str]:
        """The model of each conversation."""
        settings, run = self.settings, RunRecord(self._needed().run.ledger)
        if not settings.models:
            return [settings.model] * count
        return chosen(settings.choose, settings.models, count, evidence, run)

    def _credit(self, evidence: Evidence, models: Sequence[str], counts: Sequence[int]) -> None:
        """Record which model made which candidate, where there are several models."""
        if self.settings.models:
            about = {"asked": list(models), "made": drawn(counts, models)}
            self._needed().run.ledger.step(proposers(evidence.generation), lambda: about)

    def _one(self, evidence: Evidence, rule: Rule, begins: Sequence[AgentView], model: str) -> list[Decided]:
        """The decisions of one conversation."""
        bench = self._needed()
        purpose = bench.begin(decided(evidence.generation))
        talk = self._proposing(bench, purpose, evidence, begins, prompts.start_of(rule, begins), model)
        try:
            return talk.run()
        except BudgetExhausted as error:
            gone = f"no call of {talk.model} fits into the budget any more: {error}"
            return talk.aside or [Stop(reason=gone)]
        except GivenUpOn as error:
            if talk.aside:
                bench.run.notice(f"{error}; what it had set aside is tried")
                return talk.aside
            bench.give_up(purpose, str(error))
            return _passed(bench.run, evidence, error)

    def _several(
        self, evidence: Evidence, rule: Rule, shares: Sequence[Sequence[AgentView]], models: Sequence[str]
    ) -> list[Decided]:
        """The decisions of several conversations at once, each of which starts from its share of the parents."""
        run, generation = self._needed().run, evidence.generation
        seconds = self.settings.conversation_seconds
        side = SideBySide(run, self._provider, self._patience, generation, len(shares), seconds)
        talks = []
        for seat, begins, model in zip(side.seats, shares, models, strict=True):
            told_start = f"{prompts.start_of(rule, begins)} {beside(seat.number, shares)}"
            its = replace(evidence, candidates=len(begins))
            talks.append(self._proposing(seat.bench, seat.purpose, its, begins, told_start, model))
        try:
            decisions = side.decided(talks)
        except GivenUpOn as error:
            return _passed(run, evidence, error)
        self._credit(evidence, models, side.counts)
        return decisions

    def _proposing(
        self,
        bench: Workbench,
        purpose: str,
        evidence: Evidence,
        begins: Sequence[AgentView],
        told_start: str,
        model: str,
    ) -> Proposing:
        """A conversation that proposes changes of agents."""
        run = bench.run
        workshop = Workshop(run, evidence.agents, begins)
        proposals = Proposals(evidence, workshop)
        first = prompts.first_agent(evidence).files
        trains = "weights" in evidence.levers
        system = prompts.system(
            evidence.brief,
            evidence.metric,
            first,
            failure=run.failure,
            evaluations=run.evaluations,
            limits=run.limits,
            trains=trains,
        )
        asks = partial(self._ask, self.settings.decider, prompts.judge(system[-1]))
        decider = Decider(bench, purpose, evidence, workshop, proposals, asks) if self.settings.decider else None
        decide = decider.decided if decider else proposals.decided
        ending = Ending("decide", "Decide what to change next. This ends the conversation.", proposals.takes, decide)
        public, frequent = public_listing(run.public), mistakes(run, evidence)
        message = prompts.decide(evidence, public, told_start, frequent, replies=self.settings.replies)
        ask = self._ask(model, system, message)
        experiments = Experiments(run, purpose, workshop)
        offered = [*Archive(run, evidence).offered, *workshop.offered, *experiments.offered, *proposals.offered]
        talk = Conversation(bench.calls, purpose, ask, offered, ending, self.settings.replies)
        run_it = experiments.around(talk.run)
        return Proposing(ask.model, decider.around(run_it) if decider else run_it, proposals.aside)

    def _ask(self, model: str, system: tuple[str, ...], first: str) -> Ask:
        return Ask(model, system, (told(first),), max_tokens=self.settings.max_tokens)

    def _needed(self) -> Workbench:
        if self._bench is None:
            raise SiaError(f"{type(self).__qualname__} was not equipped by a run, so it cannot ask a model")
        return self._bench


def _passed(run: RunView, evidence: Evidence, error: GivenUpOn) -> list[Decided]:
    """No decision: the generation passes. ModelError, which stops the run, where the model declines to answer."""
    if isinstance(error, Declined):
        raise _stopped(error) from error
    run.notice(f"{error}; generation {evidence.generation} passes without a change")
    return []


def _stopped(error: GivenUpOn) -> ModelError:
    """The run stops here, and can be resumed."""
    return ModelError(
        f"{error}. All that was said is kept in the run's record; `sia resume` asks anew, from the beginning of this "
        "decision"
    )
