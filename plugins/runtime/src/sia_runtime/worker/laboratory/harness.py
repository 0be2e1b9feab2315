"""Runs code as an experiment: with a harness's files beside it, and ``ctx.public`` as harnesses have it.

It runs inside the sandbox, on the standard library alone.
"""

from __future__ import annotations

import base64
import io
import linecache
import sys
import traceback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CODE = "code.py"


def solve(instance: Any, ctx: Any) -> bool:
    """Run the code of an instance; whether it ended without an exception. All that it prints is in the log."""
    folder = ctx.scratch / "copy"
    for path, content in instance.input["files"].items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(base64.b64decode(content))
    sys.path.insert(0, str(folder))
    del sys.modules["harness"]  # this file, where the code means the one beside it
    code = instance.input["code"]
    linecache.cache[CODE] = (len(code), None, code.splitlines(keepends=True), CODE)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # code that is stopped leaves what it had printed
    try:
        exec(compile(code, CODE, "exec"), {"__name__": "__main__", "ctx": ctx})
    except SystemExit as stop:
        return not stop.code
    except BaseException as error:
        sys.stdout.flush()  # what was printed before it comes before it
        trace = error.__traceback__.tb_next if error.__traceback__ else None
        traceback.print_exception(type(error), error, trace)
        return False
    return True
