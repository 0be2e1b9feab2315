"""The server: which address shows which page, and the stream by which a page learns that its run went on."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import anyio
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from sia_core.errors import LedgerError
from sia_dashboard import diffs, pages, rollout_pages
from sia_dashboard.bounds import MOST_WORDS, SHOWN, cut
from sia_dashboard.guard import Guard
from sia_dashboard.library import LISTED, MOST_RUNS, Library
from sia_dashboard.pages import Served
from sia_dashboard.records import BROKEN, HEAD, Record, RolloutFilter

SIZE = 100
"""Rollouts a page."""

FILES, MOST_SOURCE = 50, 200_000
"""Files of a harness on its page, and bytes of all."""

COMPARED = 24
"""Runs side by side."""

LOOK_SECONDS = 0.5
"""How often a page that is watched looks for new steps."""

QUIET_LOOKS = 30
"""Looks without news after which a stream says that it is still there."""

Page = Callable[[Request], Response]


def application(library: Library, token: str | None = None, ending: threading.Event | None = None) -> ASGIApp:
    """The pages of a library; a ``token`` is asked for where it is not None. Streams end once ``ending`` is set."""
    site = Site(library, ending or threading.Event())
    routes = [
        Route("/", site.shown(site.runs)),
        Route("/live", site.live_library),
        Route("/compare", site.shown(site.compare)),
        Route("/runs/{run}", site.shown(site.run)),
        Route("/runs/{run}/live", site.live_run),
        Route("/runs/{run}/find", site.shown(site.find)),
        Route("/runs/{run}/candidates/{generation}.{index}", site.shown(site.candidate)),
        Route("/runs/{run}/rollouts", site.shown(site.rollouts)),
        Route("/runs/{run}/rollouts/{purpose}/{agent}/{batch}/{place}", site.shown(site.rollout)),
        Route("/runs/{run}/harness/{digest}", site.shown(site.harness)),
        Mount("/static", StaticFiles(packages=[("sia_dashboard", "static")])),
    ]
    handlers: Any = {HTTPException: site.failed, LedgerError: site.unreadable}
    return Guard(Starlette(routes=routes, exception_handlers=handlers), token)


class Site:
    """The pages. Each is made on its own thread, and reads what is recorded by then."""

    def __init__(self, library: Library, ending: threading.Event) -> None:
        self._library, self._ending = library, ending
        self._templates = pages.environment()

    def shown(self, page: Page) -> Page:
        """A page, or a word on why a record that was damaged, or made up, cannot be shown."""

        def look(request: Request) -> Response:
            try:
                return page(request)
            except LedgerError as error:
                return self._told(cut(str(error), MOST_WORDS), 422)
            except BROKEN as error:
                why = cut(f"{type(error).__name__}: {error}", MOST_WORDS)
                return self._told(f"the record of this run is damaged, or of another version: {why}", 422)

        return look

    def runs(self, request: Request) -> Response:
        """The list of runs, a page of them."""
        query = request.query_params.get("q", "")
        word, names = query.casefold(), self._library.names()
        if word:
            names = [
                report["run"]
                for report in self._library.reports(names)
                if word in f"{report['run']} {report.get('task', '')} {report.get('improver', '')}".casefold()
            ]
        turned = Turned.over(len(names), LISTED, request)
        return self._page(
            "runs.html",
            "Runs",
            [("Runs", "")],
            "/live",
            links=Served(),
            reports=[pages.summary(each) for each in self._library.reports(names[turned.first : turned.last])],
            words=query,
            turned=turned,
            full=MOST_RUNS if len(names) >= MOST_RUNS else 0,
        )

    def run(self, request: Request) -> Response:
        """One run at a glance."""
        record, links = self._record(request)
        if "task" not in record.report():
            return self._told(f"{record.name} was stopped before its first step, or has only just begun.", 200)
        page = pages.run_page(record)
        rows = page["report"]["generations"]
        turned = Turned.over(len(rows), SHOWN, request, last=True)
        page["report"] = {**page["report"], "generations": rows[turned.first : turned.last]}
        finished = page["report"]["status"] == "finished"
        live = "" if finished else f"{links.run()}/live"
        return self._page(
            "run.html", record.name, [("Runs", "/"), (record.name, "")], live, links=links, page=page, turned=turned
        )

    def candidate(self, request: Request) -> Response:
        """One candidate: decision, evidence, prediction, outcome, diff, learner."""
        record, links = self._record(request)
        generation, index = (_place(request.path_params[key]) for key in ("generation", "index"))
        page = pages.candidate_page(record, generation, index)
        if page is None:
            raise HTTPException(404, f"{record.name} has no candidate {generation}.{index}")
        title = f"{generation}.{index} {page['title']}"
        trail = [("Runs", "/"), (record.name, links.run()), (title, "")]
        live = "" if page["row"] else f"{links.run()}/live"
        return self._page("candidate.html", title, trail, live, links=links, page=page)

    def rollouts(self, request: Request) -> Response:
        """The rollouts of a run, a page of them."""
        record, links = self._record(request)
        filters = _wanted(request)
        page, matches = rollout_pages.list_page(record, links, filters)
        turned = Turned.over(len(matches), SIZE, request)
        rows = matches[turned.first : turned.last]
        return self._page(
            "rollouts.html",
            f"Rollouts of {record.name}",
            [("Runs", "/"), (record.name, links.run()), ("Rollouts", "")],
            links=links,
            rows=[(row, record.case(row.purpose, row.instance)) for row in rows],
            turned=turned,
            **page,
        )

    def rollout(self, request: Request) -> Response:
        """One rollout: its conversation, answer, score."""
        record, links = self._record(request)
        purpose, agent, batch = (request.path_params[key] for key in ("purpose", "agent", "batch"))
        where = purpose, agent, batch, _place(request.path_params["place"])
        rollout = record.rollout(*where)
        if rollout is None:
            raise HTTPException(404, f"{record.name} has no such rollout that may be looked at")
        filters = _wanted(request)
        back = links.rollouts(**asdict(filters)) if filters != RolloutFilter() else links.rollouts(purpose, agent)
        title = cut(rollout.instance, HEAD)
        return self._page(
            "rollout.html",
            f"Rollout of {title}",
            [("Runs", "/"), (record.name, links.run()), ("Rollouts", back), (title, "")],
            links=links,
            **rollout_pages.rollout_page(record, links, rollout, where, filters),
        )

    def harness(self, request: Request) -> Response:
        """The files of a harness."""
        record, links = self._record(request)
        digest = request.path_params["digest"]
        tree = record.harness(digest) if digest.isalnum() else None
        if tree is None:
            raise HTTPException(404, f"{record.name} has no harness {digest}")
        room, files = MOST_SOURCE, []
        for name, content in sorted(tree.files.items())[:FILES]:
            files.append((cut(name, HEAD), _lines(name, content, room)))
            room = max(0, room - len(content))
        if more := len(tree.files) - len(files):
            files.append((f"{more:,} more files", []))
        title = f"Harness {digest[:12]}"
        trail = [("Runs", "/"), (record.name, links.run()), (title, "")]
        return self._page("harness.html", title, trail, links=links, files=files)

    def find(self, request: Request) -> Response:
        """Candidates and rollouts of a run that hold a text."""
        record, links = self._record(request)
        query = request.query_params.get("q", "")
        word = query.casefold()
        candidates = [
            row
            for row in record.report()["generations"]
            if word in f"{row['name']} {row['reason']} {row['why']} {row['agent']} {row['algorithm']}".casefold()
        ]
        matches = [row for row in record.rows() if row.matches(word)]
        return self._page(
            "find.html",
            f"Found in {record.name}",
            [("Runs", "/"), (record.name, links.run()), ("Found", "")],
            links=links,
            words=query,
            candidates=candidates[:SHOWN],
            rows=matches[:SIZE],
            total=len(matches),
            all=links.rollouts(words=query),
        )

    def compare(self, request: Request) -> Response:
        """Some runs side by side."""
        names = list(islice(dict.fromkeys(request.query_params.getlist("run")), COMPARED))
        records = [self._found(name) for name in names]
        records = [record for record in records if "task" in record.report()]
        page = pages.comparison_page([record.report() for record in records], records)
        trail = [("Runs", "/"), ("Comparison", "")]
        live = "/live" if any(report["status"] != "finished" for report in page["reports"]) else ""
        return self._page("compare.html", "Comparison of runs", trail, live, links=Served(), **page)

    async def live_run(self, request: Request) -> Response:
        """Tells that a run went on."""
        record, _ = await run_sync(self._record, request)

        def look() -> tuple[Any, bool]:
            try:
                return record.seen(), record.report()["status"] == "finished"
            except BROKEN:
                return None, True

        return stream(look, self._ending)

    async def live_library(self, request: Request) -> Response:
        """Tells that any run of the library went on."""
        return stream(lambda: (self._library.seen(), False), self._ending)

    async def failed(self, request: Request, error: HTTPException) -> Response:
        """An HTTP error."""
        return self._told(error.detail, error.status_code)

    async def unreadable(self, request: Request, error: LedgerError) -> Response:
        """A run whose folder cannot be used."""
        return self._told(cut(str(error), MOST_WORDS), 422)

    def _record(self, request: Request) -> tuple[Record, Served]:
        name = request.path_params["run"]
        return self._found(name), Served(name)

    def _found(self, name: str) -> Record:
        try:
            return self._library.record(name)
        except KeyError:
            raise HTTPException(404, f"there is no run {cut(name, HEAD)!r} here") from None

    def _told(self, message: str, status: int) -> Response:
        trail = [("Runs", "/"), ("Not shown" if status >= 400 else "Not yet", "")]
        return self._page("error.html", trail[-1][0], trail, message=message, status=status)

    def _page(
        self,
        template: str,
        title: str,
        trail: list[tuple[str, str]],
        live: str = "",
        *,
        status: int = 200,
        **values: Any,
    ) -> Response:
        text = pages.render(self._templates, template, title=title, trail=trail, live=live, **values)
        return HTMLResponse(text, status)


@dataclass(frozen=True)
class Turned:
    """Which part of a long list a page shows, and where the parts before and after it are."""

    number: int
    pages: int
    first: int
    last: int
    total: int
    previous: str
    following: str

    @classmethod
    def over(cls, total: int, size: int, request: Request, *, last: bool = False) -> Turned:
        """The part that an address asks for by ``page``; else the first, or the ``last``."""
        pages = max(1, -(-total // size))
        page = _number(request.query_params.get("page", str(pages) if last else "1"))
        number = min(max(1, page), pages)

        def link(other: int) -> str:
            return str(request.url.include_query_params(page=other).replace(scheme="", netloc=""))

        return cls(
            number,
            pages,
            (number - 1) * size,
            min(total, number * size),
            total,
            link(number - 1) if number > 1 else "",
            link(number + 1) if number < pages else "",
        )


def stream(look: Callable[[], tuple[Any, bool]], ending: threading.Event) -> Response:
    """Server-sent events: ``changed`` whenever what ``look`` sees did, ``finished`` when there is no more to come."""

    async def events() -> AsyncIterator[str]:
        before, quiet = None, 0
        yield "retry: 1000\n\n"
        while not ending.is_set():
            now, finished = await run_sync(look)
            if finished:
                yield "event: finished\ndata: {}\n\n"
                return
            if now != before:
                # The first one too: the run may have gone on between the page and this stream.
                yield f"event: changed\ndata: {json.dumps(now)}\n\n"
                before, quiet = now, 0
            elif (quiet := quiet + 1) % QUIET_LOOKS == 0:
                yield ": still here\n\n"
            await anyio.sleep(LOOK_SECONDS)

    return StreamingResponse(events(), media_type="text/event-stream")


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 1


def _wanted(request: Request) -> RolloutFilter:
    """The filter of a list of rollouts, as an address has it."""
    return RolloutFilter(**{key: request.query_params.get(key, "") for key in ("purpose", "agent", "outcome", "words")})


def _place(text: str) -> int:
    """The number of a candidate or rollout in an address."""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise HTTPException(404, "there is nothing at this address")
    return int(text)


def _lines(name: str, content: bytes, room: int) -> list[diffs.Line] | None:
    """The lines of a file, as far as there is room; None where it is no text."""
    try:
        text = content[:room].decode(errors="replace" if len(content) > room else "strict")
    except UnicodeDecodeError:
        return None
    beyond = [diffs.beyond(len(content) - room)] if len(content) > room else []
    return [*diffs.source(name, text), *beyond]
