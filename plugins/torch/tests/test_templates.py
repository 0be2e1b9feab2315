"""Chat templates as models have them: without one, without a system message, strict in their order."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from toy_policies import write_model
from toy_tokenizer import byte_tokenizer

from sia_core.errors import UsageError
from sia_runtime.chat_template import ChatTemplate
from sia_runtime.worker.chat import parse
from sia_runtime.worker.chat import said as read_back
from sia_runtime.worker.gateway import Gateway
from sia_torch.engine import Torch

TURN = "{{ m.role }}: {{ m.content }}\n"
PLAIN = "{% for m in messages %}" + TURN + "{% endfor %}"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + PLAIN
ONE_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}"
    "{{ raise_exception('System message must be at the beginning.') }}{% endif %}" + TURN + "{% endfor %}"
)
SILENT = "{% for m in messages %}{% if m.role != 'system' %}" + TURN + "{% endif %}{% endfor %}"
IN_TURN = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    + TURN
    + "{% endfor %}"
)


def said(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


def prompt(template: str, *messages: dict[str, Any]) -> str:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    return str(tokenizer.decode(ChatTemplate(tokenizer, "hf:toy").render(messages)))


def test_a_policy_without_a_chat_template_is_refused_with_what_to_do(tmp_path: Path) -> None:
    write_model("llama", tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(UsageError, match=rf"hf:{tmp_path} has no chat template.*-Instruct.*chat_template\.jinja"):
        Torch(policy=f"hf:{tmp_path}")


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('not for chats') }}", "does not render a plain question: TemplateError: not for chats"),
        ("{{ nothing.at_all.here }}", "does not render a plain question: UndefinedError"),
        ("{% for m in %}", "does not render a plain question: TemplateSyntaxError"),
    ],
)
def test_a_template_that_renders_no_question_is_refused_in_its_own_words(template: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        prompt(template, said("user", "?"))


@pytest.mark.parametrize("template", [NO_SYSTEM, IN_TURN, SILENT])
def test_what_the_system_says_goes_to_the_user_where_a_template_takes_none_and_that_is_said_at_the_start(
    template: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        text = prompt(template, said("system", "be brief"), said("system", "and kind"), said("user", "why?"))
    assert text == "user: be brief\n\nand kind\n\nwhy?\n"
    assert "takes no system message" in caplog.text
    words = {NO_SYSTEM: "System role not supported", IN_TURN: "must alternate", SILENT: "leaves them out"}[template]
    assert words in caplog.text


def test_system_messages_are_joined_where_a_template_takes_but_one() -> None:
    text = prompt(ONE_SYSTEM, said("system", "be brief"), said("system", "and kind"), said("user", "why?"))
    assert text == "system: be brief\n\nand kind\nuser: why?\n"
    assert (
        prompt(PLAIN, said("system", "a"), said("system", "b"), said("user", "c")) == "system: a\nsystem: b\nuser: c\n"
    )


def test_a_conversation_that_a_template_refuses_is_a_bad_request_in_its_words_and_no_end_of_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_model("llama", tmp_path)
    (tmp_path / "chat_template.jinja").write_text(IN_TURN)
    with caplog.at_level(logging.WARNING):
        gateway = Gateway(Torch(policy=f"hf:{tmp_path}", rank=4))
    assert "refuses two messages of the user in a row (TemplateError: Conversation roles must alternate" in caplog.text
    gateway.begin("r", 1)
    error = gateway.answer("r", {"messages": [said("user", "a"), said("user", "b")], "max_tokens": 2})["error"]
    assert (error["param"], error["code"]) == ("messages", "unsupported_messages")
    assert "Conversation roles must alternate user/assistant" in error["message"]
    messages = [said("system", "be brief"), said("user", "a")]
    assert "choices" in gateway.answer("r", {"messages": messages, "max_tokens": 2})
    gateway.close()


LOOK = {
    "type": "function",
    "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object", "properties": {}}},
}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": {"at": "it"}}}
CALLED = [
    said("user", "why?"),
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "a walrus"},
]
TOOLS = "{% for t in tools or [] %}{{ t.function.name }}; {% endfor %}{% for m in messages %}"
SHOWS = (
    TOOLS
    + "{{ m.role + ': ' + m.content }}{% if m.tool_calls %}{{ m.tool_calls[0].function.name }}{% endif %} {% endfor %}"
)


def conversation(template: str, tools: list[dict[str, Any]]) -> str:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    return str(tokenizer.decode(ChatTemplate(tokenizer, "hf:toy").render(CALLED, tools)))


def test_tools_are_written_where_a_template_has_none_in_the_form_in_which_calls_are_read() -> None:
    text = conversation(PLAIN, [LOOK])
    assert text.startswith("system: You can call these tools")
    assert '{"name": "look", "description": "Looks.", "parameters"' in text
    rest = text.split("user: why?")[1]
    assert rest == (
        '\nassistant: <tool_call>\n{"name": "look", "arguments": {"at": "it"}}\n</tool_call>\n'
        "user: <tool_response>\na walrus\n</tool_response>\n"
    )
    chat = parse({"messages": CALLED, "tools": [LOOK]})
    again = read_back(chat, rest.split("assistant: ")[1].split("\nuser:")[0], "x")
    assert [each["function"] for each in again["tool_calls"]] == [CALL["function"]]


def test_a_template_that_has_tools_shows_them_itself() -> None:
    assert conversation(SHOWS, [LOOK]) == "look; user: why? assistant: look tool: a walrus "


@pytest.mark.parametrize(
    "template", [PLAIN, SHOWS, "{% for m in messages %}{{ m.role + m.content.strip() }}{% endfor %}"]
)
def test_a_message_that_only_calls_tools_has_no_text_and_is_no_error(template: str) -> None:
    assert "a walrus" in conversation(template, [])
