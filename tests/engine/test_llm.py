"""LLM: text in, text out, on the demo model and on the random one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from demo_facts import token
from safetensors.numpy import load_file, save_file

from pydllm import LLM, DiffusionParams, GenerationOutput, SamplingParams
from pydllm.errors import (
    CheckpointError,
    ContextLengthError,
    DeadlineExceededError,
    EngineStoppedError,
    InternalEngineError,
    InvalidRequestError,
    UnsupportedError,
)
from pydllm.llm.progress import progress_bar
from pydllm.outputs import BlockAppended, BlockSnapshot, Finished, Started

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SUM = [{"role": "user", "content": "Solve: 12 + 30."}]
ANSWER = "12 + 30 = 42"
ANSWER_IDS = [token(text) for text in ("1", "2", "Ġ+Ġ", "3", "0", "Ġ=Ġ", "4", "2", "<|eot_id|>")]
EQUALS = ANSWER_IDS[5]
SMALL_BLOCKS = DiffusionParams(block_length=4)
ENDLESS = DiffusionParams(algorithm="llada_schedule", extra={"steps": 1_000_000})


def only(outputs: list[GenerationOutput]) -> GenerationOutput:
    (output,) = outputs
    return output


def answer(demo: LLM, diffusion: DiffusionParams | None = None, **sampling: Any) -> GenerationOutput:
    return only(demo.chat(SUM, sampling=SamplingParams(**sampling), diffusion=diffusion))


# ---- answers -----------------------------------------------------------------------------------------------------


def test_the_demo_model_adds(demo: LLM) -> None:
    output = only(demo.chat(SUM))
    assert output.text == ANSWER
    assert output.token_ids == ANSWER_IDS
    assert (output.finish_reason, output.stop_match, output.prompt_tokens) == ("stop", None, 18)
    assert output.stats.forward_passes == 1
    assert output.stats.tokens_per_forward == len(ANSWER_IDS)
    assert output.stats.generation_time >= output.stats.time_to_first_block > 0


def test_a_chat_is_a_prompt(demo: LLM) -> None:
    assert only(demo.generate(SUM)).text == only(demo.generate([SUM])).text == only(demo.chat([SUM])).text == ANSWER


def test_sums_in_one_batch_are_right(demo: LLM) -> None:
    pairs = [(a, b) for a in range(0, 100, 11) for b in range(0, 100, 7)]
    chats = [[{"role": "user", "content": f"Solve: {a} + {b}."}] for a, b in pairs]
    outputs = demo.chat(chats)
    assert [output.text for output in outputs] == [f"{a} + {b} = {a + b}" for a, b in pairs]
    assert [output.prompt_index for output in outputs] == list(range(len(pairs)))


def test_text_ids_and_arrays_are_the_same_prompt(tiny: LLM) -> None:
    sampling = SamplingParams(max_tokens=8)
    text = "Lily can run 12 kilometers per hour"
    ids = tiny.tokenizer.encode(text, add_special_tokens=True)
    outputs = tiny.generate([text, ids, np.array(ids), tuple(ids)], sampling=sampling)
    assert len({tuple(output.token_ids) for output in outputs}) == 1
    assert [output.prompt_index for output in outputs] == [0, 1, 2, 3]


def test_lists_and_candidates_come_flat_in_order(tiny: LLM) -> None:
    sampling = SamplingParams(max_tokens=6, n=3, seed=10, temperature=1)
    outputs = tiny.generate([[1, 2], [3], [4, 5, 6]], sampling=sampling)
    assert [(o.prompt_index, o.index) for o in outputs] == [(p, c) for p in range(3) for c in range(3)]
    assert [o.prompt_tokens for o in outputs] == [2, 2, 2, 1, 1, 1, 3, 3, 3]
    alone = tiny.generate([3], sampling=SamplingParams(max_tokens=6, seed=12, temperature=1))
    assert only(alone).token_ids == outputs[5].token_ids


def test_no_prompts_no_outputs(tiny: LLM) -> None:
    assert tiny.generate([]) == []


def test_a_list_far_longer_than_the_queue(tiny_checkpoint: Path) -> None:
    prompts = [[i % 300, i // 300] for i in range(10_000)]
    with LLM(tiny_checkpoint, max_waiting_requests=8, max_running_requests=128, max_model_len=8) as llm:
        outputs = llm.generate(prompts, sampling=SamplingParams(max_tokens=1))
        assert [output.prompt_index for output in outputs] == list(range(10_000))
        assert all(len(output.token_ids) == 1 for output in outputs)
        stats = llm.engine.stats()
        assert stats.requests_finished == 10_000
        assert stats.pages_used == 0
        assert (
            outputs[4321].token_ids
            == only(llm.generate(prompts[4321], sampling=SamplingParams(max_tokens=1))).token_ids
        )


def test_literal_mask_and_eos_ids_in_a_prompt_are_data(tiny: LLM) -> None:
    trace = tiny.trace([332, 331, 5, 332], sampling=SamplingParams(max_tokens=8, ignore_eos=True))
    assert all(canvas[:4] == [332, 331, 5, 332] for canvas in trace.canvases)
    assert 332 not in trace.output.token_ids
    assert len(trace.output.token_ids) == 8


# ---- ends --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("diffusion", [None, SMALL_BLOCKS], ids=["one block", "blocks of 4"])
@pytest.mark.parametrize(
    ("stop", "text", "kept", "tokens"),
    [
        (["="], "12 + 30 ", "12 + 30 =", 6),
        (["30"], "12 + ", "12 + 30", 5),  # over the edge between the blocks of 4
        ([" = ", "42"], "12 + 30", "12 + 30 = ", 7),
        (["2", "12"], "1", "12", 2),  # the first to be complete; of two, the one listed first
        (["42"], "12 + 30 = ", ANSWER, 8),  # beats the EOS behind it
    ],
)
def test_stop_strings(
    demo: LLM, diffusion: DiffusionParams | None, stop: list[str], text: str, kept: str, tokens: int
) -> None:
    output = answer(demo, diffusion, stop=stop)
    assert (output.text, output.finish_reason) == (text, "stop_sequence")
    assert output.stop_match in stop
    assert len(output.token_ids) <= tokens
    assert answer(demo, diffusion, stop=stop, include_stop=True).text.startswith(kept.rstrip())


def test_a_stop_string_that_never_comes_changes_nothing(demo: LLM) -> None:
    output = answer(demo, stop=["43", "= 42x"])
    assert (output.text, output.finish_reason, output.stop_match) == (ANSWER, "stop", None)


@pytest.mark.parametrize("diffusion", [None, SMALL_BLOCKS], ids=["one block", "blocks of 4"])
def test_stop_tokens(demo: LLM, diffusion: DiffusionParams | None) -> None:
    output = answer(demo, diffusion, stop_token_ids=[EQUALS])
    assert (output.finish_reason, output.stop_match) == ("stop_sequence", EQUALS)
    assert output.token_ids == ANSWER_IDS[:6]
    assert output.text == "12 + 30"
    kept = answer(demo, diffusion, stop_token_ids=[EQUALS], include_stop=True)
    assert kept.text == "12 + 30" + demo.tokenizer.decode([EQUALS], skip_special_tokens=False)


def test_ignore_eos_returns_the_whole_canvas(demo: LLM) -> None:
    output = answer(demo, ignore_eos=True, max_tokens=20)
    assert (len(output.token_ids), output.finish_reason) == (20, "length")
    assert output.token_ids[:9] == ANSWER_IDS


@pytest.mark.parametrize("max_tokens", [1, 3, 4, 5, 8])
def test_max_tokens_is_exact(demo: LLM, max_tokens: int) -> None:
    output = answer(demo, SMALL_BLOCKS, max_tokens=max_tokens, ignore_eos=True)
    assert len(output.token_ids) == max_tokens
    assert output.finish_reason == "length"


@pytest.mark.parametrize("limit", [1, 2])
def test_max_forward_passes_ends_with_what_is_final(demo: LLM, limit: int) -> None:
    diffusion = DiffusionParams(block_length=4, max_forward_passes=limit)
    output = answer(demo, diffusion)
    assert output.finish_reason == "step_limit"
    assert output.stats.forward_passes == limit
    assert output.token_ids == ANSWER_IDS[: 4 * limit]


def test_a_deadline_ends_with_what_is_final(demo: LLM) -> None:
    crawl = DiffusionParams(algorithm="llada_schedule", block_length=1, extra={"steps": 1_000_000})
    sampling = SamplingParams(max_tokens=8, ignore_eos=True, n=2)
    outputs = demo.chat(SUM, sampling=sampling, diffusion=crawl, deadline_seconds=1)
    assert [output.finish_reason for output in outputs] == ["step_limit"] * 2
    assert [output.token_ids for output in outputs] == [ANSWER_IDS[:1]] * 2
    assert [output.text for output in outputs] == ["1"] * 2
    assert all(output.stats.forward_passes > 1 and output.stats.blocks == 1 for output in outputs)
    *_, end = demo.stream(SUM, sampling=sampling, diffusion=crawl, deadline_seconds=1)
    assert isinstance(end, Finished)
    assert end.finish_reason == "step_limit"


def test_a_far_deadline_changes_nothing_and_a_passed_one_is_an_error(demo: LLM) -> None:
    assert only(demo.generate(SUM, deadline_seconds=1e300)).text == ANSWER
    with pytest.raises(DeadlineExceededError):
        demo.generate([SUM, SUM], deadline_seconds=0)


@pytest.mark.parametrize("seconds", ["soon", float("nan"), float("inf"), True])
def test_a_deadline_is_a_finite_number(demo: LLM, seconds: Any) -> None:
    for call in (demo.generate, demo.chat, demo.stream):
        with pytest.raises(InvalidRequestError, match="deadline_seconds: expected a finite number, got") as caught:
            call(SUM, deadline_seconds=seconds)
        assert caught.value.field == "deadline_seconds"


@pytest.mark.parametrize("diffusion", [None, SMALL_BLOCKS], ids=["one block", "blocks of 4"])
@pytest.mark.parametrize("run", [2, 3, 5])
def test_max_repetition_run_ends_with_the_runs_last_token(
    demo: LLM, run: int, diffusion: DiffusionParams | None
) -> None:
    whole = answer(demo, diffusion, ignore_eos=True, max_tokens=20).token_ids
    ends = [end for end in range(run, 21) if len(set(whole[end - run : end])) == 1]
    assert 9 < ends[0] < 20  # the model repeats itself behind its answer
    output = answer(demo, diffusion, ignore_eos=True, max_tokens=20, max_repetition_run=run)
    assert (output.finish_reason, output.stop_match) == ("repetition", None)
    assert output.token_ids == whole[: ends[0]]
    assert output.text.startswith(ANSWER)


def test_an_eos_before_the_run_ends_as_without_a_run(demo: LLM) -> None:
    output = answer(demo, max_repetition_run=2)
    assert (output.text, output.finish_reason) == (ANSWER, "stop")


# ---- rules about tokens ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("diffusion", [None, SMALL_BLOCKS], ids=["one block", "blocks of 4"])
def test_logit_bias_bans_and_forces(demo: LLM, diffusion: DiffusionParams | None) -> None:
    banned = answer(demo, diffusion, logit_bias={EQUALS: -100, ANSWER_IDS[0]: -100}, ignore_eos=True, max_tokens=20)
    assert not {EQUALS, ANSWER_IDS[0]} & set(banned.token_ids)
    forced = answer(demo, diffusion, logit_bias={EQUALS: 100}, max_tokens=11)
    assert forced.token_ids == [EQUALS] * 11
    assert answer(demo, diffusion, logit_bias={EQUALS: 0}).token_ids == ANSWER_IDS


@pytest.mark.parametrize("diffusion", [None, SMALL_BLOCKS], ids=["one block", "blocks of 4"])
@pytest.mark.parametrize("least", [1, 8, 9, 10, 13, 20])
def test_min_tokens_holds_back_the_end(demo: LLM, least: int, diffusion: DiffusionParams | None) -> None:
    output = answer(demo, diffusion, min_tokens=least, max_tokens=20)
    eos = ANSWER_IDS[-1]
    assert len(output.token_ids) >= least
    assert eos not in output.token_ids[:least]
    if least < len(ANSWER_IDS):
        assert output.token_ids == ANSWER_IDS


@pytest.mark.parametrize("penalty", ["frequency_penalty", "presence_penalty"])
def test_penalties_are_against_what_is_written(demo: LLM, penalty: str) -> None:
    def different(value: float) -> int:
        endless = {"logit_bias": dict.fromkeys((0, 5), -100), "ignore_eos": True, "max_tokens": 60}
        sampling = SamplingParams(**endless, **{penalty: value})
        return len(
            set(only(demo.generate("Sort: apple, river, moon.", sampling=sampling, diffusion=SMALL_BLOCKS)).token_ids)
        )

    assert different(-2.0) < different(0.0) < different(2.0)


def test_a_repetition_penalty_is_against_the_prompt_too(demo: LLM) -> None:
    (prompt,) = (set(demo.trace(SUM).canvases[0][:18]),)
    one_step = DiffusionParams(max_forward_passes=1, block_length=8)
    plain = answer(demo, one_step, ignore_eos=True)
    penalised = answer(demo, one_step, ignore_eos=True, repetition_penalty=100)
    rewarded = answer(demo, one_step, ignore_eos=True, repetition_penalty=0.01)
    assert set(plain.token_ids) & prompt
    assert not set(penalised.token_ids) & prompt
    assert set(rewarded.token_ids) <= prompt


def test_min_p_of_one_is_greedy_at_any_temperature(demo: LLM) -> None:
    hot = {"temperature": 8.0, "seed": 3, "max_tokens": 12, "ignore_eos": True}
    assert answer(demo, **hot).token_ids[:9] != ANSWER_IDS
    assert answer(demo, **hot, min_p=1).token_ids[:9] == ANSWER_IDS
    assert answer(demo, min_p=0.5).token_ids == ANSWER_IDS


@pytest.mark.parametrize(
    ("sampling", "field"),
    [
        ({"logit_bias": {10**6: 1}}, "sampling.logit_bias"),
        ({"min_tokens": 9, "max_tokens": 8}, "sampling.min_tokens"),
    ],
)
def test_rules_that_do_not_fit_are_refused_by_name(demo: LLM, sampling: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        answer(demo, **sampling)
    assert caught.value.field == field
    with pytest.raises(InvalidRequestError, match="mask token"):
        answer(demo, logit_bias={demo.engine.facts.mask_token_id: 1})


# ---- streams -----------------------------------------------------------------------------------------------------

SAMPLINGS: list[dict[str, Any]] = [
    {},
    {"stop": ["30"]},
    {"stop": ["42"], "include_stop": True},
    {"stop_token_ids": [322]},
    {"stop_token_ids": [322], "include_stop": True},
    {"ignore_eos": True, "max_tokens": 13},
    {"ignore_eos": True, "max_tokens": 20, "max_repetition_run": 4},
    {"frequency_penalty": 1.5, "repetition_penalty": 1.2, "min_tokens": 10, "logit_bias": {322: -3}, "max_tokens": 20},
]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("snapshots", [False, True])
@pytest.mark.parametrize("block_length", [1, 4, 32])
def test_a_stream_adds_up_to_the_output(
    demo: LLM, sampling: dict[str, Any], snapshots: bool, block_length: int
) -> None:
    params = SamplingParams(**sampling)
    diffusion = DiffusionParams(block_length=block_length)
    whole = only(demo.chat(SUM, sampling=params, diffusion=diffusion))
    events = list(demo.stream(SUM, sampling=params, diffusion=diffusion, snapshots=snapshots))
    assert events[0] == Started(0, 18)
    blocks = [event for event in events if isinstance(event, BlockAppended)]
    assert "".join(block.text for block in blocks) == whole.text
    assert [token for block in blocks for token in block.token_ids] == whole.token_ids
    offset = 0
    for block in blocks:
        assert block.token_offset == offset
        offset += len(block.token_ids)
    end = events[-1]
    assert isinstance(end, Finished)
    assert (end.finish_reason, end.stop_match) == (whole.finish_reason, whole.stop_match)
    assert end.completion_tokens == len(whole.token_ids)
    assert any(isinstance(event, BlockSnapshot) for event in events) == snapshots


def test_snapshots_never_take_back_a_token_and_end_final(tiny: LLM) -> None:
    sampling = SamplingParams(max_tokens=24, ignore_eos=True)
    diffusion = DiffusionParams(algorithm="llada_schedule", block_length=8)
    shown: dict[int, tuple[int, float]] = {}
    final: list[int] = []
    for event in tiny.stream([1, 2, 3], sampling=sampling, diffusion=diffusion, snapshots=True):
        if isinstance(event, BlockSnapshot):
            pairs = zip(event.token_ids, event.confidences, strict=True)
            for position, (token, confidence) in enumerate(pairs, event.token_offset):
                assert token is not None or position not in shown
                assert (token is None) == (confidence == 0)
                if token is not None:
                    assert shown.setdefault(position, (token, confidence)) == (token, confidence)
        if isinstance(event, BlockAppended):
            final += event.token_ids
    assert len(final) == 24
    assert [shown[position][0] for position in range(24)] == final


def test_a_stream_of_candidates_ends_each_once(tiny: LLM) -> None:
    sampling = SamplingParams(max_tokens=9, n=4, temperature=1, seed=3)
    events = list(tiny.stream([7], sampling=sampling))
    for kind in (Started, Finished):
        assert sorted(event.index for event in events if isinstance(event, kind)) == [0, 1, 2, 3]


def test_leaving_a_stream_cancels_it(tiny: LLM) -> None:
    before = tiny.engine.stats().requests_failed
    stream = tiny.stream([1], sampling=SamplingParams(max_tokens=8, ignore_eos=True), diffusion=ENDLESS)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    tiny.generate([1], sampling=SamplingParams(max_tokens=1))
    assert tiny.engine.stats().requests_failed == before + 1


# ---- traces ------------------------------------------------------------------------------------------------------


def test_a_trace_goes_from_all_masked_to_the_output(tiny: LLM) -> None:
    trace = tiny.trace([1, 2], sampling=SamplingParams(max_tokens=6, ignore_eos=True))
    assert trace.canvases[0] == [1, 2, *[332] * 6]
    assert trace.canvases[-1] == [1, 2, *trace.output.token_ids]
    assert trace.forward_passes == len(trace.canvases) - 1
    assert trace.first_logits is not None
    assert trace.first_logits.shape == (8, 352)


def test_a_trace_that_ends_early_keeps_what_is_final(demo: LLM) -> None:
    trace = demo.trace(SUM)
    assert trace.canvases[-1][18:27] == ANSWER_IDS
    assert trace.output.text == ANSWER
    with_stop = demo.trace(SUM, sampling=SamplingParams(stop=["30"]))
    assert (with_stop.output.text, with_stop.output.finish_reason) == ("12 + ", "stop_sequence")


def test_a_trace_is_of_one_candidate(tiny: LLM) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        tiny.trace([1], sampling=SamplingParams(n=2))
    assert caught.value.field == "sampling.n"


# ---- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompts", "field"),
    [
        ("", "prompt"),
        ([[]], "prompt"),
        ([[1], "\ud800"], "prompt"),
        (None, "prompt"),
        (5, "prompt"),
        (b"bytes", "prompt"),
        ({"role": "user"}, "prompt"),
        ([None], "prompt"),
        ([1, "x"], "prompt"),
        ([[1], [2, 352]], "prompt"),
    ],
)
def test_a_bad_prompt_is_named(tiny: LLM, prompts: Any, field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        tiny.generate(prompts)
    assert caught.value.field == field


@pytest.mark.parametrize("messages", [[], [{}], [[]], [[{"role": "user"}], []], "hello", None])
def test_a_bad_chat_is_named(demo: LLM, messages: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        demo.chat(messages)
    assert caught.value.field.startswith("chat")


def test_limits_are_errors_of_the_request(demo: LLM) -> None:
    with pytest.raises(ContextLengthError) as caught:
        demo.chat(SUM, sampling=SamplingParams(max_tokens=239))
    assert (caught.value.limit, caught.value.given) == (256, 257)
    assert len(answer(demo, max_tokens=238, ignore_eos=True).token_ids) == 238
    with pytest.raises(UnsupportedError):
        demo.chat(SUM, diffusion=DiffusionParams(entropy_threshold=0.5))
    with pytest.raises(InvalidRequestError):
        demo.stream(SUM, diffusion=DiffusionParams(algorithm="x"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_logits_are_an_error_never_an_answer(tiny_checkpoint: Path, tmp_path: Path, value: float) -> None:
    for file in tiny_checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    head = tensors["model.transformer.ff_out.weight"].copy()
    head[7] = value
    save_file({**tensors, "model.transformer.ff_out.weight": head}, tmp_path / "model.safetensors")
    with LLM(tmp_path, max_model_len=32) as llm:
        for prompts in ([[1]], [[1], [2], [3]]):
            with pytest.raises(InternalEngineError, match="non-finite"):
                llm.generate(prompts, sampling=SamplingParams(max_tokens=4))
        assert llm.engine.stats().pages_used == 0


def test_wrong_options_and_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="no such engine option"):
        LLM(nonesuch=1)
    with pytest.raises(UnsupportedError):
        LLM(device="cuda")
    with pytest.raises(CheckpointError):
        LLM(tmp_path)


def test_a_closed_llm_says_so(tiny_checkpoint: Path) -> None:
    llm = LLM(tiny_checkpoint, max_model_len=16)
    llm.close()
    llm.close()
    with pytest.raises(EngineStoppedError):
        llm.generate([1])


def test_algorithms_are_listed_default_first(demo: LLM) -> None:
    assert demo.algorithms[0] == "confidence_threshold"
    assert {"confidence_threshold", "llada_schedule", "multi_block_entropy"} <= set(demo.algorithms)
    assert "rnd1_entropy" not in demo.algorithms  # of another family
    for name in demo.algorithms:
        found = answer(demo, DiffusionParams(algorithm=name)).text
        assert found == ANSWER or name == "d2f"  # whose mask the demo model was not trained with


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt even in tests that a shell started in the background, with SIGINT ignored."""
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, inherited)


