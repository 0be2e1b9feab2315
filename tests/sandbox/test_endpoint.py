"""The policy over HTTP from inside of a sandbox, and nothing else over that road."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from sandbox.conftest import probed

from sia_core.types import Limits
from sia_runtime.sandbox import probes
from sia_runtime.sandbox.contract import Sandbox, SandboxSpec
from sia_runtime.worker.gateway import Gateway
from sia_testing.engines import ScriptedEngine

pytestmark = pytest.mark.real

QUICK = Limits(setup_seconds=20.0, solve_seconds=1.0, processes=64)
ROOMY = Limits(setup_seconds=60.0, solve_seconds=30.0, processes=64)
CALL = """
    import json, os, urllib.error, urllib.request
    def call(path="/chat/completions", key=None, data=None, **body):
        headers = {"Authorization": f"Bearer {key or os.environ['OPENAI_API_KEY']}", "Content-Type": "application/json"}
        body = data or (json.dumps(body).encode() if body else None)
        request = urllib.request.Request(os.environ["OPENAI_BASE_URL"] + path, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=20) as reply:
                return [reply.status, json.loads(reply.read())]
        except urllib.error.HTTPError as error:
            return [error.code, json.loads(error.read())["error"]["message"]]
    USER = [{"role": "user", "content": "hello"}]
"""


@pytest.fixture(params=["namespaces", pytest.param("bwrap", marks=pytest.mark.slow)])
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    instance, lacks = probed(request.param)
    if lacks:
        pytest.skip(f"{instance.name} does not work here: {lacks}")
    return instance


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    instance = Gateway(ScriptedEngine(lambda prompt, seed: f"{prompt} {seed % 1000}"))
    yield instance
    instance.close()


def solve(bench: Any, gateway: Gateway, code: str, inputs: list[Any], **options: Any) -> list[Any]:
    results = bench.solve(CALL + code, inputs, model=gateway, **options)
    assert [result.outcome for result in results] == ["ok"] * len(inputs), results
    return [json.loads(result.answer) for result in results]


def test_a_plain_client_gets_the_reply_that_the_framed_road_gives(bench: Any, gateway: Gateway) -> None:
    code = """
    def solve(instance, ctx):
        if instance.input["do"] == "frame":
            return ctx.model(USER)
        return call(messages=USER)[1]
    """
    over_http, framed = (solve(bench, gateway, code, [each])[0] for each in ("http", "frame"))
    assert over_http == framed
    assert len(gateway.finish("0").traces) == 1


def test_the_official_client_works_unchanged(bench: Any, gateway: Gateway) -> None:
    pytest.importorskip("openai")
    code = """
    def solve(instance, ctx):
        import openai
        with openai.OpenAI() as client:
            whole = client.chat.completions.create(model="policy", messages=USER, n=2, logprobs=True)
            said = [choice.message.content for choice in whole.choices]
            messages = [*USER, whole.choices[0].message, *USER]
            with client.chat.completions.create(model="any", messages=messages, stream=True) as stream:
                said.append("".join(part.choices[0].delta.content or "" for part in stream))
            said.append([model.id for model in client.models.list()])
            try:
                client.chat.completions.create(model="policy", messages=USER, top_logprobs=5)
            except openai.BadRequestError as error:
                said.append([error.param, error.type])
            return said
    """
    first, second, streamed, models, refused = solve(bench, gateway, code, [0], requires=("openai",), limits=ROOMY)[0]
    assert first.startswith("hello ")
    assert first != second
    assert streamed.startswith(f"hello{first}hello ")
    assert models == ["policy"]
    assert refused == ["top_logprobs", "invalid_request_error"]
    assert len(gateway.finish("0").traces) == 2  # the second turn goes on where one of the two replies ended


def test_each_rollout_speaks_for_itself_alone(bench: Any, gateway: Gateway) -> None:
    code = """
    def solve(instance, ctx):
        return call(messages=USER)[1]["id"], os.environ["OPENAI_API_KEY"]
    """
    answers = solve(bench, gateway, code, list(range(12)), slots=4)
    assert len({name for name, _ in answers}) == len({key for _, key in answers}) == 12
    assert all(len(gateway.finish(str(number)).traces) == 1 for number in range(12))


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        ("key='sk-wrong', messages=USER", 401, "key"),
        ("path='/models', key='sk-wrong'", 401, "key"),
        ("path='/completions', messages=USER", 404, "/v1/completions"),
        ("path='/embeddings'", 404, "/v1/embeddings"),
        ("messages=[]", 400, "messages"),
        ("messages=USER, magic=1", 400, "magic"),
        ("data=b'not json'", 400, "JSON"),
        ("data=b'[]'", 400, "object"),
        ('data=b\'{"messages": 1, "messages": 2}\'', 400, "twice"),
        ("data=b'{\"messages\": [' + b'{},' * 60_000 + b'{}]}'", 400, "more than 50,000 values"),
        ("data=bytes(5 * 2**20)", 413, "longer"),
    ],
)
def test_what_cannot_be_answered_is_told_as_the_api_tells_it(
    bench: Any, gateway: Gateway, arguments: str, status: int, reason: str
) -> None:
    code = f"""
    def solve(instance, ctx):
        try:
            return call({arguments})
        except OSError:  # refused before it was sent whole
            return [413, "longer"]
    """
    got, message = solve(bench, gateway, code, [0])[0]
    assert got == status
    assert reason in message


def test_a_reply_too_long_to_be_held_until_it_is_read_is_an_error(
    bench: Any, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sia_runtime.worker.endpoint.MODEL_BYTES", 400)
    code = """
    def solve(instance, ctx):
        return call(messages=USER, n=9), call(messages=USER, n=9, stream=True)
    """
    for status, message in solve(bench, gateway, code, [0])[0]:
        assert status == 500
        assert "more than 400" in message


def test_a_key_ends_with_its_rollout(bench: Any, gateway: Gateway) -> None:
    code = """
    def solve(instance, ctx):
        key = instance.input["do"]
        return call(key=key, messages=USER)[0] if key else os.environ["OPENAI_API_KEY"]
    """
    worker = bench.worker(CALL + code, model=gateway)
    (first,) = bench.run(worker, [""])
    (second,) = bench.run(worker, [json.loads(first.answer)])
    assert second.answer == "401"


RAW = """
    import socket
    def connect():
        port = int(os.environ["OPENAI_BASE_URL"].split(":")[2].split("/")[0])
        return socket.create_connection(("127.0.0.1", port), timeout=20)
