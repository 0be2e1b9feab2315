"""A verifier's draws, and harnesses that know its code and try to predict them: each earns nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from plugin_sites import write_plugin

from sia_core.evidence import Rollout
from sia_core.harness import HarnessTree
from sia_core.plugins import Plugins
from sia_core.run.ledger import Ledger
from sia_core.run.observe import Emitter
from sia_core.run.rollouts import Rollouts, Setting, Sweep
from sia_core.run.trees import Trees
from sia_core.types import OfferRef
from sia_runtime.local import LocalBackend

pytestmark = pytest.mark.real

PLUGIN = """
from sia_core.hookspecs import Offer, hookimpl
sia_api = 1
@hookimpl
def sia_tasks(): return [Offer("fortune", "s", "fortune_parts:Fortune")]
@hookimpl
def sia_verifiers(): return [Offer("fortune", "s", "fortune_parts:Draws")]
"""

PARTS = """
import random
from pathlib import Path
from pydantic import RootModel
from sia_core.types import Instance, Limits, Metric, OfferRef, Score

class Guesses(RootModel[list[int]]):
    pass

class Fortune:
    name, kind, brief, answer, failure_reward, fingerprint = "fortune", "discover", "Guess.", Guesses, 0.0, "1"
    metric, verifier, limits, evaluations = Metric("right"), OfferRef("fortune"), Limits(solve_seconds=20.0), 3

    def __init__(self, seed=0):
        pass

    def instances(self, split):
        return [Instance(f"{split}-{place}", split, {"draw": place}) for place in range(2)]

    def public_dir(self, splits):
        return Path(__file__).parent / "public"

class Draws:
    # Right is whoever names what was drawn; an evaluation even tells it.
    def score(self, instance, answer, ctx):
        drawn = {random.Random(seed).getrandbits(60) for seed in (ctx.seed, ctx.data_seed)}
        told = "" if ctx.final else str(random.Random(ctx.seed).getrandbits(60))
        return Score(float(bool(drawn & set(answer))), feedback=told)
"""

HARNESS = """
import hashlib, json, os, random, time

def drawn(seeds):
    return [random.Random(seed).getrandbits(60) for seed in seeds]

def seed_of(*parts):
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:6])

def keyed(key, *purpose):
    import hmac
    text = json.dumps(purpose, separators=(",", ":")).encode()
    return int.from_bytes(hmac.digest(key.encode(), text, "sha256")[:8]) >> 1

def solve(instance, ctx):
    return {BODY}
"""

PREDICTIONS = {
    "its own seed": "drawn([ctx.seed, ctx.seed + 1, str(ctx.seed)])",
    "the run's seed and the instance's id": "drawn(seed_of(run, *name, *salt) for run in range(50) "
    "for name in [(instance.id.split('-')[0], instance.id)] for salt in ((), ('answer',), ('repeat', 1)))",
    "the id and the input": "drawn([instance.id, instance.input['draw'], f'of {instance.id}', hash(instance.id)])",
    "the data set that anybody may generate": "drawn(range(5000))",
    "the time and the process": "drawn([*range(int(time.time()) - 60, int(time.time()) + 60), os.getpid()])",
    "a secret that is empty or known": "drawn(keyed(key, *purpose) for key in ('', '0', '0' * 64, 'secret') "
    "for purpose in (('data',), ('final', ctx.seed), ('evaluation', ctx.seed)))",
    "what evaluations tell": "[int(ctx.evaluate([]).feedback) for _ in range(ctx.evaluations)]",
}


Roll = Callable[[str, str], list[Rollout]]


@pytest.fixture(scope="module")
def roll(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Roll]:
    """``roll(body, split)``: the rollouts of a harness that returns what ``body`` says."""
    site, run = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("run")
    (site / "public").mkdir()
    write_plugin(site, "fortune", PLUGIN, PARTS)
    run.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch, Ledger.create(run) as ledger:
        patch.syspath_prepend(str(site))
        patch.setenv("PYTHONPATH", str(site))
        plugins = Plugins.discover()
        task, backend = plugins.create("task", "fortune"), LocalBackend(plugins)
        setting = Setting(str(run), OfferRef("fortune", {"seed": 0}), task.verifier, "namespaces", 0)
        rollouts = Rollouts(setting, ledger, backend, Emitter())

        def rolled(body: str, split: str) -> list[Rollout]:
            digest = Trees(run).put(HarnessTree({"harness.py": HARNESS.replace("{BODY}", body).encode()}))
            names = tuple(each.id for each in task.instances(split))
            evaluations = 0 if split == "sealed" else task.evaluations
            return rollouts.run(Sweep(split, digest[:12], digest, split, names, evaluations=evaluations))  # type: ignore[arg-type]

        if plugins.create("sandbox", "namespaces").probe():
            pytest.skip("the sandbox 'namespaces' does not hold here")
        yield rolled
        backend.close()


@pytest.mark.parametrize("split", ["search", "gate", "sealed"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_who_predicts_the_draw_from_what_a_harness_is_told_earns_nothing(
    prediction: str, split: str, roll: Roll
) -> None:
    for each in roll(PREDICTIONS[prediction], split):
        assert (each.outcome, each.reward) == ("ok", 0.0), (each.message, each.answer)


def test_the_evaluations_of_a_rollout_draw_alike_so_that_answers_can_be_compared(roll: Roll) -> None:
    for each in roll(PREDICTIONS["what evaluations tell"], "gate"):
        assert len(set(json.loads(each.answer or ""))) == 1
