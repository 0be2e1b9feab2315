"""Finding, loading and listing plugins, and saying what goes wrong with them.

A :class:`Plugins` is made once a command and passed along; nothing here is global. An entry module that fails becomes a
``broken`` row, and an error only where something of it is asked for.
"""

from __future__ import annotations

import inspect
import os
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import Distribution, EntryPoint, PackageNotFoundError, distribution, distributions
from types import ModuleType
from typing import Any

import pluggy

from sia_core import hookspecs
from sia_core.errors import PluginError, SiaError, faults, meant
from sia_core.hookspecs import HOOK_OF_KIND, SIA_API, Event, Offer

GROUP = "sia"
CORE = "sia-core"
ALWAYS = frozenset({CORE, "sia-runtime", "sia-weights", "sia-released"})
"""Distributions that no allow-list leaves out: a run cannot do without the first three, and task folders are data."""
ALLOW_VARIABLE = "SIA_PLUGINS"

_ELSEWHERE = "Other plugins are installed by the names of their distributions; `sia plugins` lists what is there."
_COLON = dict.fromkeys(("arg", "model", "where"), ", the part after the colon")


@dataclass(frozen=True)
class Source:
    """The ``distribution`` that an entry point comes from, its ``version``, and the entry point's name, ``plugin``."""

    plugin: str
    distribution: str
    version: str


@dataclass(frozen=True)
class Row:
    """One line of ``sia plugins``; its ``status`` is ``ok``, or ``ambiguous`` or ``broken`` for a ``cause``."""

    name: str
    kind: str
    distribution: str
    version: str
    status: str
    cause: str = ""
    summary: str = ""


