"""Defaults, limits and names: from parameters to what the core takes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pydllm import DiffusionParams, SamplingParams, _core
from pydllm.checkpoint import GenerationDefaults
from pydllm.engine import ModelFacts, PreparedRequest, prepare
from pydllm.errors import ContextLengthError, InvalidRequestError, UnsupportedError

FACTS = ModelFacts(
    architecture="LLaDAModelLM",
    attention="full",
    vocab_size=100,
    max_model_len=1000,
    mask_token_id=99,
    eos_token_ids=(7, 8),
    default_algorithm="confidence_threshold",
    algorithms=("confidence_threshold", "llada_schedule"),
)


def prepared(
    sampling: SamplingParams | None = None,
    diffusion: DiffusionParams | None = None,
    length: int = 10,
    defaults: GenerationDefaults | None = None,
) -> PreparedRequest:
    facts = dataclasses.replace(FACTS, defaults=defaults or GenerationDefaults())
    return prepare([1] * length, facts, sampling, diffusion)


def test_nothing_set_means_greedy_and_256_tokens() -> None:
    request = prepared()
    assert (request.temperature, request.top_p, request.top_k) == (0, 1, 0)
    assert request.max_tokens == 256
    assert request.eos_token_ids == (7, 8)
    assert request.algorithm == "confidence_threshold"
    assert request.params == {}
    assert request.max_forward_passes == 0
    assert len(request.seeds) == 1


@pytest.mark.parametrize(("length", "expected"), [(743, 256), (744, 256), (745, 255), (999, 1)])
def test_the_default_of_max_tokens_is_cut_to_the_context(length: int, expected: int) -> None:
    assert prepared(length=length).max_tokens == expected


@pytest.mark.parametrize(("length", "expected"), [(1, 2048), (8000, 192), (8191, 1)])
def test_a_block_causal_model_writes_up_to_2048_tokens(length: int, expected: int) -> None:
    facts = dataclasses.replace(BLOCK_CAUSAL, max_model_len=8192)
    assert prepare([1] * length, facts).max_tokens == expected
    stored = dataclasses.replace(facts, defaults=dataclasses.replace(facts.defaults, max_new_tokens=33))
    assert prepare([1] * length, stored).max_tokens == min(33, expected)


def test_the_generation_config_fills_what_is_unset_and_zero_is_set() -> None:
    defaults = GenerationDefaults(max_new_tokens=33, block_length=8, temperature=0.5, top_p=0.25, top_k=3)
    request = prepared(defaults=defaults)
    assert (request.max_tokens, request.params) == (33, {"block_length": 8})
    assert (request.temperature, request.top_p, request.top_k) == (0.5, 0.25, 3)
    given = prepared(
        SamplingParams(temperature=0, top_p=1, top_k=0), DiffusionParams(block_length=4), defaults=defaults
    )
    assert (given.temperature, given.top_p, given.top_k) == (0, 1, 0)
    assert given.params == {"block_length": 4}
    by_name = prepared(None, DiffusionParams(extra={"block_length": 5}), defaults=defaults)
    assert by_name.params == {"block_length": 5}


def test_the_generation_configs_max_tokens_is_cut_to_the_context_too() -> None:
    assert prepared(length=990, defaults=GenerationDefaults(max_new_tokens=33)).max_tokens == 10


@pytest.mark.parametrize(
    ("length", "max_tokens", "field", "given"),
    [
        (990, 11, "sampling.max_tokens", 1001),
        (1, 1000, "sampling.max_tokens", 1001),
        (10, 2**31 - 1, "sampling.max_tokens", 2**31 + 9),
        (1000, None, "prompt", 1000),
        (5000, 1, "prompt", 5000),
    ],
)
def test_what_does_not_fit_the_context_is_refused(length: int, max_tokens: int | None, field: str, given: int) -> None:
    with pytest.raises(ContextLengthError) as caught:
        prepared(SamplingParams(max_tokens=max_tokens), length=length)
    assert (caught.value.field, caught.value.limit, caught.value.given) == (field, 1000, given)


def test_what_just_fits_is_taken() -> None:
    assert prepared(SamplingParams(max_tokens=10), length=990).max_tokens == 10


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        prepared(length=0)
    assert caught.value.field == "prompt"


def test_candidates_count_their_seeds_up_and_wrap() -> None:
    assert prepared(SamplingParams(seed=5, n=3)).seeds == (5, 6, 7)
    assert prepared(SamplingParams(seed=2**64 - 1, n=3)).seeds == (2**64 - 1, 0, 1)


def test_an_unset_seed_is_random() -> None:
    assert len({prepared().seeds for _ in range(8)}) == 8


def test_ignore_eos_drops_the_eos_ids_and_keeps_stop_ids() -> None:
    request = prepared(SamplingParams(ignore_eos=True, stop_token_ids=[3]))
    assert request.eos_token_ids == ()
    assert request.stop_token_ids == (3,)
    assert request.ended_by_token([1, 3])
    assert not request.ended_by_token([3, 1])
    assert not request.ended_by_token([7])
    assert not request.ended_by_token([])


def test_stop_ids_outside_the_vocabulary_are_refused() -> None:
    assert prepared(SamplingParams(stop_token_ids=[99])).stop_token_ids == (99,)
    with pytest.raises(InvalidRequestError) as caught:
        prepared(SamplingParams(stop_token_ids=[1, 100]))
    assert caught.value.field == "sampling.stop_token_ids"


def test_algorithms_by_name_and_alias() -> None:
    assert prepared(None, DiffusionParams(algorithm="fast_dllm")).algorithm == "confidence_threshold"
    assert prepared(None, DiffusionParams(algorithm="llada_schedule")).algorithm == "llada_schedule"
    with pytest.raises(UnsupportedError) as unsupported:  # known, but not on this model's list
        prepared(None, DiffusionParams(algorithm="entropy_threshold"))
    assert unsupported.value.field == "diffusion.algorithm"
    with pytest.raises(InvalidRequestError, match="llada_schedule") as unknown:
        prepared(None, DiffusionParams(algorithm="nonesuch"))
    assert unknown.value.field == "diffusion.algorithm"


def test_a_parameter_given_twice_is_refused() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        prepared(None, DiffusionParams(block_length=4, extra={"block_length": 4}))
    assert caught.value.field == "diffusion.extra.block_length"


def test_what_an_algorithm_does_anyway_is_no_parameter() -> None:
    schedule = DiffusionParams(algorithm="llada_schedule", cache="dual", allow_edits=False)
    assert prepared(None, schedule).params["cache"] == "dual"
    assert "allow_edits" not in prepared(None, schedule).params
    never = DiffusionParams(algorithm="llada_schedule", cache="dual", cache_refresh_interval=0)
    assert prepared(None, never).params == {"cache": "dual"}
    often = DiffusionParams(algorithm="llada_schedule", cache="dual", cache_refresh_interval=4)
    assert prepared(None, often).params["cache_refresh_interval"] == 4, "the core refuses it by name"
    edits = DiffusionParams(algorithm="llada_schedule", allow_edits=True)
    assert prepared(None, edits).params["allow_edits"] is True, "the core refuses it by name"


DEFAULTED = dataclasses.replace(
    FACTS,
    algorithm_params={"confidence_threshold": 0.7, "remasking": "random", "block_length": 16},
    defaults=GenerationDefaults(block_length=8),
)


def test_the_engines_parameters_fill_what_the_default_algorithm_leaves_unset() -> None:
    assert prepare([1], DEFAULTED).params == DEFAULTED.algorithm_params
    by_alias = DiffusionParams(algorithm="fast_dllm")
    assert prepare([1], DEFAULTED, None, by_alias).params == DEFAULTED.algorithm_params


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            {"confidence_threshold": 0.5},
            {"confidence_threshold": 0.5, "remasking": "random", "block_length": 16},
        ),
        (
            {"extra": {"threshold": 0.5}},
            {"threshold": 0.5, "remasking": "random", "block_length": 16},
        ),
        (
            {"block_length": 4, "max_steps_per_block": 2, "extra": {"remasking": "low_confidence"}},
            {
                "confidence_threshold": 0.7,
                "remasking": "low_confidence",
                "block_length": 4,
                "max_steps_per_block": 2,
            },
        ),
        (
            {"extra": {"block_length": 4}},
            {"confidence_threshold": 0.7, "remasking": "random", "block_length": 4},
        ),
    ],
)
def test_a_request_beats_the_engines_parameters_under_every_name(
    given: dict[str, Any], expected: dict[str, Any]
) -> None:
    request = prepare([1], DEFAULTED, None, DiffusionParams(**given))
    assert request.params == expected
    assert set(_core.check_params(request.algorithm, request.params, attention="full")) >= {
        "confidence_threshold",
        "block_length",
    }


def test_the_engines_parameters_are_not_for_other_algorithms() -> None:
    request = prepare([1], DEFAULTED, None, DiffusionParams(algorithm="llada_schedule"))
    assert request.params == {"block_length": 8}


def test_the_engines_parameters_of_a_cache_are_not_for_another_cache() -> None:
    facts = dataclasses.replace(
        FACTS,
        default_algorithm="multi_block_entropy",
        algorithms=("multi_block_entropy",),
        algorithm_params={"cache": "delayed", "cache_delay_iter": 1, "cache_refresh_interval": 8},
    )
    assert prepare([1], facts).params == facts.algorithm_params
    refreshed = prepare([1], facts, None, DiffusionParams(cache_refresh_interval=2)).params
    assert refreshed == {"cache": "delayed", "cache_delay_iter": 1, "cache_refresh_interval": 2}
    assert prepare([1], facts, None, DiffusionParams(cache="delayed")).params == facts.algorithm_params
    assert prepare([1], facts, None, DiffusionParams(cache="none")).params == {"cache": "none"}


def test_an_unset_repetition_run_is_none() -> None:
    assert prepared().max_repetition_run == 0
    assert prepared(SamplingParams(max_repetition_run=0)).max_repetition_run == 0
    assert prepared(SamplingParams(max_repetition_run=7)).max_repetition_run == 7


def test_unset_rules_are_neutral_or_the_checkpoints() -> None:
    names = ("min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias", "min_tokens")
    assert [getattr(prepared(), name) for name in names] == [0.0, 1.0, 0.0, 0.0, {}, 0]
    defaults = GenerationDefaults(min_p=0.1, repetition_penalty=1.05)
    facts = dataclasses.replace(FACTS, defaults=defaults)
    request = prepare([1], facts)
    assert (request.min_p, request.repetition_penalty) == (0.1, 1.05)
    request = prepare([1], facts, SamplingParams(min_p=0, repetition_penalty=1))
    assert (request.min_p, request.repetition_penalty) == (0.0, 1.0)


def test_a_bias_of_an_id_beyond_the_vocabulary_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="expected token ids in") as caught:
        prepared(SamplingParams(logit_bias={FACTS.vocab_size: 1.0}))
    assert caught.value.field == "sampling.logit_bias"
    assert prepared(SamplingParams(logit_bias={FACTS.vocab_size - 1: 1.0})).logit_bias


def test_more_candidates_than_the_queue_holds_are_refused() -> None:
    facts = dataclasses.replace(FACTS, max_candidates=4)
    assert len(prepare([1], facts, SamplingParams(n=4)).seeds) == 4
    with pytest.raises(InvalidRequestError) as caught:
        prepare([1], facts, SamplingParams(n=5))
    assert caught.value.field == "sampling.n"


BLOCK_CAUSAL = dataclasses.replace(
    FACTS,
    architecture="SDARForCausalLM",
    attention="block_causal",
    default_algorithm="low_confidence",
    algorithms=("low_confidence", "near_max"),
    defaults=GenerationDefaults(block_length=8),
)


@pytest.mark.parametrize("algorithm", BLOCK_CAUSAL.algorithms)
def test_the_block_of_a_block_causal_model_may_be_said_but_not_changed(algorithm: str) -> None:
    request = prepare([1], BLOCK_CAUSAL, None, DiffusionParams(algorithm=algorithm, block_length=8, cache="none"))
    assert request.params == {}
    assert prepare([1], BLOCK_CAUSAL, None, DiffusionParams(algorithm=algorithm)).params == {}
    with pytest.raises(InvalidRequestError, match="expected the model's 8, got 4") as caught:
        prepare([1], BLOCK_CAUSAL, None, DiffusionParams(algorithm=algorithm, block_length=4))
    assert caught.value.field == "diffusion.block_length"


def test_an_algorithm_of_either_attention_has_the_parameters_of_the_models() -> None:
    listed = {name for algorithm, name in BLOCK_CAUSAL.default_params if algorithm == "near_max"}
    assert listed == {"confidence_threshold", "max_steps_per_block"}
    full = dataclasses.replace(FACTS, algorithms=("near_max",), default_algorithm="near_max")
    assert {name for _, name in full.default_params} == listed | {"block_length", "remasking", "cache"}


def test_defaults_are_the_servers_then_the_familys_then_the_algorithms() -> None:
    names = ("multi_block_entropy", "dream")
    facts = dataclasses.replace(
        FACTS,
        architecture="DreamModel",
        default_algorithm="multi_block_entropy",
        algorithms=names,
        algorithm_params={"force_scope": "all", "block_add_threshold": 0.25},
        defaults=GenerationDefaults(block_length=16),
    )
    listed = facts.default_params
    assert {algorithm for algorithm, _ in listed} == set(names)
    of_dream = {name: value for (algorithm, name), value in listed.items() if algorithm == names[0]}
    assert of_dream["force_scope"] == "all"
    assert of_dream["block_add_threshold"] == "0.25"
    assert of_dream["comparison"] == "lt"
    assert of_dream["entropy_threshold"] == "0.4"
    assert of_dream["decoded_token_threshold"] == "0.95"
    assert of_dream["block_length"] == "16"
    plain = dataclasses.replace(facts, architecture="LLaDAModelLM").default_params
    assert plain[names[0], "comparison"] == "le"
