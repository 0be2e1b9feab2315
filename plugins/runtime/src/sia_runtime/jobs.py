"""Jobs as they travel to a worker that sees none of this machine's files, and their results on the way back.

What a job needs, harness trees, adapters and the files that settings name, is known by
digest, so that a worker asks only for what it lacks. Results are JSON, errors are data, and
an adapter that was trained is whole and durable here before anybody hears of it.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import shutil
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from sia_core import errors
from sia_core.errors import LedgerError, SiaError, UsageError
from sia_core.host import Host
from sia_core.ledger import UNFINISHED, canonical, explained, sync_folder
from sia_core.policy import ADAPTERS
from sia_core.rollout import Setting
from sia_core.served import ServedPolicy
from sia_core.types import Job

RUN, GIVEN = "run", "given"
OFFERS = ("task", "verifier", "engine")

Fetch = Callable[[Sequence[str]], Sequence[bytes]]
"""Gives the contents of some digests, in order."""


@dataclass(frozen=True)
class Parcel:
    """A job on its way; JSON.

    ``files`` are what it needs: by its place in the worker's folder, the digest of its
    content. ``paths`` says for paths of the sender, as they stand in the job's setting, the
    place that each has there.
    """

    function: str
    payload: Mapping[str, Any]
    files: Mapping[str, str] = field(default_factory=dict)
    paths: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class Outcome:
    """What a job came to; JSON. ``error`` is a type's name and a message. ``files`` come back with it, by place."""

    result: Any = None
    error: tuple[str, str] | None = None
    trace: str = ""
    files: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


def function_of(name: str) -> Callable[[Mapping[str, Any], Host], Any]:
    """The function of a job, ``"module:attribute"``."""
    module, _, attribute = name.partition(":")
    function: Callable[[Mapping[str, Any], Host], Any] = getattr(importlib.import_module(module), attribute)
    return function


class Sender:
    """The driver's end: packs jobs, gives the contents that workers lack, and keeps what comes back."""

    def __init__(self) -> None:
        self._sources: dict[str, Path] = {}
        self._listed: dict[Path, dict[str, str]] = {}
        self._seen: dict[Path, tuple[tuple[int, int], str]] = {}

    def pack(self, job: Job) -> Parcel:
        """The job with all that it needs by digest; LedgerError where a part of the run's folder is missing."""
        setting = job.payload.get("setting")
        if setting is None:
            return Parcel(job.function, job.payload)
        run = Path(setting["run"])
        files: dict[str, str] = {}
        for digest in _named(job.payload, "harness"):
            files.update(self._tree(run, digest))
        for digest in _named(job.payload, "adapter"):
            files.update(self._adapter(run, digest))
        paths = {setting["run"]: RUN}
        for path in _given(setting):
            inside = {"": self._digest(path)} if path.is_file() else self._folder(path)
            mark = hashlib.sha256(
                canonical(inside).encode()
            ).hexdigest()  # what was changed meanwhile has another place
            paths[str(path)] = place = f"{GIVEN}/{mark[:16]}/{path.name}"
            files.update(_below(place, inside))
        return Parcel(job.function, job.payload, files, paths)

    def content(self, digest: str) -> bytes:
        """A file that a parcel named."""
        path = self._sources[digest]
        with explained(path.parent):
            content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            raise LedgerError(f"{path} was changed while a job that needs it was on its way; start the run again")
        return content

    def keep(self, parcel: Parcel, outcome: Outcome, contents: Mapping[str, bytes]) -> Any:
        """The job's result, once what came with it is on disk; or its error, raised as on this machine."""
        if outcome.error is not None:
            raise raised(parcel.function, outcome)
        if outcome.files:
            adapter = outcome.result["adapter"]
            _keep_folder(Path(parcel.payload["setting"]["run"]), str(adapter), outcome.files, contents)
        return outcome.result

    def _tree(self, run: Path, digest: str) -> dict[str, str]:
        """A harness: the blob of its listing, and one a file."""
        listing = _blob(run, digest)
        if listing not in self._listed:
            with explained(run):
                lines = listing.read_text().split("\n")
            blobs = [digest, *(line.split("\0")[1] for line in lines if line)]
            self._sources.update({blob: _blob(run, blob) for blob in blobs})
            self._listed[listing] = {f"{RUN}/{_blob(Path(), blob)}": blob for blob in blobs}
        return self._listed[listing]

    def _adapter(self, run: Path, digest: str) -> dict[str, str]:
        """A snapshot, which is named by its content and never changes."""
        folder = run / ADAPTERS / digest
        if folder not in self._listed:
            self._listed[folder] = _below(f"{RUN}/{ADAPTERS}/{digest}", self._folder(folder))
        if not self._listed[folder]:
            raise LedgerError(f"{folder}: no such adapter; the run's folder is incomplete")
        return self._listed[folder]

    def _folder(self, folder: Path) -> dict[str, str]:
        """Every file below a folder, by its path from there."""
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return {path.relative_to(folder).as_posix(): self._digest(path) for path in paths}

    def _digest(self, path: Path) -> str:
        with explained(path.parent):
            stat = path.stat()
            mark = (stat.st_mtime_ns, stat.st_size)
            known = self._seen.get(path)
            if known is None or known[0] != mark:
                with path.open("rb") as file:
                    known = self._seen[path] = mark, hashlib.file_digest(file, "sha256").hexdigest()
        self._sources[known[1]] = path
        return known[1]


