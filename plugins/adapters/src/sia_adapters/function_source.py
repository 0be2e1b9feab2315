"""A function as a file that stands on its own: its source, and that of every name of its module that it uses.

An agent's function crosses to a sandbox this way, and a verifier's to its process. What
cannot be written as source is refused with what to do about it.
"""

from __future__ import annotations
import __future__

import ast
import dis
import inspect
import linecache
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from types import CodeType, FunctionType, ModuleType
from typing import Any

from sia_adapters.import_names import distributions_of
from sia_core.errors import UsageError

LOADS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")

MOST_CHARACTERS = 1 << 20
"""Of a constant; what is longer is data, and belongs in a file."""


class FunctionSource:
    """The text of a module that defines ``function``, and the distributions that the module imports.

    ``also`` names functions of the same module that go along where they are defined, such as ``setup``.
    """

    def __init__(self, function: Callable[..., Any], also: tuple[str, ...] = ()) -> None:
        if not isinstance(inspect.unwrap(function), FunctionType) or function.__name__ == "<lambda>":
            kind = "lambda" if isinstance(function, FunctionType) else type(function).__name__
            raise UsageError(f"a {kind} has no source that stands on its own; write the function with def, and pass it")
        self.name = function.__name__
        self._function, self._module = function, function.__module__
        self._imports: dict[str, str] = {}
        self._pieces: dict[str, tuple[Any, str]] = {}
        self._requires: set[str] = set()
        self._future = False
        self._carry(self.name, function)
        for name in also:
            value = inspect.unwrap(function).__globals__.get(name)
            if isinstance(value, FunctionType) and value.__module__ == self._module:
                self._carry(name, value)

    @property
    def text(self) -> str:
        """The module."""
        future = ["from __future__ import annotations"] if self._future else []
        imports, pieces = sorted(self._imports.values()), [text for _, text in self._pieces.values()]
        return "\n\n".join(["\n".join(future), "\n".join(imports), *pieces]).strip() + "\n"

    @property
    def requires(self) -> tuple[str, ...]:
        """The distributions, by name."""
        return tuple(sorted(self._requires))

    def _carry(self, name: str, value: Any) -> None:
        """Add the definition of a name, after those of the names that it uses."""
        if name in self._pieces:
            if self._pieces[name][0] is not value:
                raise self._refused(name, "which has two different values in it; give one of them another name")
            return
        if isinstance(value, ModuleType):
            self._import(value.__name__, name, f"import {value.__name__} as {name}" if "." in value.__name__ else "")
        elif _is_defined(value) and value.__module__ == self._module:
            self._define(name, value)
        elif origin := _origin(value):
            module, attribute = origin
            alias = "" if attribute == name else f" as {name}"
            self._import(module, name, f"from {module} import {attribute}{alias}")
        else:
            self._pieces[name] = (value, f"{name} = {self._literal(name, value)}")

    def _define(self, name: str, value: Any) -> None:
        source = self._source(value)
        tree = ast.parse(source)
        for module in _imported(tree):
            self._require(module, value.__name__)
        inner = inspect.unwrap(value)
        code = getattr(inner, "__code__", None)
        future = bool(code and code.co_flags & __future__.annotations.compiler_flag)
        self._future |= future
        flags = __future__.annotations.compiler_flag if future else 0
        names = _known(inner)
        self._pieces[name] = (value, "")  # so that what it calls may call it
        for used in sorted(_names(compile(source, "<source>", "exec", flags=flags, dont_inherit=True))):
            if used != value.__name__ and used in names:
                self._carry(used, names[used])
        for module in _submodules(tree, names):
            self._import(module, module, f"import {module}")
        del self._pieces[name]
        again = "" if name == value.__name__ else f"\n\n\n{name} = {value.__name__}"
        self._pieces[name] = (value, source.strip() + again)

    def _source(self, value: Any) -> str:
        try:
            lines = inspect.getsource(value)
        except (OSError, TypeError):
            lines = _class_source(value)
        if not lines:
            raise UsageError(
                f"{value.__name__} has no source that can be read; write it in a file, or in a cell of a notebook"
            )
        return textwrap.dedent(lines)

    def _import(self, module: str, name: str, statement: str) -> None:
        self._require(module, name)
        self._imports[name] = statement or (f"import {module}" + ("" if module == name else f" as {name}"))

    def _require(self, module: str, name: str) -> None:
        top = module.partition(".")[0]
        if top in sys.stdlib_module_names:
            return
        if not (names := distributions_of(top)):
            raise self._refused(
                name,
                f"a module, {module}, that no installed distribution has, so it cannot be imported elsewhere; install "
                f"it, or define what {self.name} uses of it beside {self.name} (an agent may also be a folder)",
            )
        self._requires.add(names[0])

    def _literal(self, name: str, value: Any) -> str:
        """A constant as source."""
        if isinstance(value, re.Pattern):
            self._import("re", "re", "import re")
            return f"re.compile({value.pattern!r}, {value.flags})"
        text = repr(value)
        try:
            same = len(text) <= MOST_CHARACTERS and ast.literal_eval(text) == value
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            same = False
        if not same:
            raise self._refused(
                name,
                f"a {type(value).__name__}, which cannot be written as source; make it inside of {self.name}, or once "
                "in a function setup(ctx), whose result an agent reads as ctx.state",
            )
        return text

    def _refused(self, name: str, reason: str) -> UsageError:
        return UsageError(f"{self.name} cannot be carried as source: it uses {name}, {reason}")


def _is_defined(value: Any) -> bool:
    """Whether a value is a class or a function, decorated or not."""
    return isinstance(value, type) or isinstance(inspect.unwrap(value), FunctionType) if callable(value) else False


def _origin(value: Any) -> tuple[str, str] | None:
    """The module that a value is imported from, and its name there."""
    module = getattr(value, "__module__", None)
    name = getattr(value, "__name__", None) or getattr(value, "_name", None)
    if isinstance(module, str) and isinstance(name, str) and getattr(sys.modules.get(module), name, None) is value:
        return module, name
    return None


def _known(value: Any) -> Mapping[str, Any]:
    """The names that a function or a class may use, with their values."""
    if isinstance(value, type):
        return vars(sys.modules[value.__module__])
    cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
    return {**value.__globals__, **{name: cell.cell_contents for name, cell in cells}}


def _names(code: CodeType) -> set[str]:
    """The global names that code reads, in nested code too, but for those that every module has."""
    names = {each.argval for each in dis.get_instructions(code) if each.opname in LOADS}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _names(constant)
    return {name for name in names if not name.startswith("__")}


def _imported(tree: ast.AST) -> Iterator[str]:
    """The modules that a source imports inside of its functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def _submodules(tree: ast.AST, names: Mapping[str, Any]) -> Iterator[str]:
    """The modules that a source reaches as attributes: ``urllib.request``, where it was imported by this name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and re.fullmatch(r"\w+(\.\w+)+", dotted := ast.unparse(node)):
            module = names.get(dotted.partition(".")[0])
            if isinstance(module, ModuleType) and module.__name__ == dotted.partition(".")[0] and dotted in sys.modules:
                yield dotted


def _class_source(value: Any) -> str:
    """The source of a class in a notebook, where a class names no file and its methods do; empty if there is none."""
    for method in vars(value).values() if isinstance(value, type) else ():
        lines = linecache.getlines(method.__code__.co_filename) if isinstance(method, FunctionType) else []
        for node in ast.walk(ast.parse("".join(lines))):
            if isinstance(node, ast.ClassDef) and node.name == value.__name__:
                first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
                return "".join(lines[first - 1 : node.end_lineno])
    return ""
