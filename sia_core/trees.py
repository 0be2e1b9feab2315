"""Where a run keeps its harness trees: a blob a file, and a folder of hard links to run them from."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

from sia_core.harness import HarnessTree
from sia_core.ledger import UNFINISHED, Blobs, explained


class Trees:
    """Trees by digest. A tree's listing is a blob too, and its digest is the tree's."""

    def __init__(self, run: Path) -> None:
        self._blobs = Blobs(run / "blobs")
        self._run, self._folder = run, run / "trees"

    def put(self, tree: HarnessTree) -> str:
        """Store a tree durably; files that are there already are not written again."""
        for content in tree.files.values():
            self._blobs.put(content)
        return self._blobs.put(tree.listing)

    def get(self, digest: str) -> HarnessTree:
        """The tree; LedgerError where a part of it is missing or damaged."""
        return HarnessTree({path: self._blobs.get(blob) for path, blob in self._listing(digest)})

    def folder(self, digest: str) -> Path:
        """A folder that holds the tree, made of hard links: no content is copied."""
        target = self._folder / digest
        if target.is_dir():
            return target
        with explained(self._run):
            self._make(target, digest)
        return target

    def _make(self, target: Path, digest: str) -> None:
        for folder in (self._folder, self._run / UNFINISHED):
            folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=self._run / UNFINISHED))
        try:
            for path, blob in self._listing(digest):
                (temporary / path).parent.mkdir(parents=True, exist_ok=True)
                _link(self._blobs.path(blob), temporary / path)
            for folder in (temporary, *(each for each in temporary.rglob("*") if each.is_dir())):
                folder.chmod(0o755)  # a sandbox reads it as another user, whatever our umask is
            os.rename(temporary, target)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
            if not target.is_dir():  # else another thread was faster
                raise

    def _listing(self, digest: str) -> list[tuple[str, str]]:
        pairs = (line.split("\0") for line in self._blobs.get(digest).decode().split("\n") if line)
        return [(path, blob) for path, blob in pairs]


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        # A file system without hard links, or one with as many of this file (an empty one, say) as it can hold.
        if error.errno not in (errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        shutil.copyfile(source, target)
        target.chmod(0o644)
