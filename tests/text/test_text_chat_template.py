# ruff: noqa: E501
from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from text_reference import CHECKPOINTS, GOLDEN, NAMES, tokenizer_of

from pydllm.errors import CheckpointError, InvalidRequestError, UnsupportedError
from pydllm.text import ChatTemplate, Tokenizer

if TYPE_CHECKING:
    from pathlib import Path

HI = [{"role": "user", "content": "hi"}]
ROWS = [
    row
    for row in json.loads((GOLDEN / "runs/text_chat_template/case.json").read_text())["rows"]
    if row["ckpt"] in NAMES
]


def template(source: str, **special: str) -> ChatTemplate:
    return ChatTemplate(source, special_tokens=special)


def rendered(source: str, messages: Any = HI, **options: Any) -> str:
    return template(source, bos_token="<s>", eos_token="</s>").render(
        messages, **{"add_generation_prompt": True, **options}
    )


def test_recorded_conversations_render_and_encode_as_the_original_did(
    record_property: Callable[[str, object], None],
) -> None:
    right = 0
    for row in ROWS:
        tokenizer = tokenizer_of(row["ckpt"])
        chat = ChatTemplate.load(CHECKPOINTS / row["ckpt"], tokenizer)
        assert chat is not None
        text = chat.render(row["messages"], add_generation_prompt=row["add_generation_prompt"])
        ids = tokenizer.encode(text, add_special_tokens=False)
        right += (text, ids) == (row["rendered"], row["ids"])
    record_property("figure", f"text_chat_template {right}/{len(ROWS)}")
    assert (right, len(ROWS)) == (18, 18)


# Idioms of the templates in use, each compared with jinja2's own sandbox as Hugging Face sets it up.
IDIOMS = {
    "namespace": "{% set ns = namespace(n=0, s='') %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
    "{% set ns.s = ns.s ~ m.role ~ ns.n %}{% endfor %}{{ ns.s }}",
    "reversed slice": "{% for m in messages[::-1] %}{{ loop.index0 }}{{ m.content }}{% endfor %}",
    "loop variables": "{% for m in messages %}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}"
    "{{ loop.previtem.role if loop.previtem is defined }}{% if not loop.last %}, {% endif %}{% endfor %}",
    "loop filter and else": "{% for m in messages if m.role == 'system' %}{{ m.content }}{{ loop.length }}"
    "{% else %}none{% endfor %}",
    "break and continue": "{% for m in messages %}{% if loop.index == 2 %}{% continue %}{% endif %}"
    "{% if loop.index == 4 %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
    "think": "{% for m in messages %}{% if '</think>' in m.content %}"
    "{{ m.content.split('</think>')[-1].lstrip('\\n') }}{% else %}{{ m.content | trim }}{% endif %}{% endfor %}",
    "macro": "{% macro turn(m, end='E') %}[{{ m.role }}|{{ m.content }}]{{ end }}{% endmacro %}"
    "{% for m in messages %}{{ turn(m) }}{{ turn(m, end='') }}{% endfor %}",
    "call block": "{% macro box() %}<{{ caller() }}>{% endmacro %}"
    "{% for m in messages %}{% call box() %}{{ m.content }}{% endcall %}{% endfor %}",
    "set block": "{% set x %}{% for m in messages %}{{ m.role }} {% endfor %}{% endset %}{{ x | upper }}{{ x | length }}",
    "filter block": "{% filter upper %}{% for m in messages %}{{ m.content }}{% endfor %}{% endfilter %}",
    "blocks": "{% block a %}{{ messages[0].content }}{% endblock %}{{ self.a() }}",
    "tojson": "{{ messages | tojson }}{{ messages[0] | tojson(indent=2) }}",
    "filters": "{{ messages | map(attribute='role') | unique | join(',') }}"
    "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}"
    "{{ messages | rejectattr('role', 'eq', 'user') | map(attribute='content') | join('|') }}"
    "{{ (messages | first).role }}{{ (messages | last).content | replace('a', 'bb') | capitalize }}",
    "items": "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}"
    "{% for k, v in messages[0] | items %}{{ k }}{% endfor %}{{ messages[0] | dictsort }}",
    "sorting": "{{ [3, 1, 2] | sort }}{{ messages | groupby('role') | length }}{{ 'abc' | reverse }}{{ [1, 2] | sum }}",
    "tests": "{{ messages[0].content is string }}{{ messages is iterable }}{{ nothing is defined }}"
    "{{ messages[0] is mapping }}{{ none is none }}{{ 4 is divisibleby 2 }}{{ 'a' in ['a', 'b'] }}",
    "arithmetic": "{{ 7 // 2 + 7 % 4 * 2 ** 3 - 1 }}{{ 7 / 2 }}{{ -3 }}{{ 'ab' * 3 }}{{ '%s=%05.1f' % ('x', 2.25) }}",
    "format": "{{ '{0} {a:>5} {0!r}'.format('x', a=3) }}{{ '{}{}'.format(1, 2) }}{{ '%s-%s' | format('a', 1) }}{{ 3.14159 | round(2) }}",
    "indent": "{{ 'a\\n\\nb' | indent(2) }}{{ 'a\\n\\nb' | indent(2, true, true) }}{{ 'x\\ny' | indent('> ') }}",
    "numbers": "{{ '12' | int + 1 }}{{ '1.5' | float }}{{ range(3) | list }}{{ 3.7 | round(method='floor') }}{{ -2 | abs }}",
    "conditions": "{{ 'y' if add_generation_prompt and not tools else 'n' }}{{ 1 < 2 < 3 }}{{ messages | length >= 1 }}",
    "default": "{{ nothing | default('d') }}{{ '' | default('e', true) }}{{ nothing }}{{ messages[0].nothing }}",
    "whitespace": "  {% if true %}\n    a\n {% endif %}\n  {#- gone -#} b\n",
    "string methods": "{{ 'a,b'.split(',') }}{{ 'Ab'.upper() }}{{ 'x' .join(['1', '2']) }}{{ ' a '.strip() }}"
    "{{ 'aXb'.replace('X', '') }}{{ 'ab'.startswith('a') }}{{ 'abc'.find('c') }}{{ 'a'.center(5, '*') }}",
    "methods in loops": "{% for m in messages %}{{ m.content.split(' ') }}{{ m.get('role', 'x').title() }}{% endfor %}",
    "dict": "{% set d = dict(a=1, b=[1, 2]) %}{{ d.a }}{{ d['b'][1] }}{{ {'k': d}.k.b }}{{ (1, 2) }}{{ d }}",
    "recursive loop": "{% for x in [[1, [2, 3]], 4] recursive %}{% if x is iterable %}({{ loop(x) }}){% else %}"
    "{{ x }}{% endif %}{% endfor %}",
    "special tokens": "{{ bos_token }}{{ bos_token + messages[0]['content'] + eos_token }}",
    "with": "{% with a = 1, b = 'z' %}{{ a ~ b }}{% endwith %}",
}
CHAT = [
    {"role": "system", "content": 'be <b> "brief" & naïve'},
    {"role": "user", "content": "  東京 🙂 a\nb "},
    {"role": "assistant", "content": "<think>x</think>\n\nanswer"},
    {"role": "user", "content": "last a"},
]


