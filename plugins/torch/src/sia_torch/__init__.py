"""An engine for SIA: samples from a causal language model and trains it, on torch, transformers and peft."""

import os

# Read when torch is loaded. Threads that wait for others by spinning take the cores from those that they wait for:
# where one other process is busy on two cores, sampling takes six times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
