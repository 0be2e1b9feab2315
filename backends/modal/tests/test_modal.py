"""The backend without its service: the contract against a stand-in, and what Modal builds and runs locally."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import modal
import pytest
from example_runs import EXAMPLE, command

from sia_cli import main
from sia_core.errors import UsageError
from sia_core.plugins import Plugins
from sia_core.types import Backend
from sia_modal import cloud as cloud_module
from sia_modal.app import build, pinned
from sia_modal.backend import ModalBackend
from sia_modal.settings import Settings
from sia_modal.work import Work
from sia_runtime.jobs import Parcel
from sia_testing.backends import HERE, BackendContract


class MemoryCloud:
    """Stands in for Modal: a dictionary for its volume, and one container, in this process."""

    def __init__(self) -> None:
        self.volume: dict[str, bytes] = {}
        self.uploads: list[str] = []
        self._work = Work(self.volume.__getitem__)

    def upload(self, contents: Mapping[str, bytes]) -> None:
        self.uploads += contents
        self.volume.update(contents)

    def run(self, parcel: str) -> tuple[str, dict[str, bytes]]:
        return self._work.run(parcel)

    def close(self) -> None:
        self._work.stop()


class TestModal(BackendContract):
    @pytest.fixture
    def cloud(self) -> MemoryCloud:
        return MemoryCloud()

    @pytest.fixture
    def backend(self, cloud: MemoryCloud) -> Iterator[ModalBackend]:
        backend = ModalBackend.of(cloud, Settings(containers=2))
        yield backend
        backend.close()

    def test_what_is_uploaded_is_not_uploaded_again(self, backend: Backend, cloud: MemoryCloud, tmp_path: Path) -> None:
        self.test_what_a_job_needs_of_the_run_is_there(backend, tmp_path)
        before = list(cloud.uploads)
        self.test_a_file_of_the_users_is_the_one_of_the_moment(backend, tmp_path / "again")
        assert len(cloud.uploads) == len(set(cloud.uploads))
        assert len(cloud.uploads) == len(before) + 1  # the file that was changed


def test_the_app_and_its_class_are_built_without_a_token(tmp_path: Path) -> None:
    (tmp_path / "sia_core-0.1.0-py3-none-any.whl").touch()
    app, _ = build(Settings(gpu="H100:8", secret="huggingface", wheels=str(tmp_path), retries=2))
    assert app.name == "sia"
    with pytest.raises(UsageError, match="no wheel of sia-core"):
        build(Settings(wheels=str(tmp_path / "nowhere")))


@pytest.mark.filterwarnings("ignore:.*executing locally")
def test_a_job_runs_in_the_class_locally(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # Modal calls the class's exit only in a container
    _, decorated = build(Settings())
    assert isinstance(decorated, modal.Cls)
    text, files = decorated().run.local(json.dumps(Parcel(f"{HERE}:echo", {"value": [1, "偷"]}).to_json()))
    assert json.loads(text)["result"] == [1, "偷"]
    assert files == {}


def test_the_image_has_the_versions_that_are_here() -> None:
    ours, others = pinned()
    assert any(each.startswith("sia-core==") for each in ours)
    assert any(each.startswith("pydantic==") for each in others)
    assert not [each for each in [*ours, *others] if "+" in each]


def test_without_a_token_its_variables_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cloud_module, "config", {})
    assert main([*command(EXAMPLE, tmp_path), "--backend", "modal"]) == 2
    error = capsys.readouterr().err
    assert "MODAL_TOKEN_ID and MODAL_TOKEN_SECRET" in error
    assert "modal token new" in error


def test_a_service_that_does_not_answer_is_not_waited_for() -> None:
    never = threading.Event()
    with pytest.raises(UsageError, match=r"did not answer within 0\.05 s"):
        cloud_module._within(0.05, never.wait)
    never.set()


def test_a_setting_that_cannot_be_is_a_users_mistake() -> None:
    with pytest.raises(UsageError, match=r"containers.*The settings are app, containers"):
        ModalBackend(Plugins(), containers="many")


def test_the_library_is_imported_only_where_it_is_asked_for() -> None:
    code = "import sys, sia_core.plugins as p; p.Plugins.discover().rows(); print('modal' in sys.modules)"
    environment = {**os.environ, "SIA_PLUGINS": "modal"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert result.stdout.strip() == "False"


@pytest.mark.slow
def test_a_false_token_is_told_in_time(tmp_path: Path) -> None:
    """The SDK alone tries for a minute where there is no network; with one, the service refuses at once."""
    token = {"MODAL_TOKEN_ID": "ak-false", "MODAL_TOKEN_SECRET": "as-false", "HOME": str(tmp_path)}
    argv = [sys.executable, "-m", "sia_cli", *command(EXAMPLE, tmp_path), "--backend", "modal"]
    result = subprocess.run(argv, capture_output=True, text=True, check=False, env={**os.environ, **token}, timeout=55)
    assert result.returncode == 2, result.stderr
    assert "MODAL_TOKEN_ID" in result.stderr
