"""The six keep the contract of learners, with their own settings and with others."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sia_core.learning import Learner
from sia_testing.learners import LearnerContract


class TestLearners(LearnerContract):
    @pytest.fixture
    def make(self, learner: Learner) -> Callable[[], Learner]:
        return lambda: type(learner)(**learner.config.model_dump())