def huggingface(source: str, messages: Any) -> str:
    """The reference: jinja2 alone, with Hugging Face's options."""

    def to_json(value: Any, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = to_json
    variables = {"messages": messages, "tools": None, "add_generation_prompt": True}
    return environment.from_string(source).render(**variables, bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("idiom", IDIOMS)
def test_the_bounds_change_nothing_that_templates_do(idiom: str) -> None:
    assert rendered(IDIOMS[idiom], CHAT) == huggingface(IDIOMS[idiom], CHAT)


def test_a_long_conversation_renders_in_time() -> None:
    source = (CHECKPOINTS / "llada-tiny/tokenizer_config.json").read_text()
    source = json.loads(source)["chat_template"]
    messages = [{"role": "user", "content": "word " * 200}] * 2000
    assert rendered(source, messages) == huggingface(source, messages)


def test_a_template_may_append_message_after_message_to_one_text() -> None:
    source = "{% set ns = namespace(s='') %}{% for m in messages %}{% set ns.s = ns.s ~ m.content.strip() %}{% endfor %}{{ ns.s }}"
    messages = [{"role": "user", "content": "word " * 50}] * 1000
    assert rendered(source, messages) == huggingface(source, messages)


def test_one_very_long_message_renders() -> None:
    content = "é" * 6_000_000
    assert rendered("{{ messages[0].content | trim }}", [{"role": "user", "content": content}]) == content


def test_the_generation_tag_of_training_templates_is_transparent() -> None:
    source = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    assert rendered(source) == "hi"


def test_strftime_now_is_the_time() -> None:
    assert rendered("{{ strftime_now('%Y') }}") == str(datetime.now().year)


def test_tools_reach_a_template_that_knows_them() -> None:
    source = "{% if tools %}{{ tools | tojson }}{% endif %}"
    assert rendered(source, tools=[{"name": "é"}]) == '[{"name": "é"}]'
    assert rendered(source, tools=[]) == ""
    with pytest.raises(UnsupportedError, match="no tools") as caught:
        rendered("{{ messages[0].content }}", tools=[{"name": "f"}])
    assert caught.value.field == "chat.tools"


def test_template_kwargs_reach_the_variables_the_template_reads() -> None:
    source = "{% if enable_thinking is defined and not enable_thinking %}off{% endif %}{{ style }}"
    chat = template(source)
    assert chat.variables == {"enable_thinking", "style"}
    options = {"enable_thinking": False, "style": "x"}
    assert chat.render(HI, add_generation_prompt=True, template_kwargs=options) == "offx"


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"messages": []}, "'messages' is reserved"),
        ({"tools": []}, "reserved"),
        ({"add_generation_prompt": False}, "reserved"),
        ({"bos_token": "x"}, "reserved"),
        ({"pad_token": "x"}, "reserved"),
        ({"_x": 1}, "reserved"),
        ({3: 1}, "reserved"),
        ({"enable_thinkin": 1}, "no variable 'enable_thinkin'; it reads: a"),
        ({"range": 1}, "no variable 'range'"),
        ({"a": object()}, "expected JSON data, got object"),
        ({"a": "\ud800"}, "lone surrogate"),
        ([1], "expected an object"),
    ],
)
def test_other_template_kwargs_are_refused(kwargs: Any, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=re.escape(message)) as caught:
        rendered("{{ a }}{{ range(1) | length }}", template_kwargs=kwargs)
    assert caught.value.field.startswith("chat.template_kwargs")


