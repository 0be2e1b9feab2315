"""``sia doctor --attacks``: every attack of the suite against every sandbox that starts here."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sia_attacks.catalogue import may_pass as may_pass
from sia_cli.output import console, plain, print_json, shown
from sia_cli.sandboxes import examine_sandbox
from sia_core.errors import SiaError

if TYPE_CHECKING:
    from sia_attacks.arena import Result
    from sia_attacks.catalogue import Attack
    from sia_core.plugins import Plugins


def run(options: argparse.Namespace) -> int:
    """Attack, print, and return 1 where a sandbox that runs may use has an open attack on what it guarantees."""
    from sia_attacks.catalogue import attacks
    from sia_core.plugins import Plugins

    plugins, suite = Plugins.discover(), attacks()
    sandboxes = [examine_sandbox(plugins, name) for name in offered(plugins)]
    results: dict[str, list[Result]] = {}
    failed = False
    for sandbox in sandboxes:
        if why := sandbox["cause"] or ("" if sandbox["starts"] else "; ".join(set(sandbox["lacks"].values()))):
            print(shown(f"sia: {sandbox['name']} is not attacked, as it does not start here: {why}"), file=sys.stderr)
            continue
        try:
            results[sandbox["name"]] = _attack(plugins, sandbox["name"], suite)
        except SiaError as error:
            print(shown(f"sia: {sandbox['name']}: {error}"), file=sys.stderr)
            failed = True
    about = {each["name"]: each for each in sandboxes if each["name"] in results}
    if options.json:
        print_json(rows(suite, results))
    else:
        _print(suite, results, about)
    holes = [each for name, column in results.items() if about[name]["usable"] for each in column if hole(each, about)]
    return 0 if results and not holes and not failed else 1


def offered(plugins: Plugins) -> list[str]:
    """The sandboxes that plugins offer here, the core's and strangers'."""
    return [offer.name for offer in plugins.of_kind("sandbox")]


def rows(suite: Sequence[Attack], results: Mapping[str, Sequence[Result]]) -> list[dict[str, Any]]:
    """The table as JSON: an attack a row."""
    return [
        {
            "attack": attack.name,
            "what": attack.what,
            "results": {name: column[index].verdict for name, column in results.items()},
        }
        for index, attack in enumerate(suite)
    ]


def hole(result: Result, about: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether an attack got through although the sandbox guarantees all that it goes against."""
    return bool(result.openings) and not about[result.sandbox]["lacks"].keys() & set(result.attack.against)


def _attack(plugins: Plugins, name: str, suite: Sequence[Attack]) -> list[Result]:
    from sia_attacks.arena import Arena

    with _progress(name, len(suite)) as step, Arena(plugins, name) as arena:
        results = []
        for attack in suite:
            step(attack.name)
            results.append(arena.meet(attack))
        return results


@contextmanager
def _progress(name: str, total: int) -> Iterator[Callable[[str], None]]:
    """Tells on standard error which attack is under way."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    out = Console(stderr=True)
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as progress:
        if not out.is_terminal:
            out.print(plain(f"sia: {total} attacks on {name}"))
        bar = progress.add_task(name, total=total)
        yield lambda attack: progress.update(bar, advance=1, description=f"{name}: {attack:24}")


def _print(
    suite: Sequence[Attack], results: Mapping[str, Sequence[Result]], about: Mapping[str, Mapping[str, Any]]
) -> None:
    from rich.table import Table

    out = console()
    table = Table("attack", "what it tries")
    for name in results:
        table.add_column(plain(name))
    for index, attack in enumerate(suite):
        marks = [_mark(column[index], about) for column in results.values()]
        table.add_row(plain(attack.name), plain(attack.what), *(plain(mark) for mark in marks))
    out.print(table)
    for name, column in results.items():
        stopped = sum(not each.openings for each in column)
        out.print(plain((name, "bold"), f": {stopped} of {len(column)} attacks stopped"))
        for each in column:
            if each.openings:
                guarantee = (
                    "which it guarantees to stop" if hole(each, about) else "as it does not guarantee to stop it"
                )
                how = "; ".join(each.openings[:3])
                out.print(plain("  ", _mark(each, about), f" {each.attack.name}: {how}; {guarantee}"), soft_wrap=True)


def _mark(result: Result, about: Mapping[str, Mapping[str, Any]]) -> tuple[str, str]:
    return result.verdict, "red" if hole(result, about) else "yellow" if result.openings else "green"
