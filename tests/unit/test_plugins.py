"""Plugins are found by the names that they offer, and a bad one harms only who asks for it."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import Distribution, EntryPoint, distributions
from pathlib import Path
from typing import Any

import pytest
from plugin_sites import write_metadata

from sia_cli.released import RELEASED
from sia_core.errors import PluginError, UsageError
from sia_core.hookspecs import HOOK_OF_KIND, Event
from sia_core.plugins import ALLOW_VARIABLE, ALWAYS, Plugins, Row

Install = Callable[..., str]

ROOT = Path(__file__).parents[2]

HEAD = "from sia_core.hookspecs import Offer, hookimpl\nsia_api = 1\n"
_number = itertools.count()


def offering(*names: str, hook: str = "sia_tasks", factory: str = "builtins:dict") -> str:
    offers = ", ".join(f"Offer({name!r}, 'what {name} is', {factory!r})" for name in names)
    return f"{HEAD}@hookimpl\ndef {hook}():\n    return [{offers}]\n"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a distribution in its own folder on sys.path; returns the name of its entry module."""
    monkeypatch.delenv(ALLOW_VARIABLE, raising=False)

    def _install(name: str, source: str, *, version: str = "1.2.3", plugin: str | None = None) -> str:
        module = f"entry_module_{next(_number)}"
        site = tmp_path / module
        site.mkdir()
        (site / f"{module}.py").write_text(source)
        write_metadata(site, name, f"[sia]\n{plugin or name.removeprefix('sia-')} = {module}\n", version)
        monkeypatch.syspath_prepend(str(site))
        return module

    return _install


def row(name: str) -> Row:
    """The one row of that name, as `sia plugins` shows it."""
    matches = [each for each in Plugins.discover().rows() if each.name == name]
    assert len(matches) == 1, matches
    return matches[0]


# Finding


def test_a_task_is_found_by_the_name_that_it_offers_wherever_it_is_installed(install: Install) -> None:
    install("a-strangers-package", offering("mytask"))
    offer, source = Plugins.discover().find("task", "mytask")
    assert (offer.name, source.distribution, source.version) == ("mytask", "a-strangers-package", "1.2.3")


def test_the_offers_of_the_tree_come_by_the_same_road() -> None:
    offer, source = Plugins.discover().find("verifier", "exact")
    assert (offer.factory, source.distribution) == ("sia_runtime.builtin_verifiers:Exact", "sia-runtime")


def test_a_listing_shows_kind_name_distribution_version_and_summary(install: Install) -> None:
    install("sia-mine", offering("mytask"))
    assert row("mytask") == Row("mytask", "task", "sia-mine", "1.2.3", "ok", "", "what mytask is")


def test_one_name_may_be_a_task_and_a_verifier(install: Install) -> None:
    install(
        "sia-mine",
        offering("mine") + "@hookimpl\ndef sia_verifiers():\n    yield Offer('mine', 's', 'builtins:list')\n",
    )
    plugins = Plugins.discover()
    assert plugins.create("task", "mine") == {}
    assert plugins.create("verifier", "mine") == []
    assert [each.status for each in plugins.rows() if each.name == "mine"] == ["ok", "ok"]


def test_an_unknown_name_says_what_is_close_and_what_to_install(install: Install) -> None:
    install("sia-mine", offering("chargepredict"))
    with pytest.raises(PluginError) as raised:
        Plugins.discover().find("task", "chargepredcit")
    assert raised.value.exit_code == 2
    assert "(did you mean 'chargepredict'?)" in str(raised.value)
    assert "pip install" not in str(raised.value)  # nobody should be told to install a typing slip


def test_a_name_like_no_other_lists_those_that_are_there() -> None:
    with pytest.raises(PluginError, match=r"no sandbox named 'qqqqqq'; known here: .*namespaces.*`sia plugins` lists"):
        Plugins.discover().find("sandbox", "qqqqqq")


# Remedies


