"""Wheels of every distribution, looked at and tried, and one version for all of them.

    python tools/release.py version [X.Y.Z]       say the common version, or set it everywhere
    python tools/release.py wheels [--out dist]   build the wheel of every distribution
    python tools/release.py check [--out dist]    look into the wheels: metadata, contents, versions
    python tools/release.py install [--out dist]  install them into fresh environments of every Python there is, and run

Nothing is built in the working tree: what git knows of it is copied first.
"""

from __future__ import annotations

import argparse
import base64
import csv
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from packaging.metadata import Metadata

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
HEAVY = {"torch", "litellm", "transformers", "ray", "modal", "cupy", "scanpy"}
"""Distributions that need one of these are installed without it: their entry modules must load all the same."""

_VERSION = re.compile(r'^version = "(.+)"$', re.MULTILINE)


def projects(root: Path = ROOT) -> list[Path]:
    """The folders of all distributions that git knows, the core first."""
    listing = ["git", "ls-files", "-z", "pyproject.toml", "*/pyproject.toml", ":!examples"]
    output = subprocess.run(listing, cwd=root, capture_output=True, text=True, check=True)
    folders = {root / Path(name).parent for name in output.stdout.split("\0") if name}
    return sorted(folders, key=lambda path: (path != root, str(path)))


def table(folder: Path) -> dict[str, object]:
    """The ``project`` table of a distribution."""
    project: dict[str, object] = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project


def versions(root: Path = ROOT) -> dict[str, str]:
    """The version of each distribution."""
    return {str(table(folder)["name"]): str(table(folder)["version"]) for folder in projects(root)}


def set_version(version: str, root: Path = ROOT) -> None:
    """Give every distribution this version."""
    if not re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc|\.dev)\d+)?", version):
        sys.exit(f"{version!r} is no version such as 1.2.3 or 1.2.3rc1")
    for folder in projects(root):
        path = folder / "pyproject.toml"
        text, count = _VERSION.subn(f'version = "{version}"', path.read_text(encoding="utf-8"), count=1)
        if not count:
            sys.exit(f"{path}: no line 'version = ...'")
        path.write_text(text, encoding="utf-8")
    init = root / "sia_core" / "__init__.py"
    init.write_text(re.sub(r'__version__ = ".*"', f'__version__ = "{version}"', init.read_text()), encoding="utf-8")


def build(out: Path, root: Path = ROOT, only: Sequence[str] = ()) -> list[Path]:
    """Build the wheel of every distribution, or of those named, into ``out``, from a copy of what git knows."""
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("sia_*.whl"):
        old.unlink()
    with tempfile.TemporaryDirectory(prefix="sia-wheels-") as name:
        copy = Path(name)
        listing = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True)
        for each in filter(None, listing.stdout.split("\0")):
            if (root / each).is_file():  # a file that was deleted and not committed yet is in no wheel
                (copy / each).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(root / each, copy / each)
        folders = [
            str(copy / path.relative_to(root)) for path in projects(root) if not only or table(path)["name"] in only
        ]
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
        for folder in folders:  # one after the other: pip builds several in one temporary folder of setuptools'
            subprocess.run([*pip, "--wheel-dir", str(out), folder], check=True)
    return sorted(out.glob("*.whl"))


