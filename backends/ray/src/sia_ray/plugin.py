"""Hooks of sia-ray."""

from __future__ import annotations

from sia_core.hookspecs import Offer, hookimpl

sia_api = 1


@hookimpl
def sia_backends() -> list[Offer]:
    return [Offer("ray", "a Ray cluster, or one that is started on this machine", "sia_ray.backend:RayBackend")]
