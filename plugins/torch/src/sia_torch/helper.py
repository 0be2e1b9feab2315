"""A process that computes a share of what :class:`sia_torch.team.Team` is asked, with the team's weights.

It builds its base by the same settings, and has no optimizer's moments: weights come from the file that all
of them map, before each answer, and the gradients of its share go there.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sia_core.errors import SiaError
from sia_torch.engine import Torch
from sia_torch.shards import Broken, Shards


class Shared:
    """A mapped file of P + 1 rows of N float32: what all P processes learn, and the gradients of each but the first.

    Row 0 holds the weights that learn, one after the other, and row p the gradients of process p.
    """

    def __init__(self, file: Path, engine: Torch, processes: int) -> None:
        self._weights = engine.policy.learning()
        self._size = sum(each.numel() for each in self._weights.values())
        numbers = processes * self._size
        self._rows = torch.from_file(str(file), shared=True, size=numbers).view(processes, self._size)

    def tell(self) -> None:
        """Write the weights."""
        with torch.no_grad():
            for place, weight in self._places(0):
                place.copy_(weight.flatten())

    def hear(self) -> None:
        """Read the weights."""
        with torch.no_grad():
            for place, weight in self._places(0):
                weight.copy_(place.view_as(weight))

    def hand_in(self, process: int) -> list[bool]:
        """Write a process's gradients, and forget them; which weights have one."""
        there = []
        for place, weight in self._places(process):
            there.append(weight.grad is not None)
            if weight.grad is not None:
                place.copy_(weight.grad.flatten())
                weight.grad = None
        return there

    def add(self, process: int, there: list[bool]) -> None:
        """Add another process's gradients to those of this one."""
        for (place, weight), present in zip(self._places(process), there, strict=True):
            if present:
                gradient = place.view_as(weight).to(weight.device, weight.dtype)
                weight.grad = gradient.clone() if weight.grad is None else weight.grad.add_(gradient)

    def _places(self, row: int) -> list[tuple[Tensor, torch.nn.Parameter]]:
        parts = torch.split(self._rows[row], [each.numel() for each in self._weights.values()])
        return list(zip(parts, self._weights.values(), strict=True))


def share(engine: Torch, verb: str, arguments: tuple[Any, ...] | None) -> Any:
    """The result of a verb for a process's share of it, which is None where that process has no share."""
    shards = engine.policy.shards
    with shards.together(partial(engine.idle, verb == "forward_backward")) if shards else nullcontext():
        return None if arguments is None else getattr(Torch, verb)(engine, *arguments)


class Helper:
    """The engine of process ``number``, and which weights it last heard of."""

    def __init__(self, number: int) -> None:
        self._number, self._version = number, -1

    def build(self, path: Sequence[str], settings: Mapping[str, Any], threads: int) -> None:
        """Make the engine. A base that is trained on a text is the same by the same number of threads."""
        sys.path[:] = path  # by which losses are imported
        torch.set_num_threads(threads)
        self._engine = Torch(**settings)

    def share(self, file: str, processes: int, threads: int) -> None:
        """Map the file, and compute with this number of threads from now on."""
        self._shared = Shared(Path(file), self._engine, processes)
        torch.set_num_threads(threads)

    def divide(self, rendezvous: str, processes: int) -> None:
        """Keep a part of the base, as all processes do at once."""
        self._engine.policy.divide(Shards(Path(rendezvous), self._number, processes))

    def call(self, verb: str, arguments: tuple[Any, ...] | None, version: int) -> Any:
        """Have the engine do something with the weights of that version."""
        if version != self._version:
            self._shared.hear()
            self._engine.forget_sampler()
            self._version = version
        return share(self._engine, verb, arguments)

    def hand_in(self) -> list[bool]:
        """Put the gradients of this share where they are added up; which weights have one."""
        return self._shared.hand_in(self._number)

    def drop(self) -> None:
        """Forget the gradients of this share."""
        self._engine.drop_gradients()


def serve(helper: Helper, channel: Connection[Any, Any]) -> None:
    """Answer until the engine hangs up. Both ends are of this package, so what is unpickled is its own."""
    while True:
        try:
            method, arguments = channel.recv()
        except (EOFError, OSError):
            return
        try:
            reply = (True, getattr(helper, method)(*arguments))
        except SiaError as error:
            reply = (False, error)
        except Exception as error:  # its type may need what only this process has imported
            reply = (False, RuntimeError(f"{type(error).__name__}: {error}"))
        try:
            channel.send(reply)
        except OSError:
            return
        if isinstance(reply[1], Broken):
            return


if __name__ == "__main__":
    serve(Helper(int(sys.argv[2])), Connection(int(sys.argv[1])))
