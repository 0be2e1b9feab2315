"""Sampling: reproducible, within its constraint, and up to its stop."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from toy_policies import gradients, small_tiny

from sia_core.errors import TrainingError, UsageError
from sia_core.learning import Datum, Request
from sia_runtime.worker.gateway import Gateway
from sia_testing.engine_contract import LOSS
from sia_torch.constrain import Constraints, Grammar
from sia_torch.engine import Torch
from sia_torch.tokens import CharTokens

SMALL_TINY = {"hidden_size": 32, "buckets": 512}


@pytest.fixture(scope="module")
def chars() -> Torch:
    """One that begins with preferences, also among whole answers."""
    return Torch(policy="tiny", tiny={**SMALL_TINY, "answers": 0})


def test_neither_order_nor_company_changes_what_is_sampled() -> None:
    engine = small_tiny(rows=8, prefill_rows=2)
    rng = random.Random(0)
    requests = [
        Request(
            [rng.randrange(40) for _ in range(length)], [length * 10 + each for each in range(count)], max_tokens=12
        )
        for length, count in [(3, 1), (20, 4), (33, 2), (34, 1), (70, 8), (31, 3), (5, 1), (9, 1), (64, 4)]
    ]
    alone = [engine.sample([request])[0] for request in requests]
    for _ in range(3):
        order = rng.sample(range(len(requests)), len(requests))
        together = engine.sample([requests[index] for index in order])
        for place, index in enumerate(order):
            assert together[place] == alone[index]


def test_a_group_may_come_in_parts() -> None:
    engine = small_tiny(rows=8)
    whole = engine.sample([Request([1, 2, 3], [4, 5, 6, 7], max_tokens=8)])[0]
    parts = engine.sample([Request([1, 2, 3], [seed], max_tokens=8, group=4) for seed in (6, 4, 7, 5)])
    assert [each[0] for each in parts] == [whole[index] for index in (2, 0, 3, 1)]


def test_samples_follow_the_distribution() -> None:
    engine = small_tiny(vocabulary=5)
    out = engine.sample([Request([1, 2], list(range(2000)), max_tokens=1)])[0]
    probability = {each.tokens[0]: math.exp(each.logprobs[0]) for each in out}
    assert sum(probability.values()) == pytest.approx(1, abs=1e-5)
    for token, expected in probability.items():
        share = sum(each.tokens[0] == token for each in out) / len(out)
        assert share == pytest.approx(expected, abs=4 * math.sqrt(expected / len(out)))


def test_temperature_zero_takes_the_likeliest() -> None:
    engine = small_tiny()
    out = engine.sample([Request([1, 2], [0, 1], max_tokens=5, temperature=0)])[0]
    assert out[0] == out[1]
    assert engine.check([out[0].trace([1, 2])]) < 1e-4


def test_a_turn_ends_where_it_should(chars: Torch) -> None:
    prompt = chars.tokens.render([{"role": "user", "content": "盗窃 a9"}])
    free = chars.sample([Request(prompt, list(range(20)), max_tokens=30)])[0]
    ended = [each for each in free if each.finish == "stop"]
    assert all(each.tokens[-1] in chars.tokens.stops for each in ended)
    assert all(len(each.tokens) == 30 for each in free if each.finish == "length")
    text = max((each.text for each in free), key=len)
    seed = next(number for number, each in enumerate(free) if each.text == text)
    stop = text[4:6]
    cut = chars.sample([Request(prompt, [seed], max_tokens=30, stop=[stop], group=20)])[0][0]
    assert cut.finish == "stop"
    assert cut.text == text.split(stop)[0]


def test_choices_are_kept_to_and_renormalised(chars: Torch) -> None:
    choices = ["盗窃", "盗窃罪", "抢劫", "诈骗"]
    prompt = chars.tokens.encode("他偷了东西，判")
    out = chars.sample([Request(prompt, list(range(200)), max_tokens=8, choices=choices)])[0]
    assert {each.text for each in out} == set(choices)
    probability = {each.text: math.exp(sum(each.logprobs)) for each in out}
    assert sum(probability.values()) == pytest.approx(1, abs=1e-4)
    traces = [each.trace(prompt) for each in out[:20]]
    assert chars.check(traces) < 1e-4
    forced = next(each for each in out if each.text == "抢劫")
    assert forced.mask == [1, 0, 0, 0]
    assert forced.allowed is not None
    assert list(forced.allowed[0] or ()) == sorted({chars.tokens.choice(choice)[0] for choice in choices})


CHOICES = ["盗窃", "盗窃罪", "抢劫", "诈骗"]
PRIOR = [math.log(share) for share in (0.05, 0.15, 0.2, 0.6)]


def probabilities(engine: Torch, prompt: list[int], choices: list[str], prior: list[float]) -> dict[str, float]:
    """Of each choice, by the log-probabilities of samples of it."""
    out = engine.sample([Request(prompt, list(range(200)), max_tokens=8, choices=choices, prior=prior)])[0]
    return {each.text: math.exp(sum(each.logprobs)) for each in out}


def test_a_prior_multiplies_the_policys_own_probabilities(chars: Torch) -> None:
    prompt = chars.tokens.encode("他偷了东西，判")
    own = probabilities(chars, prompt, CHOICES, [])
    weighed = [own[choice] * math.exp(weight) for choice, weight in zip(CHOICES, PRIOR, strict=True)]
    expected = {choice: each / sum(weighed) for choice, each in zip(CHOICES, weighed, strict=True)}
    assert probabilities(chars, prompt, CHOICES, PRIOR) == pytest.approx(expected, abs=1e-5)
    assert probabilities(chars, prompt, CHOICES, [each - 50 for each in PRIOR]) == pytest.approx(expected, abs=1e-5)


def test_a_policy_without_a_preference_samples_the_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Torch(policy="tiny", tiny=SMALL_TINY)
    with torch.no_grad():
        engine.policy.head().zero_()
    # Strings that share their first tokens: the prior of each is spread over several decisions.
    monkeypatch.setattr(engine.tokens, "choice", engine.tokens.encode)
    shares = dict(zip(CHOICES, map(math.exp, PRIOR), strict=True))
    assert probabilities(engine, [300, 301], CHOICES, PRIOR) == pytest.approx(shares, abs=1e-6)


def test_an_untrained_policy_has_no_preference_among_whole_answers() -> None:
    engine = Torch(policy="tiny", tiny=SMALL_TINY, seed=3)
    prompt = engine.tokens.encode("他偷了东西，判")
    shares = dict(zip(CHOICES, map(math.exp, PRIOR), strict=True))
    assert probabilities(engine, prompt, CHOICES, PRIOR) == pytest.approx(shares, abs=1e-6)


def test_a_first_update_of_whole_answers_teaches_what_is_read() -> None:
    engine = Torch(policy="tiny", tiny=SMALL_TINY)
    prompt = engine.tokens.encode("他偷了东西，判")
    ((sample,),) = engine.sample([Request(prompt, [0], max_tokens=8, choices=CHOICES)])
    trace = sample.trace(prompt)
    engine.forward_backward([Datum(trace, [float(each) for each in trace.mask], 1.0)], LOSS)
    (table,) = (grad for name, grad in gradients(engine).items() if "embed_tokens" in name)
    ngrams = table[engine.tokens.size : engine.tokens.size + SMALL_TINY["buckets"]]
    assert float(ngrams.abs().max()) > 1e-3


def test_the_trainer_adds_the_prior_that_the_sampler_added(chars: Torch) -> None:
    prompt = chars.tokens.encode("他偷了东西，判")
    request = Request(prompt, list(range(20)), max_tokens=8, choices=CHOICES, prior=PRIOR)
    out = chars.sample([request])[0]
    assert out == chars.sample([Request([400] * 9, [3], max_tokens=4), request])[1]
    traces = [each.trace(prompt) for each in out]
    assert chars.check(traces) < 1e-4
    plain = [replace(trace, bias=None) for trace in traces]
    with pytest.raises(TrainingError, match="disagree"):
        chars.check(plain)


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        (Request([1], [0], choices=["a", "b"], prior=[0.0]), "as many finite"),
        (Request([1], [0], choices=["a", "b"], prior=[0.0, -math.inf]), "as many finite"),
        (Request([1], [0], prior=[0.0]), "without choices"),
        (Request([1], [0], schema={"type": "string"}, prior=[0.0]), "without choices"),
    ],
)
def test_a_prior_that_weighs_nothing_is_refused(chars: Torch, query: Request, fault: str) -> None:
    with pytest.raises(UsageError, match=fault):
        chars.sample([query])


def test_training_renormalises_over_the_allowed(chars: Torch) -> None:
    prompt = chars.tokens.encode("x")
    sampled = chars.sample([Request(prompt, [1], max_tokens=3, choices=["甲", "乙"])])[0][0]
    trace = sampled.trace(prompt)
    with torch.no_grad():
        states = chars.policy.trunk(input_ids=torch.tensor([prompt]), use_cache=False).last_hidden_state
        logits = (states[0, -1] @ chars.policy.head().T)[list(trace.allowed[1])]  # type: ignore[index, arg-type]
    expected = float(logits.log_softmax(-1)[list(trace.allowed[1]).index(trace.tokens[1])])  # type: ignore[index, arg-type]
    assert chars.logprobs([trace])[0][1] == pytest.approx(expected, abs=1e-5)


def test_a_schema_is_kept_to(chars: Torch) -> None:
    schema = {
        "type": "object",
        "properties": {"charge": {"enum": ["盗窃", "抢劫"]}, "note": {"type": "string", "maxLength": 4}},
        "required": ["charge", "note"],
        "additionalProperties": False,
    }
    prompt = chars.tokens.encode("判")
    out = chars.sample([Request(prompt, list(range(8)), max_tokens=120, schema=schema)])[0]
    for each in out:
        assert each.finish == "stop"
        answer = json.loads(each.text)
        assert answer["charge"] in {"盗窃", "抢劫"}
        assert len(answer["note"]) <= 4
    assert chars.check([each.trace(prompt) for each in out]) < 1e-4


def test_constraints_that_make_no_sense_are_refused() -> None:
    constraints = Constraints(CharTokens())
    with pytest.raises(UsageError, match="not by both"):
        constraints.of(["a"], {"type": "string"})
    with pytest.raises(UsageError, match="at least one"):
        constraints.of(["a", ""], None)
    with pytest.raises(UsageError, match="schema"):
        constraints.of([], {"type": "nonsense"})


@pytest.mark.parametrize("text", ["盗窃罪，判处有期徒刑三年。", "plain ASCII 12.5%", "罕见字：氵龘𠮷 🙂"])
def test_characters_come_back(text: str) -> None:
    tokens = CharTokens()
    assert tokens.decode(tokens.encode(text)) == text
    assert max(tokens.encode(text)) < tokens.size


def test_markup_in_a_message_is_text() -> None:
    tokens = CharTokens()
    ids = tokens.render([{"role": "user", "content": "<end><assistant>"}])
    assert ids.count(0) == 1
    assert ids[-1] == tokens.render([])[-1]


def test_top_p_draws_from_the_likeliest_alone_and_tells_their_probability_among_all() -> None:
    engine = small_tiny(vocabulary=5)
    request = Request([1, 2], list(range(400)), max_tokens=1)
    whole, cut = engine.sample([request])[0], engine.sample([replace(request, top_p=0.5)])[0]
    logprobs = {each.tokens[0]: each.logprobs[0] for each in whole}
    likeliest = sorted(logprobs, key=lambda token: -logprobs[token])
    least = next(n for n in range(1, 6) if sum(math.exp(logprobs[token]) for token in likeliest[:n]) >= 0.5)
    assert {each.tokens[0] for each in cut} == set(likeliest[:least])
    assert all(each.logprobs[0] == logprobs[each.tokens[0]] for each in cut)
    assert engine.sample([request, replace(request, top_p=1e-9)])[0] == whole  # others are not cut


def test_a_policy_is_held_to_a_call_of_a_tool_whose_parameters_have_definitions(chars: Torch) -> None:
    place = {"type": "object", "properties": {"x": {"enum": [1, 2]}}, "required": ["x"], "additionalProperties": False}
    here = {"properties": {"p": {"$ref": "#/$defs/Place"}}, "required": ["p"], "$defs": {"Place": place}}
    tools = [
        {"type": "function", "function": {"name": name, "parameters": {"type": "object", **parameters}}}
        for name, parameters in {"go": here, "stay": {"properties": {}}}.items()
    ]
    gateway, called = Gateway(chars), []
    for seed in range(8):
        for choice in ("required", {"type": "function", "function": {"name": "go"}}):
            gateway.begin("r", seed)
            request = {"messages": [{"role": "user", "content": "?"}], "tools": tools, "tool_choice": choice}
            (call,) = gateway.answer("r", request)["choices"][0]["message"]["tool_calls"]
            called.append((call["function"]["name"], json.loads(call["function"]["arguments"])))
            (trace,) = gateway.finish("r").traces
            assert chars.check([trace]) < 1e-3
    gateway.close()
    assert {name for name, _ in called} == {"go", "stay"}
    assert all(name == "go" for name, _ in called[1::2])
    assert all(arguments.get("p") in (({"x": 1}, {"x": 2}) if name == "go" else (None,)) for name, arguments in called)


def chained(links: int, schema: dict[str, Any]) -> dict[str, Any]:
    """A schema that refers to itself link by link; ``schema`` is what its last link is."""
    inner = {f"a{at}": {"properties": {"x": {"$ref": f"#/$defs/a{at + 1}"}}} for at in range(links)}
    return {"$defs": {**inner, f"a{links}": schema}, "$ref": "#/$defs/a0"}


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (chained(15_000, {"type": "string"}), "objects"),
        (chained(600, {"type": "string"}), "refers to 601 places"),
        ({"properties": {f"p{at}": {"type": "string"} for at in range(3_000)}}, "3002 objects"),
    ],
)
def test_a_schema_that_would_end_the_process_or_take_it_for_long_is_the_requests_fault(
    schema: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llguidance.LLMatcher.grammar_from_json_schema", lambda *_, **__: pytest.fail("was compiled"))
    with pytest.raises(UsageError, match=message):
        Grammar(schema, CharTokens())


def test_a_schema_with_the_references_that_libraries_write_is_compiled() -> None:
    Grammar(chained(40, {"type": "string"}), CharTokens())


def test_a_schema_that_sampling_cannot_be_held_to_is_the_requests_fault(chars: Torch) -> None:
    gateway = Gateway(chars)
    gateway.begin("r", 1)
    format_ = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "nothing"}}}
    error = gateway.answer("r", {"messages": [{"role": "user", "content": "?"}], "response_format": format_})["error"]
    gateway.close()
    assert error["type"] == "invalid_request_error"
    assert "schema cannot constrain" in error["message"]
