"""``sia import-task``: a plugin package of a task folder."""

from __future__ import annotations

import argparse
import shlex

from sia_cli.output import console, plain


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="a folder with data/public/task.md, data/private and evaluate.py")
    parser.add_argument("--name", metavar="NAME", help="what the task is called (default: the folder's name)")
    parser.add_argument("--into", default=".", metavar="DIR", help="the folder to write sia-NAME to (default: here)")


def run(options: argparse.Namespace) -> int:
    import re
    from functools import partial
    from pathlib import Path

    from sia_core.given_files import read_folder
    from sia_released.task import Folder
    from sia_released.verifier import Evaluate
    from sia_testing.new import imported, package_of, write

    source = Path(options.folder).resolve()
    name = options.name or re.sub(r"[^a-z0-9]+", "-", source.name.lower()).strip("-")
    task = Folder(str(source))  # what is wrong with the folder is said before anything is written
    task.seed_harness()
    Evaluate(**task.verifier.settings)
    hidden: list[str] = []
    content = dict(read_folder(source, skip=partial(_is_ignored, hidden)))
    files = imported(name)
    target = Path(options.into) / f"sia-{name}"
    write(target, files)
    copy = target / "src" / package_of(name) / "folder"
    for path in content:
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        (copy / path).write_bytes(content[path])
    out = console()
    out.print(plain(f"{target}: the task {name}, with the folder as it was in src/{package_of(name)}/folder."))
    if hidden:
        out.print(plain(f"left out, as their names begin with a dot: {', '.join(hidden)}"))
    out.print(plain(f"  {shlex.join(['pip', 'install', '--editable', f'{target}[test]'])}"), soft_wrap=True)
    out.print(plain(f"  sia run --plugin {name}"), soft_wrap=True)
    return 0


def _is_ignored(hidden: list[str], path: str) -> bool:
    """Whether a file or a folder is left out of the package; hidden ones, which may hold keys, are noted."""
    name = path.rpartition("/")[2]
    if name.startswith("."):
        hidden.append(path if path.isprintable() else ascii(path))
    return name.startswith(".") or name == "__pycache__" or name.endswith(".pyc")
