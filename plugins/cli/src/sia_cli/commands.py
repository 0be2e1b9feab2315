"""The commands of ``sia``: a static table, so that help scans no entry points, and those that plugins offer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, cast

from sia_cli.elsewhere import imported

if TYPE_CHECKING:
    from sia_core.command_protocol import Command


class Own(NamedTuple):
    """A command of SIA: its line of help, and its module, whose package is named as its distribution is."""

    summary: str
    module: str


OWN: Mapping[str, Own] = {
    "run": Own("improve an agent at a task", "sia_cli.run"),
    "plan": Own("say what a run would take, here and on many workers; start nothing", "sia_cli.plan"),
    "resume": Own("go on with a run that was stopped", "sia_cli.resume"),
    "replay": Own("do a run again from its records, to see what has changed since", "sia_cli.replay"),
    "runs": Own("list the runs of a folder", "sia_cli.runs"),
    "rm": Own("remove runs", "sia_cli.rm"),
    "show": Own("look at a run, or at one of its candidates: reason, diff, verdict", "sia_cli.show"),
    "view": Own("look at the runs of a folder in a browser, live while they go", "sia_cli.view"),
    "report": Own("the result of a run: sealed scores, every candidate, budget", "sia_cli.report"),
    "compare": Own("run arms side by side at one budget, and test which lever earned what", "sia_compare.command"),
    "export": Own("write the best agent of a run as a folder that runs on its own", "sia_deploy.export_command"),
    "serve": Own("answer by the best agent of a run, behind an OpenAI-compatible endpoint", "sia_deploy.serve_command"),
    "audit": Own("look at a task before money is spent: verifier, noise, head-room, leaks, cost", "sia_audit.command"),
    "new": Own(
        "write a plugin package to begin with: a task, an algorithm, a verifier, an engine, ...", "sia_testing.command"
    ),
    "import-task": Own("make a plugin package of a task folder of the released SIA", "sia_released.command"),
    "plugins": Own("list what is installed, and what is broken", "sia_cli.plugins"),
    "doctor": Own("say what this machine can do", "sia_cli.doctor"),
    "completion": Own("print what bash, zsh or fish needs to complete command lines", "sia_cli.completion"),
}
"""In the order of the help. No other package can take one of these names."""


def own(name: str) -> Command:
    """A command of SIA; UsageError names the distribution to install where its module is missing."""
    return cast("Command", imported(OWN[name].module, f"sia {name}"))


def offered(name: str) -> tuple[str, Command]:
    """A command that a plugin offers, with its summary; PluginError where there is none, or more than one."""
    from sia_core.plugins import Plugins

    plugins = Plugins.discover()
    offer, _ = plugins.find("command", name, OWN)
    return offer.summary, plugins.create("command", name)


def fault(name: str, error: BaseException) -> Exception:
    """The error for people where a plugin's command raises: one line under its distribution's name."""
    from sia_core.errors import PluginError
    from sia_core.plugins import Plugins

    _, source = Plugins.discover().find("command", name)
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return PluginError(f"command {name!r} of {source.distribution} {source.version} failed: {reason}")
