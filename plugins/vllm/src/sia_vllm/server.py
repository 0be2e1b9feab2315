"""vLLM's HTTP interface: completions of token ids, log-probabilities of prompts, adapters by name."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sia_core.errors import ModelError, SiaError
from sia_llm.models import REFUSED

LONGEST = 300
"""Characters of a server's error that are told."""


_COMPLETIONS = "/v1/completions"

_LATER = "Go on with `sia resume` once it answers as it should"


@dataclass(frozen=True)
class Server:
    """One server, started with ``--enable-lora`` and ``VLLM_ALLOW_RUNTIME_LORA_UPDATING=1``."""

    address: str
    timeout: float

    def load(self, name: str, folder: Path) -> None:
        """Have an adapter under a name; one that is there is as good."""
        self._post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)}, fine="already")

    def unload(self, name: str) -> None:
        """Forget an adapter."""
        self._post("/v1/unload_lora_adapter", {"lora_name": name}, fine="not found")

    def complete(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The one choice of a completion, with the ids and log-probabilities of its tokens."""
        request = {**body, "n": 1, "logprobs": 0, "return_token_ids": True}
        choice = self._choice(request)
        if choice.get("token_ids") is None or not choice.get("logprobs"):
            raise ModelError(
                f"{self.address} gives no token ids or log-probabilities; vLLM does from version 0.10.2 on"
            )
        return choice

    def context(self, model: str) -> int | None:
        """How many tokens of prompt and reply together a model of its may have; None where it does not say."""
        request = urllib.request.Request(f"{self.address}/v1/models")
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as reply:
                models = json.loads(reply.read())["data"]
            return next((each["max_model_len"] for each in models if each["id"] == model), None)
        except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
            return None  # what is wrong with it, sampling says

    def logprobs(self, model: str, tokens: Sequence[int]) -> list[float]:
        """(T,) of a prompt's tokens, the first of which has none and gets 0."""
        body = {"model": model, "prompt": list(tokens), "max_tokens": 1, "prompt_logprobs": 0, "temperature": 0.0}
        rows = self._choice(body)["prompt_logprobs"]
        pairs = zip(rows, tokens, strict=True)
        return [float(row[str(token)]["logprob"]) if row else 0.0 for row, token in pairs]

    def _choice(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        reply = self._post(_COMPLETIONS, body)
        try:
            choice: Mapping[str, Any] = reply["choices"][0]
            choice.get("token_ids")
        except (LookupError, TypeError, AttributeError):
            raise ModelError(f"{self.address} sent what is no completion: {str(reply)[:LONGEST]}. {_LATER}") from None
        return choice

    def _post(self, path: str, body: Mapping[str, Any], fine: str = "") -> Any:
        request = urllib.request.Request(
            self.address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as reply:
                text = reply.read().decode(errors="replace")
        except urllib.error.HTTPError as error:
            with error:
                message = error.read().decode(errors="replace")[:LONGEST]
            if fine and fine in message:
                return None
            why = f"{self.address}{path} answered {error.code}: {message}"
            if path == _COMPLETIONS and error.code in REFUSED:
                raise SiaError(why) from None
            raise ModelError(f"{why}. {_LATER}") from None
        except (OSError, http.client.HTTPException) as error:
            raise ModelError(f"{self.address} does not answer: {error}. {_LATER}") from None
        try:
            return json.loads(text)
        except ValueError:
            return text  # what it says of adapters is none; of completions, it is looked at where it is used
