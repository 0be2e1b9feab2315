"""Fields that clients send by default: which of them are left aside, and which are refused, and what to do then."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sia_runtime.worker.completions import Refused

IGNORED = frozenset(
    {
        "user",
        "seed",  # the rollout's own seed decides
        "store",
        "metadata",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "prediction",
        # Hints that openai-agents sends by default; how much a policy reasons is the run's setting.
        "reasoning_effort",
        "verbosity",
    }
)
"""Fields of a request that change nothing of its reply."""

_PENALTY = "sampling knows no penalties; leave it out, or send 0"
_SILENT = "the policy reads and writes text alone; leave it out"

UNSUPPORTED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "frequency_penalty": ((0,), _PENALTY),
    "presence_penalty": ((0,), _PENALTY),
    "repetition_penalty": ((1,), "sampling knows no penalties; leave it out, or send 1"),
    "logit_bias": (({},), "logits cannot be biased; `choices` with `prior` weighs whole replies"),
    "top_logprobs": ((0,), "only the sampled token's log-probability is there; ask for logprobs alone"),
    "top_k": ((-1, 0), "sampling is cut by top_p alone; leave it out"),
    "min_p": ((0,), "sampling is cut by top_p alone; leave it out"),
    "functions": (([],), "give `tools` instead"),
    "function_call": (("auto", "none"), "give `tool_choice` instead"),
    "modalities": ((["text"],), _SILENT),
    "audio": ((), _SILENT),
    "web_search_options": ((), "there is no web to search; leave it out"),
    "moderation": ((), "nothing is moderated here; leave it out"),
}
"""Fields that no policy heeds: the values that ask for nothing, and what to do instead of any other."""

_SENT_BACK = frozenset(
    {
        "annotations",
        "cache_control",
        "parsed",  # by the OpenAI client's `parse`
        "provider_specific_fields",
        "reasoning",
        "reasoning_content",
        "reasoning_details",
        "thinking_blocks",
    }
)
"""Fields of a message that clients echo in their next request, whichever server it came from, or that mark a cache."""

_ABOUT_A_PART = frozenset({"cache_control", "annotations", "logprobs"})
_ABOUT_A_CALL = frozenset({"index", "extra_content", "provider_specific_fields"})
_TEXT = ("text", "input_text", "output_text")


def heeded(request: Mapping[str, Any]) -> dict[str, Any]:
    """A request without what changes nothing of its reply; Refused, by name, where a field would and cannot."""
    body = _without(request, IGNORED)
    for name, (neutral, advice) in UNSUPPORTED.items():
        if name in body and body.pop(name) not in neutral:
            raise Refused(f"{name}: {advice}", name, "unsupported_parameter")
    if isinstance(messages := body.get("messages"), list):
        body["messages"] = [_message(each, f"messages.{at}") for at, each in enumerate(messages)]
    if isinstance(tools := body.get("tools"), list):
        body["tools"] = [_tool(each) for each in tools]
    return body


def _without(fields: Mapping[str, Any], names: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Fields that are set, but for those of these names: null is as good as nothing."""
    return {name: value for name, value in fields.items() if value is not None and name not in names}


def _message(message: Any, place: str) -> Any:
    if not isinstance(message, dict):
        return message
    fields = _without(message, _SENT_BACK)
    if fields.get("role") == "developer":
        fields["role"] = "system"
    if isinstance(parts := fields.get("content"), list):
        fields["content"] = "".join(_text(part, f"{place}.content.{at}") for at, part in enumerate(parts))
    if isinstance(calls := fields.get("tool_calls"), list):
        fields["tool_calls"] = [_call(each) for each in calls]
    return fields


def _text(part: Any, place: str) -> str:
    """The text of one part of a message's content."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in _TEXT:
        named = kind if isinstance(kind, str) else "no type"
        raise Refused(f"{place}.type: {named}: the policy reads text alone; leave this part out", f"{place}.type")
    extra = _without(part, _ABOUT_A_PART | {"type", "text"})
    if extra or not isinstance(part.get("text"), str):
        name = next(iter(extra), "text")
        raise Refused(f"{place}.{name}: a part has a `type` and a `text`, and nothing else", f"{place}.{name}")
    return str(part["text"])


def _call(call: Any) -> Any:
    """A tool call that is sent back; its arguments as JSON text, where a client sends them as the object itself."""
    if not isinstance(call, dict):
        return call
    fields = _without(call, _ABOUT_A_CALL)
    function = fields.get("function")
    if isinstance(function, dict):
        function = _without(function, frozenset({"parsed_arguments"}))
        if isinstance(function.get("arguments"), dict):
            function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
        fields["function"] = function
    return fields


def _tool(tool: Any) -> Any:
    if not isinstance(tool, dict):
        return tool
    fields = _without(tool, frozenset({"cache_control"}))
    if isinstance(function := fields.get("function"), dict):
        fields["function"] = _without(function)
    return fields
