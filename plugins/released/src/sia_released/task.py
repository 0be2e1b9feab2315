"""The task ``folder``: a task folder of the released SIA, by ``sia run --task-dir DIR``."""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib.metadata import packages_distributions
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from sia_core.cache import cache_folder, write_once
from sia_core.errors import UsageError
from sia_core.given_files import read_file, read_named
from sia_core.harness import MAX_BYTES, HarnessTree
from sia_core.playbook import Playbook
from sia_core.run.ledger import canonical
from sia_core.types import Instance, Kind, Limits, OfferRef, Split
from sia_released.folder import REFERENCE, Part, TaskFolder
from sia_runtime.answers import time_limit
from sia_runtime.metrics import metric_of, worst

HERE = Path(__file__).parent
AGENT = "target_agent.py"
LABELLED = "labelled"
HOW = """
---

The agent is `target_agent.py`, a program. It is run for a part of the questions at a time, in a sandbox
without a network, with `--dataset_dir` (this description, the questions of the part, and whatever else is
public) and `--working_dir`, where it leaves its answers as the description says. Where the run has a model,
`OPENAI_BASE_URL` and `OPENAI_API_KEY` lead to it, whatever model the description names. Beside the standard
library it may import what `harness.toml` requires.
"""


class Files(BaseModel):
    """An answer: the text files that the agent left in its working folder, by name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: dict[str, str]


class Folder:
    """A folder with ``data/public/task.md``, ``data/private``, ``evaluate.py`` and ``reference/``.

    ``items`` is how many questions an instance has; without it, as many as make some 64
    instances a split: the more there are, the more the gate sees. ``metric`` is the number
    of ``results.json`` that counts, divided by ``scale`` (100 for one in percent); as
    ``NAME:min:LOW,HIGH`` it is to be minimised, between these bounds.
    ``agent`` is a file, or a folder and its entry point as ``DIR:ENTRY``, to begin with in
    place of the folder's reference agent. ``seconds`` is the time limit of one instance,
    ``evaluate_seconds`` that of one run of ``evaluate.py``.
    """

    kind: Kind = "solve"
    answer = Files

    def __init__(
        self,
        folder: str,
        seed: int = 0,
        items: str = "",
        metric: str = "accuracy",
        scale: str = "1",
        agent: str = "",
        seconds: str = "600",
        evaluate_seconds: str = "100",
    ) -> None:
        self._folder, self._agent = TaskFolder(Path(folder)), agent
        self.name = Path(folder).resolve().name
        self.metric = metric_of(metric)
        self.failure_reward = worst(self.metric)
        self._parts = self._folder.dealt(seed, _whole("items", items) if items else None)
        self.limits = Limits(solve_seconds=time_limit(seconds, f"--set seconds={seconds}"))
        settings = {
            "folder": str(Path(folder).resolve()),
            "seed": seed,
            "items": items,
            "metric": metric,
            "scale": scale,
        }
        settings["seconds"] = evaluate_seconds
        self.verifier = OfferRef("evaluate", settings)
        self.brief = self._folder.brief + HOW
        files = {name: hashlib.sha256(content).hexdigest() for name, content in self._folder.public.items()}
        self.fingerprint = hashlib.sha256(canonical([files, seed, items, metric, scale]).encode()).hexdigest()

    def instances(self, split: Split) -> Sequence[Instance]:
        """The parts of a split's questions; none is public."""
        return [Instance(name_of(part), split, {"files": self._asked(part)}) for part in self._parts.get(split, ())]

    def _asked(self, part: Part) -> dict[str, str]:
        return {name: content.decode() for name, content in self._folder.asked(part).items()}

    def public_dir(self, splits: Sequence[Split]) -> Path:
        """The folder's files beside its questions; and ``labelled/``, questions and labels of these splits."""
        if "sealed" in splits:
            raise UsageError("the sealed questions are for the report alone; ask for public, search or gate")
        ids = [id for split in sorted(set(splits)) for part in self._parts.get(split, ()) for id in part]
        files = {**self._folder.asked(ids), **self._folder.answered(ids)} if ids else {}
        labelled = {f"{LABELLED}/{name}": content for name, content in files.items()}
        return write_once(cache_folder("folders"), {**self._folder.shown, **labelled})

    def seed_harness(self) -> HarnessTree:
        """The reference agent, and what runs it."""
        files = dict(self._reference.files)
        requires = ", ".join(f'"{name}"' for name in _required(files))
        manifest = f'entry = "harness.py"\nrequires = [{requires}]\nfixed = ["harness.py"]\n'
        wrapper = (HERE / "wrapper.py").read_bytes()
        whole = {**files, "harness.py": wrapper, "harness.toml": manifest.encode()}
        return HarnessTree(whole, self._reference.left_out)

    @cached_property
    def _reference(self) -> HarnessTree:
        place, _, entry = self._agent.partition(":")
        try:
            if not place:
                place = str(self._folder.path / "reference" / REFERENCE)
                return HarnessTree({AGENT: read_file(self._folder.path, "reference", REFERENCE, most_bytes=MAX_BYTES)})
            if not Path(place).is_dir():
                return HarnessTree({AGENT: read_named(Path(place), MAX_BYTES)})
            whole = HarnessTree.from_folder(Path(place))
            files = dict(whole.files)
            return HarnessTree({**files, AGENT: files.pop(entry or REFERENCE)}, whole.left_out)
        except KeyError:
            raise UsageError(
                f"agent {place}: no {entry or REFERENCE} in it; name its entry point as DIR:ENTRY"
            ) from None
        except OSError as error:
            raise UsageError(
                f"agent {place}: {error.strerror}; a task folder has reference/{REFERENCE}, "
                "or say where the agent is with --set agent=FILE"
            ) from None

    def playbook(self) -> Playbook | None:
        """The catalogue beside ``data``, if there is one; the released format knows none."""
        return Playbook.in_folder(self._folder.path)


def name_of(part: Part) -> str:
    """The id of an instance: a digest of the ids of its questions."""
    return hashlib.sha256(canonical(list(part)).encode()).hexdigest()[:12]


def _whole(name: str, text: str) -> int:
    if not text.isdigit() or not int(text):
        raise UsageError(f"--set {name}={text}: a whole number above 0")
    return int(text)


def _required(files: dict[str, bytes]) -> list[str]:
    """The installed distributions that the agent's files import. What is not installed, its import will say."""
    own = {name.partition("/")[0].removesuffix(".py") for name in files}
    modules = {module for name, content in files.items() if name.endswith(".py") for module in _imported(content)}
    installed = packages_distributions()
    return sorted({installed[each][0] for each in modules - own - sys.stdlib_module_names if each in installed})


def _imported(content: bytes) -> Iterator[str]:
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