@dataclass
class Plugins:
    """The plugins of this environment: their offers, their observers, and the broken ones."""

    offers: list[tuple[str, Offer, Source]] = field(default_factory=list)
    broken: list[tuple[Source, str]] = field(default_factory=list)
    observers: list[tuple[Source, Callable[[Event], object]]] = field(default_factory=list)
    allow: str | None = None

    @classmethod
    def discover(cls, found: Iterable[EntryPoint] | None = None, allow: str | None = None) -> Plugins:
        """Load every entry module that ``SIA_PLUGINS`` allows (all, if unset; those in ``ALWAYS`` in any case)."""
        allow = os.environ.get(ALLOW_VARIABLE) if allow is None else allow
        allowed = None if allow is None else {_normal(name) for name in allow.split(",")}
        plugins = cls(allow=allow)
        points = plugins._installed() if found is None else [(point, _of(point.dist, point.name)) for point in found]
        for point, source in sorted(points, key=lambda each: (each[1].distribution, each[1].plugin)):
            names = {_normal(source.plugin), _normal(source.distribution)}
            if allowed is None or source.distribution in ALWAYS or names & allowed:
                plugins._load(point, source)
        return plugins

    def rows(self) -> list[Row]:
        """The rows of ``sia plugins``: by kind and name, the broken ones last."""
        count: dict[tuple[str, str], list[str]] = {}
        for kind, offer, source in self.offers:
            count.setdefault((kind, offer.name), []).append(source.distribution)
        rows = []
        for kind, offer, source in sorted(self.offers, key=lambda item: (item[0], item[1].name, item[2].distribution)):
            others = list(count[kind, offer.name])
            others.remove(source.distribution)
            cause = f"also offered by {', '.join(others)}" if others else ""
            status = "ambiguous" if others else "ok"
            rows.append(Row(offer.name, kind, source.distribution, source.version, status, cause, offer.summary))
        for source, cause in self.broken:
            rows.append(Row(source.plugin, "plugin", source.distribution, source.version, "broken", cause))
        return rows

    def of_kind(self, kind: str) -> list[Offer]:
        """The offers of one kind, in the order in which plugins give them."""
        return [offer for each, offer, _ in self.offers if each == kind]

    def find(self, kind: str, name: str, others: Iterable[str] = ()) -> tuple[Offer, Source]:
        """The one offer of a kind and name; PluginError where there is none, or more than one.

        ``others`` are names that could be meant although no plugin offers them.
        """
        matches = [(offer, source) for each, offer, source in self.offers if (each, offer.name) == (kind, name)]
        if not matches:
            raise PluginError(self._unknown(kind, name, others))
        if len(matches) > 1:
            by = ", ".join(f"{source.distribution} {source.version}" for _, source in matches)
            raise PluginError(
                f"{kind} {name!r} is offered by {len(matches)} distributions: {by}. "
                f"Uninstall one of them, or allow only one with {ALLOW_VARIABLE}."
            )
        return matches[0]

    def create(self, kind: str, name: str, /, **settings: Any) -> Any:
        """Import an offer's factory and call it. Faults of the plugin are raised under its name."""
        offer, source = self.find(kind, name)
        label = f"{kind} {name!r} of {source.distribution} {source.version}"
        try:
            factory: Any = pkgutil.resolve_name(offer.factory)
            if not callable(factory):
                raise TypeError(f"it is a {type(factory).__name__}, which cannot be called")
        except (Exception, SystemExit) as error:
            hint = f"; try `pip install {source.distribution}`" if isinstance(error, ModuleNotFoundError) else ""
            raise PluginError(f"{label} cannot be loaded from {offer.factory!r}: {_what(error)}{hint}") from error
        try:
            return factory(**settings)
        except SiaError:
            raise
        except (Exception, SystemExit) as error:
            if isinstance(error, TypeError) and error.__traceback__ and error.__traceback__.tb_next is None:
                raise PluginError(f"{label} does not take these settings: {_misfit(factory, settings)}") from error
            raise PluginError(f"{label} failed to start: {_what(error)}") from error

    def _load(self, point: EntryPoint, source: Source) -> None:
        try:
            module = point.load()
        except (Exception, SystemExit) as error:
            self.broken.append((source, f"import of {point.value!r} failed: {_what(error)}"))
            return
        manager = pluggy.PluginManager("sia")
        manager.add_hookspecs(hookspecs)
        try:
            _keep_contract(module, manager, source)
            offers = list(_offers(manager))
        except PluginError as error:
            self.broken.append((source, str(error)))
            return
        self.offers += [(kind, offer, source) for kind, offer in offers]
        if manager.hook.sia_observe.get_hookimpls():
            self.observers.append((source, lambda event: manager.hook.sia_observe(event=event)))

    def _installed(self) -> list[tuple[EntryPoint, Source]]:
        """The entry points of every distribution on ``sys.path``; of two with one name, the first is the one in use.

        Names are asked of those alone that have an entry point: each takes reading all of its metadata.
        """
        points, names = [], set()
        for dist in distributions():
            text = dist.read_text("entry_points.txt") or ""
            if f"[{GROUP}]" not in text:
                continue
            name = _of(dist, "?").distribution
            if _normal(name) in names or _first(name, text) != text:
                continue
            names.add(_normal(name))
            try:
                points += [(point, _of(point.dist, point.name)) for point in dist.entry_points.select(group=GROUP)]
            except Exception as error:  # it is malformed
                self.broken.append((_of(dist, "?"), f"its entry_points.txt cannot be read: {_what(error)}"))
        return points

    def _unknown(self, kind: str, name: str, others: Iterable[str]) -> str:
        for source, cause in self.broken:
            theirs = source.plugin, source.distribution, source.distribution.removeprefix("sia-")
            if _normal(name) in map(_normal, theirs):
                return f"{kind} {name!r}: the plugin {source.distribution} {source.version} is broken: {cause}"
        from sia_core.advice import advice  # only where something is wrong

        names = sorted({*others, *(offer.name for offer in self.of_kind(kind))})
        package = next(iter(advice("distribution", kind, name)), "")
        near = not package and meant(name, {*names, *advice("names", kind)})
        suggestion = near or f"; known here: {', '.join(names) or 'none'}"
        install = f"It is in {package}: `pip install {package}`." if package else _ELSEWHERE
        limited = f" {ALLOW_VARIABLE}={self.allow!r} limits them." if self.allow is not None else ""
        # What a plugin that does not load would have offered cannot be known.
        perhaps = "".join(f" {each.distribution} {each.version} is broken: {cause}." for each, cause in self.broken)
        return f"no {kind} named {name!r}{suggestion}. {install}{limited}{perhaps}"


