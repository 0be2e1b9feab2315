"""Hooks of sia-modal."""

from __future__ import annotations

from sia_core.hookspecs import Offer, hookimpl

sia_api = 1


@hookimpl
def sia_backends() -> list[Offer]:
    return [Offer("modal", "containers of Modal, with GPUs if asked; needs a token", "sia_modal.backend:ModalBackend")]
