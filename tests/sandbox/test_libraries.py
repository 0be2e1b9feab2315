"""From what a harness requires to the files that it may import."""

from __future__ import annotations

import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

from sia_core.errors import HarnessError
from sia_runtime.sandbox.libraries import import_names, library_paths


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed distributions."""
    monkeypatch.syspath_prepend(str(tmp_path))
    library_paths.cache_clear()
    return tmp_path


def install(
    site: Path, name: str, *, requires: tuple[str, ...] = (), extra: str = "", files: str | None = None
) -> None:
    module, info = name.replace("-", "_"), site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (site / f"{module}.py").write_text("")
    lines = "".join(f"Requires-Dist: {each}\n" for each in requires)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{lines}")
    (info / "entry_points.txt").write_text(extra)
    (info / "RECORD").write_text(
        files or f"{module}.py,,\n__pycache__/{module}.pyc,,\n../../bin/x,,\n{info.name}/METADATA,,\n"
    )


def names(*requires: str) -> list[str]:
    return [path.name for path in library_paths(requires)]


def test_a_distribution_and_all_that_it_needs(site: Path) -> None:
    install(site, "top", requires=("middle>=1", "absent; python_version < '3'", "optional; extra == 'more'"))
    install(site, "middle", requires=("Bottom_Lib",))
    install(site, "bottom-lib")
    install(site, "optional")
    both = ["bottom_lib-1.0.dist-info", "bottom_lib.py", "middle-1.0.dist-info", "middle.py"]
    assert names("top") == [*both, "top-1.0.dist-info", "top.py"]
    assert "optional.py" in names("top[more]")


def test_a_circle_of_requirements_ends(site: Path) -> None:
    install(site, "one", requires=("two",))
    install(site, "two", requires=("one",))
    assert {"one.py", "two.py"} <= set(names("one"))


def test_what_numpy_needs_is_found() -> None:
    entries = set(names("numpy"))
    assert {"numpy", "numpy.libs"} <= entries
    assert f"numpy-{distribution('numpy').version}.dist-info" in entries
    assert all(path.parent in map(Path, sys.path) for path in library_paths(("numpy",)))


def test_what_distributions_are_imported_by(site: Path) -> None:
    names = ("pkg/__init__.py", "tests/__init__.py", "mod.py", "_private.py", "data/x.txt")
    record = "".join(f"{name},,\n" for name in (*names, "wide_name-1.0.dist-info/METADATA"))
    for folder in ("pkg", "tests", "data"):
        (site / folder).mkdir()
    for name in names:
        (site / name).write_text("")
    install(site, "wide-name", requires=("needed",), files=record)
    install(site, "needed")
    assert import_names(("wide-name",)) == ("pkg", "mod")
    assert import_names(("scikit-learn",)) == ("sklearn",)
    assert import_names(()) == ()


@pytest.mark.parametrize(
    ("requires", "message"),
    [
        ("no-such-thing", "pip install no-such-thing"),
        ("no-such-thing[extra]>=2; python_version > '3'", r"pip install 'no-such-thing\[extra\]>=2'$"),
        ("needs-absent", "needs-absent requires 'absent'.*pip install absent"),
        ("sklearn", r'requires .sklearn., which is a module; name its distribution: requires = \["scikit-learn"\]'),
        ("cv2", r'a module of opencv-python-headless: pip install opencv-python-headless, and requires = \["opencv-'),
        ("sia-core", "part of SIA"),
        ("sia-thing", "part of SIA"),
        ("a-plugin", "part of SIA"),
        ("uses-plugin", "part of SIA"),
        ("plain>=2", "pip install 'plain>=2'"),
        ("plain @@ x", "no requirement"),
        (f"plain; {'(' * 3000}os_name == 'x'{')' * 3000}", "no requirement"),
        (f"plain>={'9' * 5000}", "no requirement"),
        ("in-place", "installed in place"),
    ],
)
def test_what_cannot_be_shown_is_refused(site: Path, requires: str, message: str) -> None:
    install(site, "sia-core")
    install(site, "sia-thing")
    install(site, "a-plugin", extra="[sia]\nthing = a_plugin\n")
    install(site, "uses-plugin", requires=("a-plugin",))
    install(site, "needs-absent", requires=("absent",))
    install(site, "plain")
    install(site, "in-place")
    (site / "in_place-1.0.dist-info" / "direct_url.json").write_text('{"url": "x", "dir_info": {"editable": true}}')
    with pytest.raises(HarnessError, match=message):
        library_paths((requires,))


def test_one_name_in_two_places_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library_paths.cache_clear()
    for folder, name in (("a", "one"), ("b", "two")):
        (tmp_path / folder).mkdir()
        install(tmp_path / folder, name, files=f"shared.py,,\n{name}-1.0.dist-info/METADATA,,\n")
        (tmp_path / folder / "shared.py").write_text("")
        monkeypatch.syspath_prepend(str(tmp_path / folder))
    with pytest.raises(HarnessError, match="in two places"):
        library_paths(("one", "two"))
