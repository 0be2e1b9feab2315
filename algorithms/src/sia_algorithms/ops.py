"""Shared by the learners: names of shapes, masked differences, checks of their input.

Shapes are in the names: B sequences of a micro-batch, T tokens, so ``logprobs_BT``
has a row a sequence and a column a token, and ``margin_B`` a number a sequence.
Entry t is about token t given the tokens before it. The mask is 1 on tokens that
the policy sampled; where it is 0 a tensor may hold anything, so differences are
taken before anything is exponentiated or summed.

Credit is plain Python over floats and sums with ``fmean`` and ``fsum``, which are
exact, so that the order of rollouts does not change it. Losses are torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor

from sia_core.errors import NoSignal, TrainingError
from sia_core.evidence import RewardStats
from sia_core.learning import Batch, Datum, Sample, Trace, check_credit
from sia_core.types import LARGEST_REWARD

Group = Sequence[Sample]

SMALLEST = 1e-30
"""An advantage or a difference of rewards below this is 0 to an engine, which computes in single precision."""


def difference(first_BT: Tensor, second_BT: Tensor, batch: Batch) -> Tensor:
    """first - second on sampled tokens, 0 elsewhere; no gradient and no NaN leaks from where the mask is 0."""
    sampled_BT = batch.mask_BT > 0
    return torch.where(sampled_BT, first_BT - second_BT, torch.zeros_like(first_BT))


def k3(q_BT: Tensor) -> Tensor:
    """exp(q) - q - 1, at least 0. With q = logp_ref - logp and tokens from the policy, its mean is KL(policy || ref).

    Schulman 2020, "Approximating KL divergence", estimator k3.
    """
    return torch.exp(q_BT) - q_BT - 1


def clipped(ratio: Tensor, advantages: Tensor, low: float, high: float) -> Tensor:
    """-min(rho A, clip(rho, 1 - low, 1 + high) A), the pessimistic surrogate (Schulman 2017, eq. 7)."""
    return -torch.minimum(ratio * advantages, torch.clamp(ratio, 1 - low, 1 + high) * advantages)


def watch(logprobs_BT: Tensor, batch: Batch) -> dict[str, Tensor]:
    """Sums over sampled tokens, for people and for stops; each divided by ``tokens`` is a mean.

    ``kl_old`` estimates KL(sampler || policy), ``kl_ref`` KL(policy || base), in nats
    a token; ``surprise`` is -logp, on fresh samples the policy's entropy.
    """
    with torch.no_grad():
        moved_BT = difference(logprobs_BT, batch.old_logprobs_BT, batch)
        sums = {
            "tokens": batch.mask_BT.sum(),
            "kl_old": k3(moved_BT).sum(),
            "surprise": -difference(logprobs_BT, torch.zeros_like(logprobs_BT), batch).sum(),
        }
        if batch.reference_BT is not None:
            sums["kl_ref"] = k3(difference(batch.reference_BT, logprobs_BT, batch)).sum()
    return sums


def check(groups: Sequence[Group], *, values: bool = False, reference: bool = False) -> None:
    """TrainingError where rollouts are not one agent's, not grouped by instance, or malformed."""
    samples = list(chain.from_iterable(groups))
    agents = sorted({sample.agent for sample in samples})
    if len(agents) > 1:
        raise TrainingError(f"stale rollouts: they come from {len(agents)} agents ({', '.join(agents)}), not from one")
    for group in groups:
        instances = sorted({sample.instance for sample in group})
        if len(instances) > 1:
            raise TrainingError(f"a group mixes the instances {', '.join(instances)}; group rollouts by instance")
    for sample in samples:
        if not abs(sample.reward) <= LARGEST_REWARD:
            raise TrainingError(
                f"a rollout of {sample.instance} has the reward {sample.reward}; "
                f"it must be a number, and at most {LARGEST_REWARD:g}"
            )
        for trace in sample.traces:
            fault = _fault(trace, values, reference)
            if fault:
                raise TrainingError(f"a trace of {sample.instance} cannot be trained on: {fault}")


def _fault(trace: Trace, values: bool, reference: bool) -> str | None:
    """The first fault of a trace, or None."""
    rows = {"mask": trace.mask, "logprobs": trace.logprobs, "values": trace.values, "reference": trace.reference}
    names = {"mask", "logprobs", *(["values"] if values else []), *(["reference"] if reference else [])}
    for name, row in rows.items():
        if row is None and name in names:
            return f"the learner needs {name}, and none were recorded"
        if row is not None and len(row) != len(trace.tokens):
            return f"{len(row)} {name} for {len(trace.tokens)} tokens"
        if row is not None and not all(abs(entry) <= LARGEST_REWARD for entry in row):
            return f"{name} hold a NaN, an infinity or a number past {LARGEST_REWARD:g}"
    if any(entry not in (0, 1) for entry in trace.mask) or (trace.mask and trace.mask[0]):
        return "the mask must be 0 or 1, and 0 at the first token, which nothing precedes"
    if any(not (0 <= index < len(trace.mask) and trace.mask[index]) for index, _ in trace.step_rewards):
        return "a step reward stands where no token was sampled"
    if not all(abs(reward) <= LARGEST_REWARD for _, reward in trace.step_rewards):
        return f"a step reward is not a number of at most {LARGEST_REWARD:g}"
    return None


def differing(groups: Sequence[Group]) -> list[Group]:
    """The groups in which two rewards differ; NoSignal if there is none."""
    result = [group for group in groups if not flat(group)]
    if not result:
        raise NoSignal(
            f"in none of {len(groups)} groups do two rollouts differ in reward, so every advantage is zero; "
            "sample other instances or more rollouts an instance, or start with best-of-n"
        )
    return result


def signal(data: list[Datum]) -> list[Datum]:
    """The data; NoSignal if none of them has an advantage, TrainingError if one is past what engines compute with."""
    for datum in data:
        check_credit(datum)
    if not any(abs(advantage) > SMALLEST for datum in data for advantage in datum.advantages):
        raise NoSignal(
            "every advantage is zero: the rollouts that differ were cut short, the policy was never asked, "
            "or rewards differ by next to nothing"
        )
    return data


def flat(group: Group) -> bool:
    """Whether all rewards of a group are the same, but for what rounding does to equal ones."""
    rewards = [sample.reward for sample in group]
    return not rewards or max(rewards) - min(rewards) <= 1e-12 * max(map(abs, rewards))


def flat_objections(stats: RewardStats) -> list[str]:
    """Why advantages relative to a group would be zero. Groups of one say nothing of larger ones."""
    if stats.deviation == 0:
        return [f"every rollout earned {stats.mean:g}: there is nothing to prefer"]
    if stats.flat_groups == 1:
        return ["in no group do two rollouts differ in reward: every advantage would be zero"]
    return []


def trained(sample: Sample) -> list[Trace]:
    """The traces of a sample that hold a sampled token."""
    return [trace for trace in sample.traces if any(trace.mask)]


def spread(trace: Trace, value: float) -> list[float]:
    """One number for all sampled tokens, 0 elsewhere."""
    return [value if entry else 0.0 for entry in trace.mask]


def order(sample: Sample) -> tuple[float, bytes]:
    """Sorts the best first. Ties go by a hash of the tokens: neither their order nor their content is preferred."""
    return -sample.reward, hashlib.blake2b(repr(written(sample)).encode(), digest_size=8).digest()


def written(sample: Sample) -> tuple[tuple[int, ...], ...]:
    """The token ids of a sample, by which two samples are the same."""
    return tuple(tuple(trace.tokens) for trace in sample.traces)