@pytest.mark.parametrize(
    ("kind", "name", "package"),
    [("tracker", "tensorboard", "sia-trackers"), ("task", "gpqa", "sia-bundled"), ("improver", "claude", "sia-claude")],
)
def test_what_is_not_installed_is_named_by_the_distribution_that_has_it(kind: str, name: str, package: str) -> None:
    with pytest.raises(PluginError, match=rf"It is in {package}: `pip install {package}`\."):
        Plugins.discover(allow="").find(kind, name)


@pytest.mark.parametrize("kind", HOOK_OF_KIND)
def test_a_name_that_nobody_offers_is_never_made_into_the_name_of_a_distribution(kind: str) -> None:
    with pytest.raises(PluginError) as raised:
        Plugins.discover().find(kind, "nosuch")
    assert "sia-nosuch" not in str(raised.value)


def test_the_table_of_released_offers_is_what_the_distributions_offer() -> None:
    offers = Plugins.discover()
    assert not offers.broken
    pairs = {(source.distribution, f"{kind} {offer.name}") for kind, offer, source in offers.offers}
    assert {(name, offer) for name, each in RELEASED.items() for offer in each} == pairs
    projects = [ROOT / "pyproject.toml", *ROOT.glob("*/pyproject.toml"), *ROOT.glob("*/*/pyproject.toml")]
    names = {tomllib.loads(path.read_text())["project"]["name"] for path in projects if "examples" not in path.parts}
    assert set(RELEASED) == names


