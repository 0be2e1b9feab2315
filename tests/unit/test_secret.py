"""The secret of a run: its file, and the seeds that derive from it."""

from __future__ import annotations

import os
import stat
from dataclasses import asdict
from pathlib import Path

import pytest

from sia_compare.arms import Cell, Design
from sia_compare.doing import Doing
from sia_core.errors import LedgerError
from sia_core.run.rollouts import Setting, new_secret
from sia_core.run.secret import keep_secret, read_secret
from sia_core.types import OfferRef
from sia_runtime.worker.verifier_process import seed_of


def test_a_secret_comes_back_as_it_was_kept_and_its_owner_alone_may_read_it(tmp_path: Path) -> None:
    secret = new_secret()
    keep_secret(tmp_path / "secret", secret)
    assert read_secret(tmp_path / "secret") == secret
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


def test_a_secret_that_is_there_is_never_written_over(tmp_path: Path) -> None:
    keep_secret(tmp_path / "secret", first := new_secret())
    with pytest.raises(LedgerError):
        keep_secret(tmp_path / "secret", new_secret())
    assert read_secret(tmp_path / "secret") == first


def test_a_link_is_neither_read_nor_written_through(tmp_path: Path) -> None:
    keep_secret(tmp_path / "elsewhere", first := new_secret())
    (tmp_path / "secret").symlink_to("elsewhere")
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(LedgerError):
        read_secret(tmp_path / "secret")
    for name in ("secret", "dangling"):
        with pytest.raises(LedgerError):
            keep_secret(tmp_path / name, new_secret())
    assert read_secret(tmp_path / "elsewhere") == first
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("content", ["", "0", "g" * 64, "ab" * 33, "ab" * 32 + "\nmore"])
def test_a_file_that_holds_no_secret_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "secret").write_text(content)
    with pytest.raises(LedgerError, match="secret is no file with a secret: 64 hexadecimal digits"):
        read_secret(tmp_path / "secret")


def test_a_pipe_in_its_place_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "secret")
    with pytest.raises(LedgerError, match="secret is a pipe"):
        read_secret(tmp_path / "secret")


def test_a_secret_that_is_missing_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"secret: No such file or directory.*put it back.*or start the run again"):
        read_secret(tmp_path / "secret")


def test_seeds_differ_by_secret_and_by_purpose_and_fit_a_signed_number_of_64_bits() -> None:
    secrets, purposes = [new_secret() for _ in range(8)], [("data",), ("final", 1), ("final", 11), ("evaluation", 1)]
    seeds = {seed_of(secret, *purpose) for secret in secrets for purpose in purposes}
    assert len(seeds) == 32
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of(secrets[0], "final", 1) == seed_of(secrets[0], "final", 1)


def test_a_setting_that_is_given_no_secret_has_one_that_nobody_knows_and_prints_none() -> None:
    one, other = (Setting("/run", OfferRef("fake"), OfferRef("exact"), "none", 0) for _ in range(2))
    assert one.secret != other.secret
    assert one.secret not in repr(one)
    assert Setting.from_json(asdict(one)) == one


def test_the_arms_of_a_seed_share_a_secret_and_two_seeds_share_none(tmp_path: Path) -> None:
    design = Design(("--plugin", "x"), (), (), ("none", "both"), 2, "rollouts=9")
    doing = Doing(tmp_path, design, lambda cell, what: None)
    named = {cell: doing.secret_of(cell) for cell in design.cells()}
    secrets = {cell: read_secret(path) for cell, path in named.items()}
    assert secrets[Cell("none", 0)] == secrets[Cell("both", 0)] != secrets[Cell("none", 1)]
    again = Doing(tmp_path, design, lambda cell, what: None)
    assert {cell: read_secret(again.secret_of(cell)) for cell in design.cells()} == secrets
