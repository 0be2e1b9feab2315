"""Real inference servers with a toy model, from the environments that ``tools/real_servers.py`` makes."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from command_runs import SIA, finished, steps
from example_runs import comparable

ROOT = Path(__file__).parents[1]
PATIENCE = 600.0
"""Seconds that a server has to answer for the first time; a quiet machine takes 30."""


def recipes() -> Any:
    """The program that makes the environments, as a module."""
    spec = importlib.util.spec_from_file_location("real_servers", ROOT / "tools" / "real_servers.py")
    assert spec is not None
    assert spec.loader is not None
    program = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # its dataclass looks itself up there
    spec.loader.exec_module(program)
    return program


def environment(name: str) -> Path:
    """The folder of a server's environment; the test skips, with the reason, where there is none."""
    program = recipes()
    if reason := program.lacking(name):
        pytest.skip(reason)
    folder: Path = program.environment(name)
    return folder


def toy_model(folder: Path) -> Path:
    """A Qwen3 of 0.7 million random weights, with a tokenizer of bytes."""
    import torch
    from toy_tokenizer import byte_tokenizer
    from transformers import AutoModelForCausalLM, Qwen3Config

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=512,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=1024,
        eos_token_id=256,
        tie_word_embeddings=False,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def written_run(folder: Path) -> list[str]:
    """Write an agent whose reward hangs on every character of a reply, and cases; a run that trains it."""
    (folder / "agent").mkdir()
    (folder / "agent" / "harness.py").write_text(
        "def solve(instance, ctx):\n"
        '    reply = ctx.model([{"role": "user", "content": instance.input["text"]}], max_tokens=4)\n'
        '    return str(sum(map(ord, reply["choices"][0]["message"]["content"])) % 2)\n'
    )
    rows = [{"input": f"Say {number}.", "answer": str(number % 2)} for number in range(60)]
    (folder / "cases.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = [
        "run",
        "--harness",
        str(folder / "agent"),
        "--data",
        str(folder / "cases.jsonl"),
        "--verifier",
        "exact",
    ]
    arguments += ["--levers", "weights", "--generations", "1", "--train", "steps=2,prompts=4,group=4"]
    return [*arguments, "--runs-dir", str(folder / "runs"), "--json"]


def check_resumed(
    command: Sequence[str], environment: Mapping[str, str], runs: Path, whole: dict[str, Any], server: InferenceServer
) -> None:
    """The run ``whole``, killed with its server once it trains, is resumed to the same report."""
    killed([*command, "--name", "halved"], environment, runs / "halved", before_training(runs / "whole"), server)
    server.start()
    again = finished(["resume", "halved", "--runs-dir", str(runs), "--json"], environment)
    assert results(again) == results(whole)


def killed(
    command: Sequence[str], environment: Mapping[str, str], run: Path, events: int, server: InferenceServer
) -> None:
    """Start a run, and kill it and its server once a number of events is recorded."""
    with subprocess.Popen([*SIA, *command], stdout=subprocess.DEVNULL, env={**os.environ, **environment}) as process:
        try:
            while process.poll() is None and len(steps(run)) < events:
                time.sleep(0.02)
            assert process.poll() is None, "the run ended before it could be killed"
            server.kill()
        finally:
            process.kill()


def results(report: dict[str, Any]) -> dict[str, Any]:
    """A report without what was measured, and without the trained agent's name.

    Servers round by what else is asked at the same time, so that an adapter's last digits differ.
    """
    rows = []
    for row in report["generations"]:
        fields = {name: value for name, value in row.items() if name not in ("estimate", "reason", "agent")}
        took = {name: value for name, value in row["took"].items() if name not in ("seconds", "memory")}
        rows.append({**fields, "took": took})
    return {**comparable(report), "generations": rows}


def before_training(run: Path) -> int:
    """How many events a run that trained had recorded when it began to."""
    return next(place for place, (_, key, _) in enumerate(steps(run)) if "/train/" in key and key.endswith("/00000"))


class InferenceServer:
    """A server process while the ``with`` block lasts; it can be killed, and started again.

    ``command`` starts it, with ``PORT`` in place of its port; ``ready`` is a path that it answers once it is there.
    """

    def __init__(self, command: Sequence[str], ready: str, log: Path, environment: Mapping[str, str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._command = [str(self.port) if each == "PORT" else each for each in command]
        self.url = f"http://127.0.0.1:{self.port}"
        self._ready, self._log = f"{self.url}{ready}", log
        # Threads that spin while they wait for each other take minutes on a busy machine.
        self._environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return once it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the server does not answer: {self._log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.2)

    def kill(self) -> None:
        """End it and all that it started: killed alone, it leaves its engine behind."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The JSON that it answers."""
        data = json.dumps(body).encode() if body else None
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(f"{self.url}{path}", data, headers)
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.loads(reply.read())

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self._ready, timeout=5):
                return True
        except OSError:
            return False

    def __enter__(self) -> InferenceServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