@pytest.mark.usefixtures("interruptible")
def test_keyboard_interrupt_cancels_what_runs(tiny: LLM) -> None:
    before = tiny.engine.stats().requests_failed
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        while tiny.engine.stats().running < 3:
            os.sched_yield()
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        tiny.generate([[1], [2], [3]], sampling=SamplingParams(max_tokens=8, ignore_eos=True), diffusion=ENDLESS)
    thread.join()
    tiny.generate([1], sampling=SamplingParams(max_tokens=1))
    stats = tiny.engine.stats()
    assert (stats.requests_failed - before, stats.running, stats.pages_used) == (3, 0, 0)


# ---- the package -------------------------------------------------------------------------------------------------


def modules_after(code: str) -> set[str]:
    program = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_is_light() -> None:
    loaded = modules_after("import pydllm")
    heavy = {
        "pydllm._core",
        "pydllm.llm",
        "pydllm.engine",
        "numpy",
        "tokenizers",
        "jinja2",
        "rich",
        "grpc",
        "torch",
    }
    assert not loaded & heavy


def test_parameters_need_no_extension() -> None:
    assert "pydllm._core" not in modules_after("from pydllm import SamplingParams, DiffusionParams, GenerationOutput")


def test_torch_is_never_imported() -> None:
    code = "from pydllm import LLM\nwith LLM() as llm: llm.generate('Solve: 1 + 1.'); llm.trace([5])"
    loaded = modules_after(code)
    assert "pydllm._core" in loaded
    assert not loaded & {"torch", "numpy", "transformers"}


