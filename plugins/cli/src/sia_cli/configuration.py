"""``sia run``: start a run."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from sia_core.cli import add_runs_dir, print_json

RESERVED = ("seed", "data", "harness", "folder")
"""Settings of a task that have an option of their own."""

ENGINE_RESERVED = ("seed", "policy")

BACKEND_RESERVED = ("plugins",)

IMPROVER = "playbook"
LOCAL = "local"

MODES = {"sia-h": "harness", "sia-w+h": "harness,weights"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    where = add_configuration(parser)
    where.add_argument("--json", action="store_true", help="print the report as JSON at the end")
    where.add_argument(
        "--dry-run", action="store_true", help="check everything and say what the run would take; start nothing"
    )
    add_track(where)
    add_runs_dir(where)
    where.add_argument("--name", metavar="NAME", help="the run's name in it (default: the task's, and a number)")


def add_track(parser: argparse._ActionsContainer) -> None:
    """The option that names trackers."""
    parser.add_argument(
        "--track",
        metavar="NAME[:WHERE]",
        action="append",
        default=[],
        help="also tell the run's figures to tensorboard:DIR, wandb:PROJECT, or a plugin's tracker; repeatable",
    )


def add_configuration(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """The options that determine a run; the group of those that say where it works."""
    add_task(parser.add_argument_group("what to improve"))
    how = parser.add_argument_group("how")
    how.add_argument(
        "--improver",
        default=IMPROVER,
        metavar="NAME[:MODEL]",
        help="who decides: playbook, claude, litellm:MODEL, or a plugin's (default: playbook)",
    )
    how.add_argument(
        "--meta-agent-profile", metavar="FILE", help="who decides, as a profile of the released SIA (JSON) says it"
    )
    how.add_argument(
        "--improver-set", metavar="KEY=VALUE", action="append", default=[], help="a setting of the improver; repeatable"
    )
    levers = how.add_mutually_exclusive_group()
    levers.add_argument("--levers", metavar="LIST", help="harness, weights or both: harness,weights (default: harness)")
    levers.add_argument("--mode", choices=sorted(MODES), help="the paper's names: sia-h is harness, sia-w+h is both")
    add_policy(how, "tiny with the weights lever, else none")
    how.add_argument("--generations", type=_count, default=8, metavar="N", help="at most this many (default: 8)")
    how.add_argument(
        "--candidates", type=_count, default=2, metavar="N", help="tried at once a generation (default: 2)"
    )
    how.add_argument(
        "--repeats",
        type=_count,
        default=1,
        metavar="N",
        help="ask each gate and sealed instance N times, with N seeds, and compare the means (default: 1)",
    )
    add_seed(how)
    how.add_argument("--budget", default="", metavar="LIMITS", help="for example rollouts=20000,seconds=600")
    how.add_argument(
        "--approve",
        nargs="?",
        const="weights",
        default="",
        metavar="WHAT",
        help="pause before weight updates, or past a sum since your last word: weights,dollars=1 (alone: weights)",
    )
    where = parser.add_argument_group("where")
    add_sandbox(where)
    add_backend(where)
    return where


def add_task(what: argparse._ActionsContainer) -> None:
    """The options that name a task."""
    what.add_argument("--plugin", metavar="NAME", help="a task that a plugin offers, such as lawbench")
    what.add_argument("--harness", metavar="DIR", help="your own agent: a folder with a harness.py (with --data)")
    what.add_argument("--task-dir", metavar="DIR", help="a task folder of the released SIA, as it is")
    what.add_argument(
        "--data", metavar="PATH", help="a file of cases for --harness; or the task's data, as a local copy"
    )
    what.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="a setting of the task; repeatable"
    )
    what.add_argument("--verifier", metavar="NAME[:ARG]", help="who scores: exact, numeric, command:..., or a plugin's")


def add_policy(how: argparse._ActionsContainer, default: str) -> None:
    """The options that name a policy."""
    how.add_argument(
        "--policy", metavar="NAME", help=f"the model that harnesses ask: tiny, or hf:ID (default: {default})"
    )
    how.add_argument(
        "--target-agent-profile", metavar="FILE", help="the model that harnesses ask, as such a profile says it"
    )
    how.add_argument("--engine", default="torch", metavar="NAME", help="what samples and trains it (default: torch)")
    how.add_argument(
        "--engine-set", metavar="KEY=VALUE", action="append", default=[], help="a setting of the engine; repeatable"
    )


def add_seed(how: argparse._ActionsContainer) -> None:
    """The option that all chance derives from."""
    how.add_argument("--seed", type=int, default=0, help="decides splits, samples and choices (default: 0)")


def add_sandbox(where: argparse._ActionsContainer) -> None:
    """The options that name a sandbox."""
    where.add_argument("--sandbox", metavar="NAME", help="this one, not the strongest that works here")
    where.add_argument("--allow-weak-sandbox", action="store_true", help="also one that does not isolate all")


def add_backend(where: argparse._ActionsContainer) -> None:
    """The options that name where work runs."""
    where.add_argument(
        "--backend", default=LOCAL, metavar="NAME", help="where work runs: local, ray or modal (default: local)"
    )
    where.add_argument(
        "--backend-set", metavar="KEY=VALUE", action="append", default=[], help="a setting of the backend; repeatable"
    )


def run(options: argparse.Namespace) -> int:
    from sia_core.cli.progress import watching
    from sia_core.cli.report import print_report
    from sia_core.ledger import Ledger
    from sia_core.plugins import Plugins
    from sia_core.report import build
    from sia_core.running import start

    plugins = Plugins.discover()
    config = config_of(options)
    if options.dry_run:
        from sia_core.cli.price import print_price
        from sia_core.pricing import price

        told = price(config, plugins)
        print_json(told) if options.json else print_price(told)
        return 0
    with watching(plugins, options.track) as observers:
        folder = start(config, Path(options.runs_dir), plugins, observers, options.name)
    with Ledger.read(folder) as ledger:
        report = build(ledger)
    if options.json:
        print_json(report)
    else:
        print_report(report, folder)
    return 0


def config_of(options: argparse.Namespace) -> Any:
    """The configuration that the options ask for."""
    from sia_core.budget import Limit
    from sia_core.plan import Plan
    from sia_core.running import Config

    task = task_of(options)
    levers = options.levers or MODES.get(options.mode, "harness")
    improver, settings = improver_of(options)
    return Config(
        task=task,
        plan=Plan(
            levers=tuple(dict.fromkeys(each.strip() for each in levers.split(","))),
            generations=options.generations,
            candidates=options.candidates,
            seed=options.seed,
            repeats=options.repeats,
        ),
        improver=improver,
        improver_settings=settings,
        approve=options.approve,
        verifier=options.verifier,
        budget=Limit.parse(options.budget).amounts,
        sandbox=options.sandbox,
        allow_weak_sandbox=options.allow_weak_sandbox,
        backend=options.backend,
        backend_settings=_pairs("--backend-set", options.backend_set, BACKEND_RESERVED),
        engine=engine_of(options, options.policy or ("tiny" if "weights" in levers else None)),
    )


def improver_of(options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Who decides, and what it is told."""
    from sia_core.errors import UsageError

    told = _pairs("--improver-set", options.improver_set, ())
    if options.meta_agent_profile is None:
        improver, colon, model = options.improver.partition(":")
        return improver, {**({"model": model} if colon else {}), **told}
    from sia_core.profiles import meta_agent

    if options.improver != IMPROVER:
        raise UsageError("--improver and --meta-agent-profile both say who decides; give one of them")
    improver, settings = meta_agent(options.meta_agent_profile)
    return improver, {**settings, **told}


