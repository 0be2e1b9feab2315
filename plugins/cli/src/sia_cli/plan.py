"""``sia plan``: what a run would take, here and on many workers; nothing is started."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from sia_cli.configuration import add_configuration, config_of
from sia_cli.output import console, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_configuration(parser)
    group = parser.add_argument_group("what to print")
    group.add_argument(
        "--dollars-per-hour", type=_price, metavar="X", help="what a worker costs; without it, no cost is shown"
    )
    group.add_argument("--json", action="store_true", help="print it as JSON")


def _price(text: str) -> float:
    try:
        price = float(text)
    except ValueError:
        price = -1.0
    if not 0 <= price < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is no price; give dollars, such as 2.5")
    return price


def run(options: argparse.Namespace) -> int:
    from sia_cli.price import print_price
    from sia_cli.pricing import price
    from sia_core.plugins import Plugins

    report = price(config_of(options), Plugins.discover())
    for row in report["workers"]:
        row["dollars"] = options.dollars_per_hour and round(row["worker_hours"] * options.dollars_per_hour, 2)
    if options.json:
        print_json(report)
    else:
        print_price(report)
        print_workers(report)
    return 0


def print_workers(price: Mapping[str, Any]) -> None:
    """The run on many workers for people."""
    out, booking = console(), price["measured"]["booking_seconds"]
    out.print("The whole run at its most, on workers as fast as this machine (with a GPU each, these are GPU hours):")
    out.print(f"  {'workers':>7}  {'hours':>8}  {'worker hours':>12}  {'driver load':>11}  {'dollars':>9}")
    for row in price["workers"]:
        dollars = "" if row["dollars"] is None else f"{row['dollars']:,.2f}"
        hours = f"{row['seconds'] / 3600:,.3f}  {row['worker_hours']:12,.2f}"
        out.print(f"  {row['workers']:7,}  {hours:>22}  {row['load']:11.1%}  {dollars:>9}")
    out.print(
        f"Computed from a booking of {1000 * booking:.1f} ms a batch, measured here; only the first row was tried."
    )
