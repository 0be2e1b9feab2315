"""Runs in a browser, live while they go, and as one file."""