def test_every_distribution_of_sia_that_code_or_pages_have_installed_is_released() -> None:
    files = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*/*/README.md")]
    files += [
        path
        for place in ("sia_core", "plugins", "algorithms", "backends", "tasks")
        for path in (ROOT / place).rglob("*.py")
    ]
    lines = [line for path in files for line in path.read_text(encoding="utf-8").splitlines() if "pip install" in line]
    assert lines
    names = {name for line in lines for name in re.findall(r"(?<![\w/-])sia-[a-z]+(?:-[a-z]+)*", line)}
    examples = {"sia-anagrams", "sia-my-task", "sia-ranked"}  # written by the reader of a tutorial
    assert names - examples <= set(RELEASED)


def test_entry_points_may_be_given_by_hand() -> None:
    point = EntryPoint("mine", "sia_runtime.plugin", "sia")
    plugins = Plugins.discover([point])
    assert plugins.find("backend", "local")[1].distribution == "unknown"


# Two of one name


def test_two_distributions_of_one_name_are_both_listed_and_name_each_other(install: Install) -> None:
    install("sia-one", offering("same", "mine"), version="1.0")
    install("sia-two", offering("same"), version="2.0")
    rows = [each for each in Plugins.discover().rows() if each.name == "same"]
    assert [(each.distribution, each.version, each.status, each.cause) for each in rows] == [
        ("sia-one", "1.0", "ambiguous", "also offered by sia-two"),
        ("sia-two", "2.0", "ambiguous", "also offered by sia-one"),
    ]
    assert row("mine").status == "ok"


def test_two_of_one_name_are_an_error_only_where_the_name_is_asked_for(install: Install) -> None:
    install("sia-one", offering("same", "mine"), version="1.0")
    install("sia-two", offering("same"), version="2.0")
    plugins = Plugins.discover()
    assert plugins.create("task", "mine") == {}
    with pytest.raises(PluginError, match=r"2 distributions: sia-one 1\.0, sia-two 2\.0") as raised:
        plugins.create("task", "same")
    assert raised.value.exit_code == 2


def test_one_distribution_that_offers_a_name_twice_is_named(install: Install) -> None:
    install("sia-one", offering("same", "same"))
    rows = [each for each in Plugins.discover().rows() if each.name == "same"]
    assert [(each.status, each.cause) for each in rows] == [("ambiguous", "also offered by sia-one")] * 2


def test_a_distribution_that_is_on_the_path_twice_is_read_once(install: Install) -> None:
    install("sia-mine", offering("old"), version="1.0")
    install(
        "sia_Mine", offering("new"), version="2.0", plugin="mine"
    )  # the same name to pip; later, so first on the path
    assert [each.name for each in Plugins.discover().rows() if "ine" in each.distribution] == ["new"]


def test_an_old_copy_behind_one_that_is_no_plugin_any_more_is_not_in_use(install: Install, tmp_path: Path) -> None:
    install("sia-mine", offering("old"), version="1.0")
    module = install("sia-mine", offering("new"), version="2.0")
    (tmp_path / module / "sia_mine-2.0.dist-info" / "entry_points.txt").unlink()
    assert not [each.name for each in Plugins.discover().rows() if each.distribution == "sia-mine"]


# Broken ones

BROKEN = {
    "an import that fails": ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'"),
    "an exit at import": ("raise SystemExit(3)\n", "SystemExit: 3"),
    "a syntax error": ("def :\n", "SyntaxError"),
    "no contract version": ("x = 1\n", "declares no contract version (sia_api); this sia-core speaks sia_api 1"),
    "another contract version": ("sia_api = 2\n", "is written for sia_api 2; this sia-core speaks sia_api 1"),
    "a version that is a text": ("sia_api = '1'\n", "is written for sia_api '1'"),
    "a misspelled hook": (
        offering("x", hook="sia_taks"),
        "unknown hook 'sia_taks' (did you mean 'sia_tasks'?) (sia_api 1)",
    ),
    "a hook without its prefix": (offering("x", hook="tasks"), "unknown hook 'tasks'"),
    "a hook that is not marked": (
        f"{HEAD}def sia_tasks():\n    return []\n",
        "'sia_tasks' is not marked with @hookimpl",
    ),
    "a wrong argument": (f"{HEAD}@hookimpl\ndef sia_tasks(config):\n    return []\n", "{'config'} are declared"),
    "a wrong name of an argument": (f"{HEAD}@hookimpl\ndef sia_observe(evt):\n    pass\n", "{'evt'} are declared"),
    "a hook that raises": (
        f"{HEAD}@hookimpl\ndef sia_tasks():\n    return [1 / 0]\n",
        "sia_tasks failed: ZeroDivisionError",
    ),
    "a hook that exits": (f"{HEAD}@hookimpl\ndef sia_tasks():\n    raise SystemExit\n", "sia_tasks failed: SystemExit"),
    "a hook that returns nothing": (f"{HEAD}@hookimpl\ndef sia_tasks():\n    pass\n", "sia_tasks gave a NoneType"),
    "a hook that returns texts": (f"{HEAD}@hookimpl\ndef sia_engines():\n    return 'ab'\n", "sia_engines gave a str"),
    "an offer without summary": (
        f"{HEAD}@hookimpl\ndef sia_tasks():\n    return [Offer('x', None, 'a:b')]\n",
        "name, summary and factory of Offer(name='x', summary=None, factory='a:b') must be texts",
    ),
    "a factory without colon": (
        offering("x", factory="builtins.dict"),
        "'builtins.dict' of 'x' must be 'module:attribute'",
    ),
    "a factory without attribute": (offering("x", factory="builtins:"), "must be 'module:attribute'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_is_a_row_with_its_cause_and_no_error(install: Install, name: str) -> None:
    source, cause = BROKEN[name]
    install("sia-bad", source, version="0.9")
    install("sia-good", offering("good"))
    bad = row("bad")
    assert (bad.kind, bad.distribution, bad.version, bad.status) == ("plugin", "sia-bad", "0.9", "broken")
    assert cause in bad.cause
    assert Plugins.discover().create("task", "good") == {}


@pytest.mark.parametrize("name", ["bad", "sia-bad", "Sia_Bad"])
def test_a_broken_plugin_is_an_error_where_it_is_asked_for(install: Install, name: str) -> None:
    install("sia-bad", "import no_such_module\n", version="0.9", plugin="another")
    with pytest.raises(PluginError, match=r"plugin sia-bad 0\.9 is broken: .*no_such_module") as raised:
        Plugins.discover().create("task", name)
    assert raised.value.exit_code == 2


def test_a_name_that_a_broken_plugin_may_have_offered_is_an_error_that_tells_of_it(install: Install) -> None:
    install("sia-bad", "import no_such_module\n", version="0.9")
    with pytest.raises(PluginError, match=r"no task named 'itsoffer'.*sia-bad 0\.9 is broken: .*no_such_module"):
        Plugins.discover().find("task", "itsoffer")


def test_what_pip_leaves_behind_when_it_is_killed_harms_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "sia_half-1.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text("[sia]\nhalf = no_such_module_either\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert row("half").status == "broken"


def test_what_pip_leaves_behind_harms_nobody_either_where_a_library_brings_its_own_finder_of_distributions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Without(Distribution):
        """As importlib_metadata has it, which some libraries import: no metadata is None, and its name an error."""

        metadata = None  # type: ignore[assignment]
        name = property(lambda self: self.metadata["Name"])

        def read_text(self, filename: str) -> str | None:
            return "[sia]\nhalf = no_such_module_either\n" if filename == "entry_points.txt" else None

        def locate_file(self, path: Any) -> Any:
            return tmp_path / path

    every = [*distributions(), Without()]
    monkeypatch.setattr("sia_core.plugins.distributions", lambda: iter(every))
    assert row("half").status == "broken"


def test_a_malformed_list_of_entry_points_is_a_broken_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Plugins.discover().rows()
    for name, text in (("sia_ours", "[sia]\nno equals sign\n"), ("not_ours", "[console_scripts]\nno equals sign\n")):
        write_metadata(tmp_path, name, text)
    monkeypatch.syspath_prepend(str(tmp_path))
    rows = [each for each in Plugins.discover().rows() if each not in before]
    assert [(each.distribution, each.version, each.status) for each in rows] == [("sia_ours", "1.0", "broken")]
    assert "entry_points.txt cannot be read" in rows[0].cause


# SIA_PLUGINS


def test_the_variable_allows_only_the_plugins_that_it_names(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two", "three"):
        install(f"sia-{name}", offering(name))
    monkeypatch.setenv(ALLOW_VARIABLE, "one, SIA_two")
    assert {each.distribution for each in Plugins.discover().rows()} == {*ALWAYS, "sia-one", "sia-two"}


def test_the_empty_variable_allows_what_every_run_needs(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("sia-one", offering("one"))
    monkeypatch.setenv(ALLOW_VARIABLE, "")
    plugins = Plugins.discover()
    assert {each.distribution for each in plugins.rows()} == ALWAYS
    with pytest.raises(PluginError, match="SIA_PLUGINS='' limits them"):
        plugins.find("task", "one")


def test_a_plugin_that_is_not_allowed_is_not_even_imported(install: Install) -> None:
    module = install("sia-one", offering("one"))
    Plugins.discover(allow="")
    assert module not in sys.modules
    Plugins.discover(allow="one")
    assert module in sys.modules


# Factories

FACTORIES = """
class Task:
    def __init__(self, *, data: str = "here", seed: int = 0):
        self.data, self.seed = data, seed

class Nested:
    Inner = Task

def picky(path): return path
def failing(): return {}["nothing"]
def mistyped(): return len(3)
def refusing():
    from sia_core.errors import UsageError
    raise UsageError("--data x: no such file")
def exiting(): raise SystemExit("no GPU")
CONSTANT = 3
"""


@pytest.fixture
def factories(install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A distribution that offers each of the above by its name; returns the module that holds them."""
    module = f"factories_{next(_number)}"
    (tmp_path / f"{module}.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(str(tmp_path))
    names = ("Task", "Nested.Inner", "picky", "failing", "mistyped", "refusing", "exiting", "CONSTANT", "missing")
    source = HEAD + "@hookimpl\ndef sia_tasks():\n    return [\n"
    install("sia-mine", source + "".join(f"Offer({name!r}, 's', '{module}:{name}'),\n" for name in names) + "]\n")
    return module


def test_a_factory_is_imported_only_when_its_name_is_used(factories: str) -> None:
    plugins = Plugins.discover()
    plugins.rows()
    assert factories not in sys.modules
    assert plugins.create("task", "Task", data="there").data == "there"
    assert factories in sys.modules


def test_a_factory_may_be_an_attribute_of_an_attribute(factories: str) -> None:
    assert Plugins.discover().create("task", "Nested.Inner", seed=3).seed == 3


def test_settings_that_a_factory_does_not_take_are_named_beside_those_that_it_takes(factories: str) -> None:
    with pytest.raises(PluginError) as raised:
        Plugins.discover().create("task", "Task", sede=1)
    message = str(raised.value)
    assert "task 'Task' of sia-mine 1.2.3 does not take these settings" in message
    assert "sede (did you mean 'seed'?)" in message
    assert message.endswith("It takes: data='here', seed=0.")


def test_a_setting_that_is_missing_is_named(factories: str) -> None:
    with pytest.raises(PluginError, match=r"path is missing. It takes: path\."):
        Plugins.discover().create("task", "picky")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("failing", "failed to start: KeyError: 'nothing'"),
        ("mistyped", "failed to start: TypeError: object of type 'int' has no len()"),
        ("exiting", "failed to start: SystemExit: no GPU"),
        ("CONSTANT", "cannot be loaded from .*it is a int, which cannot be called"),
        ("missing", "cannot be loaded from .*AttributeError"),
    ],
)
def test_a_fault_of_a_factory_is_raised_under_its_plugins_name(factories: str, name: str, says: str) -> None:
    with pytest.raises(PluginError, match=rf"task '{name}' of sia-mine 1\.2\.3 {says}"):
        Plugins.discover().create("task", name)


def test_an_offer_whose_library_is_missing_says_how_to_get_it(install: Install, tmp_path: Path) -> None:
    install("sia-mine", f"{HEAD}@hookimpl\ndef sia_tasks():\n    return [Offer('mine', 's', 'nothing_here:Task')]\n")
    with pytest.raises(PluginError, match=r"No module named 'nothing_here'; try `pip install sia-mine`$"):
        Plugins.discover().create("task", "mine")


def test_what_a_factory_says_to_the_user_is_passed_on_as_it_is(factories: str) -> None:
    with pytest.raises(UsageError, match=r"^--data x: no such file$"):
        Plugins.discover().create("task", "refusing")


# Observers


def test_observers_are_collected_with_the_plugin_that_they_are_of(install: Install) -> None:
    module = install("sia-watch", f"{HEAD}seen = []\n@hookimpl\ndef sia_observe(event):\n    seen.append(event)\n")
    plugins = Plugins.discover()
    assert [source.distribution for source, _ in plugins.observers] == ["sia-watch"]
    event = Event("run.started", {})
    plugins.observers[0][1](event)
    assert sys.modules[module].seen == [event]


def test_an_observer_may_leave_out_the_event(install: Install) -> None:
    module = install("sia-watch", f"{HEAD}seen = []\n@hookimpl\ndef sia_observe():\n    seen.append(1)\n")
    Plugins.discover().observers[0][1](Event("run.started", {}))
    assert sys.modules[module].seen == [1]


# What is not there


def test_nothing_is_global(install: Install) -> None:
    before = Plugins.discover()
    install("sia-mine", offering("mytask"))
    after = Plugins.discover()
    assert not [each for each in before.rows() if each.name == "mytask"]
    assert [each for each in after.rows() if each.name == "mytask"]


@pytest.mark.real
def test_listing_the_plugins_imports_no_heavy_module() -> None:
    program = "import sys; from sia_core.plugins import Plugins; Plugins.discover().rows(); print(*sys.modules)"
    environment = {name: value for name, value in os.environ.items() if name != ALLOW_VARIABLE}
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    loaded = {each.partition(".")[0] for each in result.stdout.split()}
    assert "sia_core" in loaded
    assert not loaded & {"torch", "sklearn", "scipy", "numpy", "transformers", "modal", "ray", "pydantic", "rich"}
