"""Answers that nobody thought about: empty, smallest and random ones by a task's JSON schema, and templates of them."""

from __future__ import annotations

import json
import math
import random
import string
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.errors import PydanticInvalidForJsonSchema

MOST_CHOICES = 20
"""This many different strings among examples, each seen twice on average, are a choice; more are free text."""

MOST_ITEMS = 4
DEEPEST = 6
HOLE = "\ue000"
"""Stands in a template where a string, a number or a choice goes; nobody's field has it in its name."""

WIDE = 1e6
"""Numbers without bounds are drawn from minus this to this."""

Schema = Mapping[str, Any]


def schema_of(model: type[BaseModel], examples: Sequence[Any]) -> Schema:
    """The JSON schema of a task's answers; what it leaves open is taken from examples of answers."""
    try:
        schema = model.model_json_schema()
    except PydanticInvalidForJsonSchema:
        schema = {}
    keywords = set(schema) - {"title", "description", "$defs", "examples", "default"}
    return schema if keywords or not examples else like(examples)


def like(examples: Sequence[Any]) -> Schema:
    """A schema that at least one JSON value, and others of its kind, fit."""
    commonest = max({type(each) for each in examples}, key=lambda kind: sum(type(each) is kind for each in examples))
    alike = [each for each in examples if type(each) is commonest]
    if commonest is dict:
        keys = dict.fromkeys(key for each in alike for key in each)
        fields = {key: like([each[key] for each in alike if key in each]) for key in keys}
        return {"type": "object", "properties": fields, "required": list(fields)}
    if commonest is list:
        items = [item for each in alike for item in each]
        sizes = [len(each) for each in alike]
        bounds = {"minItems": min(sizes), "maxItems": max(sizes)}
        return {"type": "array", "items": like(items) if items else {}, **bounds}
    if commonest is str:
        values = sorted(set(alike))
        if len(values) <= MOST_CHOICES and 2 * len(values) <= len(alike):
            return {"enum": values}
        return {"type": "string", "minLength": min(map(len, alike)), "maxLength": max(map(len, alike))}
    if commonest in (int, float):
        kind = "integer" if commonest is int else "number"
        return {"type": kind, "minimum": min(alike), "maximum": max(alike)}
    return {"type": "boolean"} if commonest is bool else {"type": "null"}


class Generator:
    """Makes values that fit a schema, as far as the usual keywords say; a pattern or a format it does not know."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema

    def smallest(self) -> Any:
        """The least value: shortest, lowest, first of its choices."""
        return self._make(self._schema, None, 0)

    def drawn(self, source: random.Random) -> Any:
        """A value drawn at random."""
        return self._make(self._schema, source, 0)

    def template(self) -> str:
        """The JSON text of a value with a hole in the place of each string, number and choice."""
        return json.dumps(_hollow(self._make(self._schema, None, 0)), ensure_ascii=False).replace(f'"{HOLE}"', HOLE)

    def hollow(self) -> str:
        """The JSON text of a value with nothing in it: its strings and lists are empty, whatever the schema says."""
        return self.template().replace(HOLE, '""')

    def _make(self, schema: Any, source: random.Random | None, depth: int) -> Any:
        schema = self._resolved(schema)
        if "const" in schema:
            return schema["const"]
        if choices := schema.get("enum"):
            return source.choice(choices) if source else choices[0]
        if options := schema.get("anyOf") or schema.get("oneOf"):
            return self._make(source.choice(options) if source and depth < DEEPEST else options[0], source, depth + 1)
        if all_of := schema.get("allOf"):
            merged = {key: value for each in all_of for key, value in self._resolved(each).items()}
            return self._make({**schema, **merged, "allOf": None}, source, depth + 1)
        kind = schema.get("type") or _kind_of(schema)
        if isinstance(kind, list):
            kind = source.choice(kind) if source else kind[0]
        match kind:
            case "string":
                return _string(schema, source)
            case "integer" | "number":
                return _number(schema, source, whole=kind == "integer")
            case "boolean":
                return source.random() < 0.5 if source else False
            case "array":
                return self._array(schema, source, depth)
            case "object":
                return self._object(schema, source, depth)
            case "null":
                return None
        return source.choice([None, True, 0, 1, -1.5, "", "a", [], {}]) if source else None

    def _array(self, schema: Schema, source: random.Random | None, depth: int) -> list[Any]:
        first = schema.get("prefixItems", [])
        least = max(int(schema.get("minItems", 0)), len(first))
        most = max(least, int(schema.get("maxItems", least + MOST_ITEMS))) if depth < DEEPEST else least
        size = source.randint(least, min(most, least + MOST_ITEMS)) if source else least
        rest = schema.get("items", {})
        return [self._make(first[at] if at < len(first) else rest, source, depth + 1) for at in range(size)]

    def _object(self, schema: Schema, source: random.Random | None, depth: int) -> dict[str, Any]:
        fields, required = schema.get("properties", {}), schema.get("required", ())
        names = [name for name in fields if name in required or (source and depth < DEEPEST and source.random() < 0.5)]
        return {name: self._make(fields[name], source, depth + 1) for name in names}

    def _resolved(self, schema: Any) -> dict[str, Any]:
        """The schema that a chain of references ends at; one that allows anything where it ends nowhere."""
        for _ in range(DEEPEST):
            if not isinstance(schema, Mapping):
                return {}
            if "$ref" not in schema:
                return dict(schema)
            schema = self._schema.get("$defs", {}).get(str(schema["$ref"]).rpartition("/")[2])
        return {}


def _kind_of(schema: Schema) -> str:
    """The type that a schema without one means, by its other keywords."""
    marks = {
        "properties": "object",
        "items": "array",
        "prefixItems": "array",
        "minLength": "string",
        "pattern": "string",
    }
    return next((kind for mark, kind in marks.items() if mark in schema), "")


def _string(schema: Schema, source: random.Random | None) -> str:
    least = int(schema.get("minLength", 0))
    if source is None:
        return "a" * least
    most = max(least, int(schema.get("maxLength", least + 20)))
    return "".join(source.choices(string.ascii_lowercase + " ", k=source.randint(least, min(most, least + 200))))


def _number(schema: Schema, source: random.Random | None, *, whole: bool) -> int | float:
    low, high = (schema.get(name, schema.get(f"exclusive{name.title()}")) for name in ("minimum", "maximum"))
    least = low if low is not None else -WIDE if high is None else high - 2 * WIDE
    most = high if high is not None else least + 2 * WIDE
    step = schema.get("multipleOf", 1 if whole else 0)
    nudge = step or (most - least) * 1e-3
    least += nudge if "exclusiveMinimum" in schema else 0
    most -= nudge if "exclusiveMaximum" in schema else 0
    value = source.uniform(least, most) if source else least if low is not None else min(0.0, most)
    if step:
        value = step * math.ceil(value / step)
        value -= step if value > most else 0
    return int(value) if whole else float(value)


def _hollow(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _hollow(each) for key, each in value.items()}
    return [_hollow(each) for each in value] if isinstance(value, list) else HOLE
