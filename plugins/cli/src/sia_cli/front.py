"""A run that is started from Python: its parameters as the options of ``sia run``, and its display."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NoReturn

from sia_adapters.cases_of import Columns, cases_of
from sia_adapters.function_source import FunctionSource
from sia_cli.config_file import arguments_of, read
from sia_cli.configuration import add_configuration, config_of
from sia_cli.display import Display
from sia_cli.inputs import Inputs
from sia_cli.parser import Parser
from sia_cli.progress import tell_of_faults
from sia_core.errors import UsageError
from sia_core.hookspecs import Event
from sia_core.playbook import PLAYBOOK
from sia_core.plugins import Plugins
from sia_core.run.observe import Observer

PARAMETERS = {"name": "name", "runs-dir": "folder"}
"""Options of ``sia run`` that are no part of a configuration, and the parameters that say the same."""


def configured(
    plugins: Plugins,
    inputs: Inputs,
    agent: Any,
    data: Any,
    verifier: Any,
    improver: Any,
    settings: Mapping[str, Any],
    config: Mapping[str, Any] | str | os.PathLike[str] | None,
) -> Any:
    """The configuration of a run; ``settings`` are further options, which override ``config``, and None says nothing.

    What is no path or name is written into the folder of runs first, so that the run can be resumed.
    """
    options = {**_agent(agent, _functions(improver), inputs, plugins), **settings}
    if isinstance(improver, str):
        options["improver"] = improver
    in_memory = data is not None and not isinstance(data, str | os.PathLike)
    if data is not None and not in_memory:
        options["data"] = os.fspath(data)
    if callable(verifier):
        if data is None:
            raise UsageError(f"verifier is a function, and judges cases: give data beside it, not the task {agent!r}")
        options["verifier"] = _verifier(verifier, inputs)
    else:
        options["verifier"] = verifier
    values = {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}
    arguments = [
        *_configuration(config),
        *arguments_of({key: value for key, value in values.items() if value is not None}, "improve", Path()),
    ]
    parser = _Parser(prog="sia run", add_help=False)
    add_configuration(parser)
    parsed = parser.parse_args(arguments)
    if in_memory:
        parsed.data = _cases(data, Columns(parsed.input_column or "", parsed.answer_column or ""), inputs)
        parsed.input_column = parsed.answer_column = None
    if parsed.harness is not None and parsed.data is None:
        raise UsageError("data is missing: an agent needs cases to run on; give a path, a list of mappings, or a frame")
    return config_of(parsed)


def name_of(name: Any) -> str | None:
    """The name of a run as it was given; UsageError where it is none."""
    if name is not None and not isinstance(name, str):
        raise UsageError(f"name: {name!r} is no text; give a name for the run, or leave it out")
    return name


@contextmanager
def watching(on_event: Callable[[Event], object] | None) -> Iterator[list[Observer]]:
    """The observers of a run: ``on_event``, or a display on standard error where there is none."""
    if on_event is not None and not callable(on_event):
        raise UsageError(f"on_event: {on_event!r} is no function; give one that takes an event")
    if on_event is not None:
        yield [tell_of_faults, on_event]
        return
    with closing(Display()) as display:
        yield [tell_of_faults, display]


class _Parser(Parser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"improve: {self.explained(message)}; `sia run --help` says what config may hold")


def _configuration(config: Mapping[str, Any] | str | os.PathLike[str] | None) -> Iterator[str]:
    if isinstance(config, Mapping):
        options = {str(key).replace("_", "-"): value for key, value in config.items() if value is not None}
        where, folder = "config", Path()
    elif not config:
        return iter(())
    elif isinstance(config, str | os.PathLike):
        options, where, folder = read(Path(config)), f"config {config}", Path(config).parent
    else:
        raise UsageError(f"config: {config!r} is neither a mapping of options nor the path of a TOML file")
    for option, parameter in PARAMETERS.items():
        if option in options:
            raise UsageError(f"{where}: from Python, {option} is the parameter `{parameter}`; give it there")
    return arguments_of(options, where, folder)


def _agent(agent: Any, others: Sequence[Callable[..., Any]], inputs: Inputs, plugins: Plugins) -> dict[str, str]:
    """The option that names an agent, or a plugin's task."""
    if callable(agent):
        return {"harness": str(_written_agent(agent, others, inputs))}
    if others:
        raise UsageError(
            f"improver names functions, and agent is no function; put a {PLAYBOOK} into its folder instead"
        )
    if isinstance(agent, os.PathLike) or (isinstance(agent, str) and (os.sep in agent or os.path.isdir(agent))):
        return {"harness": os.fspath(agent)}
    tasks = sorted(offer.name for offer in plugins.of_kind("task"))
    if agent in tasks:
        return {"plugin": agent}
    if isinstance(agent, str):
        raise UsageError(f"agent {agent!r} is neither a folder in {os.getcwd()} nor a task here: {', '.join(tasks)}")
    raise UsageError(f"agent {agent!r} is neither a folder, a function solve(instance, ctx) nor a task; give one")


