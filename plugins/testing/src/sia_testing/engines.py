"""An engine without a model: text by script, one token a byte."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from sia_core.learning import Datum, Request, Sampled, Trace

ROLES = ("system", "user", "assistant", "tool")
END = 256

Reply = Callable[[str, int], str]


class ByteTokens:
    """Ids 0 to 255 are bytes, 256 ends a turn, and the four after it begin one of each role."""

    size = END + 1 + len(ROLES)
    stops: tuple[int, ...] = (END,)

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(each for each in ids if each < END).decode(errors="replace")

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        ids = self._turn("system", json.dumps(list(tools))) if tools else []
        for message in messages:
            calls = [call["function"] for call in message.get("tool_calls", ())]
            text = "".join(f"<tool_call>{json.dumps(call)}</tool_call>" for call in calls)
            ids += self._turn(message["role"], (message.get("content") or "") + text)
        return [*ids, END + 1 + ROLES.index("assistant")]

    def _turn(self, role: str, text: str) -> list[int]:
        return [END + 1 + ROLES.index(role), *self.encode(text), END]


class ScriptedEngine:
    """Samples what ``reply`` gives for (the prompt as text, the seed); :class:`sia_core.learning.Engine`.

    By default, and where that is none of a request's choices, what is sampled is drawn
    by a digest of the two. Every token that was chosen has a log-probability of -0.5,
    and training counts steps: the digest of the weights is their number.
    """

    can: ClassVar[frozenset[str]] = frozenset({"train", "values", "reference", "custom_loss", "constrain"})
    learning_rate = 1e-3

    def __init__(self, reply: str | Reply | None = None) -> None:
        self._reply: Reply = (lambda prompt, seed: reply) if isinstance(reply, str) else reply or _drawn
        self.tokens = ByteTokens()
        self.batches: list[list[Request]] = []
        self.steps = 0

    def sample(self, requests: Sequence[Request]) -> list[list[Sampled]]:
        self.batches.append(list(requests))
        return [[self._sampled(request, seed) for seed in request.seeds] for request in requests]

    def _sampled(self, request: Request, seed: int) -> Sampled:
        prompt = self.tokens.decode(request.prompt)
        text = self._reply(prompt, seed)
        if request.choices and text not in request.choices:
            text = request.choices[int(_drawn(prompt, seed), 16) % len(request.choices)]
        text = min((text.split(each, 1)[0] + each for each in request.stop if each in text), key=len, default=text)
        cut = self.tokens.encode(text)[: request.max_tokens]
        whole = [*cut, END][: request.max_tokens]
        allowed = _allowed(whole, request.choices) if request.choices else None
        mask = [1 if allowed is None else int(len(allowed[at]) > 1) for at in range(len(whole))]
        visible = self.tokens.decode(whole)
        for each in request.stop:
            visible = visible.split(each, 1)[0]
        return Sampled(
            tokens=whole,
            mask=mask,
            logprobs=[-0.5 * each for each in mask],
            values=[0.0] * len(whole),
            allowed=None if allowed is None else [ids if len(ids) > 1 else None for ids in allowed],
            text=visible,
            finish="stop" if whole[-1] == END or len(visible) < len(self.tokens.decode(whole)) else "length",
        )

    def logprobs(self, traces: Sequence[Trace], *, reference: bool = False) -> list[list[float]]:
        return [list(trace.logprobs) for trace in traces]

    def values(self, traces: Sequence[Trace]) -> list[list[float]]:
        return [[0.0] * len(trace.tokens) for trace in traces]

    def check(self, traces: Sequence[Trace]) -> float:
        return 0.0

    def forward_backward(
        self, data: Sequence[Datum], loss: str, settings: Mapping[str, Any] | None = None
    ) -> dict[str, float]:
        return {"tokens": float(sum(sum(datum.trace.mask) for datum in data))}

    def optim_step(self, *, lr: float | None = None) -> dict[str, float]:
        self.steps += 1
        return {}

    def digest(self) -> str:
        return hashlib.sha256(f"scripted-{self.steps}".encode()).hexdigest()

    def memory(self) -> dict[str, float]:
        return {"needed": 0.0, "peak": 0.0}

    def save(self, folder: Path) -> str:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "steps").write_text(str(self.steps))
        return self.digest()

    def load(self, folder: Path) -> None:
        self.steps = int((folder / "steps").read_text())


def _drawn(prompt: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}/{prompt}".encode()).hexdigest()[:12]


def _allowed(tokens: Sequence[int], choices: Sequence[str]) -> list[list[int]]:
    """For each token of a choice, the ids with which it and others that began alike could go on."""
    paths, allowed = [[*choice.encode(), END] for choice in choices], []
    for at, token in enumerate(tokens):
        allowed.append(sorted({each[at] for each in paths}))
        paths = [each for each in paths if each[at] == token]
    return allowed