class Evil(Mapping[str, object]):
    def __getitem__(self, key: str) -> object:
        return {"role": "user", "content": "x"}[key]

    def __iter__(self) -> Any:
        return iter(["role", "content"])

    def __len__(self) -> int:
        return 2

    def run(self) -> str:
        return "ran"


def test_a_template_meets_only_plain_data() -> None:
    assert rendered("{{ messages[0].run }}{{ messages[0].content }}", [Evil()]) == "x"


@pytest.mark.parametrize(
    ("messages", "field", "message"),
    [
        ([], "chat.messages", "1 to 10000 messages, got 0"),
        (HI * 10_001, "chat.messages", "got 10001"),
        ("hi", "chat.messages", "expected a list of messages, got str"),
        (None, "chat.messages", "got NoneType"),
        (["hi"], "chat.messages[0]", "expected an object, got str"),
        ([{"content": "x"}], "chat.messages[0].role", "expected a role"),
        ([{"role": "", "content": "x"}], "chat.messages[0].role", "expected a role"),
        ([{"role": 3, "content": "x"}], "chat.messages[0].role", "expected a role"),
        ([{"role": "user", "content": 3}], "chat.messages[0].content", "expected text, got int"),
        ([{"role": "user"}], "chat.messages[0].content", "^expected text, got nothing$"),
        ([*HI, {"role": "user", "content": None}], "chat.messages[1].content", "^expected text, got nothing$"),
        ([{"role": "user", "tool_calls": [{}]}], "chat.messages[0].content", "^expected text, got nothing$"),
        ([{"role": "assistant"}], "chat.messages[0].content", "^expected text, got nothing$"),
        ([{"role": "assistant", "tool_calls": []}], "chat.messages[0].content", "^expected text, got nothing$"),
        ([{"role": "user", "content": b"x"}], "chat.messages[0].content", "expected text, got bytes"),
        (
            [*HI, {"role": "user", "content": "\ud83d"}],
            "chat.messages[1].content",
            "surrogate at character 0",
        ),
        (
            [{"role": "user", "content": ["a", {"b": {1}}]}],
            "chat.messages[0].content[1].b",
            "JSON data, got set",
        ),
    ],
)
def test_malformed_messages_are_named(messages: Any, field: str, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message) as caught:
        rendered("{{ messages[0].content }}", messages)
    assert caught.value.field == field


def test_deeply_nested_content_is_refused() -> None:
    content: Any = []
    for _ in range(5000):
        content = [content]
    with pytest.raises(InvalidRequestError, match="nested deeper than 32"):
        rendered("x", [{"role": "user", "content": content}])


def test_a_template_that_refuses_a_conversation_says_so_in_one_line() -> None:
    source = (
        "{% for m in messages %}{% if m.role == 'evil' %}{{ raise_exception('no evil\nhere') }}{% endif %}{% endfor %}"
    )
    assert rendered(source) == ""
    with pytest.raises(InvalidRequestError, match=r"^no evil$") as caught:
        rendered(source, [{"role": "evil", "content": "x"}])
    assert caught.value.field == "chat.messages"


def test_a_long_refusal_is_cut() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        rendered("{{ raise_exception('x' * 100000) }}")
    assert len(str(caught.value)) == 200


