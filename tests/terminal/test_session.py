"""Conversations and their commands, without a terminal."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from talking import ALGORITHMS, Script, answer_events

from pydllm.errors import InvalidRequestError, UnsupportedError
from pydllm.terminal import commands
from pydllm.terminal.session import NO_TEMPLATE, SHORT_MEMORY, Session
from pydllm.terminal.settings import SettingError, initial, names

if TYPE_CHECKING:
    from pathlib import Path


def session(*answers: str, **options: Any) -> Session:
    backend = Script(*map(answer_events, answers), **options)
    notices: list[str] = []
    settings = initial(backend.algorithms, backend.default_params, backend.attention)
    out = Session(backend, settings, notify=notices.append)
    out.notices = notices  # type: ignore[attr-defined]
    return out


def ask(talk: Session, question: str, **how: Any) -> str:
    text = "".join(getattr(event, "text", "") for event in talk.ask(question, **how))
    talk.answered(text)
    return text


def do(talk: Session, line: str) -> str:
    return commands.run(talk, line).text


def prompts(talk: Session) -> list[Any]:
    backend: Any = talk.backend
    return [
        prompt if isinstance(prompt, str) else [(message["role"], message["content"]) for message in prompt]
        for prompt in backend.prompts
    ]


def test_a_question_goes_out_with_the_turns_before_it() -> None:
    talk = session("one", "two")
    assert (ask(talk, "1?"), ask(talk, "2?")) == ("one", "two")
    assert prompts(talk)[1] == [("user", "1?"), ("assistant", "one"), ("user", "2?")]


def test_a_question_without_a_complete_answer_is_forgotten() -> None:
    talk = session("one", "two", "three")
    ask(talk, "1?")
    talk.ask("cancelled?").close()
    ask(talk, "3?")
    assert prompts(talk)[2] == [("user", "1?"), ("assistant", "one"), ("user", "3?")]


def test_retry_replaces_the_last_answer_and_keeps_it_while_there_is_no_new_one() -> None:
    talk = session("one", "bad", "unused", "good")
    ask(talk, "1?")
    ask(talk, "2?")
    assert commands.run(talk, "/retry").again
    talk.ask(talk.last_question, again=True).close()
    assert [turn.answer for turn in talk.turns] == ["one", "bad"]
    ask(talk, talk.last_question, again=True)
    assert [turn.answer for turn in talk.turns] == ["one", "good"]
    assert prompts(talk)[3] == prompts(talk)[1]


def test_reset_forgets_and_keeps_the_settings() -> None:
    talk = session("one", "two")
    do(talk, "/temperature 0.5")
    ask(talk, "1?")
    do(talk, "/reset")
    with pytest.raises(SettingError, match="nothing was asked"):
        commands.run(talk, "/retry")
    ask(talk, "2?")
    assert prompts(talk)[1] == [("user", "2?")]
    assert talk.settings.sampling == {"temperature": 0.5}


def test_the_system_message_leads_every_conversation_until_it_is_taken_away() -> None:
    talk = session("one", "two")
    do(talk, "/system Be brief.")
    ask(talk, "1?")
    do(talk, "/system")
    ask(talk, "2?")
    assert prompts(talk)[0] == [("system", "Be brief."), ("user", "1?")]
    assert prompts(talk)[1][0] == ("user", "1?")


def test_a_model_without_a_template_gets_each_line_alone_and_the_user_is_told_once() -> None:
    talk = session("one", "two", template=False)
    ask(talk, "1?")
    ask(talk, "2?")
    assert prompts(talk) == ["1?", "2?"]
    assert talk.notices == [NO_TEMPLATE]  # type: ignore[attr-defined]


def test_a_system_message_is_refused_where_there_is_no_template() -> None:
    talk = session("one", template=False)
    do(talk, "/system Be brief.")
    with pytest.raises(SettingError, match="no chat template"):
        talk.ask("1?")


def test_an_embedded_model_sees_two_turns_unless_asked_otherwise() -> None:
    talk = session(*"123456", embedded=True)
    for number in range(1, 4):
        ask(talk, f"{number}?")
    assert talk.notices == []  # type: ignore[attr-defined]
    ask(talk, "4?")
    assert [text for _, text in prompts(talk)[3]] == ["2?", "2", "3?", "3", "4?"]
    assert talk.notices == [SHORT_MEMORY]  # type: ignore[attr-defined]
    do(talk, "/memory on")
    ask(talk, "5?")
    assert len(prompts(talk)[4]) == 9
    do(talk, "/memory 1")
    ask(talk, "6?")
    assert [text for _, text in prompts(talk)[5]] == ["5?", "5", "6?"]


def test_other_errors_of_the_backend_are_not_taken_for_a_missing_template() -> None:
    talk = session("one")

    def refuse(*_: Any, **__: Any) -> Any:
        raise UnsupportedError("diffusion.algorithm", "no")

    talk.backend.stream = refuse  # type: ignore[method-assign]
    with pytest.raises(UnsupportedError):
        talk.ask("1?")


def test_settings_reach_the_request_as_typed_fields_and_extras() -> None:
    talk = session("one")
    for line in ("/algorithm llada_schedule", "/steps 16", "/block 8", "/max 16", "/seed 7", "/temperature 0.5"):
        do(talk, line)
    do(talk, "/set remasking=random")
    ask(talk, "1?")
    backend: Any = talk.backend
    sampling, diffusion = backend.asked[0]
    assert (sampling.max_tokens, sampling.seed, sampling.temperature) == (16, 7, 0.5)
    assert (diffusion.algorithm, diffusion.block_length) == ("llada_schedule", 8)
    assert diffusion.extra == {"steps": 16, "remasking": "random"}


def test_threshold_and_steps_mean_what_the_algorithm_has() -> None:
    talk = session()
    do(talk, "/threshold 0.7")
    do(talk, "/steps 3")
    assert talk.settings.params == {"confidence_threshold": 0.7, "max_steps_per_block": 3}
    assert "no confidence_threshold: no longer set" in do(talk, "/algorithm entropy_threshold")
    do(talk, "/threshold 0.2")
    assert talk.settings.params == {"entropy_threshold": 0.2, "max_steps_per_block": 3}
    assert talk.settings.diffusion_params().entropy_threshold == 0.2


def test_an_alias_names_the_algorithm_or_parameter() -> None:
    talk = session()
    do(talk, "/algorithm EntropyThreshold")
    assert talk.settings.algorithm == "entropy_threshold"
    do(talk, "/set threshold=0.25")
    assert talk.settings.params == {"entropy_threshold": 0.25}
    do(talk, "/set threshold=default")
    assert talk.settings.params == {}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/nope", "/nope: no such command"),
        ("/", "/: no such command"),
        ("/algorithm", "expected one of confidence_threshold"),
        ("/algorithm nope", "algorithm: expected one of confidence_threshold, llada_schedule, entropy_threshold"),
        ("/threshold", "confidence_threshold: expected a value"),
        ("/threshold 2", r"confidence_threshold: expected a number in \[0, 1\], got 2"),
        ("/threshold x", "confidence_threshold: expected a number"),
        ("/threshold NaN", "confidence_threshold: expected"),
        ("/block 0", "block_length: expected an integer"),
        ("/block 2.5", "block_length: expected an integer"),
        ("/steps -1", "max_steps_per_block: expected"),
        ("/temperature", "temperature: expected a number"),
        ("/temperature hot", "temperature: expected a number"),
        ("/temperature -1", "temperature: expected"),
        ("/max 0", "max_tokens: expected an integer"),
        ("/seed -1", "seed: expected an integer"),
        ("/set", "expected NAME=VALUE"),
        ("/set x", "expected NAME=VALUE"),
        ("/set nope=1", "expected a parameter of confidence_threshold"),
        ("/set nope=default", "expected a parameter of confidence_threshold"),
        ("/set steps=4", "steps"),
        ("/set max_forward_passes=0", "max_forward_passes: expected an integer"),
        ("/memory maybe", "expected on, off or a number of turns"),
        ("/save", "expected a file name"),
        ("/save /proc/none/x", "save: /proc/none/x: No such file"),
        ("/reset now", "takes no value"),
        ("/retry", "nothing was asked yet"),
    ],
)
def test_a_wrong_command_is_one_line_and_changes_nothing(line: str, message: str) -> None:
    talk = session()
    before = talk.settings
    with pytest.raises(SettingError, match=message) as caught:
        commands.run(talk, line)
    assert "\n" not in str(caught.value)
    assert talk.settings == before


def test_an_algorithm_with_none_of_the_parameters_says_what_it_has() -> None:
    talk = session()
    do(talk, "/algorithm llada_schedule")
    with pytest.raises(SettingError, match="llada_schedule has none of confidence_threshold, entropy_threshold"):
        commands.run(talk, "/threshold 0.5")


def test_a_block_causal_model_has_no_parameters_of_full_attention() -> None:
    talk = session()
    talk.settings = initial(("near_max", "low_confidence"), {}, "block_causal")
    do(talk, "/steps 3")
    assert talk.settings.params == {"max_steps_per_block": 3}
    assert "block_length" not in names(talk.settings)
    with pytest.raises(SettingError, match="near_max has none of block_length"):
        commands.run(talk, "/block 4")
    for line in ("/set cache=dual", "/set remasking=random"):
        with pytest.raises(SettingError, match="for models with full attention only"):
            commands.run(talk, line)


def test_a_server_with_an_algorithm_that_this_build_does_not_know_decides_itself() -> None:
    talk = session("one")
    talk.settings = initial(("brand_new",))
    do(talk, "/set sharpness=3")
    do(talk, "/block 4")
    assert talk.settings.diffusion_params().extra == {"sharpness": 3}
    assert "brand_new" in do(talk, "/show")
    with pytest.raises(SettingError):
        commands.run(talk, "/block 0")


def test_show_lists_every_setting_with_its_value() -> None:
    talk = session()
    do(talk, "/threshold 0.75")
    do(talk, "/max 32")
    lines = do(talk, "/show").splitlines()
    assert "  confidence_threshold  0.75" in lines
    assert "  block_length  default 32" in lines
    assert "max_tokens  32" in lines
    assert "model  scripted" in lines


def test_show_has_the_models_defaults_before_the_algorithms_own() -> None:
    talk = session()
    do(talk, "/algorithm llada_schedule")
    assert "  remasking  default random" in do(talk, "/show").splitlines()
    do(talk, "/set remasking=low_confidence")
    assert "  remasking  low_confidence" in do(talk, "/show").splitlines()


def test_show_lists_what_a_server_says_of_an_algorithm_that_this_build_does_not_know() -> None:
    talk = session()
    talk.settings = initial(("brand_new",), {("brand_new", "sharpness"): "3"})
    assert "  sharpness  default 3" in do(talk, "/show").splitlines()


def test_help_names_every_command() -> None:
    text = do(session(), "/help")
    for command in commands.COMMANDS:
        assert f"/{command.name}" in text


def test_default_takes_a_setting_back() -> None:
    talk = session()
    before = talk.settings
    for line in ("/temperature 1", "/threshold 0.5", "/set max_forward_passes=9", "/algorithm llada_schedule"):
        do(talk, line)
    for line in ("/algorithm default", "/temperature default", "/set max_forward_passes=default"):
        do(talk, line)
    assert talk.settings == before


def test_two_slashes_begin_a_question() -> None:
    assert not commands.is_command("//usr is what?")
    assert commands.question("//usr is what?") == "/usr is what?"
    assert commands.question("plain") == "plain"


def test_completions_offer_commands_algorithms_and_parameters() -> None:
    talk = session()
    assert commands.completions(talk, "/se") == ["/seed", "/set"]
    assert commands.completions(talk, "/algorithm ") == [f"/algorithm {name}" for name in ALGORITHMS]
    assert commands.completions(talk, "/set bl") == ["/set block_length="]
    assert commands.completions(talk, "hello") == []


def test_save_writes_text_or_json_and_never_over_a_file(tmp_path: Path) -> None:
    talk = session("eins", "zwei")
    do(talk, "/system S")
    ask(talk, "1?")
    do(talk, f"/save {tmp_path}/talk.txt")
    do(talk, f"/save {tmp_path}/talk.json")
    assert (tmp_path / "talk.txt").read_text() == "system: S\n\nuser: 1?\n\nassistant: eins\n"
    assert json.loads((tmp_path / "talk.json").read_text())[2] == {"role": "assistant", "content": "eins"}
    with pytest.raises(SettingError, match="File exists"):
        commands.run(talk, f"/save {tmp_path}/talk.txt")


def test_the_first_block_is_what_the_settings_make_of_it() -> None:
    talk = session()
    assert talk.first_block == 8
    do(talk, "/block 16")
    assert talk.first_block == 16
    do(talk, "/max 4")
    assert talk.first_block == 4


def test_context_errors_leave_the_session_usable() -> None:
    talk = session("one")

    def refuse(*_: Any, **__: Any) -> Any:
        raise InvalidRequestError("prompt", "prompt: too long")

    stream, talk.backend.stream = talk.backend.stream, refuse  # type: ignore[method-assign]
    with pytest.raises(InvalidRequestError):
        talk.ask("long")
    talk.backend.stream = stream  # type: ignore[method-assign]
    assert ask(talk, "1?") == "one"
    assert len(talk.turns) == 1
