"""Hooks of sia-dashboard."""

from __future__ import annotations

from sia_core.hookspecs import Offer, hookimpl

sia_api = 1


@hookimpl
def sia_views() -> list[Offer]:
    return [Offer("dashboard", "pages in a browser, live, or as one file", "sia_dashboard.view:Dashboard")]
