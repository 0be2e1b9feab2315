"""A run as a process among others: signals that end it, standard streams that are closed, full or unread."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from command_runs import SIA
from example_runs import EXAMPLE, command, smaller

from sia_core.run.ledger import Ledger

pytestmark = pytest.mark.real

STRANGE = "ж中"
Plain = Callable[[list[str]], subprocess.CompletedProcess[bytes]]
SHORT = ("--generations", "0")


def _ignoring(*numbers: signal.Signals) -> Callable[[], None]:
    """A shell's step before it starts a command: ignore these signals, set all others to their default."""

    def before() -> None:
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(each, signal.SIG_IGN if each in numbers else signal.SIG_DFL)

    return before


class Started:
    """A command in a new session, with its own folder for temporary files."""

    def __init__(
        self,
        argv: Sequence[str],
        folder: Path,
        ignored: Sequence[signal.Signals] = (),
        stdout: int = subprocess.DEVNULL,
    ) -> None:
        self.temporary = folder / "temporary"
        self.temporary.mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            [*SIA, *argv],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=_ignoring(*ignored),
            env={**os.environ, "TMPDIR": str(self.temporary)},
        )

    def stopped(self, word: str, *numbers: signal.Signals) -> str:
        """Send signals once standard error holds a word; all that it held in the end."""
        assert self.process.stderr
        lines = []
        for line in self.process.stderr:
            lines.append(line)
            if word in line:
                for each in numbers:
                    self.process.send_signal(each)
                break
        return "".join(lines) + self.process.communicate()[1]

    def survivors(self) -> list[str]:
        """The processes of the command's session that live on."""
        processes = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:  # it has just ended
                continue
            if int(fields[3]) == self.process.pid and fields[0] != "Z":
                processes.append(stat.parent.name)
        return processes


@pytest.mark.parametrize(
    ("numbers", "ignored"),
    [
        ([signal.SIGHUP], []),
        ([signal.SIGTERM, signal.SIGTERM, signal.SIGHUP], []),
        ([signal.SIGINT, signal.SIGTERM], [signal.SIGINT]),
        ([signal.SIGHUP, signal.SIGTERM], [signal.SIGHUP, signal.SIGINT]),
        ([signal.SIGTERM], [signal.SIGTERM]),
    ],
)
def test_a_run_that_is_told_to_stop_says_how_to_go_on_and_leaves_nothing_behind(
    numbers: list[signal.Signals], ignored: list[signal.Signals], sums: Path, tmp_path: Path
) -> None:
    (sums / "agent" / "harness.py").write_text("def solve(instance, ctx):\n    while True: pass\n")
    run = Started([*command(sums, tmp_path), *SHORT, "--name", "told"], tmp_path, ignored)
    text = run.stopped("sandbox", *numbers)
    assert run.process.returncode == 130
    assert f"go on with `sia resume told --runs-dir {tmp_path / 'runs'}`" in text
    assert "Traceback" not in text
    assert run.survivors() == []
    assert [path.name for path in run.temporary.iterdir()] == []
    with Ledger.open(tmp_path / "runs" / "told") as ledger:  # no lock is left, and its chain holds
        assert ledger.get("run")


