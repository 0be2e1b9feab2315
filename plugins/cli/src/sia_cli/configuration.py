"""The options that determine a run, and the configuration that they ask for."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import Any

from sia_cli.config_file import add_file
from sia_cli.options import Listed

COLUMNS = ("input_column", "answer_column")
RESERVED = ("seed", "data", "harness", "folder", *COLUMNS)
"""Settings of a task that have an option of their own."""

ENGINE_RESERVED = ("seed", "policy")

BACKEND_RESERVED = ("plugins",)

IMPROVER = "playbook"
LOCAL = "local"

MODES = {"sia-h": "harness", "sia-w+h": "harness,weights"}


def add_configuration(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """The options that determine a run; the group of those that say where it works."""
    add_file(parser)
    add_task(parser.add_argument_group("what to improve"))
    how = parser.add_argument_group("how")
    how.add_argument(
        "--improver",
        default=IMPROVER,
        metavar="NAME[:MODEL]",
        help="who decides: playbook, claude, litellm:MODEL, command:PROGRAM, or a plugin's (default: playbook)",
    )
    how.add_argument(
        "--meta-agent-profile", metavar="FILE", help="who decides, by a profile of the released SIA (JSON)"
    )
    how.add_argument(
        "--improver-set", metavar="KEY=VALUE", action="append", default=[], help="a setting of the improver; repeatable"
    )
    levers = how.add_mutually_exclusive_group()
    levers.add_argument("--levers", metavar="LIST", help="such as harness,weights; see sia plugins (default: harness)")
    levers.add_argument("--mode", choices=sorted(MODES), help="the paper's names: sia-h is harness, sia-w+h is both")
    add_policy(how, "tiny with the weights lever, else none")
    add_train(how)
    how.add_argument("--generations", type=count, default=8, metavar="N", help="at most this many (default: 8)")
    how.add_argument(
        "--candidates", type=positive, default=2, metavar="N", help="tried in each generation (default: 2)"
    )
    how.add_argument(
        "--repeats",
        type=count,
        default=1,
        metavar="N",
        help="ask each gate and sealed instance N times, with N seeds, and compare the means (default: 1)",
    )
    add_gate(how, "default")
    add_seed(how)
    how.add_argument(
        "--secret",
        metavar="FILE",
        help="have the verifier draw as another run's did, by the file `secret` in its folder (default: a new secret)",
    )
    how.add_argument(
        "--budget", action=Listed, default="", metavar="LIMITS", help="for example rollouts=20000,seconds=600"
    )
    how.add_argument(
        "--approve",
        nargs="?",
        const="weights",
        default="",
        metavar="WHAT",
        help="pause before pulls of a lever, or past a sum since your last word: weights,dollars=1 (alone: weights)",
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
        "--data",
        metavar="PATH",
        help="a file of cases for --harness: CSV, JSON Lines, a JSON array, Parquet, or gzip of these; or the task's "
        "data, as a local copy",
    )
    what.add_argument(
        "--input-column", metavar="NAME", help="the column of --data with the input (default: input, or all others)"
    )
    what.add_argument("--answer-column", metavar="NAME", help="the column of --data with the answer (default: answer)")
    what.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="a setting of the task; repeatable"
    )
    what.add_argument(
        "--verifier",
        metavar="NAME[:ARG]",
        help="who scores: exact, numeric, python:FILE:FUNCTION, command:..., or a plugin's",
    )
    what.add_argument(
        "--metric",
        metavar="NAME[:max|min][:LOW,HIGH]",
        help="what scores your own agent or task folder: whether more or less of it is better, and the least and the "
        "largest there can be, such as rmse:min:0,20 (default: score:max:0,1)",
    )


def add_policy(how: argparse._ActionsContainer, default: str) -> None:
    """The options that name a policy."""
    how.add_argument(
        "--policy",
        metavar="NAME",
        help=f"the model that harnesses ask: tiny, smollm2, gguf:FILE or hf:ID (default: {default})",
    )
    how.add_argument("--target-agent-profile", metavar="FILE", help="the model that harnesses ask, by such a profile")
    how.add_argument("--engine", default="torch", metavar="NAME", help="what samples and trains it (default: torch)")
    how.add_argument(
        "--engine-set", metavar="KEY=VALUE", action="append", default=[], help="a setting of the engine; repeatable"
    )


def add_train(how: argparse._ActionsContainer) -> None:
    """The option that says how updates train."""
    how.add_argument(
        "--train",
        action=Listed,
        default="",
        metavar="KEY=VALUE,...",
        help="how an update trains: steps, prompts, group, learning_rate, temperature, and the other fields of "
        "Training (default: by learner and policy)",
    )


def add_gate(how: argparse._ActionsContainer, default: str | None) -> None:
    """The option that says how bold the gate is."""
    how.add_argument(
        "--gate",
        default=default,
        metavar="earned=X",
        help="the error that a promotion earns for later comparisons, from 0 (strict) to 0.2 (bold) (default: 0.05)",
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


def config_from(arguments: Sequence[str]) -> Any:
    """The configuration that a command line of ``sia run`` asks for, whatever other options are on it."""
    parser = argparse.ArgumentParser(prog="sia run", allow_abbrev=False)
    add_configuration(parser)
    options, _ = parser.parse_known_args(arguments)
    return config_of(options)


def config_of(options: argparse.Namespace) -> Any:
    """The configuration that the options ask for."""
    from sia_core.errors import UsageError
    from sia_core.run.budget import Limit
    from sia_core.run.plan import Plan
    from sia_core.run.start import Config

    task = task_of(options)
    levers = MODES.get(options.mode) or options.levers or "harness"
    training = training_of(options.train)
    if training and "weights" not in levers:
        raise UsageError("--train: this run pulls no lever that trains; add weights to --levers")
    improver, settings = improver_of(options)
    return Config(
        task=task,
        plan=Plan(
            levers=tuple(dict.fromkeys(each.strip() for each in levers.split(","))),
            generations=options.generations,
            candidates=options.candidates,
            seed=options.seed,
            repeats=options.repeats,
            earned=earned_of(options.gate),
        ),
        improver=improver,
        improver_settings=settings,
        approve=options.approve,
        verifier=verifier_of(options.verifier),
        budget=Limit.parse(options.budget).amounts,
        sandbox=options.sandbox,
        allow_weak_sandbox=options.allow_weak_sandbox,
        backend=options.backend,
        backend_settings=_pairs("--backend-set", options.backend_set, BACKEND_RESERVED),
        engine=engine_of(
            options, options.policy or ("tiny" if "weights" in levers else None), temperature_of(options.train)
        ),
        lever_settings={"weights": training} if training else {},
    )


GATES = {"strict": "earned=0", "default": "earned=0.05", "bold": "earned=0.2"}


def earned_of(gate: str) -> float:
    """The error that a promotion earns, from ``--gate``; UsageError where it says none."""
    from sia_core.errors import UsageError

    key, _, value = GATES.get(gate, gate).partition("=")
    try:
        if key != "earned":
            raise ValueError
        return float(value)
    except ValueError:
        raise UsageError(f"--gate {gate}: say earned=X, X from 0 to 0.2, or {', '.join(GATES)}") from None


def training_of(train: str) -> dict[str, str]:
    """The settings of updates in ``--train``, but for the temperature, which sampling shares."""
    return {key: value for key, value in _told_to_train(train).items() if key != "temperature"}


def temperature_of(train: str) -> dict[str, str]:
    """The engine's setting in ``--train``."""
    return {key: value for key, value in _told_to_train(train).items() if key == "temperature"}