def test_unknown_names_of_the_package_are_attribute_errors() -> None:
    import pydllm

    assert set(pydllm.__all__) <= {*dir(pydllm), *pydllm.__all__}
    for name in pydllm.__all__:
        assert getattr(pydllm, name) is not None
    with pytest.raises(AttributeError):
        _ = pydllm.nonesuch  # type: ignore[attr-defined]


@pytest.mark.parametrize("ending", ["", "llm.close()", "del llm", "raise SystemExit(0)"])
def test_the_process_ends_whatever_is_still_running(tiny_checkpoint: Path, ending: str) -> None:
    code = (
        "import sys\nfrom pydllm import LLM, DiffusionParams, SamplingParams\nllm = LLM(sys.argv[1])\n"
        "stream = llm.stream([1], sampling=SamplingParams(max_tokens=8, ignore_eos=True), diffusion=DiffusionParams("
        "algorithm='llada_schedule', extra={'steps': 1000000}))\nnext(stream)\n" + ending
    )
    done = subprocess.run([sys.executable, "-c", code, str(tiny_checkpoint)], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


def test_no_bar_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(3, enabled=True) as advance:
        advance()
    assert capsys.readouterr() == ("", "")


def test_loading_reports_its_progress_up_to_the_end(tiny_checkpoint: Path) -> None:
    reports: list[tuple[int, int]] = []
    with LLM(tiny_checkpoint, load_progress=lambda done, total: reports.append((done, total))):
        pass
    done, total = reports[-1]
    assert done == total > 100_000
