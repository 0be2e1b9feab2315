"""The libraries that agents are written with, unchanged, against the policy's endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from clients.conftest import Site, call
from pydantic import BaseModel

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # what libraries warn of is theirs

SUM = call("add", '{"a":1,"b":2}')
UNHEEDED = "frequency_penalty"


class Sum(BaseModel):
    """The answer."""

    value: int


def add(a: int, b: int) -> int:
    """Adds.

    Args:
        a: one
        b: the other
    """
    return a + b


def only(*texts: str) -> str:
    return "".join(texts)


# LangChain.


@pytest.fixture
def chat(site: Site) -> Any:
    return pytest.importorskip("langchain_openai").ChatOpenAI(model="gpt-4o")


def test_langchain_chats_streams_and_is_told_what_is_refused(site: Site, chat: Any) -> None:
    import openai
    from langchain_openai import ChatOpenAI

    site.says("hi", "streamed", "reasoned")
    assert chat.invoke("hello").content == "hi"
    assert only(*(part.content for part in chat.stream("hello"))) == "streamed"
    assert ChatOpenAI(model="o3-mini").invoke([("system", "be brief"), ("user", "x")]).content == "reasoned"
    with pytest.raises(openai.BadRequestError, match=UNHEEDED):
        ChatOpenAI(model="gpt-4o", frequency_penalty=1.0).invoke("hello")


@pytest.mark.parametrize(
    ("method", "text"),
    [
        ("json_schema", '{"value": 3}'),
        ("json_mode", '{"value": 3}'),
        ("function_calling", call("Sum", '{"value": 3}')),
    ],
)
def test_langchain_gets_structured_output_by_every_method(site: Site, chat: Any, method: str, text: str) -> None:
    site.says(text)
    assert chat.with_structured_output(Sum, method=method).invoke("1 + 2 as JSON") == Sum(value=3)


def test_langchain_goes_round_with_a_tool(site: Site, chat: Any) -> None:
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_core.tools import tool

    site.says(SUM, "it is 3")
    bound = chat.bind_tools([tool(add)], tool_choice="any", parallel_tool_calls=False)
    history: list[Any] = [HumanMessage("1 + 2")]
    history.append(bound.invoke(history))
    (tool_call,) = history[1].tool_calls
    history.append(ToolMessage(str(add(**tool_call["args"])), tool_call_id=tool_call["id"]))
    assert chat.bind_tools([tool(add)]).invoke(history).content == "it is 3"
    assert "3" in site.prompts[1]


def finish(client: Any, work: Coroutine[Any, Any, Any]) -> Any:
    """Run to the end, and close the client's connections while their loop still runs."""

    async def all_of_it() -> Any:
        async with client:
            return await work

    return asyncio.run(all_of_it())


# pydantic-ai.


def pydantic_model() -> Any:
    pytest.importorskip("pydantic_ai")
    from openai import AsyncOpenAI
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    return OpenAIChatModel("gpt-4o", provider=OpenAIProvider(openai_client=AsyncOpenAI(max_retries=0)))


def test_pydantic_ai_gets_its_output_type_after_a_round_with_a_tool(site: Site) -> None:
    from pydantic_ai import Agent

    site.says(SUM, call("final_result", '{"value": 3}'))
    model = pydantic_model()
    agent = Agent(model, output_type=Sum, system_prompt="be exact", instructions="be brief", tools=[add])
    assert finish(model.client, agent.run("1 + 2")).output == Sum(value=3)


@pytest.mark.parametrize("mode", ["NativeOutput", "PromptedOutput", "ToolOutput"])
def test_pydantic_ai_gets_its_output_type_by_every_mode(site: Site, mode: str) -> None:
    import pydantic_ai

    site.says(call("final_result", '{"value": 3}') if mode == "ToolOutput" else '{"value": 3}')
    model = pydantic_model()
    agent = pydantic_ai.Agent(model, output_type=getattr(pydantic_ai, mode)(Sum))
    assert finish(model.client, agent.run("1 + 2")).output == Sum(value=3)


