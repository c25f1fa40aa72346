"""Canvases with holes: what they are laid out as, what is refused, and what the demo model makes of them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest
from test_llm import ANSWER_IDS, SUM
from test_prepare import FACTS

from pydllm import LLM, Canvas, DiffusionParams, Hole, SamplingParams
from pydllm.engine import prepare
from pydllm.errors import ContextLengthError, InvalidRequestError, PydllmError, UnsupportedError
from pydllm.outputs import BlockAppended, BlockSnapshot, Finished, Started

if TYPE_CHECKING:
    from pydllm.canvas import CanvasIds

PROMPT_TOKENS = 18  # of the rendered SUM
PLUS, EQUALS = ANSWER_IDS[2], ANSWER_IDS[5]
BLOCK_CAUSAL = dataclasses.replace(
    FACTS, attention="block_causal", default_algorithm="low_confidence", algorithms=("low_confidence", "near_max")
)


def ids(*segments: Any) -> CanvasIds:
    return Canvas(segments).tokenize(lambda text, **_: [ord(c) % 90 for c in text])


# ---- layout and limits -------------------------------------------------------------------------------------------


def test_what_precedes_the_first_hole_is_the_prompt() -> None:
    request = prepare(ids([1, 2], [], [3], Hole(2), [4, 99], Hole(1), [7]), FACTS)
    assert request.prompt == [1, 2, 3]
    assert request.rest == (None, None, 4, 99, None, 7)
    assert request.max_tokens == 3
    assert request.prompt_tokens == 6
    assert [request.generated(count) for count in range(6)] == [0, 1, 2, 2, 2, 3]


def test_one_hole_at_the_end_is_an_ordinary_request() -> None:
    request = prepare(ids([1, 2], Hole(2), Hole(3), []), FACTS)
    assert (request.prompt, request.rest, request.max_tokens, request.prompt_tokens) == ([1, 2], (), 5, 2)
    assert prepare(ids([1], Hole(4)), BLOCK_CAUSAL).max_tokens == 4


def test_only_the_first_text_gets_special_tokens() -> None:
    special = []

    def encode(text: str, *, add_special_tokens: bool, field: str) -> list[int]:
        special.append((text, add_special_tokens, field))
        return [5]

    Canvas(["a", Hole(1), "b", [3], "c"]).tokenize(encode)
    assert special == [
        ("a", True, "canvas.segments[0].text"),
        ("b", False, "canvas.segments[2].text"),
        ("c", False, "canvas.segments[4].text"),
    ]


@pytest.mark.parametrize(
    ("segments", "field"),
    [
        ("text", "canvas.segments"),
        (["a"], "canvas.segments"),
        ([], "canvas.segments"),
        (["a", Hole(0)], "canvas.segments[1].mask_length"),
        (["a", Hole(2**31)], "canvas.segments[1].mask_length"),
        (["a", Hole(1.5)], "canvas.segments[1].mask_length"),  # type: ignore[arg-type]
        (["a", Hole(True)], "canvas.segments[1].mask_length"),
        (["a", 3, Hole(1)], "canvas.segments[1]"),
        (["a", None, Hole(1)], "canvas.segments[1]"),
        (["a", [1.5], Hole(1)], "canvas.segments[1]"),
        (["a", b"bytes", Hole(1)], "canvas.segments[1]"),
    ],
)
def test_a_bad_canvas_is_refused_by_field(segments: Any, field: str) -> None:
    with pytest.raises(InvalidRequestError) as error:
        Canvas(segments)
    assert error.value.field == field
    assert str(error.value).startswith(field)


@pytest.mark.parametrize(
    ("canvas", "sampling", "field", "kind"),
    [
        (ids(Hole(2), [1]), {}, "canvas.segments", InvalidRequestError),
        (ids([], Hole(2), [1]), {}, "canvas.segments", InvalidRequestError),
        (ids([1], Hole(1), [100]), {}, "canvas.segments[2].token_ids.ids[0]", InvalidRequestError),
        (ids([-1], Hole(1)), {}, "canvas.segments[0].token_ids.ids[0]", InvalidRequestError),
        (ids([1], Hole(3), [1]), {"max_tokens": 2}, "sampling.max_tokens", InvalidRequestError),
        (ids([1], Hole(999), [1]), {}, "canvas", ContextLengthError),
        (ids([1], Hole(2**31 - 1), [1]), {}, "canvas", ContextLengthError),
        (ids([1], Hole(1), [1], Hole(1)), {"stop": "x"}, "sampling.stop", UnsupportedError),
    ],
)
def test_what_cannot_be_filled_is_refused_by_field(
    canvas: CanvasIds, sampling: dict[str, Any], field: str, kind: type[PydllmError]
) -> None:
    with pytest.raises(kind) as error:
        prepare(canvas, FACTS, SamplingParams(**sampling))
    assert error.value.field == field  # type: ignore[attr-defined]


def test_stop_strings_and_more_max_tokens_are_fine_with_one_hole() -> None:
    assert prepare(ids([1], Hole(3), [1]), FACTS, SamplingParams(max_tokens=9, stop=("x",))).max_tokens == 3


@pytest.mark.parametrize("algorithm", BLOCK_CAUSAL.algorithms)
def test_a_block_causal_model_says_what_would_work(algorithm: str) -> None:
    with pytest.raises(UnsupportedError, match="full attention") as error:
        prepare(ids([1], Hole(4), [2]), BLOCK_CAUSAL, None, DiffusionParams(algorithm=algorithm))
    assert error.value.field == "canvas"


# ---- the demo model ----------------------------------------------------------------------------------------------


def asked(demo: LLM) -> list[int]:
    """The rendered question."""
    return demo.trace(SUM).canvases[0][:PROMPT_TOKENS]


def test_a_suffix_shapes_the_hole_before_it(demo: LLM) -> None:
    [output] = demo.generate(Canvas([asked(demo), Hole(6), "42"]))
    assert output.text == "12 + 30 = "
    assert output.token_ids == ANSWER_IDS[:6]
    assert (output.finish_reason, output.prompt_tokens) == ("length", PROMPT_TOKENS + 2)
    assert output.stats.tokens_per_forward == 6 / output.stats.forward_passes


def test_text_between_holes_is_part_of_the_answer(demo: LLM) -> None:
    canvas = Canvas([asked(demo), Hole(2), [PLUS], Hole(2), [EQUALS], Hole(10)])
    [output] = demo.generate(canvas, sampling=SamplingParams(n=1))
    assert output.text == "12 + 30 = 42"
    assert output.token_ids == ANSWER_IDS
    assert output.finish_reason == "stop"
    assert output.prompt_tokens == PROMPT_TOKENS + 2


@pytest.mark.parametrize("algorithm", ["confidence_threshold", "llada_schedule", "multi_block_entropy", "hierarchical"])
@pytest.mark.parametrize("seed", range(3))
def test_streams_give_the_unary_answer(demo: LLM, algorithm: str, seed: int) -> None:
    canvas = Canvas([asked(demo), Hole(3), [PLUS], Hole(5), [0, 1, 2, 3, 4, 5], Hole(2), " done"])
    sampling = SamplingParams(temperature=1.5, seed=seed)
    diffusion = DiffusionParams(algorithm=algorithm, block_length=3)
    [whole] = demo.generate(canvas, sampling=sampling, diffusion=diffusion)
    events = list(demo.stream(canvas, sampling=sampling, diffusion=diffusion, snapshots=True))
    assert events[0] == Started(0, whole.prompt_tokens)
    blocks = [event for event in events if isinstance(event, BlockAppended)]
    assert "".join(block.text for block in blocks) == whole.text
    assert [token for block in blocks for token in block.token_ids] == whole.token_ids
    offset = 0
    for block in blocks:
        assert block.token_offset == offset
        offset += len(block.token_ids)
    for event in events:
        if isinstance(event, BlockSnapshot):
            for place, token in enumerate(event.token_ids, event.token_offset):
                assert token is None or token == whole.token_ids[place]
    end = events[-1]
    assert isinstance(end, Finished)
    assert end.completion_tokens == 10
    assert whole.token_ids[3] == PLUS
    assert whole.token_ids[9:15] == [0, 1, 2, 3, 4, 5]


def test_end_tokens_in_fixed_text_are_data_and_a_stop_string_ends_a_hole(demo: LLM) -> None:
    eot = ANSWER_IDS[-1]
    [output] = demo.generate(Canvas([asked(demo), Hole(2), [eot, eot], Hole(2), [eot]]))
    assert (len(output.token_ids), output.finish_reason) == (6, "length")
    assert output.token_ids[2:4] == [eot, eot]
    stop = SamplingParams(stop=" + ")
    [output] = demo.generate(Canvas([asked(demo), Hole(6), "42"]), sampling=stop)
    assert (output.text, output.finish_reason, output.stop_match) == ("12", "stop_sequence", " + ")


def test_seeds_candidates_and_budgets_work(demo: LLM) -> None:
    canvas = Canvas([asked(demo), Hole(8), "42"])
    sampling = SamplingParams(temperature=2.0, seed=5, n=3)
    first, again = (demo.generate(canvas, sampling=sampling) for _ in range(2))
    assert [output.token_ids for output in first] == [output.token_ids for output in again]
    [second] = demo.generate(canvas, sampling=SamplingParams(temperature=2.0, seed=6))
    assert second.token_ids == first[1].token_ids
    slow = DiffusionParams(algorithm="llada_schedule", block_length=1, max_forward_passes=3)
    [cut] = demo.generate(canvas, diffusion=slow)
    assert (len(cut.token_ids), cut.finish_reason) == (3, "step_limit")


def test_a_trace_shows_fixed_tokens_from_the_beginning(demo: LLM) -> None:
    trace = demo.trace(Canvas([asked(demo), Hole(2), [PLUS], Hole(2), "42"]))
    for canvas in trace.canvases:
        assert canvas[PROMPT_TOKENS + 2] == PLUS
        assert canvas[-2:] == ANSWER_IDS[6:8]