def faults(wheel: Path, version: str) -> Iterator[str]:
    """The faults of a wheel: metadata that an index refuses, a file that is missing, changed, or out of place."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (about,) = {name.partition("/")[0] for name in names if ".dist-info/" in name}
        metadata = Metadata.from_email(archive.read(f"{about}/METADATA"))  # raises what an index would say
        if str(metadata.version) != version:
            yield f"its version is {metadata.version}, not {version}"
        if not metadata.description or metadata.description_content_type != "text/markdown":
            yield "no README as its description"
        for field, value in (
            ("license", metadata.license or metadata.license_expression),
            ("summary", metadata.summary),
        ):
            if not value:
                yield f"no {field}"
        if str(metadata.requires_python) != ">=3.11":
            yield f"it requires Python {metadata.requires_python}"
        tops = {name.partition("/")[0] for name in names} - {about}
        if len(tops) != 1 or not all(top.startswith("sia_") for top in tops):
            yield f"it installs {', '.join(sorted(tops))}: one package sia_... each"
        if not any(name.endswith("/py.typed") for name in names):
            yield "no py.typed"
        points = archive.read(f"{about}/entry_points.txt").decode() if f"{about}/entry_points.txt" in names else "[sia]"
        if "[sia]" not in points and "[console_scripts]" not in points:
            yield "no entry point in the group sia"
        if out_of_place := [name for name in names if re.match(r"[^/]+/(tests|bench|__pycache__)/", name)]:
            yield f"{out_of_place[0]} does not belong into a wheel"
        for name, digest, _ in csv.reader(io.StringIO(archive.read(f"{about}/RECORD").decode())):
            if digest and digest != _recorded(archive.read(name)):
                yield f"{name} is not what RECORD says"


def _recorded(content: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def check(out: Path) -> int:
    """Print what is wrong with the wheels of a folder; 0 where nothing is."""
    expected = versions()
    wheels = {path.name.partition("-")[0].replace("_", "-"): path for path in sorted(out.glob("*.whl"))}
    wrong = [f"{name}: no wheel" for name in sorted(expected.keys() - wheels.keys())]
    for name, path in wheels.items():
        wrong += [f"{path.name}: {each}" for each in faults(path, expected[name])]
    print("\n".join(wrong) or f"{len(wheels)} wheels of version {', '.join(sorted(set(expected.values())))} are well")
    return bool(wrong)


def pythons() -> Iterator[tuple[str, str]]:
    """The Pythons of this machine that SIA is for: version and program."""
    for version in PYTHONS:
        pyenv = sorted(Path("~/.pyenv/versions").expanduser().glob(f"{version}.*/bin/python"))
        program = shutil.which(f"python{version}")
        if program and subprocess.run([program, "--version"], capture_output=True, check=False).returncode == 0:
            yield version, program
        elif pyenv:
            yield version, str(pyenv[-1])


def install(out: Path) -> int:
    """Install all wheels into a fresh environment of each Python, list the plugins, and run the example."""
    light, heavy = [], []
    for folder in projects():
        needs = " ".join(map(str, table(folder).get("dependencies", [])))  # type: ignore[call-overload]
        (heavy if HEAVY & set(re.findall(r"[\w-]+", needs)) else light).append(str(table(folder)["name"]))
    for version, program in pythons():
        with tempfile.TemporaryDirectory(prefix="sia-fresh-") as name:
            _try(version, program, Path(name), out, light, heavy)
    return 0


def _try(version: str, program: str, folder: Path, out: Path, light: list[str], heavy: list[str]) -> None:
    os.environ["PIP_CONSTRAINT"] = os.environ["PIP_BUILD_CONSTRAINT"] = str(ROOT / "constraints.txt")
    subprocess.run([program, "-m", "venv", str(folder / "venv")], check=True)
    binaries = folder / "venv" / "bin"
    pip = [str(binaries / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pip += ["--find-links", str(out.resolve())]
    subprocess.run([*pip, "--constraint", str(ROOT / "constraints.txt"), *light], check=True)
    if heavy:
        subprocess.run([*pip, "--no-deps", "--no-index", *heavy], check=True)
    sia = str(binaries / "sia")
    rows = subprocess.run([sia, "plugins", "--json"], capture_output=True, text=True, check=True, cwd=folder).stdout
    if '"broken"' in rows or '"ambiguous"' in rows:
        sys.exit(f"Python {version}: {rows}")
    shutil.copytree(ROOT / "examples" / "sums", folder / "sums")
    run = [sia, "run", "--harness", "sums/agent", "--data", "sums/cases.jsonl", "--verifier", "exact", "--json"]
    subprocess.run(run, check=True, cwd=folder, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": ""})
    print(f"Python {version}: {len(light) + len(heavy)} distributions installed; the example ran", flush=True)


def fresh(folder: Path, wheels: Sequence[Path]) -> Path:
    """A new environment with these wheels alone, and this one's third-party libraries; no index is asked. Its ``bin``.

    The libraries are links beside it: an environment that is on the path whole would bring its own editable plugins.
    """
    venv.create(folder / "venv")
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    libraries = folder / "libraries"
    libraries.mkdir()
    for entry in map(Path, _site_packages()):
        for each in entry.iterdir():
            if not re.match(r"(__editable__|_?sia[_-])", each.name) and not (libraries / each.name).exists():
                (libraries / each.name).symlink_to(each)
    (site / "libraries.pth").write_text(f"{libraries}\n")
    install_into(folder / "venv", wheels)
    return folder / "venv" / "bin"


def install_into(environment: Path, what: Sequence[Path], *, editable: bool = False) -> None:
    """Install wheels or folders into an environment without pip, with this one's pip; no index is asked."""
    named = [word for each in what for word in (["--editable", str(each)] if editable else [str(each)])]
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python"), "install", "--quiet"]
    subprocess.run([*pip, "--no-index", "--no-deps", "--no-build-isolation", *named], check=True)


def _site_packages() -> list[str]:
    return [path for path in sys.path if path.endswith("site-packages")]


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("version", "wheels", "check", "install"))
    parser.add_argument("version", nargs="?")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    options = parser.parse_args()
    if options.command == "version":
        if options.version:
            set_version(options.version)
        by_name = versions()
        print("\n".join(f"{name} {version}" for name, version in by_name.items()))
        return len(set(by_name.values())) != 1
    if options.command == "wheels":
        print("\n".join(path.name for path in build(options.out)))
        return 0
    return check(options.out) if options.command == "check" else install(options.out)


if __name__ == "__main__":
    sys.exit(main())
