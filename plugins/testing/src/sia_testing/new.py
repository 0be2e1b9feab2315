"""A new plugin package, rendered from the templates that come with the core."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from importlib.util import find_spec
from pathlib import Path
from string import Template

from sia_core import __version__
from sia_core.errors import UsageError
from sia_core.hookspecs import HOOK_OF_KIND

TEMPLATE = ".tmpl"
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Sort:
    """One kind of package: its requirements beside the core, the name of its offer, and its files beside code."""

    summary: str
    needs: tuple[str, ...] = ()
    data: tuple[str, ...] = ()


SORTS: Mapping[str, Sort] = {
    "task": Sort("whether the number of ones is even", data=("*.toml", "seed/*")),
    "algorithm": Sort("REINFORCE with the mean of a group as its baseline"),
    "verifier": Sort("words in any order, with credit for a part", ("sia-runtime",)),
    "engine": Sort("a table of next-byte preferences, in torch", ("torch>=2.4", "numpy>=1.26", "sia-testing")),
    "backend": Sort("threads of this process", ("sia-runtime",)),
    "lever": Sort("files of the harness from another agent"),
    "improver": Sort("each edit of the playbook once, in its order"),
    "command": Sort("the files of an agent, and how large they are"),
}
"""The kinds of package that can be begun."""

IMPORTED = Sort("imported from a task folder", ("sia-released",), data=("folder/**/*",))


def rendered(kind: str, name: str) -> dict[str, str]:
    """The files of a new package, by their paths; UsageError for a name that no package can have."""
    return _rendered(kind, kind, SORTS[kind], name)


def imported(name: str) -> dict[str, str]:
    """The files of a package around a task folder, which is to lie in ``folder/`` beside its code."""
    return _rendered("task", "import", IMPORTED, name)


def package_of(name: str) -> str:
    """The import name of a package."""
    return f"sia_{name.replace('-', '_')}"


def _rendered(kind: str, template: str, sort: Sort, name: str) -> dict[str, str]:
    if not _NAME.fullmatch(name):
        plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-0123456789") or "mine"
        raise UsageError(f"{name!r} is no name for a plugin: use small letters, digits and dashes, such as {plain!r}")
    package = package_of(name)
    if find_spec(package) is not None:
        raise UsageError(
            f"{name!r}: a package {package} is installed here, whose place it would take; take another name"
        )
    values = {
        "kind": kind,
        "name": name,
        "package": package,
        "distribution": f"sia-{name}",
        "class_name": "".join(part.capitalize() for part in name.split("-")),
        "hook": HOOK_OF_KIND[kind],
        "summary": sort.summary,
        "dependencies": ", ".join(f'"{each}"' for each in (f"sia-core>={__version__}", *sort.needs)),
        "data": ", ".join(f'"{each}"' for each in ("py.typed", *sort.data)),
    }
    files: dict[str, str] = {}
    for folder in ("every", template):  # what a kind has itself replaces what every one has
        for path, text in _templates(resources.files("sia_testing") / "templates" / folder, ""):
            placed = f"src/{package}/{path.removeprefix('package/')}" if path.startswith("package/") else path
            files[placed] = Template(text).substitute(values)
    return files


def write(folder: Path, files: Mapping[str, str]) -> None:
    """Write the files of a package to a folder that does not exist yet; UsageError where it does."""
    try:
        folder.mkdir(parents=True)
        for path, text in files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
    except FileExistsError:
        raise UsageError(f"{folder} exists already; remove it, or take another name or --into") from None
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror}") from None


def _templates(folder: Traversable, prefix: str) -> Iterator[tuple[str, str]]:
    for entry in sorted(folder.iterdir(), key=lambda each: each.name):
        if entry.is_dir():
            yield from _templates(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(TEMPLATE):
            yield prefix + entry.name.removesuffix(TEMPLATE), entry.read_text(encoding="utf-8")
