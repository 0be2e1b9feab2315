"""Call a kernel on a device, in the process of that kernel, over inputs that lie in memory handed to it."""

import json
import os
import sysconfig
import time

HERE = os.path.dirname(os.path.abspath(__file__))


def prepare():
    """Before anything of the candidate's is loaded: the environment, and Triton's launcher, which was built outside."""
    with open(os.path.join(HERE, "environment.json")) as file:
        os.environ.update(json.load(file))
    try:
        from triton import knobs
    except ImportError:
        return
    knobs.build.impl = built


def built(name, source, folder, *_):
    path = os.path.join(HERE, name + sysconfig.get_config_var("EXT_SUFFIX"))
    if not os.path.exists(path):
        raise RuntimeError(f"{name} would have to be compiled, and there is no compiler here")
    return path


prepare()

import candidate  # noqa: E402
import device_memory  # noqa: E402
import torch  # noqa: E402

torch.set_grad_enabled(False)
kept = []


def start(device):
    torch.zeros(1, device=device)


def calls(order, descriptor):
    """Call the kernel on each set of inputs, in turn; the seconds that took by the device's clock."""
    memory = handed(order, descriptor)
    synchronise, clock = clocks(order["device"])
    synchronise()
    started = clock()
    for places in order["calls"]:
        # One after the other, while the device is at work on the call before.
        each = {name: memory.floats(*place) for name, place in places.items()}
        out, x, mask = each.pop("y"), each.pop("x"), each.pop("mask")
        y = candidate.kernel(x, mask, each, {**order["config"], "y": out})
        if not isinstance(y, torch.Tensor):
            raise TypeError(f"kernel returned a {type(y).__name__}, not a tensor")
        if y.shape != out.shape or y.dtype != out.dtype:
            raise TypeError(f"y is {y.dtype} {list(y.shape)}, and should be {out.dtype} {list(out.shape)}")
        if y.data_ptr() != out.data_ptr():
            out.copy_(y)
    ended = clock()
    synchronise()
    return between(started, ended)


def nothing(order, descriptor):
    """The least time of a process that is handed memory and answers."""
    handed(order, descriptor)
    synchronise, clock = clocks(order["device"])
    synchronise()
    started = clock()
    ended = clock()
    synchronise()
    return between(started, ended)


def drop():
    """Give back the memory that was handed over."""
    while kept:
        kept.pop().close()


def handed(order, descriptor):
    kept.append(device_memory.Shared(order["size"], order["device"], descriptor))
    return kept[-1]


def clocks(device):
    """Functions to wait for the device and to note its time."""
    if device != "cuda":
        return (lambda: None), time.perf_counter

    def note():
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    return torch.cuda.synchronize, note


def between(started, ended):
    return ended - started if isinstance(started, float) else started.elapsed_time(ended) / 1e3