"""


@pytest.mark.parametrize(
    "sent",
    [
        "b'GET /' + b'x' * 100_000 + b' HTTP/1.1\\r\\n\\r\\n'",
        "b'GET / HTTP/1.1\\r\\n' + b'a: b\\r\\n' * 50_000 + b'\\r\\n'",
        "b'GET / HTTP/1.1\\r\\na: ' + b'x' * 100_000 + b'\\r\\n\\r\\n'",
        "b'POST /v1/chat/completions HTTP/1.1\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n'",
        "b'POST /v1/chat/completions HTTP/1.1\\r\\nContent-Length: -1\\r\\n\\r\\n'",
        "b'POST /v1/chat/completions HTTP/1.1\\r\\nContent-Length: 99999999999999999999\\r\\n\\r\\n'",
        "b'\\x16\\x03\\x01' + bytes(100) + b'\\r\\n'",
    ],
)
def test_what_is_no_request_ends_its_connection_and_nothing_else(bench: Any, gateway: Gateway, sent: str) -> None:
    code = f"""
    def solve(instance, ctx):
        connection, got = connect(), b""
        try:
            connection.sendall({sent})
            while data := connection.recv(65536):
                got += data
        except ConnectionError:
            pass
        return [b" 200 " in got, call(messages=USER)[0]]
    """
    assert solve(bench, gateway, RAW + code, [0]) == [[False, 200]]


def test_connections_that_dawdle_give_way(bench: Any, gateway: Gateway) -> None:
    code = """
    def solve(instance, ctx):
        if instance.input["do"] == "hog":
            held = [connect() for _ in range(200)]
            for each in held:
                try:
                    each.sendall(b"POST /v1/chat/completions HTTP/1.1\\r\\nContent-Length: 9")
                except OSError:
                    pass
            ctx.model(USER)
            return len(held)
        return [call(messages=USER)[0] for _ in range(10)]
    """
    answers = solve(bench, gateway, RAW + code, ["hog", "ask", "hog", "ask"], slots=4, limits=ROOMY)
    assert answers == [200, [200] * 10, 200, [200] * 10]


def test_the_time_of_the_policy_is_not_the_harnesss(bench: Any) -> None:
    slow = threading.Event()

    class Slow(ScriptedEngine):
        def sample(self, requests: Any) -> Any:
            slow.wait(0.6)
            return super().sample(requests)

    gateway = Gateway(Slow())
    code = """
    def solve(instance, ctx):
        return [call(messages=USER)[0] for _ in range(4)]
    """
    assert solve(bench, gateway, code, [0], limits=replace(QUICK, solve_seconds=2.0)) == [[200] * 4]
    gateway.close()


# Nothing else.

TRIES = """
    def tried(function, *args):
        try:
            function(*args)
        except OSError as error:
            return "refused"
        return "worked"
    def reach(family, kind, address):
        with socket.socket(family, kind) as connection:
            connection.settimeout(0.5)
            connection.connect(address)
            connection.send(b"reached")
    def listen(family, address):
        with socket.socket(family) as listener:
            listener.bind(address)
            listener.listen()