@pytest.mark.parametrize(
    "source",
    ["{{ messages[0].content + 1 }}", "{{ messages[9].content.x }}", "{{ 1 / 0 }}", "{{ nothing() }}"],
)
def test_what_the_template_cannot_compute_is_an_error_of_the_request(source: str) -> None:
    with pytest.raises(InvalidRequestError, match="cannot render this") as caught:
        rendered(source)
    assert caught.value.field == "chat.messages"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [{}, {"content": None}])
def test_an_assistant_that_calls_tools_needs_no_content(content: dict[str, Any]) -> None:
    calls = {"role": "assistant", "tool_calls": [{"name": "f"}], **content}
    assert rendered("{{ messages[0].tool_calls | tojson }}", [calls]) == '[{"name": "f"}]'


REFUSALS = {
    "{{ messages[0].tool_calls | tojson }}": "tojson expected JSON data, got nothing",
    "{{ [messages[0].tool_calls] | tojson }}": "tojson expected JSON data, got nothing",
    "{{ messages[0].tool_calls[0].name }}": "expected 'tool_calls' in an object, got nothing",
    "{{ messages[0].content + messages }}": "+ expected operands that fit, got text and a list",
    "{{ messages[0].content - 1 }}": "- expected operands that fit, got text and a number",
    "{{ none.split('x') }}": "expected 'split' in null, got nothing",
    "{{ mood() }}": "expected 'mood', got nothing",
    "{{ 1 % 0 }}": "% expected a divisor, got 0",
    "{% for x in none %}{% endfor %}": "expected a value of another type",
    "{{ 'x'.index('y') }}": "expected a value of another form",
    "{{ 2.5e200 ** 2 }}": "expected numbers within range",
    "{{ messages[0].content.__class__.x }}": "reads '__class__', which chat templates may not",
}


@pytest.mark.parametrize("source", REFUSALS)
def test_a_refusal_says_what_was_expected_and_what_came(source: str) -> None:
    guarded = "{% if messages[0].role == 'tool' %}" + source + "{% endif %}"  # so that it loads
    with pytest.raises(InvalidRequestError) as caught:
        rendered(guarded, [{"role": "tool", "content": "x"}])
    assert str(caught.value) == f"the chat template cannot render this ({REFUSALS[source]})"


def test_a_surrogate_made_by_the_template_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="lone surrogate"):
        rendered("{{ '\\ud800' }}")


def checkpoint(tmp_path: Path, template: object, jinja: str | bytes | None = None) -> Path:
    source = CHECKPOINTS / "llada-tiny"
    (tmp_path / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    config = {"chat_template": template, "bos_token": "<|startoftext|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    if jinja is not None:
        (tmp_path / "chat_template.jinja").write_bytes(jinja if isinstance(jinja, bytes) else jinja.encode())
    return tmp_path


def loaded(path: Path) -> ChatTemplate | None:
    return ChatTemplate.load(path, Tokenizer.load(path))


def test_a_template_file_wins_over_the_configuration(tmp_path: Path) -> None:
    chat = loaded(checkpoint(tmp_path, "config", "{{ bos_token }}file"))
    assert chat is not None
    assert chat.render(HI, add_generation_prompt=True) == "<|startoftext|>file"


def test_of_named_templates_the_default_is_taken(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    chat = loaded(checkpoint(tmp_path, named))
    assert chat is not None
    assert chat.render(HI, add_generation_prompt=False) == "d"


def test_a_checkpoint_without_a_template_has_none(tmp_path: Path) -> None:
    assert loaded(checkpoint(tmp_path, None)) is None


@pytest.mark.parametrize("bad", [3, {"a": 1}, [1], [{"name": "default"}], [{"name": "x", "template": "y"}], []])
def test_a_malformed_template_entry_is_refused(tmp_path: Path, bad: object) -> None:
    with pytest.raises(CheckpointError, match="chat_template: "):
        loaded(checkpoint(tmp_path, bad))


@pytest.mark.parametrize("bad", [b"\xff", b"x" * (1 << 20), b"{% if %}"])
def test_a_bad_template_file_is_named(tmp_path: Path, bad: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"^chat_template\.jinja: "):
        loaded(checkpoint(tmp_path, "fine", bad))


def test_tool_calls_are_refused_by_a_template_that_would_drop_them() -> None:
    calls = {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}
    conversation = [{"role": "user", "content": "hi"}, calls]
    with pytest.raises(UnsupportedError, match="no tool calls") as refused:
        rendered("{% for message in messages %}{{ message.content }}{% endfor %}", conversation)
    assert refused.value.field == "chat.messages[1].tool_calls"
    assert rendered("{{ messages | tojson }}", conversation).endswith('"tool_calls": [{"name": "f"}]}]')
