"""What a model decides, as it types it, and the run's decisions that this makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sia_core.agentic.toolbox import Arguments, ToolError, faults
from sia_core.agentic.workshop import Workshop
from sia_core.decision import Prediction, RewriteHarness, Stop, Training, UpdateWeights
from sia_core.evidence import Evidence

Decided = RewriteHarness | UpdateWeights | Stop


class _Typed(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Hypothesis(_Typed):
    gain: float = Field(allow_inf_nan=False, description="expected change of the mean reward against the parent")
    where: str = Field(min_length=1, max_length=2000, description="which instances change, and why")


class HarnessChange(_Typed):
    """The edits of your working copy."""

    lever: Literal["harness"]
    name: str = Field(min_length=1, max_length=80, description="a few words")
    reason: str = Field(min_length=1, max_length=8000)
    prediction: Hypothesis


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
    """Nothing more is worth its cost."""

    lever: Literal["stop"]
    reason: str = Field(min_length=1, max_length=8000)


Change = Annotated[HarnessChange | WeightUpdate | End, Field(discriminator="lever")]


class Proposal(Arguments):
    changes: list[Change] = Field(min_length=1)


def decisions(proposal: Proposal, evidence: Evidence, workshop: Workshop) -> list[Decided]:
    """The run's decisions; ToolError, for the model to read, where one would only be refused."""
    levers = [change.lever for change in proposal.changes]
    if len(levers) > evidence.candidates:
        raise ToolError(f"this run tries {evidence.candidates} changes a generation, and you gave {len(levers)}")
    if levers.count("harness") > 1:
        raise ToolError("there is one working copy, so one change of the harness; put it into one entry")
    for lever in set(levers) - {"stop", *evidence.levers}:
        raise ToolError(f"this run does not pull the {lever} lever; it pulls {', '.join(evidence.levers)}")
    return [_decision(change, evidence, workshop) for change in proposal.changes]


def _decision(change: HarnessChange | WeightUpdate | End, evidence: Evidence, workshop: Workshop) -> Decided:
    if isinstance(change, End):
        return Stop(reason=change.reason)
    prediction = Prediction(gain=change.prediction.gain, where=change.prediction.where)
    if isinstance(change, WeightUpdate):
        return _update(change, prediction, evidence)
    if workshop.tree.digest == workshop.parent.harness:
        raise ToolError("your working copy is as its agent's harness was; edit it first, or decide something else")
    known = {agent.harness: agent.id for agent in evidence.agents.values() if agent.adapter == workshop.parent.adapter}
    if workshop.tree.digest in known:
        raise ToolError(f"your working copy is the harness of agent {known[workshop.tree.digest]}, which was tried")
    return RewriteHarness(
        name=change.name,
        edits=tuple(workshop.edits),
        reason=change.reason,
        prediction=prediction,
        parent=workshop.parent.id,
    )


def _update(change: WeightUpdate, prediction: Prediction, evidence: Evidence) -> UpdateWeights:
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
        prediction=prediction,
        parent=parent,
    )
