"""A model's decision as it types it, and the run's decisions that this makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sia_core.decision import Prediction, RewriteHarness, Stop, Training, UpdateWeights
from sia_core.evidence import Evidence
from sia_llm.toolbox import Arguments, Offered, ToolError, faults, offer
from sia_llm.workshop import Workshop

Decided = RewriteHarness | UpdateWeights | Stop


class _Typed(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Hypothesis(_Typed):
    gain: float = Field(
        allow_inf_nan=False, description="expected change of the mean reward on the search sample against the parent"
    )
    where: str = Field(min_length=1, max_length=2000, description="which instances change, and why")


class Candidate(Arguments):
    """A working copy as a candidate."""

    name: str = Field(min_length=1, max_length=80, description="a few words")
    reason: str = Field(min_length=1, max_length=8000)
    prediction: Hypothesis


class HarnessChange(Candidate):
    """Edit the harness: your working copy is the candidate."""

    lever: Literal["harness"]


class WeightUpdate(_Typed):
    """Train the policy. What ``training`` leaves out is as the algorithm advises for that agent."""

    lever: Literal["weights"]
    algorithm: str
    parent: str = Field(default="", description="the agent to train; the incumbent, if empty")
    config: dict[str, Any] = Field(default_factory=dict, description="the algorithm's own settings")
    training: dict[str, Any] = Field(default_factory=dict, description="such as steps, prompts, group")
    reason: str = Field(min_length=1, max_length=8000)
    prediction: Hypothesis


class End(_Typed):
    """Stop the run: nothing more is worth its cost."""

    lever: Literal["stop"]
    reason: str = Field(min_length=1, max_length=8000)


_CHANGES = "at most as many as this generation tries, less those set aside; an empty list tries those alone"

Change = Annotated[HarnessChange | WeightUpdate | End, Field(discriminator="lever")]


class Proposal(Arguments):
    changes: list[Change] = Field(description=_CHANGES)


class HarnessProposal(Arguments):
    changes: list[Annotated[HarnessChange | End, Field(discriminator="lever")]] = Field(description=_CHANGES)


class Proposals:
    """One conversation's decisions: candidates set aside one after the other, and its final proposal."""

    def __init__(self, evidence: Evidence, workshop: Workshop) -> None:
        self._evidence, self._workshop = evidence, workshop
        self.aside: list[Decided] = []

    @property
    def offered(self) -> list[Offered]:
        if self._evidence.candidates == 1:
            return []
        about = """Set your working copy aside as a candidate, to be tried as well as what you `decide`, and start on
        another. It is checked first, unless it was checked since its last edit."""
        return [offer("set_aside", about, Candidate, self._set_aside)]

    @property
    def takes(self) -> type[Proposal] | type[HarnessProposal]:
        """A proposal in this run: of a lever that it does not pull nothing need be read."""
        return Proposal if "weights" in self._evidence.levers else HarnessProposal

    def decided(self, proposal: Proposal | HarnessProposal) -> list[Decided]:
        """The run's decisions; ToolError, for the model to read, where one would only be refused."""
        levers = [change.lever for change in proposal.changes]
        if "stop" in levers and (len(levers) > 1 or self.aside):
            raise ToolError(
                "a stop ends the run, so it is decided alone; to try changes, leave it out"
                + (" (an empty list tries what you set aside)" if self.aside else "")
            )
        if not levers and not self.aside:
            raise ToolError("decide on a change, or to stop")
        self._within(len(levers) - levers.count("stop"))
        if levers.count("harness") > 1:
            more = "; `set_aside` keeps one and starts another" if self.offered else ""
            raise ToolError(f"there is one working copy, so one change of the harness here{more}")
        for lever in set(levers) - {"stop", *self._evidence.levers}:
            self._not_pulled(lever)
        return [*self.aside, *[self._decision(change) for change in proposal.changes]]

    def _set_aside(self, candidate: Candidate) -> str:
        self._within(1)
        if "harness" not in self._evidence.levers:
            self._not_pulled("harness")
        self.aside.append(self._rewrite(candidate))
        self._workshop.next()
        remaining = self._evidence.candidates - len(self.aside)
        more = (
            f"your working copy is now agent {self._workshop.parent.id}'s harness" if remaining else "end with `decide`"
        )
        return f"set aside, {len(self.aside)} of {self._evidence.candidates}; {more}"

    def _within(self, more: int) -> None:
        if len(self.aside) + more > self._evidence.candidates:
            aside = f" beside the {len(self.aside)} that you set aside" if self.aside else ""
            raise ToolError(f"this run tries {self._evidence.candidates} changes a generation; you gave {more}{aside}")

    def _not_pulled(self, lever: str) -> NoReturn:
        raise ToolError(f"this run does not pull the {lever} lever; it pulls {', '.join(self._evidence.levers)}")

    def _decision(self, change: HarnessChange | WeightUpdate | End) -> Decided:
        if isinstance(change, End):
            return Stop(reason=change.reason)
        if isinstance(change, HarnessChange):
            return self._rewrite(change)
        update = _update(change, self._evidence)
        if objection := self._workshop.run.objection(update):
            raise ToolError(objection)
        return update

    def _rewrite(self, candidate: Candidate) -> RewriteHarness:
        copy = self._workshop.candidate()
        return RewriteHarness(
            name=candidate.name,
            edits=copy.edits,
            reason=candidate.reason,
            prediction=_prediction(candidate.prediction),
            parent=copy.parent.id,
        )


def _update(change: WeightUpdate, evidence: Evidence) -> UpdateWeights:
    parent = change.parent or evidence.incumbent
    if parent not in evidence.agents:
        raise ToolError(f"no agent {parent!r} in the archive; there are {', '.join(evidence.agents)}")
    if evidence.weights is None or evidence.weights.refused:
        raise ToolError(evidence.weights.refused if evidence.weights else "this run has no policy to train")
    view = next((each for each in evidence.algorithms if each.name == change.algorithm), None)
    if view is None:
        names = ", ".join(each.name for each in evidence.algorithms)
        raise ToolError(f"no algorithm {change.algorithm!r} that this run's engine can train with; there are {names}")
    if objections := view.objections.get(parent, ()):
        raise ToolError(f"{change.algorithm} would learn nothing on agent {parent}: {'; '.join(objections)}")
    advised: Mapping[str, Any] = view.training.get(parent, Training()).model_dump()
    try:
        training = Training.model_validate({**advised, **change.training})
    except ValidationError as error:
        raise ToolError(f"training: {faults(error)}") from None
    return UpdateWeights(
        algorithm=change.algorithm,
        config=change.config,
        training=training,
        reason=change.reason,
        prediction=_prediction(change.prediction),
        parent=parent,
    )


def _prediction(hypothesis: Hypothesis) -> Prediction:
    return Prediction(gain=hypothesis.gain, where=hypothesis.where)
