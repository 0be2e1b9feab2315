"""Which tools a reply may call and which it must: as a request says it, and as a schema that sampling is held to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sia_runtime.answers import InvalidAnswer, plain_json
from sia_runtime.worker.cleaning import cleaned
from sia_runtime.worker.completions import Refused

Tool = Mapping[str, Any]


def chosen(choice: Any, tools: Sequence[Tool]) -> tuple[Sequence[Tool], tuple[str, ...]]:
    """The tools that are offered, and the names of those of which a reply has to call one; none where it need not."""
    match choice:
        case None | "auto":
            return tools, ()
        case "none":
            return (), ()
        case "required" | "any":
            return tools, _forced(_names(tools), tools)
        case {"type": "function", "function": {"name": str(name)}}:
            return tools, _forced([name], tools)
        case {"type": "allowed_tools", "allowed_tools": {"mode": "auto" | "required" as mode, "tools": [*allowed]}}:
            forced = _forced([_named(each) for each in allowed], tools)
            some = [each for each in tools if each["function"]["name"] in forced]
            return some, forced if mode == "required" else ()
    forms = 'auto, none, required, or {"type": "function", "function": {"name": ...}}'
    raise Refused(f"tool_choice: it is {forms}", "tool_choice", "invalid_value")


def _named(tool: Any) -> str | None:
    match tool:
        case {"function": {"name": str(name)}}:
            return name
    return None


def _forced(names: Sequence[Any], tools: Sequence[Tool]) -> tuple[str, ...]:
    if not names:
        raise Refused("tool_choice: there are no tools to choose from; give `tools`", "tool_choice", "invalid_value")
    if unknown := [each for each in names if each not in _names(tools)]:
        raise Refused(f"tool_choice: {unknown[0]} is not among the tools", "tool_choice", "invalid_value")
    return tuple(names)


def _names(tools: Sequence[Tool]) -> list[str]:
    return [each["function"]["name"] for each in tools]


def instruction(forced: Sequence[str]) -> str:
    """The request for a call in words, for a policy whose sampling nothing holds to one."""
    which = f"the tool {forced[0]}" if len(forced) == 1 else f"one of the tools {', '.join(forced)}"
    return f"Answer with a call of {which}, and with nothing else."


def schema_of(tools: Sequence[Tool], forced: Sequence[str], answer: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """A schema of ``{"name", "arguments"}`` for each tool, or those ``forced``; or else of the ``answer``, if given."""
    functions = [each["function"] for each in tools if not forced or each["function"]["name"] in forced]
    several = len(functions) + (answer is not None and not forced) > 1
    places = [f"#/anyOf/{at}" if several else "#" for at in range(len(functions) + 1)]
    kinds = [_call_of(each, place) for each, place in zip(functions, places, strict=False)]
    if answer is not None and not forced:
        kinds.append(_moved(answer, places[-1]))
    return {"anyOf": kinds} if several else kinds[0]


def _call_of(function: Mapping[str, Any], place: str) -> dict[str, Any]:
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    closed = {"additionalProperties": False} if "properties" in schema else {}  # else a reply may go on without end
    return {
        "type": "object",
        "properties": {
            "name": {"const": function["name"]},
            "arguments": _moved({**closed, **schema}, f"{place}/properties/arguments"),
        },
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _moved(schema: Any, place: str) -> Any:
    """A schema as a part of another one: what refers to its own definitions goes by their new place."""
    if isinstance(schema, dict):
        return {
            name: place + value[1:]
            if name == "$ref" and isinstance(value, str) and value.startswith("#")
            else _moved(value, place)
            for name, value in schema.items()
        }
    return [_moved(each, place) for each in schema] if isinstance(schema, list) else schema


def bare_call(text: str, names: Sequence[str]) -> tuple[str, Any] | None:
    """The name and the arguments of the call that a whole text is, as :func:`schema_of` has it."""
    call = arguments(text)
    if isinstance(call, dict) and call.keys() == {"name", "arguments"} and call["name"] in names:
        return call["name"], call["arguments"]
    return None


def arguments(text: str) -> Any:
    """The JSON value that a text is, or the text itself."""
    try:
        return cleaned(plain_json(text))
    except InvalidAnswer:
        return text
