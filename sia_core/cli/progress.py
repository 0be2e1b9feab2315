"""The progress display of a run: an observer that draws on a terminal, and says nothing elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sia_core.hookspecs import Event
from sia_core.observe import Observer


@contextmanager
def watching() -> Iterator[list[Observer]]:
    """The observers to hand to a run: a display, if standard error is a terminal."""
    if not sys.stderr.isatty():
        yield []
        return
    display = Display()
    try:
        yield [display]
    finally:
        display.close()


class Display:
    """One line for each thing that goes on, and a line that stays for each thing that is done."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._console = Console(stderr=True, highlight=False)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[score]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._bars.start()
        self._tasks: dict[tuple[str, str], Any] = {}
        self._names: dict[str, str] = {}
        self._budget: Mapping[str, float] = {}
        self._generations, self._rollouts, self._began = 0, 0, time.monotonic()

    def __call__(self, event: Event) -> None:
        handle = getattr(self, "_on_" + event.kind.replace(".", "_"), None)
        if handle:
            handle(**event.data)

    def close(self) -> None:
        self._bars.stop()

    def _say(self, text: str) -> None:
        self._console.print(text)

    def _on_run_started(
        self, *, run: str, sandbox: Mapping[str, Any], gate: int, budget: Any, generations: int, **_: Any
    ) -> None:
        self._budget, self._generations = budget, generations
        self._say(f"[bold]{run}[/bold]: sandbox {sandbox['name']}, {gate} instances on the gate. Setting up ...")
        if sandbox["lacks"]:
            self._say(f"[yellow]This sandbox does not guarantee: {', '.join(sandbox['lacks'])}.[/yellow]")

    def _on_run_drafted(self, *, gate: Mapping[str, Any], smallest_gain: float, **_: Any) -> None:
        self._say(
            f"first agent: {gate['value']:.4f} on the gate; the gate sees a gain of {smallest_gain:.3f} "
            "or more with 80% power"
        )

    def _on_generation_started(self, *, index: int, incumbent: str) -> None:
        left = f"generation {index + 1} of at most {self._generations}"
        limit = self._budget.get("rollouts")
        rollouts = f"{self._rollouts:,}" + (f" of {limit:,.0f}" if limit else "")
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        time_limit = self._budget.get("seconds")
        clock = f"{minutes}:{seconds:02d}" + (f" of {time_limit / 60:.0f} min" if time_limit else "")
        self._say(f"[dim]{left} · incumbent {incumbent} · {rollouts} rollouts · {clock}[/dim]")

    def _on_candidate_started(self, *, name: str, agent: str, **_: Any) -> None:
        self._names[agent] = name

    def _on_rollouts_progress(
        self, *, purpose: str, agent: str, done: int, total: int, mean: float | None = None
    ) -> None:
        key = (purpose, agent)
        if key not in self._tasks:
            label = f"{purpose:6} {self._names.get(agent, agent)}"
            self._tasks[key] = self._bars.add_task(label, total=total, score="")
        score = "" if mean is None else f"score {mean:.3f}"
        self._bars.update(self._tasks[key], completed=done, score=score)
        if done >= total:
            self._bars.remove_task(self._tasks.pop(key))
            self._rollouts += total

    def _on_candidate_gated(self, *, name: str, accepted: bool, why: str, **_: Any) -> None:
        mark = "[green]accepted[/green]" if accepted else "[red]rejected[/red]"
        self._say(f"  {mark} {name}: {why}")

    def _on_seal_started(self, *, which: str, why: str, **_: Any) -> None:
        if which == "initial":
            self._say(f"closed: {why}. Scoring the first and the final agent on the sealed split ...")
