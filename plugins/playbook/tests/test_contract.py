"""The improver keeps the contract of improvers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sia_playbook.improver import Bandit
from sia_testing.improvers import ImproverContract


class TestBandit(ImproverContract):
    @pytest.fixture
    def make(self) -> Callable[[], Bandit]:
        return Bandit
