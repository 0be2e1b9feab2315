"""A module's Triton kernels, compiled for a device that need not be here, as its ``kernel`` would launch them.

    python tasks/trimul/bench/compiled.py [FILE] [--capability 90]

Prints what the compiler says of each: what fits a multiprocessor, and what is spilled.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from sia_trimul.device import module_of
from sia_trimul.drawing import drawn_on
from sia_trimul.shapes import TIMING, Shape

_TYPES = {torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32"}
_OPTIONS = ("num_warps", "num_stages")
_STEP, _WARP = 16, 32
_FUSE = {"enable_fp_fusion": True}
"""Triton's default, which it is about to change, and warns of until it is said."""


REGISTERS = 65536
"""Of a multiprocessor, as many on each of these devices."""

SHARED_BYTES = {80: 163 * 1024, 90: 227 * 1024}
"""Most bytes of a multiprocessor's shared memory for a program, by capability."""


@dataclass(frozen=True)
class Compiled:
    """The compiler's figures of a kernel.

    Bytes of shared memory, warps, registers a thread, bytes spilled of a thread's, and instructions of matrix products.
    """

    name: str
    shared: int
    warps: int
    registers: int
    spilled: int
    products: int

    def programs(self, capability: int) -> int:
        """How many of them a multiprocessor can hold at once, by its registers and shared memory."""
        by_registers = REGISTERS // (self.registers * _WARP * self.warps)
        return min(by_registers, SHARED_BYTES[capability] // self.shared) if self.shared else by_registers


def main() -> None:
    import measure

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", help="or the kernel of results/plan_cuda.json")
    parser.add_argument("--capability", type=int, choices=SHARED_BYTES, default=90)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        module = module_of(options.file or measure.cuda_kernel(Path(folder)))
    print("| C | kernel | warps | registers | spilled | shared memory | programs at once | matrix instructions |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for c in sorted({shape.c for shape in TIMING}):
        for each in compiled(module, Shape(32, 1, c), options.capability):
            parts = (c, each.name, each.warps, each.registers, each.spilled, each.shared)
            print(f"| {' | '.join(map(str, parts))} | {each.programs(options.capability)} | {each.products} |")


def compiled(module: ModuleType, shape: Shape, capability: int) -> list[Compiled]:
    """The kernels that a module launches for inputs of a shape, compiled for a capability, 90 for 9.0."""
    launches: list[tuple[JITFunction[Any], tuple[Any, ...], dict[str, Any]]] = []

    class Recorded:
        def __init__(self, function: JITFunction[Any]) -> None:
            self._function = function

        def __getitem__(self, grid: Any) -> Any:
            return lambda *arguments, **named: launches.append((self._function, arguments, named))

    functions = {name: each for name, each in vars(module).items() if isinstance(each, JITFunction)}
    vars(module).update({name: Recorded(each) for name, each in functions.items()})
    module.kernel(*drawn_on("cpu", shape, 1))
    vars(module).update(functions)
    return [_compile(*each, capability) for each in launches]


def _compile(
    function: JITFunction[Any], arguments: tuple[Any, ...], named: dict[str, Any], capability: int
) -> Compiled:
    options = {name: value for name, value in named.items() if name in _OPTIONS}
    constants = {name: value for name, value in named.items() if name not in _OPTIONS}
    signature = dict.fromkeys(function.arg_names, "constexpr")
    divisible = {}
    for place, (name, value) in enumerate(zip(function.arg_names, arguments, strict=False)):
        is_tensor = isinstance(value, torch.Tensor)
        signature[name] = _TYPES[value.dtype] if is_tensor else "fp32" if isinstance(value, float) else "i32"
        if is_tensor or (isinstance(value, int) and value % _STEP == 0):
            divisible[(place,)] = [["tt.divisibility", _STEP]]
    source = ASTSource(fn=function, signature=signature, constexprs=constants, attrs=divisible)
    made = triton.compile(source, target=GPUTarget("cuda", capability, _WARP), options=options | _FUSE)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", told)}
    spilled = used["STACK"] + used["LOCAL"]
    products = len(re.findall(r"wgmma\.mma_async|mma\.sync", made.asm["ptx"]))
    about = made.metadata
    return Compiled(function.__name__, about.shared, about.num_warps, used["REG"], spilled, products)


if __name__ == "__main__":
    main()