def _first(name: str, text: str) -> str:
    """The entry points of the distribution that is in use by this name; ``text`` where none is found by it."""
    try:
        return distribution(name).read_text("entry_points.txt") or ""
    except (PackageNotFoundError, ValueError):
        return text


def _of(dist: Distribution | None, plugin: str) -> Source:
    # A folder without METADATA, such as pip leaves when it is killed: an empty message, or None by importlib_metadata.
    metadata: Any = (dist and dist.metadata) or {}
    return Source(plugin, metadata.get("Name") or "unknown", metadata.get("Version") or "0")


def _normal(name: str) -> str:
    """One spelling of a distribution's name, with small letters and dashes."""
    return re.sub(r"[-_.]+", "-", name).strip().lower()


def _what(error: BaseException) -> str:
    if type(error).__name__ == "ValidationError" and hasattr(error, "errors"):  # pydantic's, which is not imported here
        return faults(error)
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    from sia_core.advice import advice  # only where something is wrong

    return "".join([what, *advice("import", error)])


def _misfit(factory: Callable[..., Any], settings: Mapping[str, Any]) -> str:
    """The settings that a factory does not take, and those that it does, for people."""
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return f"{', '.join(settings)}. See its documentation for those that it takes."
    unknown = [f"{each}{_COLON.get(each, '')}{meant(each, parameters)}" for each in settings if each not in parameters]
    lacking = [name for name, each in parameters.items() if each.default is each.empty and name not in settings]
    theirs = [each for name, each in parameters.items() if not isinstance(settings.get(name), Plugins)]  # no user's
    accepted = ", ".join(str(each.replace(annotation=each.empty)) for each in theirs)
    return f"{', '.join(unknown or [f'{name} is missing' for name in lacking])}. It takes: {accepted or 'none'}."


def _keep_contract(module: ModuleType, manager: pluggy.PluginManager, source: Source) -> None:
    """Register a module's hooks; PluginError says why it does not keep the contract."""
    version = getattr(module, "sia_api", None)
    if version != SIA_API:
        written = "declares no contract version (sia_api)" if version is None else f"is written for sia_api {version!r}"
        raise PluginError(f"{source.plugin} {written}; this sia-core speaks sia_api {SIA_API}")
    hooks = {*HOOK_OF_KIND.values(), "sia_observe"}
    for name in dir(module):
        if not name.startswith("sia_") or not callable(getattr(module, name)):
            continue
        if name not in hooks:
            raise PluginError(f"unknown hook {name!r}{meant(name, hooks)} (sia_api {SIA_API})")
        if manager.parse_hookimpl_opts(module, name) is None:
            raise PluginError(f"hook {name!r} is not marked with @hookimpl (sia_api {SIA_API})")
    try:
        manager.register(module, name=source.plugin)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(f"hook does not fit sia_api {SIA_API}: {' '.join(str(error).split())}") from None


def _offers(manager: pluggy.PluginManager) -> Iterator[tuple[str, Offer]]:
    for kind, hook in HOOK_OF_KIND.items():
        for implementation in getattr(manager.hook, hook).get_hookimpls():
            try:
                result = implementation.function()
                offers = list(result) if isinstance(result, Iterable) else [result]
            except (Exception, SystemExit) as error:
                raise PluginError(f"{hook} failed: {_what(error)}") from error
            for offer in offers:
                if not isinstance(offer, Offer):
                    raise PluginError(f"{hook} gave a {type(offer).__name__}; it must return a list of Offers")
                if not all(isinstance(each, str) and each for each in (offer.name, offer.summary, offer.factory)):
                    raise PluginError(f"{hook}: name, summary and factory of {offer} must be texts")
                parts = re.split("[:.]", offer.factory)
                if offer.factory.count(":") != 1 or not all(map(str.isidentifier, parts)):
                    raise PluginError(f"{hook}: factory {offer.factory!r} of {offer.name!r} must be 'module:attribute'")
                yield kind, offer
