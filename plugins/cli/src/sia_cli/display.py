"""The progress display of a run: an observer that writes to standard error.

A line stays for each thing that is done. On a terminal, below stand a bar for each sweep
that goes on, and a line with the rollouts and the time that the run has used. Elsewhere, such
as in a log, a line says now and then what is under way.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column
from rich.text import Text

from sia_cli import figures
from sia_cli.output import plain
from sia_core.hookspecs import Event
from sia_core.run.intervals import in_units
from sia_reading.possible import to_read

QUIET_SECONDS = 30.0
"""Seconds without a line after which a log is told what is under way."""

_WORK = {"smoke": "smoke run", "explore": "exploration", "train": "training"}
"""Purposes of sweeps in the words of a log, where they differ."""


@dataclass
class Sweep:
    """One agent on its way through the instances of a purpose. ``note`` is the last step of a training."""

    bar: TaskID
    began: float
    total: int
    done: int = 0
    note: str = ""

    def left(self, now: float) -> float | None:
        """The seconds that it still takes at its pace so far; None before anything is done."""
        return (now - self.began) * (self.total - self.done) / self.done if self.done else None


class Display:
    """Draws what it is told of. Events may hold more than is read here."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._sweeps: dict[tuple[str, str], Sweep] = {}
        self._names: dict[str, str] = {}
        self._budget: Mapping[str, float] = {}
        self._metric: Mapping[str, Any] = {}
        self._generations, self._rollouts, self._began = 0, 0, time.monotonic()
        self._phase, self._spoke = "setting up", self._began
        self._mutex, self._closed = threading.RLock(), threading.Event()
        self._bars = _Bars(self._status, self._console)
        self._bars.start()
        self._heart = threading.Thread(target=self._beat_until_closed, name="sia-display", daemon=True)
        if not self._console.is_terminal:
            self._heart.start()

    def __call__(self, event: Event) -> None:
        handle = getattr(self, "_on_" + event.kind.replace(".", "_"), None)
        if handle:
            with self._mutex:
                handle(**event.data)

    def close(self) -> None:
        self._closed.set()
        if self._heart.is_alive():
            self._heart.join()
        self._bars.stop()

    def beat(self) -> float:
        """Say what is under way if nothing was said for a while; the seconds until that may be due again."""
        with self._mutex:
            now = time.monotonic()
            if now - self._spoke < QUIET_SECONDS:
                return self._spoke + QUIET_SECONDS - now
            for (purpose, agent), sweep in self._sweeps.items():
                self._say(f"  {_WORK.get(purpose, purpose)} of {self._agent(agent)}: {_pace(sweep, now)}")
            if not self._sweeps:
                self._say("  ", self._status().plain)
            return QUIET_SECONDS

    def _beat_until_closed(self) -> None:
        wait = QUIET_SECONDS
        while not self._closed.wait(wait):
            wait = self.beat()

    def _say(self, *parts: str | tuple[str, str]) -> None:
        self._spoke = time.monotonic()
        self._console.print(plain(*parts), soft_wrap=not self._console.is_terminal)

    def _status(self) -> Text:
        rollouts, seconds = self._budget.get("rollouts"), self._budget.get("seconds")
        used = f"{self._rollouts:,}" + (f" of {rollouts:,.0f}" if rollouts else "") + " rollouts"
        passed = clock(time.monotonic() - self._began) + (f" of {clock(seconds)}" if seconds else "")
        return plain((f"{self._phase} · {used} · {passed}", "dim"))

    def _on_run_started(
        self,
        *,
        run: str,
        sandbox: Mapping[str, Any],
        gate: int,
        budget: Mapping[str, float],
        generations: int,
        metric: Mapping[str, Any] | None = None,
        notices: Sequence[str] = (),
        **about: Any,
    ) -> None:
        self._budget, self._generations, self._phase = budget, generations, "first agent"
        self._metric = metric or {}
        if "task" in about:
            self._say((run, "bold"), f": {figures.made_of({**about, 'budget': budget})}")
        self._say(f"sandbox {sandbox['name']}, {gate} instances on the gate")
        if line := figures.better(self._metric):
            self._say(line)
        if sandbox["lacks"]:
            self._say((f"This sandbox does not guarantee: {', '.join(sandbox['lacks'])}.", "yellow"))
        for notice in notices:
            self._say((one_line(notice), "yellow"))

    def _on_run_drafted(self, *, gate: Mapping[str, Any], **about: Any) -> None:
        self._say(f"first agent: {gate['value']:.4f} on the gate; {figures.sees(about)}")
        if line := figures.held_out(about):
            self._say(line)
        if (outcomes := about.get("outcomes")) and figures.useless(outcomes):
            self._say((f"warning: no answer of the first agent says anything: {figures.ended(outcomes)}", "yellow"))
        if narrow := about.get("narrow"):
            self._say((figures.narrow(narrow), "yellow"))

    def _on_generation_started(self, *, index: int, incumbent: str, **_: Any) -> None:
        self._clear()
        self._phase = f"generation {index}, at most {self._generations} in all"
        self._say((f"generation {index}, incumbent {self._name(incumbent)}", "dim"))

    def _on_candidate_started(self, *, name: str, agent: str, **_: Any) -> None:
        self._names[agent] = one_line(name)

    def _on_training_started(self, *, algorithm: str, rollouts: float, seconds: float, **_: Any) -> None:
        self._say(f"  training with {algorithm}: about {rollouts:,.0f} rollouts and {clock(seconds)}")

    def _on_rollouts_started(self, *, purpose: str, agent: str, total: int, **_: Any) -> None:
        label = plain(f"{purpose:6} {self._name(agent)}").plain
        self._forget((purpose, agent))
        bar = self._bars.add_task(label, total=total, score="", ends=None)
        self._sweeps[purpose, agent] = Sweep(bar, time.monotonic(), total)

    def _on_rollouts_progress(
        self, *, purpose: str, agent: str, done: int, total: int, mean: float | None = None, **_: Any
    ) -> None:
        self._advance((purpose, agent), done, total, "" if mean is None else f"score {mean:.3f}")
        if done >= total:
            self._forget((purpose, agent))

    def _on_rollouts_solving(self, *, purpose: str, agent: str, done: int, total: int, **_: Any) -> None:
        self._advance((purpose, agent), done, total)

    def _on_training_step(
        self,
        *,
        purpose: str,
        agent: str,
        done: int,
        total: int,
        step: int,
        steps: int,
        reward: float,
        seconds: float,
        **_: Any,
    ) -> None:
        self._advance((purpose, agent), done, total, f"step {step}/{steps}, reward {reward:.3f}")
        note = f"step {step} of {steps}, mean reward {reward:.3f}, {seconds:.1f} s a step"
        self._sweeps[purpose, agent].note = note

    def _advance(self, key: tuple[str, str], done: int, total: int, score: str = "") -> None:
        """Draw how far a sweep is. Rollouts that are recorded may be fewer than were solved; it never goes back."""
        if key not in self._sweeps:
            self._on_rollouts_started(purpose=key[0], agent=key[1], total=total)
        sweep = self._sweeps[key]
        self._rollouts += max(0, done - sweep.done)
        sweep.done = max(done, sweep.done)
        now = time.monotonic()
        remaining = sweep.left(now)
        self._bars.update(sweep.bar, completed=sweep.done, ends=None if remaining is None else now + remaining)
        if score:
            self._bars.update(sweep.bar, score=score)

    def _on_candidate_gated(self, *, name: str, outcome: str, **row: Any) -> None:
        self._clear()
        direction = self._metric.get("direction", "maximize")
        row = in_units(direction, row)  # as it is recorded: events have the metric's units
        why = to_read(direction, row, self._metric.get("bounds"))["why"]
        self._say("  ", figures.mark(outcome), f" {one_line(name)}: {one_line(why)}")

    def _on_seal_started(self, *, which: str, why: str, **_: Any) -> None:
        self._clear()
        self._phase = "sealed report"
        if which == "initial":
            self._say(f"closed: {one_line(why)}. Scoring the first and the final agent on the sealed split ...")

    def _on_robustness_started(self, *, looks: int, **_: Any) -> None:
        self._clear()
        self._phase = "robustness"
        if looks:
            sweeps = "1 more sweep" if looks == 1 else f"{looks} more sweeps"
            self._say(f"looking how far the result holds: {sweeps} over the sealed split")

    def _name(self, agent: str) -> str:
        """A candidate's name; what has none is the agent that the run began with."""
        return self._names.get(agent, "first agent")

    def _agent(self, agent: str) -> str:
        """The same within a sentence."""
        return f"candidate {self._names[agent]!r}" if agent in self._names else "the first agent"

    def _forget(self, key: tuple[str, str]) -> None:
        if sweep := self._sweeps.pop(key, None):
            self._bars.remove_task(sweep.bar)

    def _clear(self) -> None:
        """Remove what is left of sweeps that were given up: at these moments nothing is rolled out."""
        for key in list(self._sweeps):
            self._forget(key)


