"""The view that ``sia view`` and ``sia report`` show runs by."""

from __future__ import annotations

from sia_core.plugins import Plugins
from sia_core.view_protocol import View

VIEW = "dashboard"
"""The view that the commands ask for, by the name of its offer."""


def view(plugins: Plugins) -> View:
    """The view that is installed; PluginError that says what to install where there is none."""
    instance: View = plugins.create("view", VIEW)
    return instance
