"""The best agent of a run behind its endpoint, asked by a client, in its sandbox."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from example_runs import Run
from openai import OpenAI

from sia_cli.bounded_http import Server, bound
from sia_core.plugins import Plugins
from sia_deploy.agent import DeployedAgent
from sia_deploy.server import application

pytestmark = [pytest.mark.real, pytest.mark.slow]


def test_a_client_asks_the_agent_as_it_asks_a_model_and_the_run_stays_as_it_was(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / run("--generations", "2")["run"]
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with DeployedAgent(folder, Plugins.discover()) as agent, bound("127.0.0.1", 0) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        served = Server(application(agent, None), 64, log_level="critical")
        thread = threading.Thread(target=served.run, args=([listener],))
        thread.start()
        with OpenAI(base_url=url, api_key="any", max_retries=0) as client:
            answers = [
                client.chat.completions.create(model="any", messages=[{"role": "user", "content": content}])
                for content in ("two plus three", json.dumps({"text": "two plus three"}))
            ]
            messages = [{"role": "user", "content": "two plus three"}]
            chunks = list(client.chat.completions.create(model="any", messages=messages, stream=True))
        served.should_exit = True
        thread.join()
    assert [answer.choices[0].message.content for answer in answers] == ["5", "5"]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "5"
    assert {path: path.read_bytes() for path in before} == before
