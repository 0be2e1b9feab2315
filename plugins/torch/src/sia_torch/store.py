"""A snapshot of a training on disk: the adapter in PEFT's own format, and beside it what resuming needs.

adapter_config.json, adapter_model.safetensors    what PEFT loads by itself
value_head.safetensors, optimizer.safetensors     the rest of what learns, and Adam's moments
engine.json                                       policy, counters, digests of the files
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sia_core.errors import UsageError
from sia_torch.adapter import NAME
from sia_torch.policy import Policy

ADAPTER = "adapter_model.safetensors"
VALUES = "value_head.safetensors"
OPTIMIZER = "optimizer.safetensors"
ENGINE = "engine.json"
ADAM = ("step", "exp_avg", "exp_avg_sq")
"""The parts of the optimizer's state of a weight."""

MOST = 2**20
"""Characters of what is no weight."""

MOST_HEADER = 2**24
"""Bytes of a file of weights that name its tensors and their shapes."""

SMALL = 16_000_000
LOOKED_AT = 64
"""Numbers of each weight, and tokens, by which a base is known."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


def adapter_state(policy: Policy) -> dict[str, Tensor]:
    """The adapter's tensors by PEFT's names, sorted."""
    state = get_peft_model_state_dict(policy.model, adapter_name=NAME, save_embedding_layers=False)
    return {name: state[name].detach().cpu().contiguous() for name in sorted(state)}


def digest_of(state: Mapping[str, Tensor]) -> str:
    """A digest of tensors by name, shape and content."""
    whole = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        whole.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        whole.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()


def identities(policy: Policy) -> tuple[str, ...]:
    """Digests of the base, this release's and those of the first."""
    return policy.identities or (_identity(policy), *_former_identities(policy))


