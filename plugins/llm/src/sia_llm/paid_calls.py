"""Paid calls of language models through the run's record: none is paid for twice whose reply had arrived.

A call's key is its purpose, the digest of its request, and how often the purpose had
asked that before. Its try number N leaves ``KEY/intent/N`` before anything is sent, and
then ``KEY/reply``, or ``KEY/failed/N`` with what it may have cost. An intent with
neither was under way when the process ended: it is booked at its bound, said, and tried again.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from sia_core.errors import ModelError, UsageError, excerpt
from sia_core.evidence import MOST_COUNTED
from sia_core.run import record
from sia_core.run.budget import Budget
from sia_core.run.ledger import canonical
from sia_llm.models import Ask, CallFailed, Patience, Prices, Provider, Reply, Usage


class Store(Protocol):
    """Where calls are recorded durably: a run's ledger, or what stands for it on another machine."""

    def get(self, key: str) -> tuple[Any] | None: ...

    def record(self, key: str, value: Any) -> Any: ...


class RequestRefused(ModelError):
    """The provider will not answer this request, whoever asks and whenever."""


class Over(Exception):
    """No further call is made for this conversation; the message says why."""


class Permit:
    """The permission to make calls, until it is taken back with a reason. Safe to use from several threads.

    A reply that arrives once it is ``recorded`` that it was taken back is recorded as late, and used by nobody.
    """

    def __init__(self, over: str = "") -> None:
        self.mutex = threading.Lock()
        """Held while a reply is recorded, so that it comes either before the end or after it."""
        self.why, self.recorded = over, bool(over)
        self._over = threading.Event()
        if over:
            self._over.set()

    def take_back(self, why: str) -> None:
        self.why = self.why or why
        self._over.set()

    def check(self) -> None:
        """Over where it was taken back."""
        if self._over.is_set():
            raise Over(self.why)

    def wait(self, seconds: float) -> None:
        """Wait for so long, or until it is taken back."""
        self._over.wait(seconds)


Notice = Callable[[str], None]


@dataclass(frozen=True)
class _Call:
    """A call under its key, with the most that it can read and cost."""

    key: str
    request: Ask
    prices: Prices
    most_read: int

    @property
    def bound(self) -> float:
        return self.prices.most(self.most_read, self.request.most_output)

    def booked(self, reply: Reply) -> tuple[Reply, float, str]:
        """A reply with its tokens counted, its dollars, and what is wrong with the server's own figures.

        Dollars for figures that are missing, or cannot be right, are booked at the bound; tokens are estimated then.
        """
        replies = (reply, *reply.others)
        usage, silent = reply.usage, not any(each.text or each.calls for each in replies)
        longest, why = self.request.most_output if self.request.max_tokens else MOST_COUNTED, _ESTIMATED
        if min(asdict(usage).values()) < 0 or usage.read > self.most_read or usage.output > longest:
            why = f"the usage figures cannot be right: {excerpt(str(asdict(usage)))}; {_AT_THE_MOST}"
            usage = Usage()
        if usage.read and (usage.output or silent):
            return reply, self.prices.cost(usage), ""
        prompt_tokens = usage.input if usage.read else _estimate(self.request.to_json())
        output = usage.output if usage.output or silent else sum(_estimate(each.message) for each in replies)
        return replace(reply, usage=replace(usage, input=prompt_tokens, output=output)), self.bound, why


