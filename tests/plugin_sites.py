"""A stranger's plugin as it is installed: modules and metadata in a folder that a test puts on the path."""

from __future__ import annotations

from pathlib import Path


def write_plugin(folder: Path, name: str, plugin: str, parts: str) -> Path:
    """Write the entry module ``NAME_plugin`` and ``NAME_parts``, what it offers; returns the folder."""
    (folder / f"{name}_plugin.py").write_text(plugin)
    (folder / f"{name}_parts.py").write_text(parts)
    write_metadata(folder, name, f"[sia]\n{name} = {name}_plugin\n")
    return folder


def write_metadata(folder: Path, name: str, entry_points: str, version: str = "1.0") -> None:
    """Write a distribution's metadata, as an installer does."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(entry_points)
