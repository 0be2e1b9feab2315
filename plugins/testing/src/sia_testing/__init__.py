"""Tests for plugin authors: small fakes of what surrounds a plugin, and contract suites."""
