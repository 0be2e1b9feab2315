"""The contract on the service itself, for whoever holds a token: `make check-modal`. It costs a few cents."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from sia_core.plugins import Plugins
from sia_modal.backend import ModalBackend
from sia_modal.cloud import VARIABLES
from sia_testing.backends import BackendContract

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(os.environ.get(each) for each in VARIABLES), reason=f"needs a token: {' and '.join(VARIABLES)}"
    ),
]


class TestService(BackendContract):
    seconds = 600.0

    @pytest.fixture(scope="class")
    def backend(self) -> Iterator[ModalBackend]:
        """One for all, as starting containers takes a while."""
        backend = ModalBackend(Plugins.discover(), containers="2", wheels=os.environ.get("SIA_WHEELS", ""))
        yield backend
        backend.close()

    # These leave marks on this machine's disk, or look at its processes.
    test_a_job_runs_once = None  # type: ignore[assignment]
    test_as_many_jobs_as_it_has_room_for_run_side_by_side = None  # type: ignore[assignment]
    test_when_it_is_closed_nothing_of_it_is_left = None  # type: ignore[assignment]