def _functions(improver: Any) -> Sequence[Callable[..., Any]]:
    """The functions to try in an agent's place; none where an improver is named."""
    if improver is None or isinstance(improver, str):
        return ()
    functions = [improver] if callable(improver) else improver
    if not isinstance(functions, Sequence) or not all(map(callable, functions)):
        parts = functions if isinstance(functions, Sequence) else [functions]
        wrong = ", ".join(repr(each)[:60] for each in parts if not callable(each))
        raise UsageError(f"improver: {wrong} is no function; give a name, a function, or a list of functions")
    return functions


def _written_agent(agent: Callable[..., Any], others: Sequence[Callable[..., Any]], inputs: Inputs) -> Path:
    """A folder with a function as the harness, and the others as edits that may be tried."""
    first = _harness(agent)
    edits = "".join(_edit(each, first) for each in others)
    files = {f"{agent.__name__}/{name}": text.encode() for name, text in first.items()}
    if edits:
        files[f"{agent.__name__}/{PLAYBOOK}"] = edits.encode()
    return inputs.keep(files) / agent.__name__


def _harness(agent: Callable[..., Any]) -> dict[str, str]:
    _check_call(agent, ("instance", "ctx"), "an agent")
    source = FunctionSource(agent, also=("setup",))
    text = source.text if source.name == "solve" else f"{source.text}\n\nsolve = {source.name}\n"
    return {"harness.py": text, "harness.toml": f"requires = {json.dumps(source.requires)}\n"}


def _edit(agent: Callable[..., Any], first: Mapping[str, str]) -> str:
    """An edit of a catalogue that puts another function in the place of the first."""
    changes = "".join(
        f'[[edit.change]]\nop = "write"\npath = {_toml(path)}\ntext = {_toml(text)}\n'
        for path, text in _harness(agent).items()
        if text != first[path]
    )
    summary = (inspect.getdoc(agent) or agent.__name__).partition("\n")[0].rstrip(".")
    return f"[[edit]]\nname = {_toml(agent.__name__)}\nsummary = {_toml(summary)}\n{changes}"


def _toml(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _cases(data: Any, columns: Columns, inputs: Inputs) -> str:
    file = str(inputs.keep({"cases.jsonl": cases_of(data, columns).encode()}) / "cases.jsonl")
    inputs.name(f"--data {file}", "data")
    inputs.name(file, "data")
    return file


def _verifier(verifier: Callable[..., Any], inputs: Inputs) -> str:
    """The option that names a function as the verifier, which its process loads from a file."""
    _check_call(verifier, ("answer", "case"), "a verifier")
    source = FunctionSource(verifier)
    file = inputs.keep({"verifier.py": source.text.encode()}) / "verifier.py"
    inputs.name(f"--verifier python:{file}:{source.name}", "verifier")
    return f"python:{file}:{source.name}"


def _check_call(function: Callable[..., Any], parameters: tuple[str, ...], role: str) -> None:
    """UsageError for a function that cannot be called as its role is."""
    name, signature = getattr(function, "__name__", type(function).__name__), ", ".join(parameters)
    if inspect.iscoroutinefunction(function):
        raise UsageError(f"{name} is async, and {role} is not awaited; write def {name}({signature})")
    try:
        inspect.signature(function).bind(*parameters)
    except TypeError as error:
        raise UsageError(f"{name} cannot be {role}: {error}; write def {name}({signature})") from None
    except ValueError:  # a built-in function, which the source of it is refused for
        return