class Receiver:
    """A worker's end: a folder in the place of the sender's files, and jobs that run in it. For several threads."""

    def __init__(self, folder: Path, host: Host) -> None:
        folder.chmod(0o755)  # a sandbox reads it as another user, whatever our umask is
        self._folder, self._host = folder, host
        self._held: dict[str, Path] = {}
        self._mutex = threading.Lock()

    def run(self, parcel: Parcel, fetch: Fetch) -> tuple[Outcome, dict[str, bytes]]:
        """Run a job; what it came to, and the contents of the files that it left, by digest."""
        try:
            home = self._home(parcel)
            self._place(home, parcel.files, fetch)
            payload = _moved(parcel, home)
            self._check(payload)
            result = function_of(parcel.function)(payload, self._host)
            left = dict(_left(home, parcel, result))
        except (Exception, SystemExit) as error:
            told = type(error).__name__, str(error)
            return Outcome(error=told, trace=traceback.format_exc()), {}
        files = {place: hashlib.sha256(content).hexdigest() for place, content in left.items()}
        return Outcome(result, files=files), {files[place]: content for place, content in left.items()}

    def _home(self, parcel: Parcel) -> Path:
        """The folder of the parcel's run."""
        run = next((path for path, place in parcel.paths.items() if place == RUN), "")
        home = self._folder / hashlib.sha256(run.encode()).hexdigest()[:16]
        (home / RUN).mkdir(parents=True, exist_ok=True)
        return home

    def _place(self, home: Path, files: Mapping[str, str], fetch: Fetch) -> None:
        """Fetch what is not there; SiaError where a content is not what its digest says. A file never changes."""
        with self._mutex:
            lacking = {place: digest for place, digest in files.items() if not (home / place).is_file()}
            digests = [digest for digest in dict.fromkeys(lacking.values()) if digest not in self._held]
            contents = dict(zip(digests, fetch(digests), strict=True)) if digests else {}
            for place, digest in lacking.items():
                (home / place).parent.mkdir(parents=True, exist_ok=True)
                if digest in self._held:
                    os.link(self._held[digest], home / place)
                    continue
                if hashlib.sha256(contents[digest]).hexdigest() != digest:
                    raise SiaError(f"{place} arrived damaged on the worker; go on with `sia resume`")
                (home / place).write_bytes(contents[digest])
                self._held[digest] = home / place

    def _check(self, payload: Mapping[str, Any]) -> None:
        setting = payload.get("setting")
        if setting is None or not setting.get("engine"):
            return
        if isinstance(self._host.policy(Setting.from_json(setting)), ServedPolicy):
            raise UsageError(
                "a policy that somebody else serves records its paid calls in the run's folder, which a worker does "
                "not see; use --backend local"
            )


def _named(value: Any, name: str) -> Iterator[str]:
    """The digests that stand under a name anywhere in a payload."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            if key == name and isinstance(each, str):
                yield each
            elif key != "setting":
                yield from _named(each, name)


def _given(setting: Mapping[str, Any]) -> Iterator[Path]:
    """Files and folders of this machine that the settings of offers name by their whole path."""
    for offer in OFFERS:
        for value in (setting.get(offer) or {}).get("settings", {}).values():
            if isinstance(value, str) and os.path.isabs(value) and os.path.exists(value):
                yield Path(value)


def _below(place: str, files: Mapping[str, str]) -> dict[str, str]:
    return {f"{place}/{path}" if path else place: digest for path, digest in files.items()}


def _blob(run: Path, digest: str) -> Path:
    return run / "blobs" / digest[:2] / digest


def _moved(parcel: Parcel, home: Path) -> dict[str, Any]:
    """The payload with the worker's paths in the place of the sender's."""
    payload = dict(parcel.payload)
    if setting := payload.get("setting"):
        paths = {path: str(home / place) for path, place in parcel.paths.items()}
        moved = {**setting, "run": paths[setting["run"]]}
        for offer in OFFERS:
            if moved.get(offer):
                settings = moved[offer]["settings"]
                there = {
                    key: paths.get(each, each) if isinstance(each, str) else each for key, each in settings.items()
                }
                moved[offer] = {**moved[offer], "settings": there}
        payload["setting"] = moved
    return payload


def _left(home: Path, parcel: Parcel, result: Any) -> Iterator[tuple[str, bytes]]:
    """The files of an adapter that a job trained, by place."""
    adapter = result.get("adapter") if isinstance(result, dict) else None
    if not isinstance(adapter, str) or any(place.startswith(f"{RUN}/{ADAPTERS}/{adapter}/") for place in parcel.files):
        return
    folder = home / RUN / ADAPTERS / adapter
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(home).as_posix(), path.read_bytes()


def _keep_folder(run: Path, adapter: str, files: Mapping[str, str], contents: Mapping[str, bytes]) -> None:
    """An adapter in the run's folder, whole or not at all, and durable."""
    target = run / ADAPTERS / adapter
    if target.exists():
        return
    with explained(run):
        for folder in (run / UNFINISHED, target.parent):
            folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=run / UNFINISHED))
        try:
            for place, digest in files.items():
                inside = PurePosixPath(place).relative_to(f"{RUN}/{ADAPTERS}/{adapter}")
                _write_synced(temporary / inside, contents[digest])
            for folder in (temporary, *(each for each in temporary.rglob("*") if each.is_dir())):
                sync_folder(folder)
            os.rename(temporary, target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        for folder in (target.parent, run):
            sync_folder(folder)


def _write_synced(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def raised(what: str, outcome: Outcome) -> SiaError:
    """The error of an outcome, to raise here: one of the core's own by its type, any other by its text."""
    name, message = outcome.error or ("", "")
    known = getattr(errors, name, None)
    if isinstance(known, type) and issubclass(known, SiaError):
        return known(message)
    error = SiaError(f"{what} failed on a worker: {name}: {message}")
    error.add_note(outcome.trace)
    return error