def test_a_run_that_was_stopped_by_sigterm_goes_on(sums: Path, tmp_path: Path) -> None:
    run = Started([*command(sums, tmp_path), *SHORT], tmp_path, [signal.SIGINT])
    run.stopped("sandbox", signal.SIGTERM)
    result = subprocess.run(
        [*SIA, "resume", "--runs-dir", str(tmp_path / "runs"), "--json"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["status"] == "finished"


HANGS = """
def solve(instance, ctx):
    while instance.input["text"] == "hang": pass
    return "5"
"""


def test_a_served_agent_that_is_told_to_stop_while_it_answers_leaves_nothing_behind(sums: Path, tmp_path: Path) -> None:
    (sums / "agent" / "harness.py").write_text(HANGS)
    result = subprocess.run([*SIA, *command(sums, tmp_path), *SHORT], capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        argv = ["serve", "--runs-dir", str(tmp_path / "runs"), "--port", "0"]
        served = Started(argv, tmp_path, stdout=subprocess.PIPE)
        assert served.process.stdout
        url = next(line.partition("=")[2] for line in served.process.stdout if line.startswith("OPENAI_BASE_URL="))
        port = int(url.rpartition(":")[2].partition("/")[0])
        with _asked(port, "answer") as connection, http.client.HTTPResponse(connection) as reply:
            reply.begin()
            assert b'"5"' in reply.read()
        with _asked(port, "hang"), socket.create_connection(("127.0.0.1", port)) as later:
            later.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert later.recv(65536)  # so the question before it has a thread
            served.process.send_signal(number)
            assert served.process.wait() == 0
        assert "Traceback" not in served.process.communicate()[1]
        assert served.survivors() == []
        assert [path.name for path in served.temporary.iterdir()] == []


@pytest.mark.parametrize(
    ("numbers", "ignored"),
    [
        ([signal.SIGTERM], []),
        ([signal.SIGHUP], []),
        ([signal.SIGINT], []),
        ([signal.SIGINT, signal.SIGTERM], [signal.SIGINT]),
    ],
)
def test_the_dashboard_ends_by_a_signal_without_a_traceback(
    numbers: list[signal.Signals], ignored: list[signal.Signals], tmp_path: Path
) -> None:
    pytest.importorskip("sia_dashboard")
    argv = ["view", "--runs-dir", str(tmp_path), "--port", "0"]
    view = Started(argv, tmp_path, ignored, stdout=subprocess.PIPE)
    assert view.process.stdout
    port = int(next(iter(view.process.stdout)).rpartition(":")[2].partition("/")[0])
    with socket.create_connection(("127.0.0.1", port)) as page:
        page.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        assert page.recv(65536).startswith(b"HTTP/1.1 200")  # so its signals are set up
    for each in numbers:
        view.process.send_signal(each)
    assert (view.process.wait(), view.process.communicate()[1]) == (0, "")
    assert view.survivors() == []


def _asked(port: int, question: str) -> socket.socket:
    """A connection on which an endpoint was asked something."""
    connection = socket.create_connection(("127.0.0.1", port))
    body = json.dumps({"messages": [{"role": "user", "content": question}]}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    return connection


def test_what_a_run_does_is_told_line_by_line_where_there_is_no_terminal(sums: Path, tmp_path: Path) -> None:
    (sums / "agent" / "harness.py").write_text("def solve(instance, ctx):\n    while True: pass\n")
    run = Started([*command(sums, tmp_path), *SHORT, "--name", "told"], tmp_path)
    assert run.stopped("sandbox", signal.SIGTERM).startswith("told: task sums, verifier exact, ")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run with a name that no narrow encoding holds."""
    folder = tmp_path_factory.mktemp("finished")
    argv = [*SIA, *command(smaller(EXAMPLE, folder / "few", 80), folder), *SHORT, "--name", STRANGE]
    result = subprocess.run(argv, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
    return folder


def _all_words() -> list[list[str]]:
    """A command line of each command that ends by itself."""
    task = ["--harness", str(EXAMPLE / "agent"), "--data", str(EXAMPLE / "cases.jsonl"), "--verifier", "exact"]
    slow = [
        ["doctor"],
        ["audit", *task],
        ["plan", *task],
        ["replay", STRANGE],
        ["run", *task, *SHORT, "--dry-run"],
        ["run", *task, *SHORT],
        ["resume", STRANGE],
        ["compare", "compared", *task, "--arms", "none", "--seeds", "1", "--budget", "rollouts=2000"],
        ["new", "task", "made"],
        ["export", STRANGE, "agent"],
    ]
    return [[], ["--version"], ["--help"], ["runs"], ["report", "--json"], ["report", "--csv"], ["report", "none"],
            ["show"], ["show", "--help"], ["plugins"], *slow]  # fmt: skip


@pytest.fixture(scope="module")
def plain(finished: Path) -> Plain:
    """``plain(argv)`` is what a command does with all of its streams; each runs once."""
    ran: dict[str, subprocess.CompletedProcess[bytes]] = {}

    def run(argv: list[str]) -> subprocess.CompletedProcess[bytes]:
        key = " ".join(argv)
        if key not in ran:
            ran[key] = _done(argv, finished)
        return ran[key]

    return run


QUICK = [[], ["--version"], ["report"], ["report", "none"]]


def _done(argv: Sequence[str], folder: Path, *closed: int, **more: Any) -> subprocess.CompletedProcess[bytes]:
    """A command in a folder, begun with some standard streams closed."""
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}

    def close() -> None:
        for number in closed:
            os.close(number)

    return subprocess.run([*SIA, *argv], cwd=folder, check=False, preexec_fn=close, **streams)


@pytest.mark.parametrize("argv", QUICK, ids=" ".join)
@pytest.mark.parametrize("closed", [[1], [2], [0, 1, 2]], ids=str)
def test_a_stream_that_is_closed_changes_no_exit_code(
    argv: list[str], closed: list[int], finished: Path, plain: Plain
) -> None:
    result = _done(argv, finished, *closed)
    assert result.returncode == plain(argv).returncode
    assert b"Traceback" not in result.stderr
    assert result.stdout == (b"" if 1 in closed else plain(argv).stdout)


@pytest.mark.parametrize("argv", QUICK, ids=" ".join)
def test_a_reader_that_leaves_ends_a_command_without_a_word(argv: list[str], finished: Path, plain: Plain) -> None:
    ended, expected = _into_a_pipe_that_nobody_reads(argv, finished), plain(argv)
    assert (ended.returncode, ended.stderr) == (expected.returncode or (141 if expected.stdout else 0), expected.stderr)


def _into_a_pipe_that_nobody_reads(argv: Sequence[str], folder: Path) -> subprocess.CompletedProcess[bytes]:
    reader, write = os.pipe()
    os.close(reader)
    try:
        return _done(argv, folder, stdout=write)
    finally:
        os.close(write)


@pytest.mark.parametrize("argv", [["--version"], ["runs", "--json"], ["report"]], ids=" ".join)
def test_a_full_disk_under_standard_output_is_said(argv: list[str], finished: Path) -> None:
    with open("/dev/full", "wb") as full:
        result = _done(argv, finished, stdout=full)
    assert result.returncode == 1
    assert result.stderr.startswith(b"sia: standard output cannot be written: No space left on device")
    assert b"Traceback" not in result.stderr


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=str,
)
def test_an_encoding_without_the_characters_of_a_run_gets_escapes(
    variables: dict[str, str], finished: Path, plain: Plain
) -> None:
    environment = {**os.environ, **variables}
    for argv in (["runs"], ["report"], ["report", "none"]):
        result = _done(argv, finished, env=environment)
        assert result.returncode == plain(argv).returncode
        assert b"Traceback" not in result.stderr
        assert (rb"\u" in result.stdout) == (argv != ["report", "none"])
    assert json.loads(_done(["runs", "--json"], finished, env=environment).stdout)[0]["status"] == "finished"


def test_a_run_whose_output_nobody_can_read_is_finished_and_kept(tmp_path: Path) -> None:
    argv = [*command(smaller(EXAMPLE, tmp_path / "few", 80), tmp_path), *SHORT]
    ended = _into_a_pipe_that_nobody_reads([*argv, "--name", "left"], tmp_path)
    closed = _done([*argv, "--name", "closed"], tmp_path, 0, 1, 2)
    assert (ended.returncode, closed.returncode) == (141, 0)
    rows = json.loads(_done(["runs", "--json"], tmp_path).stdout)
    assert {row["run"]: row["status"] for row in rows} == {"left": "finished", "closed": "finished"}


@pytest.mark.slow
@pytest.mark.parametrize("number", range(20))
def test_no_command_falls_over_its_streams(number: int, finished: Path, tmp_path: Path) -> None:
    argv = _all_words()[number]
    shutil.copytree(finished / "runs", tmp_path / "runs")
    with open("/dev/full", "wb") as full:
        ways: list[Callable[[], subprocess.CompletedProcess[bytes]]] = [
            lambda: _done(argv, tmp_path),
            lambda: _done(argv, tmp_path, 0, 1, 2),
            lambda: _into_a_pipe_that_nobody_reads(argv, tmp_path),
            lambda: _done(argv, tmp_path, stdout=full),
            lambda: _done(argv, tmp_path, stdout=full, stderr=full),
            lambda: _done(argv, tmp_path, env={**os.environ, "PYTHONIOENCODING": "ascii"}),
        ]
        plain, *others = [_afresh(way, tmp_path) for way in ways]
    for result in others:
        assert result.returncode in {plain.returncode, 141 if plain.stdout else 0, 1 if plain.stdout else 0}
        assert b"Traceback" not in (result.stderr or b"")


def _afresh(way: Callable[[], subprocess.CompletedProcess[bytes]], folder: Path) -> subprocess.CompletedProcess[bytes]:
    """Run a command in a folder from which what it makes is removed."""
    for path in folder.iterdir():
        if path.name != "runs":
            shutil.rmtree(path)
    return way()
