"""Tools for a model: what each takes is a pydantic model, and what goes wrong is said to the model, not raised."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from sia_core.errors import BudgetExhausted, HarnessError, excerpt
from sia_llm.models import Tool, ToolCall
from sia_runtime.answers import InvalidAnswer, plain_json

SHOWN = 16_000
"""Characters of one result that a model is shown."""

REFUSAL = 12 * SHOWN
"""Characters of a refusal: a block in it, which is quoted text, is never cut, though escapes lengthen its text."""


class ToolError(Exception):
    """A tool's refusal of a model's request; the message tells it why."""


class Arguments(BaseModel):
    """Tool arguments."""

    model_config = ConfigDict(extra="forbid")


_Given = TypeVar("_Given", bound=Arguments)


@dataclass(frozen=True)
class Offered:
    """One tool: the model of its arguments, and what it does with them."""

    name: str
    description: str
    takes: type[Arguments]
    use: Callable[[Any], str]

    @property
    def tool(self) -> Tool:
        schema = _plain(self.takes.model_json_schema())
        schema.pop("description", "")
        return Tool(self.name, self.description, {**schema, "additionalProperties": False})


def offer(name: str, description: str, takes: type[_Given], use: Callable[[_Given], str]) -> Offered:
    """A tool whose arguments are checked before it is used."""
    return Offered(name, " ".join(description.split()), takes, use)


class Toolbox:
    """The tools of one conversation."""

    def __init__(self, offered: Sequence[Offered]) -> None:
        self._by_name = {each.name: each for each in offered}

    @property
    def tools(self) -> tuple[Tool, ...]:
        return tuple(each.tool for each in self._by_name.values())

    def use(self, call: ToolCall) -> tuple[str, bool]:
        """A call's result, for the model to read, and whether it failed."""
        offered = self._by_name.get(call.name)
        if offered is None:
            return f"there is no tool {call.name!r}; there are {', '.join(self._by_name)}", True
        if not isinstance(call.arguments, dict):
            why = _malformed(call.text)
            return f"the arguments of {call.name} are not a JSON object{why}; write them again, whole", True
        try:
            return offered.use(offered.takes.model_validate(call.arguments)), False
        except ValidationError as error:
            return f"the arguments of {call.name} are not valid: {faults(error)}", True
        except (ToolError, HarnessError, BudgetExhausted) as error:
            return excerpt(str(error), REFUSAL), True


def _plain(schema: Any) -> Any:
    """A schema without titles, which repeat the names of its fields."""
    if isinstance(schema, Mapping):
        return {name: _plain(part) for name, part in schema.items() if name != "title" or not isinstance(part, str)}
    return [_plain(part) for part in schema] if isinstance(schema, list) else schema


def _malformed(text: str) -> str:
    try:
        plain_json(text)
    except InvalidAnswer as error:
        return f" ({error})"
    return ""


def faults(error: ValidationError) -> str:
    """The faults of the fields, for the model that wrote them."""
    rows = error.errors(include_url=False, include_input=False)[:5]
    return "; ".join(f"{'.'.join(map(str, row['loc'])) or 'all'}: {row['msg']}" for row in rows)
