"""Runs that their user did not start: what they would do to the world is shown, and done only by the user's word.

A run's configuration stands in its folder, which may come from anybody: it names commands, servers that get a key,
files, and the sandbox. What a user has started or trusts is remembered by the digest of the run's first step, in a
folder of that user's alone. So a configuration that is changed later is asked about again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sia_core.errors import UsageError
from sia_core.run.ledger import canonical

_LOG = logging.getLogger(__name__)
_WORD = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9_.,+ -]{0,63}")
"""Settings that name no file, server or command."""

_LONG = 1500
"""Characters of a question that a screen may not hold."""


def effects(config: Mapping[str, Any]) -> list[str]:
    """The effects of a recorded configuration beyond the run's sandbox, a line each; none where it is safe."""
    return list(_effects(config))


def confirm(
    run: Path, started: Mapping[str, Any], config: Mapping[str, Any], trust: bool, *, reading: bool = False
) -> None:
    """UsageError, with all that a run's first step lets it do, unless this user started it or trusts it.

    ``config`` is the configuration as it was read from that step, and as the run goes by it.
    With ``trust`` it is remembered that this one is. With ``reading``, nothing is done but to
    read what the settings of its task and its improver name.
    """
    if reading and _plain_offer(config["task"]) and _plain(config["improver_settings"]):
        return
    if actions := effects(config):
        _confirm(f"{run} was not started here by you, or its configuration was changed since", actions, started, trust)


def confirm_commands(folder: Path, commands: Iterable[str], about: Mapping[str, Any], trust: bool) -> None:
    """The same for a folder of more than one run, by what it says of itself and the commands that this leads to."""
    actions = [f"run: {_line(each)}" for each in commands]
    _confirm(f"{folder} was not begun here by you, or was changed since", actions, about, trust)


def remember(about: Any) -> None:
    """This user started, or trusts, what a run or a comparison says of itself."""
    try:
        place = _places()
        os.close(os.open(place / _digest(about), os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    except OSError as error:
        _LOG.warning(
            "%s: %s, so it cannot be remembered that you trust this; sia will ask for --trust again. "
            "XDG_STATE_HOME may name another folder.",
            error.filename or _state(),
            error.strerror,
        )


def _confirm(reason: str, actions: list[str], about: Any, trust: bool) -> None:
    if _known(about):
        return
    if trust:
        remember(about)
        return
    lines = "\n".join(f"  {each}" for each in actions)
    long = f" It has {len(lines):,} characters: see where it begins." if len(lines) > _LONG else ""
    raise UsageError(
        f"{reason}. It would\n{lines}\nRead this well.{long} If you want it, give --trust to resume, show, serve, "
        f"export, replay or compare, once: that is remembered in {_state()}."
    )


def _known(about: Any) -> bool:
    try:
        return stat.S_ISREG(os.lstat(_places() / _digest(about)).st_mode)
    except OSError:
        return False


def _places() -> Path:
    """The folder of what is remembered; OSError where others may write to it."""
    place = _state()
    for folder in (place.parent, place):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = os.lstat(folder)
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid() or about.st_mode & 0o077:
            raise PermissionError(0, "it must be a folder of yours with mode 0700", os.fspath(folder))
    return place


def _state() -> Path:
    base = Path(os.environ.get("XDG_STATE_HOME", ""))
    if not base.is_absolute():  # its specification says to ignore such a one
        base = Path("~/.local/state").expanduser()
    return base / "sia" / "trusted"


def _digest(about: Any) -> str:
    return hashlib.sha256(canonical(about).encode()).hexdigest()


def _effects(config: Mapping[str, Any]) -> Iterator[str]:
    task, engine, verifier = config["task"], config["engine"], config["verifier"]
    if not _plain_offer(task):
        runs = "" if task["name"] == "cases" else ", and run an evaluate.py that is there"
        yield f"read the files that task {_offer(task)} names{runs}"
    if verifier is not None:
        name, _, argument = verifier.partition(":")
        if name == "command":
            yield f"run the command: {_line(argument)}"
        elif name == "python":
            yield f"run the Python function {_line(argument)} outside of a sandbox"
        elif name not in ("exact", "numeric") or (argument and not _word(argument)):
            yield f"score by the verifier {_line(verifier)}"
    for lever, settings in ((each, config["lever_settings"].get(each, {})) for each in config["plan"]["levers"]):
        if lever not in ("harness", "weights") or not _plain(settings):
            yield f"pull the lever {_offer({'name': lever, 'settings': settings})}"
    improver = {"name": config["improver"], "settings": config["improver_settings"]}
    if improver["name"] != "playbook" or not _plain_offer(improver):
        does = "run as you" if improver["name"] == "command" else "ask"
        yield f"{does} the improver {_offer(improver)}, which may send your keys there"
    if engine is not None and (engine["name"] != "torch" or not _plain_offer(engine)):
        yield f"ask or train a policy by the engine {_offer(engine)}, which may send your keys there"
    backend = {"name": config["backend"], "settings": config["backend_settings"]}
    if backend["name"] != "local" or not _plain_offer(backend):
        yield f"work on the backend {_offer(backend)}"
    if config["sandbox"] is not None and not _word(config["sandbox"]):
        yield f"use the sandbox {_line(config['sandbox'])}"
    if config["allow_weak_sandbox"] is not False:
        name = _line(config["sandbox"] or "any that starts")
        yield f"run its code in a sandbox that does not isolate all of it ({name})"


def _offer(offer: Mapping[str, Any]) -> str:
    return f"{_line(offer['name'])} {_line(canonical(offer['settings']))}"


def _line(text: str) -> str:
    """A text that is shown in one line whatever it holds, so that it cannot look like another, or push one away.

    Letters of another script may look like those of a known address: they are shown by their numbers, too.
    """
    if text.isascii():
        return text if text.isprintable() else canonical(text)
    escaped = json.dumps(text)
    return f"{text} (in ASCII: {escaped})" if text.isprintable() else escaped


def _word(text: str) -> bool:
    return bool(_WORD.fullmatch(text))


def _plain_offer(offer: Mapping[str, Any]) -> bool:
    return _word(offer["name"]) and _plain(offer["settings"])


def _plain(value: Any) -> bool:
    """Whether a setting consists of numbers and words, which lead nowhere.

    A word that names something in the working directory leads there, and an empty path is that directory.
    """
    if isinstance(value, Mapping):
        return all(_word(key) and _plain(each) for key, each in value.items())
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return value is None or isinstance(value, bool | int | float) or (_word(value) and not os.path.lexists(value))
