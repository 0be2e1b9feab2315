"""Wheels and versions: one version for all, set by one command, and a wheel with a fault is not called well."""

from __future__ import annotations

import base64
import hashlib
import runpy
import shutil
import subprocess
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import sia_core

ROOT = Path(__file__).parents[2]
RELEASE: Mapping[str, Any] = runpy.run_path(str(ROOT / "tools" / "release.py"))

pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no checkout")


@pytest.mark.real
def test_all_distributions_share_the_version_of_the_core() -> None:
    assert set(RELEASE["versions"]().values()) == {sia_core.__version__}


@pytest.mark.real
def test_one_command_sets_it_everywhere(tmp_path: Path) -> None:
    for folder in RELEASE["projects"]():
        target = tmp_path / folder.relative_to(ROOT)
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "pyproject.toml", target)
    (tmp_path / "sia_core").mkdir()
    shutil.copy(ROOT / "sia_core" / "__init__.py", tmp_path / "sia_core")
    for command in (["git", "init", "--quiet"], ["git", "add", "."]):
        subprocess.run(command, cwd=tmp_path, check=True)
    RELEASE["set_version"]("1.2.3rc1", tmp_path)
    assert set(RELEASE["versions"](tmp_path).values()) == {"1.2.3rc1"}
    assert '__version__ = "1.2.3rc1"' in (tmp_path / "sia_core" / "__init__.py").read_text()
    with pytest.raises(SystemExit, match="no version such as"):
        RELEASE["set_version"]("next", tmp_path)


@pytest.mark.real
def test_every_distribution_is_installed_by_make_and_known_to_all() -> None:
    makefile = (ROOT / "Makefile").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["all"]
    for folder in RELEASE["projects"]():
        where = folder.relative_to(ROOT)
        if where != Path():
            assert f"--editable {where}" in makefile, where
            assert RELEASE["table"](folder)["name"] in extras, where


METADATA = """\
Metadata-Version: 2.1
Name: sia-x
Version: 0.1.0
Summary: x
License: MIT
Requires-Python: >=3.11
Description-Content-Type: text/markdown

# sia-x
"""


def wheel(folder: Path, **changes: str | None) -> Path:
    """A small wheel with these files changed, added or left out; its RECORD is of what it held before."""
    files: dict[str, str | None] = {
        "sia_x/__init__.py": "",
        "sia_x/py.typed": "",
        "sia_x-0.1.0.dist-info/METADATA": METADATA,
        "sia_x-0.1.0.dist-info/entry_points.txt": "[sia]\nx = sia_x.plugin\n",
    }
    rows = []
    for name, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256((text or "").encode()).digest()).rstrip(b"=").decode()
        rows.append(f"{name},sha256={digest},{len(text or '')}")
    files["sia_x-0.1.0.dist-info/RECORD"] = "\n".join([row for row in rows if row.partition(",")[0] not in changes])
    path = folder / "sia_x-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {**files, **changes}.items():
            if text is not None:
                archive.writestr(name, text)
    return path


def test_a_sound_wheel_has_no_fault(tmp_path: Path) -> None:
    assert list(RELEASE["faults"](wheel(tmp_path), "0.1.0")) == []


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"sia_x/py.typed": None}, "no py.typed"),
        ({"sia_x/tests/test_x.py": ""}, "does not belong into a wheel"),
        ({"tests/test_x.py": ""}, "one package sia_"),
        ({"sia_x-0.1.0.dist-info/entry_points.txt": "[other]\n"}, "no entry point in the group sia"),
        ({"sia_x-0.1.0.dist-info/METADATA": METADATA.replace("License: MIT\n", "")}, "no license"),
        ({"sia_x-0.1.0.dist-info/METADATA": METADATA.replace("text/markdown", "text/plain")}, "no README"),
        ({"sia_x-0.1.0.dist-info/METADATA": METADATA.replace("0.1.0", "0.2.0")}, "its version is 0.2.0, not 0.1.0"),
    ],
)
def test_a_wheel_with_a_fault_is_named(changes: dict[str, str | None], fault: str, tmp_path: Path) -> None:
    assert any(fault in each for each in RELEASE["faults"](wheel(tmp_path, **changes), "0.1.0"))


def test_a_file_that_is_not_what_the_record_says_is_named(tmp_path: Path) -> None:
    path = wheel(tmp_path)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**files, "sia_x/__init__.py": b"import os\n"}.items():
            archive.writestr(name, content)
    assert list(RELEASE["faults"](path, "0.1.0")) == ["sia_x/__init__.py is not what RECORD says"]


@pytest.mark.real
def test_what_builds_a_wheel_is_pinned_wherever_one_is_built() -> None:
    pins = [line for line in (ROOT / "constraints.txt").read_text().split("\n") if line.startswith("setuptools==")]
    template = (
        ROOT / "plugins" / "testing" / "src" / "sia_testing" / "templates" / "every" / "pyproject.toml.tmpl"
    ).read_text()
    assert [f'requires = ["{pin}"]' in template for pin in pins] == [True]
    script = "print-%:\n\t@echo $($*)\n"
    for variable in ("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT"):  # pip 25.3 gave it a name for this alone
        command = ["make", "--silent", "-f", "Makefile", "-f", "-", f"print-{variable}"]
        output = subprocess.run(command, cwd=ROOT, input=script, capture_output=True, text=True, check=True).stdout
        assert Path(output.strip()) == ROOT / "constraints.txt"
