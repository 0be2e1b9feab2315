"""Base training of the tiny policy."""

from __future__ import annotations

from pathlib import Path

import pytest

from sia_core.errors import UsageError
from sia_core.learning import Trace
from sia_torch.engine import Torch

TINY = {"hidden_size": 32, "buckets": 512}


def test_base_training_lowers_surprise_and_is_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    text = tmp_path / "text"
    text.write_text("被告人盗窃他人财物，数额较大，其行为已构成盗窃罪。" * 30)
    fresh = Torch(tiny=TINY)
    ids = fresh.tokens.encode("被告人盗窃他人财物")
    trace = Trace(ids, [0, *[1] * (len(ids) - 1)], [0.0] * len(ids))
    first = Torch(tiny=TINY, base_text=str(text), base_steps=10)
    assert sum(first.logprobs([trace])[0]) > sum(fresh.logprobs([trace])[0]) + 5
    monkeypatch.setattr("sia_torch.base._train", lambda *_: pytest.fail("trained again"))
    again = Torch(tiny=TINY, base_text=str(text), base_steps=10)
    assert again.logprobs([trace]) == first.logprobs([trace])


def test_a_base_text_must_be_there_and_long_enough(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        Torch(tiny=TINY, base_text=str(tmp_path / "nothing"))
    (tmp_path / "short").write_text("short")
    with pytest.raises(UsageError, match="too short"):
        Torch(tiny=TINY, base_text=str(tmp_path / "short"))
