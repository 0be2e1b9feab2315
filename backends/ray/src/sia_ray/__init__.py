"""A backend for SIA on a Ray cluster."""
