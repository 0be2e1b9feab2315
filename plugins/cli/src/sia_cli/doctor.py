"""``sia doctor``: abilities of this machine, and of servers of language models."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sia_cli.output import console, plain, print_json
from sia_cli.sandboxes import attacks, examine_sandbox

if TYPE_CHECKING:
    from sia_cli import servers

KEYS = ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "TINKER_API_KEY", "MODAL_TOKEN_ID")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument(
        "--attacks",
        action="store_true",
        help="run every attack of the suite against every sandbox here, which takes minutes",
    )
    parser.add_argument(
        "--servers",
        metavar="URL",
        nargs="+",
        default=[],
        help="ask servers of language models, such as http://localhost:8000/v1, what they can do, and say what of SIA "
        "works with them; they sample some 150 tokens each, and are sent no key",
    )


def run(options: argparse.Namespace) -> int:
    if options.servers:
        return _ask_servers(options)
    if options.attacks:
        return int(attacks().run(options))
    about = examine()
    if options.json:
        print_json(about)
    else:
        _print(about)
    return 0 if about["sandbox"] else 1


def _ask_servers(options: argparse.Namespace) -> int:
    from sia_cli import servers

    findings = [servers.examine(each) for each in options.servers]
    if options.json:
        print_json([each.to_json() for each in findings])
    else:
        for each in findings:
            _print_server(each)
    return 0 if all(any(use["works"] for use in each.to_json()["uses"]) for each in findings) else 1


def _print_server(findings: servers.Findings) -> None:
    from sia_cli.servers import ABILITIES, USES

    out = console()
    context = f", {findings.context:,} tokens of context" if findings.context else ""
    out.print(plain((findings.url, "bold"), f": {findings.model or 'no model'}{context}"))
    for name, there in findings.can.items():
        mark = ("yes", "green") if there else ("no ", "red")
        why = "" if there else f": {findings.why[name]}"
        out.print(plain("  ", mark, f" {ABILITIES[name]}{why}"))
    for use in USES:
        if lacks := findings.lacks(use):
            out.print(plain(f"  {use.name}: ", ("no", "red"), f", it lacks {', '.join(lacks)}"))
        else:
            out.print(plain(f"  {use.name}: ", ("yes", "green"), f", {findings.option(use)}"))
    if findings.can.get("chat") and not (findings.can.get("n") and findings.can.get("stop")):
        out.print(plain("  without n, each reply is asked for by itself; without stop, it is cut once it is whole"))


def examine() -> dict[str, Any]:
    """Look at the machine. Sandboxes are probed for real; of keys only their presence is told."""
    from sia_core.plugins import Plugins

    plugins = Plugins.discover()
    sandboxes = [examine_sandbox(plugins, offer.name) for offer in plugins.of_kind("sandbox")]
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": os.cpu_count(),
        "memory_bytes": _memory(),
        "disk_free_bytes": shutil.disk_usage(".").free,
        "sandbox": next((each["name"] for each in sandboxes if each["usable"]), None),
        "sandboxes": sandboxes,
        "cgroups": _makes_cgroups(),
        "engines": [offer.name for offer in plugins.of_kind("engine")],
        "improvers": [offer.name for offer in plugins.of_kind("improver")],
        "tasks": [offer.name for offer in plugins.of_kind("task")],
        "broken": [row.cause for row in plugins.rows() if row.status == "broken"],
        "keys": {name: name in os.environ for name in KEYS},
        "gpus": _gpus(),
    }


def _makes_cgroups() -> bool:
    from sia_runtime.sandbox import cgroup

    group = cgroup.make(2**30)
    if group is not None:
        group.remove()
    return group is not None


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _gpus() -> list[str]:
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return listed.stdout.strip().splitlines() if listed.returncode == 0 else []


def _print(about: Mapping[str, Any]) -> None:
    out = console()

    def say(*parts: str | tuple[str, str]) -> None:
        out.print(plain(*parts))

    memory = f"{about['memory_bytes'] / 2**30:.0f} GiB" if about["memory_bytes"] else "unknown"
    say(f"Python {about['python']}, {about['system']}, {about['cores']} cores, memory {memory}, "
        f"{about['disk_free_bytes'] / 2**30:.0f} GiB of disk free here")  # fmt: skip
    say("\n", ("Sandboxes", "bold"), ", strongest first")
    for each in about["sandboxes"]:
        say(f"  {each['name']:12} ", _mark(each))
        for why in dict.fromkeys(each["lacks"].values()):
            lacking = ", ".join(name for name, reason in each["lacks"].items() if reason == why)
            say(f"               no guarantee of {lacking}: {why}")
        if each["may_not_stop"]:
            say(f"               may not stop (`sia doctor --attacks` tries): {', '.join(each['may_not_stop'])}")
        if each["cause"]:
            say(f"               {each['cause']}")
    if about["sandbox"]:
        say("  a run uses: ", (about["sandbox"], "bold"))
    else:
        say(("  a run is refused here without --allow-weak-sandbox", "red"))
    by = "a cgroup for each" if about["cgroups"] else "what it may have open, as no cgroup can be made here"
    say(f"  what the kernel keeps for a sandbox is bounded by {by}")
    for label, what in (("Tasks", "tasks"), ("Improvers", "improvers"), ("Engines", "engines")):
        none = "none; the weights lever needs one" if what == "engines" else "none"
        say((label, "bold"), f": {', '.join(about[what]) or none}")
    present = [name for name, there in about["keys"].items() if there]
    say(("Keys", "bold"), f" in the environment: {', '.join(present) or 'none; the playbook improver needs none'}")
    say(("GPUs", "bold"), f": {', '.join(about['gpus']) or 'none found'}")
    for cause in about["broken"]:
        say(("Broken plugin", "red"), f": {cause}")


def _mark(sandbox: Mapping[str, Any]) -> tuple[str, str]:
    if sandbox["usable"]:
        return "works", "green"
    from sia_runtime.sandbox.contract import GUARANTEES

    starts = not sandbox["cause"] and sandbox["lacks"].keys() < set(GUARANTEES)
    return ("does not isolate" if starts else "cannot be used"), "red"
