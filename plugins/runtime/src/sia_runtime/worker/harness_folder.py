"""A folder to run a harness from, made of hard links to the blobs of its run: no content is copied."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

from sia_core.errors import LedgerError
from sia_core.harness import MAX_BYTES
from sia_core.run import beneath
from sia_core.run.ledger import UNFINISHED, explained
from sia_core.run.trees import Trees


def harness_folder(run: Path, digest: str) -> Path:
    """The folder of a harness of the run.

    It is compared with the tree whenever it is asked for: code is run from it, and it may have come from elsewhere.
    """
    trees = Trees(run)
    tree, target = trees.get(digest), run / "trees" / beneath.digest(digest)
    with explained(run):
        if not os.path.lexists(target):
            _make(run, target, {path: trees.blobs.path(blob) for path, blob in trees.listing(digest)})
        beneath.check_folder(target)
        beneath.check_below(target)
        paths = {path.relative_to(target).as_posix() for path in target.rglob("*") if not path.is_dir()}
        if paths != tree.files.keys() or any(
            beneath.read_plain(run, "trees", digest, *path.split("/"), most=MAX_BYTES) != content
            for path, content in tree.files.items()
        ):
            raise LedgerError(f"{target} is not the harness that its name says; remove this folder, and go on")
    return target


def _make(run: Path, target: Path, files: dict[str, Path]) -> None:
    for folder in (target.parent, run / UNFINISHED):
        folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=run / UNFINISHED))
    try:
        for path, blob in files.items():
            (temporary / path).parent.mkdir(parents=True, exist_ok=True)
            _link(blob, temporary / path)
        for folder in (temporary, *(each for each in temporary.rglob("*") if each.is_dir())):
            folder.chmod(0o755)  # a sandbox reads it as another user, whatever our umask is
        os.rename(temporary, target)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        if not os.path.lexists(target):  # else another thread was faster
            raise


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        # A file system without hard links, or one with as many of this file (an empty one, say) as it can hold.
        if error.errno not in (errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        shutil.copyfile(source, target)
        target.chmod(0o644)