class Calls:
    """Asks one provider, recorded in ``store`` and booked as ``dollars``. Safe to use from several threads.

    ``booked`` says that the budget holds already what the store had recorded before. Once ``permit`` is taken back,
    recorded replies are given and no call is made.
    """

    def __init__(
        self,
        provider: Provider,
        store: Store,
        budget: Budget,
        notice: Notice,
        *,
        patience: Patience | None = None,
        sleep: Callable[[float], None] = time.sleep,
        booked: bool = False,
        permit: Permit | None = None,
    ) -> None:
        self._provider, self._store, self._budget, self._notice = provider, store, budget, notice
        self._patience, self._sleep, self._booked = patience or Patience(), sleep, booked
        self._permit = permit or Permit()
        self._occurrences: Counter[str] = Counter()
        self._mutex = threading.Lock()
        self._wrong = ""
        self._last: dict[str, tuple[Ask, int]] = {}

    def complete(self, purpose: str, request: Ask) -> Reply:
        """The recorded reply, or a new one. ModelError or BudgetExhausted where there is none; resume asks again."""
        call = self._call(purpose, request.cleaned())
        recorded = self._store.get(record.reply(call.key))
        if new := recorded is None or "late" in recorded[0]:
            self._permit.check()
        tried = self._replay(call)
        if recorded:
            row = recorded[0]
            self._book(row)
        else:
            row = self._answered(call, tried)
        if new:
            self._permit.check()
        reply = Reply.from_json(row["reply"])
        with self._mutex:
            self._last[purpose] = call.request, call.most_read if row["wrong"] else reply.usage.read
        return reply

    def _call(self, purpose: str, request: Ask) -> _Call:
        prices = self._provider.prices(request.model)
        if prices is None:
            if "dollars" in self._budget.limit.amounts:
                raise UsageError(
                    f"--budget dollars: it is not known what {request.model} costs; say it, in dollars for a million "
                    "tokens, with --improver-set input_price=... --improver-set output_price=... (0 where it is free)"
                )
            prices = Prices()
        digest = request.digest
        key = record.call(purpose, digest)
        with self._mutex:
            occurrence = self._occurrences[key]
            self._occurrences[key] += 1
            previous = self._last.get(purpose, (None, 0))
        return _Call(f"{key}/{occurrence}", request, prices, request.most_tokens(*previous))

    def _replay(self, call: _Call) -> int:
        """Book the tries that are recorded; how many there were."""
        tried = 0
        while self._store.get(record.attempt(call.key, "intent", tried)):
            failed = self._store.get(record.attempt(call.key, "failed", tried))
            if failed is None:
                if self._store.get(record.reply(call.key)):
                    break
                why = "the run was stopped before the reply had arrived"
                self._notice(f"a call of {call.request.model} may be paid for twice, and is made again: {why}")
                failure = self._failed(call, tried, why, call.bound)
                self._budget.settle({}, {"dollars": failure["dollars"]})
            else:
                self._book(failed[0])
            tried += 1
        return tried

    def _book(self, row: Mapping[str, Any]) -> None:
        """Book the cost of a recorded reply or failure, once."""
        if not self._booked:
            self._budget.settle({}, {"dollars": row["dollars"]})

    def _answered(self, call: _Call, tried: int) -> Mapping[str, Any]:
        failures = 0
        while True:
            self._permit.check()
            self._budget.reserve(dollars=call.bound)
            spent = 0.0
            try:
                with finishing(self._notice):
                    row = self._tried(call, tried + failures)
                    spent = row["dollars"]
                return row
            except CallFailed as failure:
                spent = call.bound if failure.paid else 0.0
                self._failed(call, tried + failures, str(failure), spent)
                failures += 1
                if not failure.retry or failures >= self._patience.tries:
                    times = f" after {failures} tries" if failures > 1 else ""
                    kind = RequestRefused if failure.refused else ModelError
                    raise kind(f"{self._provider.name} gave no answer{times}: {failure}. {_KEPT}") from failure
                wait = self._patience.wait(failures, failure.after)
                self._notice(f"{self._provider.name}: {failure}; trying again in {wait:.0f} s")
            finally:
                self._budget.settle({"dollars": call.bound}, {"dollars": spent})
            self._sleep(wait)

    def _tried(self, call: _Call, number: int) -> Mapping[str, Any]:
        """One try, from intent to recorded reply, with what it cost."""
        request = call.request
        about = {"model": request.model, "digest": request.digest, "most": call.bound}
        self._store.record(record.attempt(call.key, "intent", number), {**about, "asked": _new(request)})
        reply = Reply.from_json(self._provider.complete(request).to_json())
        reply, dollars, wrong = call.booked(reply)
        row = {"reply": reply.to_json(), "digest": request.digest, "dollars": dollars, "wrong": wrong}
        with self._permit.mutex:
            late = {"late": True} if self._permit.recorded else {}
            recorded: Mapping[str, Any] = self._store.record(record.reply(call.key), {**row, **late})
        if wrong and wrong != self._wrong:  # a server counts all of its replies alike
            self._notice(f"{self._provider.name}: {wrong}")
        self._wrong = wrong
        return recorded

    def _failed(self, call: _Call, number: int, why: str, dollars: float) -> Any:
        return self._store.record(record.attempt(call.key, "failed", number), {"why": why, "dollars": dollars})


_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_AT_THE_MOST = "booked at the most it can have cost"
_TOKEN = 3
"""Bytes of text that are counted as one token, where a server counts none: fewer than most texts have."""

_ESTIMATED = f"the server does not count its tokens: they are estimated, one for {_TOKEN} bytes; {_AT_THE_MOST}"

_KEPT = "What was paid for is kept; `sia resume` asks again."


def _estimate(value: Any) -> int:
    return -(-len(canonical(value).encode()) // _TOKEN)


def _new(request: Ask) -> Mapping[str, Any]:
    """The new part of a request: all of it at first, then the last message."""
    if len(request.messages) == 1:
        return {"system": list(request.system), "tools": [each.name for each in request.tools], **request.messages[0]}
    return request.messages[-1]


@contextmanager
def finishing(notice: Notice, asked_to: Callable[[], None] = lambda: None) -> Iterator[None]:
    """In the main thread one Ctrl-C or SIGTERM waits until the block is done, and a second one stops it at once.

    The first one also calls ``asked_to``, so that the block may come to its end.

    A signal that the process ignores, or that would end it without a word, is left as it is.
    """
    main = threading.current_thread() is threading.main_thread()
    handlers = {each: signal.getsignal(each) for each in _STOPPING} if main else {}
    before = {each: handler for each, handler in handlers.items() if callable(handler)}
    stop = False

    def later(number: int, frame: object) -> None:
        nonlocal stop
        if stop:
            raise KeyboardInterrupt
        stop = True
        asked_to()
        notice("stopping once the model has answered, so that its reply is kept; Ctrl-C again stops now")

    for each in before:
        signal.signal(each, later)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    if stop:
        raise KeyboardInterrupt