def test_pydantic_ai_chats_streams_and_is_told_what_is_refused(site: Site) -> None:
    from pydantic_ai import Agent
    from pydantic_ai.exceptions import ModelHTTPError

    site.says("hi", "streamed")
    model = pydantic_model()
    agent = Agent(model)

    async def all_of_it() -> list[str]:
        output = (await agent.run("hello")).output
        async with agent.run_stream("hello") as streamed:
            parts = [part async for part in streamed.stream_text(delta=True)]
        with pytest.raises(ModelHTTPError, match=UNHEEDED):
            await agent.run("hello", model_settings={UNHEEDED: 1.0})
        return [output, only(*parts)]

    assert finish(model.client, all_of_it()) == ["hi", "streamed"]


# openai-agents.


@pytest.fixture
def agents(site: Site) -> Any:
    library = pytest.importorskip("agents")
    library.set_tracing_disabled(True)
    library.set_default_openai_api("chat_completions")
    return library


@pytest.fixture
def client(agents: Any) -> Any:
    from openai import AsyncOpenAI

    default = AsyncOpenAI(max_retries=0)
    agents.set_default_openai_client(default, use_for_tracing=False)
    return default


def test_openai_agents_run_with_tools_an_output_type_and_a_handoff(site: Site, agents: Any, client: Any) -> None:
    tool = agents.function_tool(add)
    required = agents.ModelSettings(tool_choice="required")

    async def all_of_it() -> list[Any]:
        site.says("hi", SUM, '{"value": 3}', SUM, "it is 3", call("transfer_to_other", "{}"), "from the other")
        plain = agents.Agent(name="plain", instructions="be brief")
        typed = agents.Agent(name="typed", tools=[tool], output_type=Sum)
        forced = agents.Agent(name="forced", tools=[tool], model_settings=required)
        handing = agents.Agent(name="handing", handoffs=[agents.Agent(name="other")])
        return [(await agents.Runner.run(each, "1 + 2")).final_output for each in (plain, typed, forced, handing)]

    assert finish(client, all_of_it()) == ["hi", Sum(value=3), "it is 3", "from the other"]


def test_openai_agents_stream_and_are_told_what_is_refused(site: Site, agents: Any, client: Any) -> None:
    import openai

    async def all_of_it() -> Any:
        site.says("streamed")
        run = agents.Runner.run_streamed(agents.Agent(name="a"), "hello")
        async for _ in run.stream_events():
            pass
        penalised = agents.Agent(name="b", model_settings=agents.ModelSettings(frequency_penalty=1.0))
        with pytest.raises(openai.BadRequestError, match=UNHEEDED):
            await agents.Runner.run(penalised, "hello")
        agents.set_default_openai_api("responses")  # their own default
        with pytest.raises(openai.NotFoundError, match="set_default_openai_api"):
            await agents.Runner.run(agents.Agent(name="c"), "hello")
        return run.final_output

    assert finish(client, all_of_it()) == "streamed"


# smolagents.


def test_smolagents_call_tools_write_code_and_are_told_what_is_refused(site: Site) -> None:
    smolagents = pytest.importorskip("smolagents")
    import openai

    model = smolagents.OpenAIServerModel("m", api_base=site.url, api_key=site.key)
    tool = smolagents.tool(add)
    site.says(SUM, call("final_answer", '{"answer": "3"}'))
    assert smolagents.ToolCallingAgent(tools=[tool], model=model, verbosity_level=0).run("1 + 2") == "3"
    site.says("Thought: easy\n<code>\nfinal_answer(add(1, 2))\n</code>")
    assert smolagents.CodeAgent(tools=[tool], model=model, verbosity_level=0).run("1 + 2") == 3
    with pytest.raises(openai.BadRequestError, match=UNHEEDED):
        model.generate([smolagents.ChatMessage(role="user", content="x")], frequency_penalty=1.0)