"""


@pytest.mark.parametrize("place", ["setup", "solve"])
def test_nothing_but_the_policy_can_be_reached(bench: Any, gateway: Gateway, place: str) -> None:
    with probes._targets() as targets:
        order = targets.order()
        code = f"""
    def attack():
        order = {order!r}
        inet, unix, stream, datagram = socket.AF_INET, socket.AF_UNIX, socket.SOCK_STREAM, socket.SOCK_DGRAM
        said = [
            tried(reach, inet, stream, ("127.0.0.1", order["tcp"])),
            tried(reach, inet, stream, ("127.0.0.2", order["tcp"])),
            tried(reach, inet, datagram, ("127.0.0.1", order["udp"])),
            tried(reach, inet, socket.SOCK_RAW, ("127.0.0.1", order["udp"])),
            tried(reach, socket.AF_INET6, stream, ("::1", order["tcp"])),
            tried(reach, inet, stream, ("1.1.1.1", 443)),
            tried(reach, inet, stream, ("169.254.169.254", 80)),
            tried(reach, unix, stream, order["unix"]),
            tried(reach, unix, stream, "\\0" + order["abstract"]),
            tried(listen, inet, ("127.0.0.1", 0)),
            tried(listen, unix, "\\0inside"),
            tried(lambda: socket.socket(inet, stream, 262)),
            tried(lambda: socket.socket(socket.AF_NETLINK, datagram)),
            tried(lambda: socket.socket(inet, stream).setsockopt(6, 31, b"tls")),
            tried(lambda: socket.socket(inet, stream).setsockopt(0, 35, 1)),
        ]
        return said
    def setup(ctx):
        return attack() if {place!r} == "setup" else None
    def solve(instance, ctx):
        return ctx.state or attack()
    """
        (answers,) = solve(bench, gateway, "    import socket\n" + TRIES + code, [0], limits=ROOMY)
        assert targets.reached() == []
    assert answers == ["refused"] * len(answers)


def test_without_a_policy_there_is_no_socket_at_all(bench: Any) -> None:
    code = f"""
    import os, socket
    {TRIES}
    def solve(instance, ctx):
        said = [tried(lambda: socket.socket(family)) for family in (socket.AF_INET, socket.AF_INET6)]
        return said + [name for name in os.environ if "OPENAI" in name]
    """
    (result,) = bench.solve(code, [0])
    assert result.answer == '["refused", "refused"]', result


def test_a_sandbox_gives_a_listener_only_where_it_is_asked_for(sandbox: Sandbox, tmp_path: Any) -> None:
    program = tmp_path / "program.py"
    program.write_text("import os\ndef main(channel, world):\n    os.write(channel, str(world.port).encode())\n")
    for listens in (False, True):
        process = sandbox.start(SandboxSpec(program, listener=listens))
        process.channel.settimeout(20)
        port = process.channel.recv(100).decode()
        assert (process.listener is not None) == listens
        assert port == (str(process.listener.getsockname()[1]) if process.listener else "None")
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", int(port) if listens else 1), timeout=1)
        process.kill()


BY_PYDANTIC_AI = """
    import asyncio
    from pydantic import BaseModel
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    class Sum(BaseModel):
        value: int
    def add(a: int, b: int) -> int:
        return a + b
    def solve(instance, ctx):
        agent = Agent(OpenAIChatModel("gpt-4o"), output_type=Sum, tools=[add], instructions="be brief")
        return asyncio.run(agent.run("1 + 2")).output.value
"""
BY_OPENAI_AGENTS = """
    from agents import Agent, Runner, function_tool, set_default_openai_api, set_tracing_disabled
    from pydantic import BaseModel
    class final_result(BaseModel):
        value: int
    @function_tool
    def add(a: int, b: int) -> int:
        return a + b
    def solve(instance, ctx):
        set_tracing_disabled(True)
        set_default_openai_api("chat_completions")
        agent = Agent(name="a", tools=[add], output_type=final_result, instructions="be brief")
        return Runner.run_sync(agent, "1 + 2").final_output.value
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "code", "last"),
    [
        ("pydantic-ai-slim[openai]", BY_PYDANTIC_AI, '{"name": "final_result", "arguments": {"value": 3}}'),
        ("openai-agents", BY_OPENAI_AGENTS, '{"value": 3}'),
    ],
)
def test_an_agent_of_a_library_that_it_requires_runs_inside(bench: Any, library: str, code: str, last: str) -> None:
    first = '<tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}</tool_call>'
    gateway = Gateway(ScriptedEngine(lambda prompt, seed: last if "tool_call" in prompt else first))
    patient = Limits(setup_seconds=120.0, solve_seconds=120.0, processes=64)
    (result,) = bench.solve(code, [0], model=gateway, requires=(library,), limits=patient)
    gateway.close()
    assert (result.outcome, result.answer) == ("ok", "3"), result