def task_of(options: argparse.Namespace) -> Any:
    """The offer of the task that the options name, with its settings."""
    from sia_core.errors import UsageError
    from sia_core.types import OfferRef

    settings: dict[str, Any] = {"seed": options.seed, **_pairs("--set", options.set, RESERVED)}
    if options.data is not None:
        settings["data"] = os.path.abspath(options.data)
    if sum(each is not None for each in (options.plugin, options.harness, options.task_dir)) != 1:
        raise UsageError("name what to improve: --plugin NAME, or --harness DIR with --data FILE, or --task-dir DIR")
    if options.task_dir is not None:
        return OfferRef(
            "folder", {"agent": _reference(options), **settings, "folder": os.path.abspath(options.task_dir)}
        )
    if options.harness is not None:
        if options.data is None:
            raise UsageError("--harness needs cases to run on: --data cases.jsonl")
        settings["harness"] = os.path.abspath(options.harness)
    return OfferRef(options.plugin or "cases", settings)


def _reference(options: argparse.Namespace) -> str:
    """The agent that a profile names in place of a task folder's own; empty where it names none."""
    if options.target_agent_profile is None:
        return ""
    from sia_core.profiles import target_agent

    return target_agent(options.target_agent_profile).reference


def engine_of(options: argparse.Namespace, policy: str | None) -> Any:
    """The offer of the engine that samples from a policy; None where there is no policy."""
    from sia_core.errors import UsageError
    from sia_core.types import OfferRef

    told = _pairs("--engine-set", options.engine_set, ENGINE_RESERVED)
    if options.target_agent_profile is not None:
        from sia_core.profiles import target_agent

        if options.policy is not None:
            raise UsageError("--policy and --target-agent-profile both say which model harnesses ask; give one of them")
        target = target_agent(options.target_agent_profile)
        return OfferRef("litellm", {"policy": target.model, "seed": options.seed, **target.settings, **told})
    if told and policy is None:
        raise UsageError("--engine-set: this run has no policy; name one with --policy")
    return OfferRef(options.engine, {"policy": policy, "seed": options.seed, **told}) if policy else None


def _pairs(option: str, pairs: list[str], reserved: tuple[str, ...]) -> dict[str, str]:
    """KEY=VALUE options as a dictionary; UsageError for what is none, or has an option of its own."""
    from sia_core.errors import UsageError

    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(f"{option} {pair!r}: write KEY=VALUE")
        if key in reserved:
            raise UsageError(f"{option} {pair!r}: give it as --{key}")
        settings[key] = value
    return settings


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = -1
    if not 0 <= number <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 1000")
    return number