class _Bars(Progress):
    """The bars, and a line of text below them."""

    def __init__(self, status: Callable[[], Text], console: Console) -> None:
        self._status_line = status
        super().__init__(
            TextColumn(
                "{task.description}", markup=False, table_column=Column(max_width=40, no_wrap=True, overflow="ellipsis")
            ),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[score]}", markup=False),
            TimeElapsedColumn(),
            _TimeLeft(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
            refresh_per_second=4,
            redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield self._status_line()


class _TimeLeft(ProgressColumn):
    """The time that a sweep still takes, by its batches so far. Rich's own column forgets batches after 30 seconds."""

    def render(self, task: Task) -> Text:
        ends = task.fields["ends"]
        return Text("" if ends is None else f"about {clock(max(0.0, ends - time.monotonic()))} left")


def _pace(sweep: Sweep, now: float) -> str:
    """How far a sweep is, how fast, and how long it still takes."""
    remaining, passed = sweep.left(now), now - sweep.began
    count = f"{sweep.done:,} of {sweep.total:,} rollouts"
    if remaining is None:
        return f"{count}, {clock(passed)} so far"
    pace = f"{count}, {sweep.done / max(passed, 1e-9):.1f} a second"
    return f"{sweep.note or pace}, about {clock(remaining)} left"


def clock(seconds: float) -> str:
    """A time as minutes and seconds."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"


def one_line(text: str) -> str:
    """Text of a run without its line breaks, so that none of it can pass for a line of ours."""
    return " ".join(text.split())
