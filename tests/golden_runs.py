"""Runs that an earlier version recorded, kept as text: ``python tests/golden_runs.py RUN`` adds one.

A file holds the steps of a run and its blobs, a JSON value a line, and beside it stands the
report of that version. Only the examples' folder differs from machine to machine.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from sia_core.run.ledger import Blobs, Ledger, canonical
from sia_reading.report import build

ROOT = Path(__file__).parent.parent
KEPT = Path(__file__).parent / "data" / "runs"
PLACEHOLDER = "{repository}"


def restore(name: str, folder: Path) -> Path:
    """Write a run's folder as its version wrote it; the schema and the chain are spelt here, as they are a format."""
    blobs, chain = Blobs(folder / "blobs"), ""
    folder.mkdir()
    with closing(sqlite3.connect(folder / "ledger.db")) as db, db:
        db.execute(
            "CREATE TABLE events (\n    seq INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, value TEXT NOT NULL,\n"
            "    chain TEXT NOT NULL, at REAL NOT NULL\n) STRICT"
        )
        db.execute("PRAGMA user_version=1")
        for line in gzip.decompress((KEPT / f"{name}.jsonl.gz").read_bytes()).decode().rstrip("\n").split("\n"):
            row = json.loads(line.replace(PLACEHOLDER, str(ROOT)))
            if "blob" in row:
                blobs.put(row["blob"].encode())
                continue
            text = canonical(row["value"])
            chain = hashlib.sha256(f"{chain}\n{row['key']}\n{text}".encode()).hexdigest()
            values = (row["key"], text, chain, row["at"])
            db.execute("INSERT INTO events (key, value, chain, at) VALUES (?, ?, ?, ?)", values)
    return folder


def report(name: str) -> dict[str, Any]:
    """The report that the version of the run gave."""
    content: dict[str, Any] = json.loads((KEPT / f"{name}.report.json").read_text(encoding="utf-8"))
    return content


def keep(run: Path, root: str) -> None:
    """Add a run that was recorded with the examples of the checkout ``root``."""
    with Ledger.read(run) as ledger:
        lines = [canonical({"key": key, "value": value, "at": at}) for key, value, at in ledger.events()]
        (KEPT / f"{run.name}.report.json").write_text(json.dumps(build(ledger), indent=1) + "\n", encoding="utf-8")
    blobs = sorted(path for path in (run / "blobs").rglob("*") if path.is_file())
    lines += [canonical({"blob": path.read_text(encoding="utf-8")}) for path in blobs]
    text = "".join(f"{line}\n" for line in lines).replace(root, PLACEHOLDER)
    (KEPT / f"{run.name}.jsonl.gz").write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    keep(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else str(ROOT))
