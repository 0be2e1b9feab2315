"""The engine ``torch`` on several processes of one machine, each with the whole base or a part of it, and a GPU each
if there are.

What is asked is divided among them. A loss is a sum over data with one divisor, so the gradients of shares add up to
the batch's. This process adds them and holds the only optimizer: it makes the step that one process alone would make,
but for the order of the sums, and the others get its weights.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import zip_longest
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import torch

from sia_core.errors import ModelError
from sia_core.learning import Datum, Request, Sampled, Trace
from sia_runtime.settings import checked
from sia_torch import store
from sia_torch.engine import Torch
from sia_torch.helper import Shared, share
from sia_torch.settings import Settings
from sia_torch.shards import Broken, Elsewhere, Shards
from sia_torch.tree import first_sampled, units

PATIENCE = 10.0
"""Seconds that a process has to end by itself."""


def open_engine(**settings: Any) -> Torch:
    """The factory of the offer ``torch``, which takes :class:`sia_torch.settings.Settings`' fields."""
    return Team(**settings) if checked(Settings, settings, "--engine-set").processes > 1 else Torch(**settings)


class Team(Torch):
    """A policy that samples and learns on several processes."""

    def __init__(self, **settings: Any) -> None:
        options = checked(Settings, settings, "--engine-set")
        count, threads = options.processes, torch.get_num_threads()
        if options.shard:
            Shards.check()
        self._others = [_Process(each) for each in range(1, count)]
        self._version = 0
        self._ended: Exception | None = None
        try:
            for each in self._others:
                each.ask("build", sys.path, _on_card(settings, each.number), threads)
            super().__init__(**settings)
            for each in self._others:
                each.hear()
            torch.set_num_threads(max(1, threads // count))
            with tempfile.TemporaryDirectory(prefix="sia-torch-") as folder:
                file = Path(folder) / "shared"
                self._shared = Shared(file, self, count)
                self._all("share", str(file), count, max(1, threads // count))
                if self.settings.shard:
                    self._divide(Path(folder) / "rendezvous", count)
            self._shared.tell()
        except BaseException:
            self.close()
            raise

    def sample(self, requests: Sequence[Request]) -> list[list[Sampled]]:
        """For each request its continuations, in the order of its seeds."""
        rows = [len(each.seeds) for each in requests]
        if sum(rows) <= self.settings.rows:  # one batch, which is no shorter with fewer rows
            return _in_place([range(len(requests))], self._divided("sample", [(requests,)]), len(requests))
        first: dict[tuple[int, ...], int] = {}
        order = sorted(range(len(requests)), key=lambda each: first.setdefault(tuple(requests[each].prompt), each))
        parts = _cut(order, rows, 1 + len(self._others))
        answers = self._divided("sample", [([requests[each] for each in part],) for part in parts])
        return _in_place(parts, answers, len(requests))

    def _read(self, traces: Sequence[Trace], reference: bool, values: bool) -> list[list[float]]:
        parts = self._parts(traces, [[each] for each in range(len(traces))])
        answers = self._divided("_read", [([traces[each] for each in part], reference, values) for part in parts])
        return _in_place(parts, answers, len(traces))

    def forward_backward(
        self, data: Sequence[Datum], loss: str, settings: Mapping[str, Any] | None = None
    ) -> dict[str, float]:
        """Add the gradient of a loss, ``"module:attribute"``, over data; sums to watch, and the ``loss``.

        TrainingError where the loss is not finite; the gradients are dropped then.
        """
        parts = self._parts([datum.trace for datum in data], units(data))
        try:
            answers = self._divided(
                "forward_backward", [([data[each] for each in part], loss, settings) for part in parts]
            )
        except Exception:
            self.drop_gradients()
            raise
        sums: dict[str, float] = {"loss": 0.0}
        for name, value in (pair for answer in answers for pair in answer.items()):
            sums[name] = sums.get(name, 0.0) + value
        return sums

    def optim_step(self, **options: Any) -> dict[str, float]:
        """One step of AdamW with the gradients added up so far, which it clears; TrainingError if nothing moved."""
        for each, there in zip(self._others, self._all("hand_in"), strict=True):
            self._shared.add(each.number, there)
        result = super().optim_step(**options)
        self._changed()
        return result

    def drop_gradients(self) -> None:
        """Forget what was added up for a step."""
        super().drop_gradients()
        self._all("drop")

    def load(self, folder: Path) -> None:
        """Go on from a snapshot as if training had never stopped."""
        super().load(folder)
        self._all("drop")
        self._changed()

    def memory(self) -> dict[str, float]:
        """Bytes: of all processes together on a CPU, and of the fullest card on GPUs."""
        every = self._divided("memory", [()] * (1 + len(self._others)))
        of = max if self.policy.device.type == "cuda" else sum
        return {name: float(of(each[name] for each in every)) for name in every[0]}

    def close(self) -> None:
        """End the other processes."""
        self._leave()
        for each in self._others:
            each.end(0 if self._ended else PATIENCE)

    def _divide(self, rendezvous: Path, count: int) -> None:
        self.policy.identities = store.identities(self.policy)  # while all of the base is here

        def here() -> None:
            self.policy.divide(Shards(rendezvous, 0, count))

        self._ask([(each, "divide", (str(rendezvous), count)) for each in self._others], [here])

    def _leave(self) -> None:
        if hasattr(self, "policy") and self.policy.shards:
            self.policy.shards.leave()

    def _parts(self, traces: Sequence[Trace], together: Sequence[Sequence[int]]) -> list[list[int]]:
        """The indices of traces in a part for each process. A unit is not split, and a shared prompt rarely."""
        prefixes = {unit[0]: tuple(traces[unit[0]].tokens[: first_sampled(traces[unit[0]])]) for unit in together}
        first: dict[tuple[int, ...], int] = {}
        order = sorted(together, key=lambda unit: first.setdefault(prefixes[unit[0]], unit[0]))
        lengths = [sum(len(traces[each].tokens) for each in unit) for unit in order]
        parts = _cut(range(len(order)), lengths, 1 + len(self._others))
        return [[each for place in part for each in order[place]] for part in parts]

    def _divided(self, verb: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The results of one verb for arguments of each process that has any, this one's first."""
        own, *rest = [None if part and not part[0] else part for part in arguments]
        calls = [
            (each, "call", (verb, part, self._version))
            for each, part in zip_longest(self._others, rest)
            if part is not None or self.settings.shard
        ]
        here = [partial(share, self, verb, own)] if own is not None or self.settings.shard else []
        return [each for each in self._ask(calls, here) if each is not None]

    def _all(self, method: str, *arguments: Any) -> list[Any]:
        return self._ask([(each, method, arguments) for each in self._others])

    def _ask(
        self, calls: Sequence[tuple[_Process, str, tuple[Any, ...]]], here: Sequence[Callable[[], Any]] = ()
    ) -> list[Any]:
        """The results of this process and of others, which work at the same time.

        An error is raised once all have answered: what is left in a pipe would be taken for the next answer.
        """
        if self._ended:
            raise self._ended
        results: list[Any] = []
        errors: list[Exception] = []
        for process, method, arguments in calls:
            process.ask(method, *arguments)
        for each in [*here, *(process.hear for process, _, _ in calls)]:
            try:
                results.append(each())
            except Exception as error:
                errors.append(error)
                if isinstance(error, _Lost | Broken) and not _follows(error):
                    break  # the others may wait for that process for good
                if isinstance(error, Broken):  # one of the others is why, and tells soon
                    for process, _, _ in calls:
                        process.patience = PATIENCE
        if not errors:
            return results
        cause = min(errors, key=_follows)
        if any(isinstance(error, _Lost | Broken) for error in errors):
            self._ended = cause
            self.close()
        raise cause

    def _changed(self) -> None:
        self._shared.tell()
        self._version += 1


class _Lost(ModelError):
    """One of the processes is not there any more."""


class _Process:
    """One of the others: a helper at the other end of a pipe. It has ``patience`` seconds to answer, None for ever."""

    patience: float | None

    def __init__(self, number: int) -> None:
        self.number, self.patience = number, None
        self._channel, there = Pipe()
        self._process = subprocess.Popen(
            # -P: a file of the working folder must not stand in for a module.
            [sys.executable, "-P", "-m", "sia_torch.helper", str(there.fileno()), str(number)],
            pass_fds=[there.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        there.close()

    def ask(self, method: str, *arguments: Any) -> None:
        """Have it do something, while this process does something else; :meth:`hear` tells where it is lost."""
        with suppress(OSError):
            self._channel.send((method, arguments))

    def hear(self) -> Any:
        """The result of it; raise its error."""
        try:
            if not self._channel.poll(self.patience):
                raise Elsewhere(f"process {self.number + 1} of the engine torch waits for another")
            done, result = self._channel.recv()
        except (EOFError, OSError):
            raise self._lost() from None
        if not done:
            raise result
        return result

    def end(self, patience: float) -> None:
        """Hang up, and wait for its end: after ``patience`` seconds it is killed."""
        self._channel.close()
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _lost(self) -> _Lost:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(PATIENCE)
        return _Lost(
            f"process {self.number + 1} of the engine torch ended (exit status {self._process.poll()}), most often for "
            "want of memory. Go on with `sia resume`, on a machine with more"
        )


def _follows(error: Exception) -> int:
    """Order of errors: the causes first, then those that follow from another process's."""
    return isinstance(error, Elsewhere) or (isinstance(error, Broken) and error.by_peer)


def _on_card(settings: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The settings of a process, with its GPU where there are several."""
    device = str(settings.get("device", ""))
    if device in ("", "cuda") and torch.cuda.is_available():
        return {**settings, "device": f"cuda:{number % torch.cuda.device_count()}"}
    return {**settings}


def _cut(order: Sequence[int], sizes: Sequence[int], count: int) -> list[list[int]]:
    """``order`` in ``count`` parts, one behind the other, whose sizes add up to about the same."""
    parts: list[list[int]] = [[] for _ in range(count)]
    whole, before = sum(sizes), 0
    for each in order:
        middle = before + sizes[each] / 2
        parts[min(count - 1, int(count * middle / max(1, whole)))].append(each)
        before += sizes[each]
    return parts


def _in_place(parts: Sequence[Sequence[int]], answers: Sequence[Sequence[Any]], length: int) -> list[Any]:
    """The answers to parts in the order of what was divided."""
    result: list[Any] = [None] * length
    for part, answer in zip((each for each in parts if each), answers, strict=True):
        for place, one in zip(part, answer, strict=True):
            result[place] = one
    return result
