"""An engine for SIA through the Tinker API."""