def _identity(policy: Policy) -> str:
    """A digest of the base that is the same in any number type: configuration, some of each weight, tokens' texts.

    Weights are read as bfloat16, to which float32 rounds in the same way wherever that is done.
    """
    about = hashlib.sha256(_described(policy, {"dtype", "torch_dtype", "transformers_version"}))
    for name, weight in sorted(_base_weights(policy).items()):
        plain = name.replace(".base_layer", "").replace(".original_module", "")
        some = weight.detach().reshape(-1)[:: max(1, weight.numel() // LOOKED_AT)]
        about.update(f"{plain}\0{tuple(weight.shape)}\0".encode())
        about.update(some.to(torch.bfloat16).cpu().contiguous().view(torch.uint8).numpy().tobytes())
    tokens = policy.tokens
    ids = range(0, tokens.size, max(1, tokens.size // LOOKED_AT))
    about.update(json.dumps([tokens.decode([each]) for each in ids]).encode("utf-8", "surrogatepass"))
    return f"{policy.config.model_type} base {about.hexdigest()}"


def _former_identities(policy: Policy) -> Iterator[str]:
    """The same by the first release, which took another number type for another base."""
    for dtype in (torch.float32, torch.bfloat16):
        about = hashlib.sha256(_described(policy, set(), dtype=str(dtype).removeprefix("torch.")))
        base = _base_weights(policy)
        if sum(weight.numel() for weight in base.values()) <= SMALL:
            about.update(digest_of({name: weight.to(dtype) for name, weight in base.items()}).encode())
        yield f"{policy.config.model_type} {about.hexdigest()}"


def _described(policy: Policy, left_out: set[str], **overrides: str) -> bytes:
    described = {
        key: overrides.get(key, value)
        for key, value in policy.config.to_dict().items()
        if not (key.startswith("_") or key in left_out)
    }
    return json.dumps(described, sort_keys=True, default=str).encode()


def _base_weights(policy: Policy) -> dict[str, Tensor]:
    adapted = set(policy.learning())
    return {name: weight for name, weight in policy.model.named_parameters() if name not in adapted}


def save(folder: Path, policy: Policy, optimizer: dict[str, Tensor], counters: dict[str, Any]) -> str:
    """Write a snapshot whole or not at all; its digest. What was at ``folder`` is replaced."""
    adapter = adapter_state(policy)
    values = {name: tensor.detach().cpu() for name, tensor in policy.value_head.state_dict().items()}
    parts = {ADAPTER: adapter, VALUES: values, OPTIMIZER: optimizer}
    record = {
        "policy": identities(policy)[0],
        **counters,
        "digests": {name: digest_of(state) for name, state in parts.items()},
    }
    text = json.dumps(record, indent=1, sort_keys=True)

    def fill(temporary: Path) -> None:
        policy.model.peft_config[NAME].save_pretrained(str(temporary))
        for name, state in parts.items():
            save_file(state, temporary / name)
        (temporary / ENGINE).write_text(text)

    _whole(folder, fill)
    return hashlib.sha256(text.encode()).hexdigest()


def load(folder: Path, policy: Policy) -> tuple[dict[str, Tensor], int]:
    """Put a snapshot's weights into the policy; the optimizer's tensors and steps that were saved with it.

    A folder that is named by a digest, as a run keeps them, is compared with it: it may have come from elsewhere. So
    a digest says nothing of what was saved, and nothing of another shape than ours is read, or put anywhere.
    """
    try:
        with (folder / ENGINE).open() as file:
            text = file.read(MOST)
        record = json.loads(text)
        base, digests, steps = record["policy"], dict(record["digests"]), int(record["steps"])
    except (OSError, ValueError, LookupError, TypeError, ArithmeticError, RecursionError) as error:
        raise UsageError(f"{folder} is no snapshot of this engine: {error}") from None
    if _DIGEST.fullmatch(folder.name) and hashlib.sha256(text.encode()).hexdigest() != folder.name:
        raise UsageError(f"{folder / ENGINE} is not what was saved there; take an earlier snapshot")
    if base not in identities(policy):
        raise UsageError(f"{folder} holds an adapter of another base than {policy.name}, seed and base text included")
    parts = _parts(folder, policy)
    for name, state in parts.items():
        if digest_of(state) != digests.get(name):
            raise UsageError(f"{folder / name} is not what was saved there; take an earlier snapshot")
    set_peft_model_state_dict(policy.model, parts[ADAPTER], adapter_name=NAME)
    policy.value_head.load_state_dict(parts[VALUES])
    return parts[OPTIMIZER], steps


def _parts(folder: Path, policy: Policy) -> dict[str, dict[str, Tensor]]:
    """The tensors of a snapshot's files, read once all shapes are this policy's: a file may be sparse."""
    ours = {ADAPTER: _shapes(adapter_state(policy)), VALUES: _shapes(policy.value_head.state_dict())}
    try:
        with ExitStack() as stack:
            files = {name: stack.enter_context(_opened(folder / name)) for name in (*ours, OPTIMIZER)}
            names = {name: list(file.keys()) for name, file in files.items()}
            shapes = {
                name: {each: tuple(file.get_slice(each).get_shape()) for each in names[name]}
                for name, file in files.items()
            }
            fits = shapes == {**ours, OPTIMIZER: _moments(names[OPTIMIZER], policy)}
            parts = {
                name: {each: file.get_tensor(each) for each in names[name]} for name, file in files.items() if fits
            }
    except (OSError, ValueError, SafetensorError) as error:
        raise UsageError(f"{folder} is no snapshot of this engine: {error}") from None
    if not fits or not all(tensor.is_floating_point() for tensor in parts[OPTIMIZER].values()):
        raise UsageError(f"{folder} holds another adapter than this engine's: check rank and what learns")
    return parts


def _opened(path: Path) -> Any:
    """A safetensors file, whose header is read here; ValueError where that is longer than any of ours."""
    with path.open("rb") as file:
        if int.from_bytes(file.read(8), "little") > MOST_HEADER:
            raise ValueError(f"{path.name} has a header of more than {MOST_HEADER:,} bytes")
    return safe_open(path, "pt")


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _moments(names: Iterable[str], policy: Policy) -> dict[str, tuple[int, ...]]:
    """The shapes of Adam's moments of the weights that are named: its fused kernel writes without a look at them."""
    learning = policy.learning()
    shapes = {
        each: tuple(learning[each].shape) for each in {name.rpartition("/")[0] for name in names} & learning.keys()
    }
    return {f"{each}/{key}": () if key == "step" else shapes[each] for each in shapes for key in ADAM}


def _whole(folder: Path, fill: Callable[[Path], None]) -> None:
    """Fill a folder beside ``folder``, sync it, and rename it into place."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        fill(temporary)
        for path in (*temporary.iterdir(), temporary):
            _sync(path)
        if folder.exists():
            # A folder cannot be renamed over one with files in it.
            old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
            os.rename(folder, old / "old")
            os.rename(temporary, folder)
            shutil.rmtree(old)
        else:
            os.rename(temporary, folder)
        _sync(folder.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
