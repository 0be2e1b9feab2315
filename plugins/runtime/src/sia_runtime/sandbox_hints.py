"""Hints of what to write instead, where an agent failed because the sandbox hides something from it.

The message of a failure is the agent's own words, which may be hostile. So a hint is fixed text,
chosen by the types of the exceptions, and the only names in it are installed distributions and
words that hold letters, digits, dots, dashes and underscores.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sia_adapters.import_names import KNOWN, distributions_of
from sia_core.errors import excerpt

HIDDEN = "hidden by the sandbox: "

_NETWORK = frozenset(
    {
        "APIConnectionError",
        "ClientConnectorDNSError",
        "ClientConnectorError",
        "ConnectError",
        "ConnectTimeout",
        "ConnectionError",
        "ConnectionRefusedError",
        "MaxRetryError",
        "NameResolutionError",
        "NewConnectionError",
        "URLError",
        "gaierror",
    }
)
_ERROR = re.compile(r"(?:smoke run failed: )?(?:[a-z]+(?:-[a-z]+)*: )?(?:caused by )?(\w+)(?:: (.*))?")
_RAISED = re.compile(r"^  raised in ([\w.]+)\.(\w+)$", re.MULTILINE)
_MODULE = re.compile(r"No module named '([A-Za-z_]\w{0,60})'", re.ASCII)
_VARIABLE = re.compile(r"'([A-Z][A-Z0-9_]{1,60})'")
_KEY = re.compile(r"\b([A-Z][A-Z0-9]{1,30}(?:_[A-Z0-9]{1,30})*_(?:KEY|TOKEN|SECRET))\b")
_ABOUT_KEYS = re.compile(r"environment variable|api_key|credentials", re.IGNORECASE)
_PATH = re.compile(r"\[Errno \d+\] [A-Z][a-z -]+: '(.+)'")
_RELATIVE = re.compile(r"\w[\w.-]{0,60}(?:/\w[\w.-]{0,60}){0,5}", re.ASCII)


@dataclass(frozen=True)
class _Failure:
    """One exception of a message, and the module that raised the last one."""

    kind: str
    text: str
    module: str


def hints(message: str) -> list[str]:
    """A sentence for each thing that the sandbox hid, with what to write instead; none where it hid nothing."""
    cause = _RAISED.search(message)
    module = cause[1] if cause else ""
    failures = [
        _Failure(match[1], match[2] or "", module)
        for line in message.split("\n")
        if not line.startswith(" ") and (match := _ERROR.fullmatch(line))
    ]
    remedies = (hint for failure in failures for remedy in _REMEDIES if (hint := remedy(failure)))
    return [HIDDEN + hint for hint in dict.fromkeys(remedies)]


def with_hints(message: str) -> Iterator[str]:
    """The lines of a message, cut to size, and then its hints.

    Hints and the first line begin at the margin, and the other lines do not, so that none of them passes for a hint.
    """
    first, *rest = excerpt(message).split("\n")
    yield first
    yield from (f"    {line}" for line in rest)
    yield from hints(message)


def _library(failure: _Failure) -> str:
    match = _MODULE.fullmatch(failure.text) if failure.kind == "ModuleNotFoundError" else None
    if match is None:
        return ""
    module = match[1]
    names = distributions_of(module)
    if any(name.startswith("sia-") for name in names):
        return f"`{module}` is a part of SIA, which no agent may import; leave it out"
    if names:
        lists = " or ".join(f"requires = [{json.dumps(name)}]" for name in names[:3])
        return f"add {lists} to harness.toml"
    if dist := KNOWN.get(module):
        return f"`{module}` is in {dist}: pip install {dist}, and add requires = [{json.dumps(dist)}] to harness.toml"
    return (
        f"no distribution that is installed here has a module `{module}`. Put a module of yours beside harness.py; "
        'install a library, and name its distribution in harness.toml, such as: requires = ["numpy"]'
    )


def _key(failure: _Failure) -> str:
    variable = _VARIABLE.fullmatch(failure.text) if failure.kind == "KeyError" else None
    if variable and failure.module != "os":
        variable = _KEY.fullmatch(variable[1])
    match = variable or (_KEY.search(failure.text) if _ABOUT_KEYS.search(failure.text) else None)
    if match is None:
        return ""
    whose = f"your environment, keys included; {match[1]} is not set in it."
    if not match[1].startswith("OPENAI_"):
        return f"{whose} Write what is no secret into harness.py, and ask a model by ctx.model in a run with --policy"
    return (
        f"{whose} With --policy NAME, OPENAI_API_KEY and OPENAI_BASE_URL are set inside of solve, not in setup: make "
        "the client there. `--engine litellm --policy openai/MODEL` asks a hosted model, and your key stays outside"
    )


def _network(failure: _Failure) -> str:
    if failure.kind not in _NETWORK and not (failure.kind == "PermissionError" and failure.module == "socket"):
        return ""
    return (
        "the network. An agent can ask the run's policy, by ctx.model or an OpenAI client that is made in solve "
        "(--policy NAME), and nothing else; put what it would fetch into a file beside harness.py"
    )


def _program(failure: _Failure) -> str:
    if failure.kind not in ("FileNotFoundError", "PermissionError") or failure.module != "subprocess":
        return ""
    return (
        "shells and programs of this machine, so shell=True and commands fail. Do it in Python: pathlib and shutil for "
        "files, re for text, a library that harness.toml requires for the rest"
    )


def _file(failure: _Failure) -> str:
    match = _PATH.fullmatch(failure.text)
    if match is None or failure.module in ("subprocess", "socket"):
        return ""
    if failure.kind == "FileNotFoundError" and _RELATIVE.fullmatch(match[1]):
        return (
            "the folder that you started in. Relative paths begin in ctx.scratch, which is empty; for a file beside "
            f'harness.py write Path(__file__).parent / "{match[1]}".{_LEFT_OUT}'
        )
    if failure.kind in ("FileNotFoundError", "PermissionError") or "Read-only" in failure.text:
        return (
            "the files of this machine. An agent reads its own folder, Path(__file__).parent, and ctx.public, and "
            f"writes to ctx.scratch alone.{_LEFT_OUT}"
        )
    return ""


_LEFT_OUT = " Names that begin with a dot and files over 1 MB are left out of its folder, unless .siaignore keeps them"

_REMEDIES: tuple[Callable[[_Failure], str], ...] = (_library, _key, _network, _program, _file)
