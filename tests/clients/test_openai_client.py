"""The official client against the policy's endpoint: what it sends, and which exception a refusal becomes."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest
from clients.conftest import ADD, Site, call

openai = pytest.importorskip("openai")

USER = [{"role": "user", "content": "hello"}]
NAMED = {"type": "function", "function": {"name": "add"}}


@pytest.fixture
def client(site: Site) -> Iterator[Any]:
    with openai.OpenAI(max_retries=0) as connection:
        yield connection


def ask(client: Any, **fields: Any) -> Any:
    return client.chat.completions.create(**{"model": "gpt-4o", "messages": USER, **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"store": True, "metadata": {"a": "b"}, "user": "me", "service_tier": "auto", "seed": 7},
        {"safety_identifier": "a", "prompt_cache_key": "b", "prediction": {"type": "content", "content": "x"}},
        {"reasoning_effort": "none", "verbosity": "low"},
        {"parallel_tool_calls": True, "n": None, "temperature": None, "stop": None, "tool_choice": None},
        {"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "top_p": 1, "top_logprobs": None},
        {"top_p": 0.9, "max_completion_tokens": 50, "modalities": ["text"], "response_format": {"type": "text"}},
        {"messages": [{"role": "developer", "content": [{"type": "text", "text": "be brief"}]}, *USER]},
        {"extra_query": {"api-version": "2026-01-01"}},
    ],
)
def test_what_clients_send_by_default_is_taken(site: Site, client: Any, fields: dict[str, Any]) -> None:
    site.says("hi")
    assert ask(client, **fields).choices[0].message.content == "hi"


def test_a_reply_of_another_server_can_be_sent_back(site: Site, client: Any) -> None:
    site.says("hi")
    function = {"name": "add", "arguments": "{}", "parsed_arguments": {}}
    calls = [{"index": 0, "id": "a", "type": "function", "function": function}]
    sent = {"role": "assistant", "content": None, "refusal": None, "audio": None, "annotations": [], "name": "bot"}
    marks = {"thinking_blocks": [{"thinking": "hm"}], "parsed": {"a": 1}, "cache_control": {"type": "ephemeral"}}
    more = {"reasoning_content": "hm", "function_call": None, "tool_calls": calls, **marks}
    result = {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "3"}]}
    ask(client, messages=[*USER, {**sent, **more}, result], tools=[ADD])
    assert "hm" not in site.prompts[0]
    assert '{"name": "add", "arguments": {}}' in site.prompts[0]


def test_a_conversation_with_tools_is_one_trace_though_the_client_adds_to_what_it_sends_back(
    site: Site, client: Any
) -> None:
    site.says("one", "two")
    message = ask(client, tools=[ADD]).choices[0].message
    sent = {**message.model_dump(), "reasoning_content": "", "annotations": [], "provider_specific_fields": {}}
    ask(client, messages=[*USER, sent, *USER], tools=[ADD])
    assert len(site.record().traces) == 1


@pytest.mark.parametrize("choice", ["required", NAMED])
def test_a_call_that_is_required_is_made_by_the_name_of_its_tool(site: Site, client: Any, choice: Any) -> None:
    site.says('{"name":"add","arguments":{"a":1,"b":2}}')
    (choice,) = ask(client, tools=[ADD], tool_choice=choice).choices
    (tool_call,) = choice.message.tool_calls
    assert (tool_call.function.name, json.loads(tool_call.function.arguments)) == ("add", {"a": 1, "b": 2})
    assert choice.finish_reason == "tool_calls"


def test_a_call_that_is_required_and_not_made_is_asked_for_again(site: Site, client: Any) -> None:
    site.says("no", call("other", "{}"), call("add", '{"a":1,"b":2}'))
    assert ask(client, tools=[ADD], tool_choice="required").choices[0].message.tool_calls[0].function.name == "add"
    assert sum(sum(trace.mask) > 0 for trace in site.record().traces) == 3  # all that the policy said is its own


def test_a_call_that_is_never_made_is_an_error_by_its_name(site: Site, client: Any) -> None:
    site.says("no", "no", "no")
    with pytest.raises(openai.BadRequestError, match="did not answer with a call of add") as refused:
        ask(client, tools=[ADD], tool_choice="required")
    assert (refused.value.param, refused.value.code) == ("tool_choice", "tool_use_failed")


def test_tools_are_not_offered_where_none_may_be_called(site: Site, client: Any) -> None:
    site.says(call("add", "{}"))
    (choice,) = ask(client, tools=[ADD], tool_choice="none").choices
    assert choice.message.tool_calls is None
    assert site.prompts == ["hello"]


def test_one_call_alone_is_made_where_parallel_ones_are_not_wanted(site: Site, client: Any) -> None:
    site.says(call("add", "{}") * 2, call("add", "{}") * 2)
    many, one = (ask(client, tools=[ADD], parallel_tool_calls=each).choices[0].message for each in (True, False))
    assert (len(many.tool_calls), len(one.tool_calls)) == (2, 1)


def test_a_schema_leaves_room_for_a_call_of_a_tool(site: Site, client: Any) -> None:
    site.says('{"name":"add","arguments":{"a":1,"b":2}}', '{"sum": 3}')
    schema = {"type": "object", "properties": {"sum": {"type": "integer"}}}
    format_ = {"type": "json_schema", "json_schema": {"name": "out", "schema": schema}}
    first, second = (ask(client, tools=[ADD], response_format=format_).choices[0].message for _ in range(2))
    assert first.tool_calls[0].function.name == "add"
    assert (second.tool_calls, second.content) == (None, '{"sum": 3}')


def test_a_stream_tells_a_tool_call_and_what_was_used(site: Site, client: Any) -> None:
    site.says(call("add", '{"a":1,"b":2}'))
    options = {"include_usage": True, "include_obfuscation": False}
    parts = list(ask(client, tools=[ADD], stream=True, stream_options=options))
    assert parts[0].choices[0].delta.tool_calls[0].function.name == "add"
    assert parts[-1].usage.completion_tokens > 0


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"frequency_penalty": 0.5}, "frequency_penalty", "unsupported_parameter"),
        ({"logit_bias": {"1": 5}}, "logit_bias", "unsupported_parameter"),
        ({"top_logprobs": 3, "logprobs": True}, "top_logprobs", "unsupported_parameter"),
        ({"modalities": ["text", "audio"]}, "modalities", "unsupported_parameter"),
        ({"web_search_options": {}}, "web_search_options", "unsupported_parameter"),
        ({"functions": [{"name": "f"}]}, "functions", "unsupported_parameter"),
        ({"extra_body": {"magic": 1}}, "magic", "unknown_parameter"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"tools": [ADD], "tool_choice": {**NAMED, "function": {"name": "sub"}}}, "tool_choice", "invalid_value"),
        ({"tools": [ADD], "tool_choice": "sometimes"}, "tool_choice", "invalid_value"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools.0.type", None),
        ({"max_tokens": 40_000}, "messages", "context_length_exceeded"),
        ({"messages": [{"role": "user", "content": "x" * 40_000}]}, "messages", "context_length_exceeded"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages.0.content.0.type",
            None,
        ),
    ],
)
def test_what_cannot_be_honoured_is_a_bad_request_by_its_field(
    site: Site, client: Any, fields: dict[str, Any], param: str, code: str | None
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, **fields)
    assert (refused.value.param, refused.value.code) == (param, code)
    assert refused.value.type == "invalid_request_error"


def test_models_are_listed_and_any_name_is_one(client: Any) -> None:
    assert [each.id for each in client.models.list()] == ["policy"]
    assert client.models.retrieve("gpt-4o").id == "gpt-4o"
    assert client.models.retrieve("openai/gpt-4o").id == "openai/gpt-4o"


@pytest.mark.parametrize(
    ("ask_it", "instead"),
    [
        (lambda client: client.responses.create(model="m", input="x"), "set_default_openai_api"),
        (lambda client: client.embeddings.create(model="m", input="x"), "requires"),
        (lambda client: client.completions.create(model="m", prompt="x"), "chat completions"),
        (lambda client: client.images.generate(prompt="x"), "/v1/images/generations"),
    ],
)
def test_a_road_that_is_not_there_is_not_found_and_says_which_is(client: Any, ask_it: Any, instead: str) -> None:
    with pytest.raises(openai.NotFoundError, match=instead):
        ask_it(client)


def test_a_wrong_key_is_the_clients_authentication_error(site: Site) -> None:
    with openai.OpenAI(api_key="sk-wrong", max_retries=0) as client, pytest.raises(openai.AuthenticationError):
        ask(client)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models/", 200),
        ("GET", "/v1/models?api-version=1", 200),
        ("HEAD", "/v1/models", 200),
        ("OPTIONS", "/v1/chat/completions", 200),
        ("POST", "/v1/chat/completions/?api-version=1", 200),
        ("GET", "//[", 404),
        ("DELETE", "/v1/models/policy", 501),
    ],
)
def test_the_road_is_found_however_it_is_written(site: Site, method: str, path: str, status: int) -> None:
    site.says("hi")
    connection = http.client.HTTPConnection(site.url.split("/")[2], timeout=20)
    body = json.dumps({"messages": USER}) if method == "POST" else None
    connection.request(method, path, body, {"Authorization": f"bearer {site.key}"})
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    assert reply.status == status
    assert (content == b"") == (method == "HEAD")
