"""A backend for SIA in containers of Modal."""
