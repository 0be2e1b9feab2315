"""A base that is divided among processes, by torch's ``fully_shard``.

Each process holds a part of every layer, and gathers a layer from all of them while it computes it. So all make
their passes at the same time, however few one has to make: it passes over padding until the others are done.
"""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import debug

from sia_core.errors import ModelError, UsageError
from sia_torch.memory import local_size

LOOPBACK = "lo"
"""The network interface through which processes of one machine talk, where it has this name."""

LOST = ("closed by peer", "reset by peer", "Broken pipe")
"""Gloo's words for a process that it waits for and that is not there any more."""

M_MMAP_THRESHOLD, MAPPED = -3, 2**20
"""The parameter of ``mallopt``, and its value: the least bytes of memory that goes back to the system when freed."""

WAITS, WORKS, FAILED = range(3)


class Elsewhere(ModelError):
    """Another process failed, and tells why."""


class Broken(ModelError):
    """A pass ended in its middle: the others wait for what this process will not send.

    Attributes
    ----------
    by_peer : whether that is because another process is lost.
    """

    def __init__(self, process: int, error: str) -> None:
        super().__init__(
            f"process {process + 1} of the engine torch failed in a pass over the base that they share: {error}. "
            "Go on with `sia resume`"
        )
        self._arguments = process, error
        self.by_peer = any(each in error for each in LOST)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments


class Shards:
    """A process's place among those that hold a base together.

    Attributes
    ----------
    gathered : bytes of the largest layer, which is whole while it is computed.
    """

    def __init__(self, rendezvous: Path, number: int, count: int) -> None:
        if LOOPBACK in (name for _, name in socket.if_nameindex()):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK)
        dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=number, world_size=count)
        self._number = number
        self._mesh = init_device_mesh("cpu", (count,))
        self._inside = self._taken = self._left = False

    @staticmethod
    def check() -> None:
        """UsageError where this process has a place already: torch knows one group of processes by default."""
        if dist.is_initialized():
            raise UsageError("--engine-set shard=true: this process shares a base already; close that engine before")

    def divide(self, layers: Sequence[nn.Module], whole: Collection[Tensor]) -> None:
        """Keep this process's part of the layers' weights, but for those that stay ``whole``."""
        with suppress(
            OSError, AttributeError
        ):  # where the C library is glibc, which keeps up to 32 MB of what is freed
            ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, MAPPED)
        self.gathered = max(sum(map(local_size, layer.parameters())) for layer in layers)
        for layer in layers:
            ignored = {each for each in layer.parameters() if each in whole}
            fully_shard(layer, mesh=self._mesh, reshard_after_forward=True, ignored_params=ignored)

    @contextmanager
    def passing(self) -> Iterator[None]:
        """A pass through the layers, forward or backward, which all processes make at once."""
        if not self._taken:
            self._turn(WORKS)
        self._taken, self._inside = False, True
        gradients = torch.is_grad_enabled()
        # What is gathered first decides for good whether it can be trained through.
        with torch.inference_mode(False), torch.set_grad_enabled(gradients):
            yield
        self._inside = False

    @contextmanager
    def together(self, idle: Callable[[], None]) -> Iterator[None]:
        """Work that takes passes; after it ``idle`` makes one at a time, for as long as another process has work."""
        try:
            yield
            while self._turn(WAITS):
                self._taken = True
                idle()
        except Elsewhere:
            raise
        except Exception as error:
            if self._inside:
                raise Broken(self._number, f"{type(error).__name__}: {error}") from error
            self._turn(FAILED)
            raise

    def leave(self) -> None:
        """Give the place up, so that this process may have another. Who waits for a pass of it waits on."""
        if not self._left:
            self._left = True
            dist.destroy_process_group()
            with suppress(AttributeError):  # not there in every version of torch
                # It would keep the group, and a child that another thread forks would end it, which never ends there.
                debug._clear_sharding_prop_cache()  # type: ignore[no-untyped-call]

    def _turn(self, state: int) -> bool:
        """Whether any process has work, once all have said; Elsewhere where another has failed."""
        states = torch.tensor(state)
        self._inside = True
        dist.all_reduce(states, op=dist.ReduceOp.MAX)
        self._inside = False
        if states == FAILED and state != FAILED:
            raise Elsewhere("another process of the engine torch failed")
        return bool(states == WORKS)
