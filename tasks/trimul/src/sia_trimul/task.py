"""The task: a kernel for the triangle multiplicative update, the faster the better."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from sia_core.cache import cache_folder, write_once
from sia_core.errors import UsageError
from sia_core.harness import HarnessTree
from sia_core.playbook import Playbook
from sia_core.types import Instance, Kind, Limits, Metric, OfferRef, Split
from sia_trimul.shapes import CPU_TIMING, TIMING, TOLERANCE, H, Shape

HERE = Path(__file__).parent
CODE_BYTES = 200_000

BRIEF = """\
Write the fastest kernel for the triangle multiplicative update of AlphaFold.

An answer is {{"code": TEXT, "plan": OBJECT or null}}. The code is a Python module that defines
`kernel(x, mask, weights, config)`: x (B, N, N, C), mask (B, N, N) of zeros and ones, and the weights are
float32 tensors of PyTorch; it returns y, float32 (B, N, N, C):

{function}

H = {h}; `weights["left_proj.weight"]` is (H, C) and so on, `config` is {config}.
Every element must be within {tolerance:g}, relative and absolute, of the float32 result, with masks that have
zeros, and for x from normal and from Cauchy distributions. So products may be in {halves}. Before the answer is
sealed, nine tenths of that are tolerated, so that what passes passes on other inputs too.

{where} It is timed
on (N/B/C) {shapes}, on fresh inputs and weights at each call, by turns with the baseline: the function as it
reads above, in float32. {reward} No
result of an earlier call is of use in a later one, and between calls its process stands still.

