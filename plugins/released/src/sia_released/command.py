"""``sia import-task``: a plugin package of a task folder."""

from __future__ import annotations

import argparse

from sia_core.cli import console, plain


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="a folder with data/public/task.md, data/private and evaluate.py")
    parser.add_argument("--name", metavar="NAME", help="what the task is called (default: the folder's name)")
    parser.add_argument("--into", default=".", metavar="DIR", help="the folder to write sia-NAME to (default: here)")


def run(options: argparse.Namespace) -> int:
    import re
    import shutil
    from pathlib import Path

    from sia_core.folders.task import Folder
    from sia_core.folders.verifier import Evaluate
    from sia_core.new import imported, package_of, write

    source = Path(options.folder).resolve()
    name = options.name or re.sub(r"[^a-z0-9]+", "-", source.name.lower()).strip("-")
    task = Folder(str(source))  # what is wrong with the folder is said before anything is written
    task.seed_harness()
    Evaluate(**task.verifier.settings)
    files = imported(name)
    target = Path(options.into) / f"sia-{name}"
    write(target, files)
    kept = shutil.ignore_patterns("__pycache__", "*.pyc", ".git")
    shutil.copytree(source, target / "src" / package_of(name) / "folder", ignore=kept)
    out = console()
    out.print(plain(f"{target}: the task {name}, with the folder as it was in src/{package_of(name)}/folder."))
    out.print(plain(f"  pip install --editable {target}[test]"), soft_wrap=True)
    out.print(plain(f"  sia run --plugin {name}"), soft_wrap=True)
    return 0
