"""Jobs as they travel to a worker that sees none of this machine's files, and their results on the way back.

What a job needs, harness trees, adapters and the files that settings name, is known by
digest, so that a worker asks only for what it lacks. Results are JSON, errors are data, and
an adapter that was trained is whole and durable here before anybody hears of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import pkgutil
import re
import shutil
import stat
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from sia_core import errors
from sia_core.errors import HarnessError, LedgerError, SiaError, UsageError
from sia_core.harness import IGNORE_FILE, HarnessTree, check_path
from sia_core.run.ledger import UNFINISHED, Blobs, canonical, explained, sync_folder
from sia_core.run.rollouts import Setting
from sia_core.run.trees import ADAPTERS, Trees, adapter_folder
from sia_core.types import Job
from sia_runtime.job_checks import check_result
from sia_runtime.worker.host import Host

RUN, GIVEN = "run", "given"
_DIGEST = re.compile(r"[0-9a-f]{64}")
OFFERS = ("task", "verifier", "engine")

AGENTS = ("harness", "agent")
"""Settings of tasks that name the folder of an agent."""

Fetch = Callable[[Sequence[str]], Sequence[bytes]]
"""Gives the contents of some digests, in order."""


@dataclass(frozen=True)
class Parcel:
    """A job on its way, ``function`` and ``payload`` as in :class:`sia_core.types.Job`; JSON.

    ``files`` are what it needs: by its place in the worker's folder, the digest of its content. ``paths`` says for
    paths of the sender, as they stand in the job's setting, the place that each has there.
    """

    function: str
    payload: Mapping[str, Any]
    files: Mapping[str, str] = field(default_factory=dict)
    paths: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON."""
        return dict(vars(self))


@dataclass(frozen=True)
class JobResult:
    """A job's ``result``, as JSON. ``error`` is a type's name and a message, None where it raised nothing.

    ``trace`` is the traceback of that error, as text. ``files`` come back with it: digests of contents, by place.
    """

    result: Any = None
    error: tuple[str, str] | None = None
    trace: str = ""
    files: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON, if ``value`` is."""
        return dict(vars(self))

    def text(self) -> str:
        """It as JSON; a result that is none is the job's error."""
        try:
            return json.dumps(self.to_json())
        except (TypeError, ValueError) as error:
            return JobResult(error=(type(error).__name__, f"its result is no JSON: {error}")).text()

    @classmethod
    def read(cls, text: str) -> JobResult:
        """A worker's reply; SiaError where it is none. What it says is still the worker's word."""
        try:
            return _REPLY.validate_python(json.loads(text, parse_constant=_no_number))
        except (ValueError, TypeError, RecursionError) as error:
            raise SiaError(f"a worker's reply has not the form of one: {str(error)[:500]}") from None


_REPLY = TypeAdapter(JobResult)


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def function_of(name: str) -> Callable[[Mapping[str, Any], Host], Any]:
    """The function of a job, ``"module:attribute"``."""
    function: Callable[[Mapping[str, Any], Host], Any] = pkgutil.resolve_name(name)
    return function


class Sender:
    """The driver's end: packs jobs, gives the contents that workers lack, and keeps what comes back."""

    def __init__(self) -> None:
        self._sources: dict[str, Path] = {}
        self._listed: dict[Path, dict[str, str]] = {}
        self._digests: dict[Path, tuple[tuple[int, int], str]] = {}

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
        for key, path in _given(setting):
            if path.is_file():
                inside = {"": self._digest(path)}
            else:
                inside = self._agent(path) if key in AGENTS else self._folder(path)
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

    def keep(self, parcel: Parcel, outcome: JobResult, contents: Mapping[str, bytes]) -> Any:
        """The job's result, once what came with it is on disk; or its error, raised as on this machine."""
        if outcome.error is not None:
            raise raised(parcel.function, outcome)
        check_result(parcel.function, parcel.payload, outcome.result)
        names = isinstance(outcome.result, dict) and "adapter" in outcome.result
        if not names and not outcome.files:
            return outcome.result
        adapter, before = outcome.result["adapter"] if names else None, parcel.payload.get("adapter")
        if not outcome.files and adapter is None and before is None:
            return outcome.result
        if not (isinstance(adapter, str) and _DIGEST.fullmatch(adapter)):
            raise SiaError(f"{parcel.function}: a worker named the adapter {str(adapter)[:80]!r}, which is no digest")
        if outcome.files:
            if not isinstance(contents, Mapping):
                raise SiaError(f"{parcel.function}: a worker sent no contents of files that it left")
            files = _checked(f"{RUN}/{ADAPTERS}/{adapter}/", outcome.files, contents)
            _keep_folder(adapter_folder(Path(parcel.payload["setting"]["run"]), adapter), files)
        elif adapter not in _named(parcel.payload, "adapter"):  # it may be another agent's
            raise SiaError(
                f"a worker's reply is false: it names the adapter {adapter}, which the job was not sent and whose "
                "files did not come with it; nothing was recorded"
            )
        return outcome.result

    def _tree(self, run: Path, digest: str) -> dict[str, str]:
        """A harness: the blob of its listing, and one a file."""
        listing = _blob(run, digest)
        if listing not in self._listed:
            blobs = [digest, *(blob for _, blob in Trees(run).listing(digest))]
            self._sources.update({blob: _blob(run, blob) for blob in blobs})
            self._listed[listing] = {f"{RUN}/{_blob(Path(), blob)}": blob for blob in blobs}
        return self._listed[listing]

    def _adapter(self, run: Path, digest: str) -> dict[str, str]:
        """A snapshot, which is named by its content and never changes."""
        folder = adapter_folder(run, digest)
        if folder not in self._listed:
            self._listed[folder] = _below(f"{RUN}/{ADAPTERS}/{digest}", self._folder(folder))
        if not self._listed[folder]:
            raise LedgerError(f"{folder}: no such adapter; the run's folder is incomplete")
        return self._listed[folder]

    def _agent(self, folder: Path) -> dict[str, str]:
        """The files of a folder that belong to its agent: a key beside them is no worker's business."""
        tree = HarnessTree.from_folder(folder)
        rules = [IGNORE_FILE] if (folder / IGNORE_FILE).is_file() else []
        return {name: self._digest(folder / name) for name in [*tree.files, *rules]}

    def _folder(self, folder: Path) -> dict[str, str]:
        """Every file below a folder, by its path from there."""
        paths = [path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir()]
        for path in paths:
            if not stat.S_ISREG(path.lstat().st_mode):  # what a link leads to may be no worker's business
                raise UsageError(f"{path} is no plain file and is not sent to a worker; replace or remove it")
        return {path.relative_to(folder).as_posix(): self._digest(path) for path in paths}

    def _digest(self, path: Path) -> str:
        with explained(path.parent):
            stat = path.stat()
            mark = (stat.st_mtime_ns, stat.st_size)
            entry = self._digests.get(path)
            if entry is None or entry[0] != mark:
                with path.open("rb") as file:
                    entry = self._digests[path] = mark, hashlib.file_digest(file, "sha256").hexdigest()
        self._sources[entry[1]] = path
        return entry[1]


