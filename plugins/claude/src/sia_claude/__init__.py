"""An improver that asks Claude, through the SDK of its maker."""
