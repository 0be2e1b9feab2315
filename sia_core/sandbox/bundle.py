"""The launcher and a program as data, for a sandbox whose walls stand before the interpreter starts in it.

Nothing of the core is mounted there: the modules come over the control socket, and
are forgotten once the sandbox is sealed.
"""

from __future__ import annotations

import ast
import marshal
from functools import lru_cache
from importlib.machinery import SourceFileLoader
from pathlib import Path

from sia_core.sandbox.within import PROGRAM

BOOTSTRAP = """
import marshal, os, sys
def read(source, size):
    data = b""
    while len(data) < size:
        part = os.read(source, size - len(data))
        if not part:
            os._exit(1)
        data += part
    return data
control, channel = map(int, sys.argv[1:])
modules = marshal.loads(read(control, int.from_bytes(read(control, 8), "big")))
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
from sia_core.sandbox.within import main
main(control, channel)
"""
"""The script that starts :mod:`sia_core.sandbox.within` in an interpreter that has no core beside it."""

_PACKAGE = "sia_core.sandbox"
_FOLDER = Path(__file__).parent


@lru_cache(maxsize=8)
def bundle(program: Path) -> bytes:
    """A program and all of the core that it and the launcher import, with its length before it."""
    modules: dict[str, object] = {"sia_core": None, _PACKAGE: None, PROGRAM: _code(PROGRAM, program)}
    waiting = [_FOLDER / "within.py", program]
    while waiting:
        for name in _imports(waiting.pop()):
            if (whole := f"{_PACKAGE}.{name}") not in modules:
                source = _FOLDER / f"{name}.py"
                modules[whole] = _code(whole, source)
                waiting.append(source)
    modules[f"{_PACKAGE}.within"] = _code(f"{_PACKAGE}.within", _FOLDER / "within.py")
    data = marshal.dumps(modules)
    return len(data).to_bytes(8, "big") + data


def _code(name: str, path: Path) -> object:
    """The module's byte code, from its cache where there is one."""
    return SourceFileLoader(name, str(path)).get_code(name)


def _imports(path: Path) -> set[str]:
    """The modules of this package that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.module == _PACKAGE:
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{_PACKAGE}."):
            found.add(str(node.module).removeprefix(f"{_PACKAGE}."))
    return found
