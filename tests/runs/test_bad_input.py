"""Bad input: a clear error on standard error, exit code 2, no traceback, nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest
from example_runs import Run, command

from sia_cli import main

pytestmark = pytest.mark.real


def refused(argv: list[str], capsys: pytest.CaptureFixture[str], *words: str) -> None:
    try:
        code = main(argv)
    except SystemExit as error:  # argparse ends the process itself
        code = int(error.code or 0)
    text = capsys.readouterr().err
    assert code == 2, text
    assert "Traceback" not in text
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["run"], ["--plugin NAME", "--harness DIR"]),
        (["run", "--plugin", "cases", "--harness", "x"], ["--plugin NAME, or --harness DIR"]),
        (["run", "--plugin", "lawbnech"], ["(did you mean 'lawbench'?)", "sia plugins"]),
        (["run", "--plugin", "nothing-like-it"], ["known here:", "sia plugins"]),
        (["run", "--plugin", "lawbench", "--data", "/nowhere"], ["/nowhere"]),
        (["run", "--plugin", "lawbench", "--set", "colour=red"], ["does not take these settings", "colour"]),
        (["run", "--plugin", "lawbench", "--set", "colour"], ["KEY=VALUE"]),
        (["run", "--harness", "/nowhere", "--data", "/nowhere"], ["/nowhere", "No such file"]),
        (["run", "--harness", "/nowhere"], ["--data"]),
        (["resume", "nothing"], ["no run 'nothing'"]),
        (["report"], ["no run in"]),
        (["nonsense"], ["no command named 'nonsense'"]),
        (["run", "--plugin", "lawbench", "--track", "nosuch:x", "--dry-run"], ["no tracker named 'nosuch'", "wandb"]),
    ],
)
def test_a_wrong_command_line_is_explained(
    options: list[str], words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    where = [] if options[0] == "nonsense" else ["--runs-dir", str(tmp_path / "runs")]
    refused([*options, *where], capsys, *words)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (["--levers", "magic"], ["magic", "harness, weights"]),
        (["--levers", "harness,weights", "--engine", "nobody"], ["no engine named 'nobody'"]),
        (["--mode", "sia-w+h", "--policy", "nobody"], ["unknown policy nobody"]),
        (["--engine-set", "rank=1"], ["no policy"]),
        (["--policy", "tiny", "--engine-set", "rank"], ["write KEY=VALUE"]),
        (["--policy", "tiny", "--engine-set", "seed=3"], ["give it as --seed"]),
        (["--backend-set", "x=y"], ["backend 'local' of sia-runtime", "these settings: x. It takes: none."]),
        (["--backend-set", "plugins=y"], ["SIA sets it; leave it out"]),
        (["--improver", "nobody"], ["no improver named 'nobody'"]),
        (["--verifier", "nobody"], ["no verifier named 'nobody'"]),
        (["--sandbox", "nobody"], ["no sandbox named 'nobody'"]),
        (["--budget", "apples=3"], ["apples", "rollouts"]),
        (["--budget", "rollouts=many"], ["not an amount"]),
        (["--budget", "rollouts=10"], ["too small"]),
        (["--approve", "weigths"], ["--approve: 'weigths' is not an amount", "or a lever: "]),
        (["--secret", "/nowhere", "--dry-run"], ["--secret /nowhere"]),
        (["--generations", "-1"], ["0 to 1000"]),
        (["--set", "seconds=soon"], ["seconds=soon"]),
        (["--improver-set", "algoritm=ppo"], ["algoritm (did you mean 'algorithm'?)", "It takes: algorithm="]),
        (["--improver", "playbook:gpt"], ["model, the part after the colon"]),
    ],
)
def test_a_wrong_option_is_explained(
    sums: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: list[str], words: list[str]
) -> None:
    refused([*command(sums, tmp_path), *option], capsys, *words)


def test_cases_and_catalogues_that_are_malformed_are_named_with_their_place(
    sums: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = (sums / "cases.jsonl").read_text()
    (sums / "cases.jsonl").write_text(good + '{"input": 1}\n')
    refused(command(sums, tmp_path), capsys, "cases.jsonl, line 201", "answer")
    (sums / "cases.jsonl").write_text(good)
    (sums / "agent" / "playbook.toml").write_text("[[edit]]\nname = 1\n")
    refused(command(sums, tmp_path), capsys, "playbook.toml", "name")


def test_a_damaged_ledger_is_noticed_and_left_as_it_is(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs" / run("--generations", "1")["run"]
    with sqlite3.connect(folder / "ledger.db") as db:
        db.execute("UPDATE events SET value = replace(value, 'true', 'false') WHERE key LIKE '%gated/0'")
    db.close()
    before = (folder / "ledger.db").read_bytes()
    for verb in ("resume", "report", "show", "export"):
        argv = [verb, folder.name, *([str(tmp_path / "out")] if verb == "export" else [])]
        refused([*argv, "--runs-dir", str(folder.parent)], capsys, "damaged at step", "gated/0")
    assert (folder / "ledger.db").read_bytes() == before
    (folder / "ledger.db").write_bytes(b"this is no database, not even nearly one" * 100)
    refused(["resume", folder.name, "--runs-dir", str(folder.parent)], capsys, "ledger.db")
    assert main(["runs", "--runs-dir", str(folder.parent), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["status"] == "unreadable"


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="needs root, to mount a small disk")
def test_a_full_disk_stops_the_run_with_a_clear_error_and_it_can_be_resumed(
    sums: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = tmp_path / "runs"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "none", str(disk)], check=True)
    try:
        refused([*command(sums, tmp_path), "--name", "full"], capsys, "the disk is full", "sia resume full")
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        assert main(["resume", "full", "--runs-dir", str(disk), "--json"]) == 0
        resumed = json.loads(capsys.readouterr().out)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    assert resumed["sealed"]["final"]["value"] == 1.0
