"""From the distributions that a harness requires to the files of this machine that it may import."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from sia_adapters.import_names import KNOWN, distributions_of
from sia_core.errors import HarnessError


@lru_cache(maxsize=64)
def library_paths(requires: tuple[str, ...]) -> tuple[Path, ...]:
    """The top-level entries of these distributions and of all that they need, in a stable order.

    HarnessError where one is not installed, not readable as a plain installation,
    or part of SIA itself: what a task or a plugin knows is not for harnesses.
    """
    entries: dict[str, Path] = {}
    for found in _closure(requires):
        for path in _entries(found):
            if entries.setdefault(path.name, path) != path:
                raise HarnessError(f"{found.name}: {path} and {entries[path.name]} are one name in two places")
    return tuple(entries[name] for name in sorted(entries))


@lru_cache(maxsize=64)
def import_names(requires: tuple[str, ...]) -> tuple[str, ...]:
    """The top-level modules that these distributions themselves are imported by."""
    found = {name: None for text in requires for name in _modules(_installed(_parse(text), "harness.toml"))}
    return tuple(found)


def _modules(found: Distribution) -> Iterator[str]:
    for path in _entries(found):
        name = path.name.partition(".")[0]
        is_module = (path / "__init__.py").exists() if path.is_dir() else path.suffix in (".py", ".so")
        if is_module and name.isidentifier() and not name.startswith(("_", "test")):
            yield name


def _closure(requires: tuple[str, ...]) -> Iterator[Distribution]:
    waiting = [(_parse(text), "harness.toml") for text in requires]
    seen: set[tuple[str, frozenset[str]]] = set()
    given: set[str] = set()
    while waiting:
        wanted, asker = waiting.pop(0)
        name, extras = canonicalize_name(wanted.name), frozenset(wanted.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        found = _installed(wanted, asker)
        if name not in given:
            given.add(name)
            yield found
        waiting += [(need, name) for need in map(_parse, found.requires or ()) if _applies(need, extras)]


def _parse(text: str) -> Requirement:
    try:
        return Requirement(text)
    except InvalidRequirement as error:
        raise HarnessError(f"requires {text!r}, which is no requirement: {error}") from None


def _applies(need: Requirement, extras: frozenset[str]) -> bool:
    environment = {key: str(value) for key, value in default_environment().items()}
    return need.marker is None or any(need.marker.evaluate({**environment, "extra": each}) for each in extras or {""})


def _installed(wanted: Requirement, asker: str) -> Distribution:
    name = canonicalize_name(wanted.name)
    try:
        found = distribution(wanted.name)
    except PackageNotFoundError:
        extras = f"[{','.join(sorted(wanted.extras))}]" if wanted.extras else ""
        what = shlex.quote(f"{name}{extras}{wanted.specifier}")
        raise HarnessError(f"{asker} requires {name!r}, {_remedy(wanted.name, what)}") from None
    if name.startswith("sia-") or any(entry.group == "sia" for entry in found.entry_points):
        raise HarnessError(f"{asker} requires {name!r}, a part of SIA; no harness may read those: leave it out")
    if not wanted.specifier.contains(found.version, prereleases=True):
        raise HarnessError(f"{asker} requires {wanted}, but {found.version} is installed: pip install '{wanted}'")
    return found


def _remedy(name: str, install: str) -> str:
    """The way out where no distribution is called so: the name of a module is often taken for one."""
    if names := distributions_of(name):
        return f"which is a module; name its distribution: requires = [{json.dumps(names[0])}]"
    if known := KNOWN.get(name):
        return f"which is a module of {known}: pip install {known}, and requires = [{json.dumps(known)}]"
    return f"which is not installed here; if you know and trust it: pip install {install}"


def _entries(found: Distribution) -> Iterator[Path]:
    """Packages, modules, libraries and metadata that a distribution put at the top of its folder."""
    if _is_editable(found) or found.files is None:
        raise HarnessError(f"{found.name!r} is installed in place and cannot be shown to a harness: pip install it")
    tops = dict.fromkeys(file.parts[0] for file in found.files if file.parts[0] not in ("..", "__pycache__", "/"))
    for top in tops:
        path = Path(str(found.locate_file(top)))
        if not top.endswith(".pth") and path.exists():
            yield path


def _is_editable(found: Distribution) -> bool:
    try:
        origin = json.loads(found.read_text("direct_url.json") or "{}")
    except ValueError:
        return True
    return bool(origin.get("dir_info", {}).get("editable"))
