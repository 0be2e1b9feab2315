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
from sia_core.errors import HarnessError, excerpt


@lru_cache(maxsize=64)
def library_paths(requires: tuple[str, ...]) -> tuple[Path, ...]:
    """The top-level entries of these distributions and of all that they need, in a stable order.

    HarnessError where one is not installed, not readable as a plain installation,
    or part of SIA itself: what a task or a plugin knows is not for harnesses.
    """
    entries: dict[str, Path] = {}
    for dist in _closure(requires):
        for path in _entries(dist):
            if entries.setdefault(path.name, path) != path:
                raise HarnessError(f"{dist.name}: {path} and {entries[path.name]} are one name in two places")
    return tuple(entries[name] for name in sorted(entries))


@lru_cache(maxsize=64)
def import_names(requires: tuple[str, ...]) -> tuple[str, ...]:
    """The top-level modules that these distributions themselves are imported by."""
    names = {name: None for text in requires for name in _modules(_installed(_parse(text), "harness.toml"))}
    return tuple(names)


def _modules(dist: Distribution) -> Iterator[str]:
    for path in _entries(dist):
        name = path.name.partition(".")[0]
        is_module = (path / "__init__.py").exists() if path.is_dir() else path.suffix in (".py", ".so")
        if is_module and name.isidentifier() and not name.startswith(("_", "test")):
            yield name


def _closure(requires: tuple[str, ...]) -> Iterator[Distribution]:
    waiting = [(_parse(text), "harness.toml") for text in requires]
    visits: set[tuple[str, frozenset[str]]] = set()
    names: set[str] = set()
    while waiting:
        requirement, asker = waiting.pop(0)
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in visits:
            continue
        visits.add((name, extras))
        dist = _installed(requirement, asker)
        if name not in names:
            names.add(name)
            yield dist
        waiting += [(need, name) for need in map(_parse, dist.requires or ()) if _applies(need, extras)]


def _parse(text: str) -> Requirement:
    try:
        requirement = Requirement(text)
        requirement.specifier.contains("0")  # which reads the versions
        return requirement
    except (InvalidRequirement, ValueError, RecursionError) as error:  # a model may have written it
        raise HarnessError(
            f"requires {excerpt(text, 200)!r}, which is no requirement: {excerpt(str(error), 200)}"
        ) from None


def _applies(need: Requirement, extras: frozenset[str]) -> bool:
    environment = {key: str(value) for key, value in default_environment().items()}
    return need.marker is None or any(need.marker.evaluate({**environment, "extra": each}) for each in extras or {""})


def _installed(need: Requirement, asker: str) -> Distribution:
    name = canonicalize_name(need.name)
    try:
        dist = distribution(need.name)
    except PackageNotFoundError:
        extras = f"[{','.join(sorted(need.extras))}]" if need.extras else ""
        what = shlex.quote(f"{name}{extras}{need.specifier}")
        raise HarnessError(f"{asker} requires {name!r}, {_remedy(need.name, what)}") from None
    if name.startswith("sia-") or any(entry.group == "sia" for entry in dist.entry_points):
        raise HarnessError(f"{asker} requires {name!r}, a part of SIA; no harness may read those: leave it out")
    if not need.specifier.contains(dist.version, prereleases=True):
        raise HarnessError(f"{asker} requires {need}, but {dist.version} is installed: pip install '{need}'")
    return dist


def _remedy(name: str, install: str) -> str:
    """The way out where no distribution is called so: the name of a module is often taken for one."""
    if names := distributions_of(name):
        return f"which is a module; name its distribution: requires = [{json.dumps(names[0])}]"
    if package := KNOWN.get(name):
        return f"which is a module of {package}: pip install {package}, and requires = [{json.dumps(package)}]"
    return f"which is not installed here; if you know and trust it: pip install {install}"


def _entries(dist: Distribution) -> Iterator[Path]:
    """Packages, modules, libraries and metadata that a distribution put at the top of its folder."""
    if _is_editable(dist) or dist.files is None:
        raise HarnessError(f"{dist.name!r} is installed in place and cannot be shown to a harness: pip install it")
    tops = dict.fromkeys(file.parts[0] for file in dist.files if file.parts[0] not in ("..", "__pycache__", "/"))
    for top in tops:
        path = Path(str(dist.locate_file(top)))
        if not top.endswith(".pth") and path.exists():
            yield path


def _is_editable(dist: Distribution) -> bool:
    try:
        origin = json.loads(dist.read_text("direct_url.json") or "{}")
    except ValueError:
        return True
    return bool(origin.get("dir_info", {}).get("editable"))
