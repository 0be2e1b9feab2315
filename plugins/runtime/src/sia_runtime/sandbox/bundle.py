"""The launcher and a program as data, for a sandbox whose walls stand before the interpreter starts in it.

Nothing of the core is mounted there: the modules come over the control socket, and
are forgotten once the sandbox is sealed.
"""

from __future__ import annotations

import ast
import json
import marshal
from functools import lru_cache
from importlib.machinery import SourceFileLoader
from pathlib import Path

from sia_runtime.sandbox.within import PROGRAM

_SCRIPT = """
import CODEC, os, sys
def read(source, size):
    data = b""
    while len(data) < size:
        part = os.read(source, size - len(data))
        if not part:
            os._exit(1)
        data += part
    return data
one, other = map(int, sys.argv[1:])
modules = CODEC.loads(read(one, int.from_bytes(read(one, 8), "big")))
class Bundle:
    def find_spec(self, name, path=None, target=None):
        if name in modules:
            return type(sys.__spec__)(name, self, is_package=modules[name] is None)
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        if modules[module.__name__] is not None:
            exec(modules[module.__name__], module.__dict__)
sys.meta_path.insert(0, Bundle())
from sia_runtime.sandbox.within import ENTRY
ENTRY(one, other)
"""
BOOTSTRAP = _SCRIPT.replace("CODEC", "marshal").replace("ENTRY", "main")
"""The script that starts :mod:`sia_runtime.sandbox.within` in an interpreter that has no core beside it."""

CONTAINED = _SCRIPT.replace("CODEC", "json").replace("ENTRY", "contained")
"""The same in an interpreter of another version, which has but standard input and output."""

_PACKAGE = "sia_runtime.sandbox"
_FOLDER = Path(__file__).parent


@lru_cache(maxsize=8)
def bundle(program: Path) -> bytes:
    """A program and all of the core that it and the launcher import as byte code, with its length before it."""
    modules = _modules(program)
    data = marshal.dumps({name: path and _code(name, path) for name, path in modules.items()})
    return len(data).to_bytes(8, "big") + data


@lru_cache(maxsize=8)
def sources(program: Path) -> bytes:
    """The same as text, for an interpreter of another version."""
    modules = _modules(program)
    data = json.dumps({name: path and path.read_text() for name, path in modules.items()}).encode()
    return len(data).to_bytes(8, "big") + data


def _modules(program: Path) -> dict[str, Path | None]:
    """Where each module is that runs inside; a package has no file."""
    within = _FOLDER / "within.py"
    modules: dict[str, Path | None] = {
        "sia_runtime": None,
        _PACKAGE: None,
        PROGRAM: program,
        f"{_PACKAGE}.within": within,
    }
    waiting = [within, program]
    while waiting:
        for name in _imports(waiting.pop()):
            if (whole := f"{_PACKAGE}.{name}") not in modules:
                modules[whole] = _FOLDER / f"{name}.py"
                waiting.append(_FOLDER / f"{name}.py")
    return modules


def _code(name: str, path: Path) -> object:
    """The module's byte code, from its cache where there is one."""
    return SourceFileLoader(name, str(path)).get_code(name)


def _imports(path: Path) -> set[str]:
    """The modules of this package that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.module == _PACKAGE:
            names |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{_PACKAGE}."):
            names.add(str(node.module).removeprefix(f"{_PACKAGE}."))
    return names
