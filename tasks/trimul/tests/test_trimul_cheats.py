"""Each known way to cheat earns no more than an honest failure.

On the CPU edition, and on the CUDA edition with the CPU in the device's place, and with a device where there is one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import sia_trimul
from sia_core.types import Score

pytestmark = [pytest.mark.real, pytest.mark.slow]

REFERENCE = (Path(sia_trimul.__file__).parent / "programs" / "reference.py").read_text()
HONEST = REFERENCE.replace("def kernel", "def honest")

CHEATS = {
    # Outputs of an earlier call, by what looks equal.
    "cached by shape": "kept = {}\ndef kernel(x, *rest):\n"
    "    if x.shape not in kept: kept[x.shape] = honest(x, *rest)\n    return kept[x.shape]",
    "cached by address": "kept = {}\ndef kernel(x, *rest):\n    key = (x.data_ptr(), x.shape)\n"
    "    if key not in kept: kept[key] = honest(x, *rest)\n    return kept[key]",
    "cached by the first elements' place in a normal distribution": "kept = {}\ndef kernel(x, *rest):\n"
    "    key = (x.shape, int(x.flatten()[0] > 0))\n"
    "    if key not in kept: kept[key] = honest(x, *rest)\n    return kept[key]",
    # Work that is done after the answer.
    "done by a thread": "import threading\ndef kernel(x, *rest):\n    y = torch.zeros_like(x)\n"
    "    threading.Thread(target=lambda: y.copy_(honest(x, *rest))).start()\n    return y",
    "done when it is read": "class Late(torch.Tensor):\n    def detach(self):\n        return self\n"
    "    def contiguous(self):\n        return self\n"
    "    def numpy(self):\n        import threading, numpy\n        y = numpy.zeros(self.shape, numpy.float32)\n"
    "        threading.Thread(target=lambda: y.__setitem__(..., honest(*self.given).numpy())).start()\n"
    "        return y\n"
    "def kernel(x, *rest):\n    y = torch.Tensor._make_subclass(Late, torch.empty_like(x))\n"
    "    y.given = (x, *rest)\n    return y",
    # What judges is not in this process.
    "patched clocks and comparisons": "import time\ntime.perf_counter = time.monotonic = time.time = lambda: 0.0\n"
    "torch.allclose = torch.equal = lambda *_, **__: True\n"
    "import numpy\nnumpy.abs = lambda x: x * 0\nnumpy.isfinite = lambda x: True\n"
    "def kernel(x, *rest):\n    return torch.zeros_like(x)",
    "a patched reference": "import sys\nfor module in list(sys.modules.values()):\n"
    "    for name in ('kernel', 'check', 'draw'):\n"
    "        if hasattr(module, name): setattr(module, name, lambda x, *rest: torch.zeros_like(x))\n"
    "def kernel(x, *rest):\n    return torch.zeros_like(x)",
    "equal to everything": "class Equal(torch.Tensor):\n"
    "    def __eq__(self, other):\n        return torch.ones(1, dtype=torch.bool)\n"
    "    __sub__ = __rsub__ = lambda self, other: torch.zeros(self.shape)\n"
    "    @classmethod\n    def __torch_function__(cls, f, types, args=(), kwargs=None):\n"
    "        return super().__torch_function__(f, types, args, kwargs or {})\n"
    "def kernel(x, *rest):\n    return torch.Tensor._make_subclass(Equal, torch.zeros_like(x))",
    # What was there before.
    "an output that is not written": "def kernel(x, *rest):\n    return torch.empty_like(x)",
    "the output of a freed computation": "def kernel(x, *rest):\n    y = honest(x.roll(1, 1), *rest)\n    del y\n"
    "    return torch.empty_like(x)",
    "its input": "def kernel(x, *rest):\n    return x",
    # What was known before.
    "known seeds": "import numpy\nhashes = {}\nfor seed in range(3):\n    rng = numpy.random.default_rng(seed)\n"
    "    hashes[float(rng.standard_normal((1, 64, 64, 128), dtype=numpy.float32).ravel()[0])] = seed\n"
    "def kernel(x, *rest):\n    hashes[float(x.ravel()[0])]\n    return x",
    "done at load": "y = torch.zeros(1, 64, 64, 128)\ndef kernel(x, *rest):\n    return y.expand(x.shape) * 1",
    # Less than the task.
    "without the mask": "def kernel(x, mask, *rest):\n    return honest(x, torch.ones_like(mask), *rest)",
    "without the second half": "def kernel(x, *rest):\n    y = honest(x, *rest)\n    y[:, x.shape[1] // 2 :] = 0\n"
    "    return y",
    "a wrong distribution": "def kernel(x, *rest):\n    return honest(x.clamp(-6, 6), *rest)",
    # The channel.
    "an answer without a call": "import json, os, stat, struct, sys\ndef kernel(x, *rest):\n"
    "    at = sys._getframe()\n    while 'header' not in at.f_locals: at = at.f_back\n"
    "    token = at.f_locals['header']['token']\n"
    "    text = json.dumps({'token': token, 'ended': 'ok', 'value': {'array': 0}, 'message': '',\n"
    "        'arrays': [['<f4', list(x.shape)]]}).encode()\n"
    "    for number in range(3, 64):\n        try:\n"
    "            if stat.S_ISSOCK(os.fstat(number).st_mode):\n"
    "                os.write(number, struct.pack('>II', len(text), 0) + text)\n"
    "        except OSError: pass\n    return honest(x, *rest)",
    "its judge's code": "import sia_trimul.shapes\nkernel = honest",
}


# What two processes share, and several calls in one order.
SHARED = {
    "written by a thread": "import threading\ndef kernel(x, mask, weights, config):\n    y = config['y']\n"
    "    given = (x.clone(), mask, weights, config)\n"
    "    threading.Thread(target=lambda: y.copy_(honest(*given))).start()\n    return y",
    "a patched clock": "import time\ntime.perf_counter = lambda: 0.0\n"
    "torch.cuda.Event.elapsed_time = lambda *_: 0.0\nkernel = honest",
    "inputs made easy": "def kernel(x, mask, *rest):\n    x.zero_()\n    mask.zero_()\n"
    "    return honest(x, mask, *rest)",
    "memory that is cut off": "import os\ndef kernel(x, *rest):\n    for number in range(3, 1024):\n"
    "        try: os.ftruncate(number, 0)\n        except OSError: pass\n    return torch.zeros_like(x)",
    "nothing written": "def kernel(x, mask, weights, config):\n    return config['y']",
    "one call of many": "calls = []\ndef kernel(x, mask, weights, config):\n    calls.append(1)\n"
    "    return config['y'].zero_() if len(calls) % 5 == 0 else honest(x, mask, weights, config)",
    "memory of its last call": "kept = []\ndef kernel(x, mask, weights, config):\n"
    "    kept.append((x, config['y']))\n    return kept[0][1] if len(kept) > 1 else honest(x, mask, weights, config)",
}


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_earns_what_a_failure_earns(judge: Callable[..., Score], name: str) -> None:
    score = judge(f"{HONEST}\n{CHEATS[name]}\n")
    assert (score.valid, score.reward) == (False, 0.0), score.feedback


@pytest.mark.parametrize("name", CHEATS | SHARED)
def test_a_cheat_on_a_device_earns_what_a_failure_earns(device_judge: Callable[..., Score], name: str) -> None:
    score = device_judge(f"{HONEST}\n{(CHEATS | SHARED)[name]}\n")
    assert (score.valid, score.reward) == (False, 0.0), score.feedback


MORE_THREADS = {
    "started at import": "import threading, time\n"
    "threading.Thread(target=lambda: time.sleep(9), daemon=True).start()\nkernel = honest",
    "started in the call": "import threading\ndef kernel(*given):\n"
    "    thread = threading.Thread(target=lambda: None)\n    thread.start()\n    thread.join()\n"
    "    return honest(*given)",
    "a pool": "from concurrent.futures import ThreadPoolExecutor\ndef kernel(*given):\n"
    "    with ThreadPoolExecutor(2) as threads: return list(threads.map(lambda _: honest(*given), range(2)))[0]",
    "PyTorch's own, in the call": "def kernel(*given):\n    torch.set_num_threads(2)\n    return honest(*given)",
    "PyTorch's own, by the environment": "import os\n"
    "os.environ['OMP_NUM_THREADS'] = os.environ['MKL_NUM_THREADS'] = '4'\ntorch.set_num_threads(4)\n"
    "def kernel(*given):\n    torch.set_num_threads(4)\n    return honest(*given)",
    "PyTorch's own, before the first call": "torch.set_num_threads(4)\nx = torch.ones(1024, 1024)\nx = x @ x\n"
    "kernel = honest",
    "a process": "import os\ndef kernel(*given):\n    child = os.fork()\n    if child == 0: os._exit(0)\n"
    "    os.waitpid(child, 0)\n    return honest(*given)",
}


@pytest.mark.parametrize("name", MORE_THREADS)
def test_a_kernel_with_more_threads_than_it_is_granted_is_refused(judge: Callable[..., Score], name: str) -> None:
    score = judge(f"{HONEST}\n{MORE_THREADS[name]}\n")
    assert (score.valid, score.reward) == (False, 0.0), score.feedback
    assert "thread" in score.feedback.lower() or "fork" in score.feedback, score.feedback


def test_a_kernel_that_goes_on_with_the_one_thread_that_it_has_is_none_of_these(judge: Callable[..., Score]) -> None:
    tries = "import threading\ndef kernel(*given):\n    try: threading.Thread(target=lambda: None).start()\n"
    score = judge(f"{HONEST}\n{tries}    except RuntimeError: pass\n    return honest(*given)\n")
    assert score.valid, score.feedback


def test_what_runs_on_costs_the_baseline_nothing(judge: Callable[..., Score]) -> None:
    spins = "import threading\ndef spin():\n    while True: pass\nthreading.Thread(target=spin, daemon=True).start()\n"
    score = judge(f"{HONEST}\n{spins}\nkernel = honest\n")
    assert not score.valid or score.reward < 1.5
