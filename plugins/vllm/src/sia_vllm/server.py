"""vLLM's HTTP interface: completions of token ids, log-probabilities of prompts, adapters by name.

What a server sends is a stranger's text: it is bounded, and nothing is believed of it before it was looked at.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sia_core.errors import ModelError, SiaError, excerpt
from sia_llm.models import REFUSED
from sia_llm.server_replies import (
    LARGEST_ID,
    MOST_BYTES,
    MOST_VALUES,
    is_logprob,
    parsed,
    sampled_tokens,
    token_limit,
)

LONGEST = 300
"""Characters of a server's error that are told."""

VALUES_A_TOKEN = 16
"""Values of JSON that a token of a prompt or a reply may have in an answer: id, text, log-probability, offset."""

_COMPLETIONS = "/v1/completions"

_LATER = "Go on with `sia resume` once it answers as it should"


@dataclass(frozen=True)
class Completion:
    """A reply: its ``tokens`` by id, their ``logprobs``, its ``text``, and whether it ended by itself."""

    tokens: list[int]
    logprobs: list[float]
    text: str
    finish: Literal["stop", "length"]


@dataclass(frozen=True)
class Server:
    """One server, started with ``--enable-lora`` and ``VLLM_ALLOW_RUNTIME_LORA_UPDATING=1``.

    ModelError where it does not answer, or answers what is no answer: no agent is to blame for that.
    """

    address: str
    timeout: float

    def load(self, name: str, folder: Path) -> None:
        """Have an adapter under a name; one that is there is as good."""
        self._post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)}, fine="already")

    def unload(self, name: str) -> None:
        """Forget an adapter."""
        self._post("/v1/unload_lora_adapter", {"lora_name": name}, fine="not found")

    def complete(self, body: Mapping[str, Any], vocabulary: int = LARGEST_ID + 1) -> Completion:
        """The one choice of a completion of at most ``max_tokens`` tokens, whose ids are below ``vocabulary``."""
        choice, text = self._choice({**body, "n": 1, "logprobs": 0, "return_token_ids": True})
        if choice.get("token_ids") is None or choice.get("logprobs") is None:
            raise ModelError(
                f"{self.address} gives no token ids or log-probabilities; vLLM does from version 0.10.2 on"
            )
        try:
            return _completion(choice, body["max_tokens"], vocabulary)
        except ValueError as error:
            raise self._no_completion(text, error) from None

    def context(self, model: str) -> int | None:
        """How many tokens of prompt and reply together a model of its may have; None where it does not say."""
        request = urllib.request.Request(f"{self.address}/v1/models")
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as reply:
                models = parsed(_read(reply))["data"]
            return next((token_limit(each["max_model_len"]) for each in models if each["id"] == model), None)
        except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
            return None  # what is wrong with it, sampling says

    def logprobs(self, model: str, tokens: Sequence[int]) -> list[float]:
        """(T,) of a prompt's tokens, the first of which has none and gets 0."""
        body = {"model": model, "prompt": list(tokens), "max_tokens": 1, "prompt_logprobs": 0, "temperature": 0.0}
        choice, text = self._choice(body)
        try:
            _, *rows = choice["prompt_logprobs"]
            values = [row[str(token)]["logprob"] for row, token in zip(rows, tokens[1:], strict=True)]
            if not all(map(is_logprob, values)):
                raise ValueError("a log-probability of the prompt is none")
        except (LookupError, TypeError, ValueError) as error:
            raise self._no_completion(text, error) from None
        return [0.0, *map(float, values)]

    def _choice(self, body: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
        """The one choice of a completion, and the whole answer's text."""
        text = self._post(_COMPLETIONS, body)
        most = MOST_VALUES + VALUES_A_TOKEN * (len(body["prompt"]) + body["max_tokens"])
        try:
            choice = parsed(text, most)["choices"][0]
            if not isinstance(choice, Mapping):
                raise ValueError("its choice is no object")
        except (LookupError, TypeError, ValueError) as error:
            raise self._no_completion(text, error) from None
        return choice, text

    def _no_completion(self, text: str, why: Exception) -> ModelError:
        reason = str(why) if type(why) is ValueError else type(why).__name__
        return ModelError(f"{self.address} sent what is no completion ({reason}): {_shown(text)}. {_LATER}")

    def _post(self, path: str, body: Mapping[str, Any], fine: str = "") -> str:
        """The text of an answer; what it says of adapters is none that anybody reads."""
        try:
            status, text = self._answer(path, body)
        # A redirect to what is no address is a ValueError.
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ModelError(f"{self.address} does not answer: {_shown(str(error))}. {_LATER}") from None
        if status is None or (fine and fine in text):
            return text
        why = f"{self.address}{path} answered {status}: {_shown(text)}"
        if path == _COMPLETIONS and status in REFUSED:
            raise SiaError(why)
        raise ModelError(f"{why}. {_LATER}")

    def _answer(self, path: str, body: Mapping[str, Any]) -> tuple[int | None, str]:
        """The text of an answer, and its status where that is an error."""
        request = urllib.request.Request(
            self.address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as reply:
                return None, _read(reply)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read(4 * LONGEST).decode(errors="replace")


def _read(reply: Any) -> str:
    """A reply's text; ValueError where it is longer than any that was asked for."""
    data = bytes(reply.read(MOST_BYTES + 1))
    if len(data) > MOST_BYTES:
        raise ValueError(f"the reply has more than {MOST_BYTES:,} bytes")
    return data.decode(errors="replace")


def _completion(choice: Mapping[str, Any], most: int, vocabulary: int) -> Completion:
    """A choice as a reply; ValueError where it is none."""
    row, text, finish = choice["logprobs"], choice.get("text"), choice.get("finish_reason")
    if not isinstance(text, str):
        raise ValueError("there is no text")
    if finish not in ("stop", "length"):
        raise ValueError("it did not end")
    logprobs = row.get("token_logprobs") if isinstance(row, Mapping) else None
    return Completion(*sampled_tokens(choice["token_ids"], logprobs, most, vocabulary), text, finish)


def _shown(text: str) -> str:
    """The beginning of a server's words, in one line that a terminal shows as they are."""
    return "".join(each if each.isprintable() else " " for each in excerpt(text, LONGEST))