def _told_to_train(train: str) -> dict[str, str]:
    return _pairs("--train", [each.strip() for each in train.split(",") if each.strip()], ())


def improver_of(options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """The improver and its settings."""
    from sia_core.errors import UsageError

    pairs = _pairs("--improver-set", options.improver_set, ())
    if options.meta_agent_profile is None:
        improver, colon, model = options.improver.partition(":")
        return improver, {**({"model": model} if colon else {}), **pairs}
    from sia_cli.profiles import meta_agent

    if options.improver != IMPROVER:
        raise UsageError("--improver and --meta-agent-profile both say who decides; give one of them")
    improver, settings = meta_agent(options.meta_agent_profile)
    return improver, {**settings, **pairs}


def task_of(options: argparse.Namespace) -> Any:
    """The offer of the task that the options name, with its settings."""
    from sia_core.errors import UsageError
    from sia_core.types import OfferRef

    settings: dict[str, Any] = {"seed": options.seed, **_pairs("--set", options.set, RESERVED)}
    if options.data is not None:
        settings["data"] = os.path.abspath(options.data)
    columns = {key: value for key in COLUMNS if (value := getattr(options, key)) is not None}
    if columns and options.harness is None:
        raise UsageError("--input-column and --answer-column are for the cases of your own agent: --harness DIR")
    settings.update(columns)
    if options.metric is not None:
        if options.plugin is not None:
            raise UsageError(
                "--metric is for your own agent or task folder: a plugin's task says what it measures; "
                "where it takes a metric as a setting, give it by --set metric="
            )
        settings["metric"] = options.metric
    if sum(each is not None for each in (options.plugin, options.harness, options.task_dir)) != 1:
        raise UsageError("name what to improve: --plugin NAME, or --harness DIR with --data FILE, or --task-dir DIR")
    if options.task_dir is not None:
        return OfferRef(
            "folder", {"agent": _reference(options), **settings, "folder": os.path.abspath(options.task_dir)}
        )
    if options.harness is not None:
        if options.data is None:
            raise UsageError("--harness needs cases to run on: --data cases.jsonl")
        _check_metric(options)
        settings["harness"] = os.path.abspath(options.harness)
    return OfferRef("cases" if options.plugin is None else options.plugin, settings)


def verifier_of(verifier: str | None) -> str | None:
    """The verifier with the files that it names by their full paths, so that a resumed run finds them."""
    name, colon, command = (verifier or "").partition(":")
    if name == "python" and colon:
        file, _, function = command.rpartition(":")
        return f"python:{os.path.abspath(file)}:{function}" if file else verifier
    if name != "command" or not colon:
        return verifier
    with suppress(ValueError):  # what is wrong with its quotes, the verifier itself says
        words = shlex.split(command)
        # A program that is named without a folder is one in PATH, whatever file lies here.
        program = next((place for place, word in enumerate(words) if not word.startswith("seconds=")), 0)
        for place, word in enumerate(words):
            if os.path.isfile(word) and (place != program or os.sep in word):
                words[place] = os.path.abspath(word)
        return f"command:{shlex.join(words)}"
    return verifier


def _check_metric(options: argparse.Namespace) -> None:
    """UsageError where what the verifier gives is not to be minimised."""
    from sia_core.errors import UsageError
    from sia_runtime.metrics import metric_of

    verifier = (options.verifier or "exact").partition(":")[0]
    if options.metric and metric_of(options.metric).direction == "minimize" and verifier in ("exact", "numeric"):
        raise UsageError(
            f"--metric {options.metric}: the verifier {verifier} gives 1 where an answer is right, which is not to be "
            "minimised; name one that measures this, such as --verifier 'command:python3 check.py'"
        )


def _reference(options: argparse.Namespace) -> str:
    """The agent that a profile names in place of a task folder's own; empty where it names none."""
    if options.target_agent_profile is None:
        return ""
    from sia_cli.profiles import target_agent

    return target_agent(options.target_agent_profile).reference


def engine_of(options: argparse.Namespace, policy: str | None, more: Mapping[str, str] = MappingProxyType({})) -> Any:
    """The offer of the engine that samples from a policy, with ``more`` settings; None where there is no policy."""
    from sia_core.errors import UsageError
    from sia_core.types import OfferRef

    pairs = {**_pairs("--engine-set", options.engine_set, ENGINE_RESERVED), **more}
    if options.target_agent_profile is not None:
        from sia_cli.profiles import target_agent

        if options.policy is not None:
            raise UsageError("--policy and --target-agent-profile both say which model harnesses ask; give one of them")
        target = target_agent(options.target_agent_profile)
        return OfferRef(target.engine, {"policy": target.model, "seed": options.seed, **target.settings, **pairs})
    if pairs and policy is None:
        raise UsageError("--engine-set: this run has no policy; name one with --policy")
    return OfferRef(options.engine, {"policy": policy, "seed": options.seed, **pairs}) if policy else None


def _pairs(option: str, pairs: list[str], reserved: tuple[str, ...]) -> dict[str, str]:
    """KEY=VALUE options as a dictionary; UsageError for what is none, or has its own option."""
    from sia_core.errors import UsageError

    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(f"{option} {pair!r}: write KEY=VALUE")
        if key in reserved:
            own = "SIA sets it; leave it out" if key in BACKEND_RESERVED else f"give it as --{key.replace('_', '-')}"
            raise UsageError(f"{option} {pair!r}: {own}")
        settings[key] = value
    return settings


def count(text: str, least: int = 0) -> int:
    """A whole number from ``least`` to 1000, as an option gives it."""
    try:
        number = int(text)
    except ValueError:
        number = -1
    if not least <= number <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to 1000")
    return number


positive = partial(count, least=1)