class Receiver:
    """A worker's end: a folder in the place of the sender's files, and jobs that run in it. For several threads."""

    def __init__(self, folder: Path, host: Host) -> None:
        folder.chmod(0o755)  # a sandbox reads it as another user, whatever our umask is
        self._folder, self._host = folder, host
        self._paths: dict[str, Path] = {}
        self._mutex = threading.Lock()

    def run(self, parcel: Parcel, fetch: Fetch) -> tuple[JobResult, dict[str, bytes]]:
        """Run a job; what it came to, and the contents of the files that it left, by digest."""
        try:
            home = self._home(parcel)
            self._place(home, parcel.files, fetch)
            payload = _moved(parcel, home)
            self._check(payload)
            result = function_of(parcel.function)(payload, self._host)
            contents = dict(_left(home, parcel, result))
        except (Exception, SystemExit) as error:
            problem = type(error).__name__, str(error)
            return JobResult(error=problem, trace=traceback.format_exc()), {}
        files = {place: hashlib.sha256(content).hexdigest() for place, content in contents.items()}
        return JobResult(result, files=files), {files[place]: content for place, content in contents.items()}

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
            digests = [digest for digest in dict.fromkeys(lacking.values()) if digest not in self._paths]
            contents = dict(zip(digests, fetch(digests), strict=True)) if digests else {}
            for place, digest in lacking.items():
                (home / place).parent.mkdir(parents=True, exist_ok=True)
                if digest in self._paths:
                    os.link(self._paths[digest], home / place)
                    continue
                if hashlib.sha256(contents[digest]).hexdigest() != digest:
                    raise SiaError(f"{place} arrived damaged on the worker; go on with `sia resume`")
                (home / place).write_bytes(contents[digest])
                (home / place).chmod(0o644)  # a sandbox reads it as another user, whatever our umask is
                self._paths[digest] = home / place

    def _check(self, payload: Mapping[str, Any]) -> None:
        setting = payload.get("setting")
        if setting is None or not setting.get("engine"):
            return
        if self._host.policy(Setting.from_json(setting)).local:
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


def _given(setting: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """Files and folders of this machine that settings of offers name by their whole path, each with its setting."""
    for offer in OFFERS:
        for key, value in (setting.get(offer) or {}).get("settings", {}).items():
            if isinstance(value, str) and os.path.isabs(value) and os.path.exists(value):
                yield key, Path(value)


def _below(place: str, files: Mapping[str, str]) -> dict[str, str]:
    return {f"{place}/{path}" if path else place: digest for path, digest in files.items()}


def _blob(run: Path, digest: str) -> Path:
    return Blobs(run / "blobs").path(digest)


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


def _checked(place: str, files: Mapping[str, str], contents: Mapping[str, bytes]) -> dict[str, bytes]:
    """A worker's files by path below a place; SiaError for a file anywhere else, or of another content."""
    result = {}
    for path, digest in files.items():
        try:
            inside = check_path(path.removeprefix(place) if path.startswith(place) else "")
        except HarnessError:
            raise SiaError(f"a worker left {path[:200]!r}, which is not below {place}; nothing was written") from None
        content = contents.get(digest)
        if not isinstance(content, bytes) or hashlib.sha256(content).hexdigest() != digest:
            raise SiaError(f"{path} arrived damaged from a worker; go on with `sia resume`")
        result[inside] = content
    return result


def _keep_folder(target: Path, files: Mapping[str, bytes]) -> None:
    """An adapter in the run's folder, whole or not at all, and durable; SiaError where another has its name."""
    if target.exists():
        kept = [path for path in target.rglob("*") if path.is_file()]
        if {path.relative_to(target).as_posix(): path.read_bytes() for path in kept} != files:
            raise SiaError(f"a worker's reply is false: {target} holds other files than it sent; nothing was recorded")
        return
    run = target.parents[1]
    with explained(run):
        for folder in (run / UNFINISHED, target.parent):
            folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=run / UNFINISHED))
        try:
            for path, content in files.items():
                _write_synced(temporary / path, content)
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


def raised(what: str, outcome: JobResult) -> SiaError:
    """The error of an outcome, to raise here: one of the core's own by its type, any other by its text."""
    name, message = outcome.error or ("", "")
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, SiaError):
        return kind(message)
    error = SiaError(f"{what} failed on a worker: {name}: {message}")
    error.add_note(outcome.trace)
    return error
