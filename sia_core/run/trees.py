"""Where a run keeps its agents: harness trees as blobs, and adapters."""

from __future__ import annotations

from pathlib import Path

from sia_core.errors import HarnessError, LedgerError
from sia_core.harness import MAX_BYTES, MAX_FILES, HarnessTree, check_path
from sia_core.run import beneath
from sia_core.run.ledger import Blobs

ADAPTERS = "adapters"


def adapter_folder(run: Path, adapter: str) -> Path:
    """Where a run keeps a snapshot; LedgerError where its name is no digest, or anything in it is a link."""
    folder = run / ADAPTERS / beneath.digest(adapter)
    if folder.exists():
        for each in (folder.parent, folder):
            beneath.check_folder(each)
        beneath.check_below(folder)
    return folder


class Trees:
    """Trees by digest. A tree's listing is a blob too, and its digest is the tree's."""

    def __init__(self, run: Path) -> None:
        self.blobs = Blobs(run / "blobs")

    def put(self, tree: HarnessTree) -> str:
        """Store a tree durably; files that are there already are not written again."""
        for content in tree.files.values():
            self.blobs.put(content)
        return self.blobs.put(tree.listing)

    def get(self, digest: str) -> HarnessTree:
        """The tree; LedgerError where a part of it is missing or damaged."""
        files, room = {}, MAX_BYTES
        for path, blob in self.listing(digest):
            files[path] = self.blobs.get(blob)
            room -= len(files[path])
            if room < 0:
                raise LedgerError(f"{self.blobs.path(digest)} lists more than the {MAX_BYTES:,} bytes of a harness")
        try:
            return HarnessTree(files)
        except HarnessError as error:
            raise LedgerError(f"{self.blobs.path(digest)} is no harness: {error}") from None

    def listing(self, digest: str) -> list[tuple[str, str]]:
        """The tree's paths, each with the digest of its content; LedgerError where this is none of a tree."""
        try:
            lines = self.blobs.get(digest).decode().split("\n")
            pairs = [
                (check_path(path), beneath.digest(blob)) for path, blob in (line.split("\0") for line in lines if line)
            ]
        except (ValueError, HarnessError) as error:
            raise LedgerError(f"{self.blobs.path(digest)} is not the listing of a harness: {error}") from None
        if len(pairs) > MAX_FILES:
            raise LedgerError(f"{self.blobs.path(digest)} lists more than the {MAX_FILES} files of a harness")
        return pairs
