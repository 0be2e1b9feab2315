"""The verifier: what it shows of the counts, what it scores, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest

from sia_core.plugins import Plugins
from sia_core.types import Called, Instance, VerifierContext
from sia_denoising import problems
from sia_denoising.generator import Generator
from sia_denoising.task import Denoising
from sia_denoising.verifier import WORST, DenoisingVerifier
from sia_runtime.sandbox.choosing import choose
from sia_runtime.sandbox.program_host import open_program
from sia_testing.tasks import TaskContract
from sia_testing.verifiers import Judged, VerifierContract

INSTANCE = Instance("search-0", "search", {"draw": 0})
HALF = {"code": "def denoise(counts):\n    return counts + counts.mean(axis=0)\n", "plan": None}


class Opened:
    """Runs trusted code in this process, as ``ctx.open`` would in a sandbox; remembers what it was given."""

    def __init__(self, ended: str = "ok") -> None:
        self.given: list[Any] = []
        self._ended = ended

    def __call__(self, files: Mapping[str, bytes], module: str, **_: Any) -> Opened:
        self._names: dict[str, Any] = {}
        exec(files[f"{module}.py"], self._names)
        return self

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def call(self, function: str, arguments: list[Any], seconds: float) -> Called:
        self.given += arguments
        if self._ended != "ok":
            return Called(self._ended, message="ZeroDivisionError in line 2")
        return Called("ok", self._names[function](*arguments), 0.5)


def context(opened: Any, *, seed: int = 3, final: bool = True, data_seed: int = 5) -> VerifierContext:
    return VerifierContext(run=None, seed=seed, open=opened, final=final, data_seed=data_seed)  # type: ignore[arg-type]


@pytest.fixture
def verifier(data: str) -> DenoisingVerifier:
    return DenoisingVerifier(data)


def test_it_scores_by_the_metric_and_shows_all(verifier: DenoisingVerifier, data: str) -> None:
    score = verifier.score(INSTANCE, HALF, context(Opened()))
    assert score.valid
    assert score.reward == score.metrics["mse_norm"]
    assert {"poisson_norm", "poisson_official", "balanced", "share_moved", "seconds"} <= score.metrics.keys()
    assert "mse_norm" in score.feedback
    balanced = DenoisingVerifier(data, reward="balanced").score(INSTANCE, HALF, context(Opened()))
    assert balanced.reward == score.metrics["balanced"]


def test_on_sealed_cells_magic_stands_beside_it(verifier: DenoisingVerifier) -> None:
    sealed = Instance("sealed-0", "sealed", {"draw": 0})
    score = verifier.score(sealed, HALF, context(Opened()))
    assert score.reward == score.metrics["mse_norm"] != score.metrics["magic_mse_norm"]
    assert {"magic_poisson_norm", "magic_balanced"} <= score.metrics.keys()
    assert not any(name.startswith("magic") for name in verifier.score(INSTANCE, HALF, context(Opened())).metrics)


def test_the_same_question_gets_the_same_score(verifier: DenoisingVerifier, data: str) -> None:
    first = verifier.score(INSTANCE, HALF, context(Opened()))
    assert verifier.score(INSTANCE, HALF, context(Opened())) == first
    assert DenoisingVerifier(data).score(INSTANCE, HALF, context(Opened())) == first
    assert verifier.score(INSTANCE, HALF, context(Opened(), seed=4)) != first
    assert verifier.score(INSTANCE, HALF, context(Opened(), final=False)) != first


def test_the_tissue_that_is_made_up_follows_from_the_runs_secret_and_is_not_the_one_that_anybody_may_draw(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(problems, "TISSUE", Generator(cells=120, genes=200, depth=400))
    scorer, opened = DenoisingVerifier(), Opened()
    for data_seed in (5, 6, problems.SPECIMEN, 5):
        scorer.score(INSTANCE, HALF, context(opened, data_seed=data_seed))
    first, second, specimen, again = opened.given
    assert np.array_equal(first, again)
    trains = (first, second, specimen)
    totals = {train.sum() for train in trains}
    assert len(totals) == 3


def test_the_answer_sees_the_train_side_alone_and_cannot_change_it(verifier: DenoisingVerifier) -> None:
    opened = Opened()
    spoil = {"code": "def denoise(counts):\n    counts[:] = 0\n    return counts + 1.0\n"}
    first = verifier.score(INSTANCE, HALF, context(opened))
    verifier.score(INSTANCE, spoil, context(opened))
    assert verifier.score(INSTANCE, HALF, context(opened)) == first
    judge = verifier._problems(context(opened)).judge("search-0", "search", 3, final=True)
    assert opened.given[0].dtype == np.int32
    assert np.array_equal(opened.given[0], judge.train)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("return -1.0 * counts", "negative"),
        ("return counts[:, :-1]", "returned shape"),
        ("return counts * 0.0", "have none after denoising"),
        ("import numpy; return numpy.full(counts.shape, numpy.nan)", "not finite"),
        ("return 'nothing'", "numpy array of numbers"),
        ("counts = counts + 0.0; counts[:, 0] += counts.sum(axis=1); return counts", "mass was dumped on it"),
    ],
)
def test_what_breaks_a_rule_is_invalid_and_told_why(verifier: DenoisingVerifier, code: str, message: str) -> None:
    score = verifier.score(INSTANCE, {"code": f"def denoise(counts):\n    {code}\n"}, context(Opened()))
    assert not score.valid
    assert score.reward == WORST
    assert message in score.feedback


def test_a_module_that_fails_is_invalid_with_its_own_words(verifier: DenoisingVerifier) -> None:
    for ended in ("error", "timeout", "memory"):
        score = verifier.score(INSTANCE, HALF, context(Opened(ended)))
        assert not score.valid
        assert score.feedback == f"{ended}: ZeroDivisionError in line 2"


def test_no_reward_falls_below_the_worst(verifier: DenoisingVerifier) -> None:
    flat = {"code": "def denoise(counts):\n    return counts * 0.9 + counts.mean() * (counts.shape[1] % 7 + 1)\n"}
    assert verifier.score(INSTANCE, flat, context(Opened())).reward >= WORST


@pytest.mark.real
@pytest.mark.slow
def test_a_rendered_module_is_scored_in_a_real_sandbox(verifier: DenoisingVerifier, seed: Any) -> None:
    plugins = Plugins.discover()
    sandbox = choose([plugins.create("sandbox", offer.name) for offer in plugins.of_kind("sandbox")]).sandbox
    ctx = context(partial(open_program, sandbox))
    score = verifier.score(INSTANCE, seed.render(seed.plans.MAGIC), ctx)
    assert score.valid, score.feedback
    assert score.reward > 0
    hostile = {"code": "import os\ndef denoise(counts):\n    return os.listdir('/root')\n"}
    assert not verifier.score(INSTANCE, hostile, ctx).valid


class TestDenoisingVerifier(VerifierContract):
    """The contract, on the made-up tissue; programs run in this process."""

    @pytest.fixture(autouse=True)
    def _small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(problems, "TISSUE", Generator(cells=120, genes=200, depth=400))

    @pytest.fixture
    def make(self) -> Callable[[], DenoisingVerifier]:
        return DenoisingVerifier

    @pytest.fixture
    def judged(self) -> list[Judged]:
        wrong = {"code": "def denoise(counts):\n    return -1.0 * counts\n", "plan": None}
        # On sealed, MAGIC is measured, too, and projects at random in its own way, whatever is drawn.
        return [Judged(each, HALF, wrong) for each in (INSTANCE, Instance("gate-0", "gate", {"draw": 0}))]

    @pytest.fixture
    def ctx(self) -> VerifierContext:
        return context(Opened())


def test_what_the_tasks_verifier_draws_cannot_be_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problems, "TISSUE", Generator(cells=120, genes=200, depth=400))
    TaskContract().test_what_its_verifier_draws_cannot_be_predicted(lambda seed: Denoising(seed=seed))