The harness may call `ctx.evaluate(answer)` a few times, and returns its best answer. The plan is a description of the
kernel out of a small set of plans, which the policy can name; the seed harness renders a plan into code.
"""


@dataclass(frozen=True)
class Edition:
    """The task on one kind of device."""

    verifier: str
    metric: Metric
    limits: Limits
    sizes: Mapping[Split, int]
    seeds: tuple[str, ...]
    """Folders of the seed harness; a later one's files replace an earlier one's."""

    playbooks: tuple[str, ...]
    shapes: Sequence[Shape]
    brief: Mapping[str, str]


EDITIONS = {
    "cpu": Edition(
        "trimul",
        Metric("speedup", unit="times the baseline's speed", bounds=None),
        Limits(solve_seconds=120.0),
        {"public": 0, "search": 4, "gate": 40, "sealed": 6},
        ("seed",),
        ("playbook.toml", "playbook_search.toml"),
        CPU_TIMING,
        {
            "config": '{"dim": C, "hidden_dim": H, "eps": 1e-5}',
            "halves": "bfloat16",
            "where": "The kernel runs on one thread of a CPU, in a separate process, with PyTorch and numpy and no "
            "compiler;\nno other thread or process starts there.",
            "reward": "The reward is how many times as fast it is, the geometric mean over the shapes.",
        },
    ),
    "cuda": Edition(
        "trimul-cuda",
        Metric("reward", unit="1500 / microseconds of a call", bounds=None),
        Limits(solve_seconds=600.0),
        # What a look at a kernel takes there is tens of seconds, and a device's clock is steadier.
        {"public": 0, "search": 4, "gate": 12, "sealed": 6},
        ("seed", "seed_cuda"),
        ("playbook_cuda.toml", "playbook_search.toml"),
        TIMING,
        {
            "config": '{"dim": C, "hidden_dim": H, "eps": 1e-5, "y": a float32 tensor that y may be written to}',
            "halves": "float16 or bfloat16",
            "where": "The kernel runs on a CUDA device, {device}, in a separate process, with PyTorch, and with\n"
            "Triton and CuPy where they are installed; CuPy compiles CUDA C++ (`cupy.RawModule`), nothing else does.",
            "reward": "The reward is 1500 divided by the geometric mean of the microseconds of a call over the shapes.",
        },
    ),
}


class KernelAnswer(BaseModel):
    """A module that defines ``kernel``, and the plan that it was rendered from, if it was."""

    model_config = ConfigDict(extra="forbid")

    code: str = Field(min_length=1, max_length=CODE_BYTES)
    plan: dict[str, str] | None = None


class TriMul:
    """Task ``trimul``. An instance is a search for a kernel; all of them are for the same shapes.

    ``device`` is ``cpu`` or ``cuda``. UsageError where there is no such device.
    """

    name = "trimul"
    kind: Kind = "discover"
    evaluations = 2
    answer = KernelAnswer
    failure_reward = 0.0

    def __init__(self, seed: int = 0, device: str = "cpu") -> None:
        if device not in EDITIONS:
            raise UsageError(f"trimul: device {device!r} is none of {', '.join(EDITIONS)}: --set device=cpu")
        self._device, self._edition = device, EDITIONS[device]
        self.metric, self.limits = self._edition.metric, self._edition.limits
        self.verifier = OfferRef(self._edition.verifier)
        about = dict(self._edition.brief)
        if device == "cuda":
            from sia_trimul.toolchain import check_device

            about["where"] = about["where"].format(device=check_device())
        function = (HERE / "programs" / "reference.py").read_text(encoding="utf-8").partition("def kernel")[2]
        self.brief = BRIEF.format(
            function="".join(f"    {line}\n" for line in f"def kernel{function}".splitlines()),
            h=H,
            tolerance=TOLERANCE,
            shapes=", ".join(map(str, self._edition.shapes)),
            **about,
        )
        self.fingerprint = hashlib.sha256(self.brief.encode()).hexdigest()

    def instances(self, split: Split) -> Sequence[Instance]:
        """Searches, which differ in nothing but their seeds, and do not tell their split."""
        places = [f"{self.fingerprint} {split} {place}" for place in range(self._edition.sizes[split])]
        names = [hashlib.sha256(place.encode()).hexdigest()[:12] for place in places]
        return [Instance(name, split, {"device": self._device, "search": name}) for name in names]

    def public_dir(self, splits: Sequence[Split]) -> Path:
        """A folder with the reference, whatever the splits."""
        return write_once(cache_folder("trimul"), {"reference.py": (HERE / "programs" / "reference.py").read_bytes()})

    def seed_harness(self) -> HarnessTree:
        """Asks for plans, renders and evaluates each, and returns the best."""
        files: dict[str, bytes] = {}
        for folder in self._edition.seeds:
            files |= HarnessTree.from_folder(HERE / folder).files
        return HarnessTree(files)

    def playbook(self) -> Playbook:
        """The catalogue of edits, of this edition's plans and of the search."""
        playbooks = [Playbook.from_toml(HERE / name) for name in self._edition.playbooks]
        return Playbook(edit=tuple(entry for each in playbooks for entry in each.edit))

    def artefact(self, answer: Any) -> Mapping[str, bytes]:
        """The kernel, the reference, and how to try it."""
        return {
            "kernel.py": answer["code"].encode(),
            "reference.py": (HERE / "programs" / "reference.py").read_bytes(),
            "README.md": ARTEFACT.replace("DEVICE", self._device).encode(),
        }


ARTEFACT = """\
# A kernel for the triangle multiplicative update

`kernel.py` defines `kernel(x, mask, weights, config)` and needs PyTorch; `reference.py` is the same function as its
definition reads. It was found, checked and timed by `sia run --plugin trimul`. To see that both agree:

    python -c "
    import torch, kernel, reference
    torch.set_default_device('DEVICE')
    h, c, n = 128, 128, 64
    names = ('left_proj', 'right_proj', 'left_gate', 'right_gate', 'out_gate')
    weights = {name + '.weight': torch.randn(h, c) / h**0.5 for name in names}
    weights |= {'norm.weight': torch.randn(c), 'norm.bias': torch.randn(c), 'to_out.weight': torch.randn(c, h) / c**0.5}
    weights |= {'to_out_norm.weight': torch.randn(h), 'to_out_norm.bias': torch.randn(h)}
    given = torch.randn(1, n, n, c), (torch.rand(1, n, n) > 0.2).float(), weights
    config = {'dim': c, 'hidden_dim': h, 'eps': 1e-5}
    torch.testing.assert_close(kernel.kernel(*given, config), reference.kernel(*given, config), atol=2e-2, rtol=2e-2)
    "
"""
