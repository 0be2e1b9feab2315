"""Hooks of sia-trackers."""

from __future__ import annotations

from sia_core.hookspecs import Offer, hookimpl

sia_api = 1


@hookimpl
def sia_trackers() -> list[Offer]:
    return [
        Offer("tensorboard", "event files for TensorBoard, a folder a run", "sia_trackers.tensorboard:TensorBoard"),
        Offer("trackio", "a run of Trackio, on this machine or in a Space", "sia_trackers.trackio:Trackio"),
        Offer("wandb", "a run of Weights & Biases, online or offline", "sia_trackers.wandb:WeightsAndBiases"),
    ]
