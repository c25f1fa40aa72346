# ruff: noqa: E501
"""Templates that try to take time or memory, or to reach Python: refused in one line, fast and small."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from pydllm.errors import CheckpointError, InvalidRequestError
from pydllm.text import ChatTemplate

HI = [{"role": "user", "content": "hi"}]
GROW = (
    "{% set ns = namespace(a='a' * 1000) %}{% for i in range(60) %}{% set ns.a = STEP %}{% endfor %}{{ ns.a | length }}"
)
NEST = "{% set ns = namespace(a=SEED) %}{% for i in range(60) %}{% set ns.a = STEP %}{% endfor %}{{ ns.a }}"
BIG = "{% set s = 'a' * 4000000 %}"


def grow(step: str) -> str:
    return GROW.replace("STEP", step)


def nest(seed: str, step: str) -> str:
    return NEST.replace("SEED", seed).replace("STEP", step)


HOSTILE = {
    "slices in variables": BIG + "".join(f"{{% set a{i} = s[{i}:] %}}" for i in range(200)),
    "repeat text": "{{ 'a' * 10**9 }}",
    "repeat list": "{{ [1] * 10**9 }}",
    "repeat from the left": "{{ 10**9 * 'a' }}",
    "power": "{{ 10 ** (10 ** 9) }}",
    "negative power": "{{ 2 ** -100000000 }}",
    "multiplied powers": "{% set x = 2 ** 4000 %}{{ x * x }}",
    "printf width": "{{ '%1000000000d' % 1 }}",
    "printf star": "{{ '%*d' % (1000000000, 1) }}",
    "printf name": "{{ '%(a)1000000000d' % {'a': 1} }}",
    "printf nested name": "{{ '%(a(b)c)1000000000d' % {'a(b)c': 1} }}",
    "printf filter": "{{ '%1000000000d' | format(1) }}",
    "center": "{{ 'x'.center(10**9) }}",
    "center filter": "{{ 'x' | center(10**9) }}",
    "zfill": "{{ 'x'.zfill(10**9) }}",
    "format width": "{{ '{:1000000000}'.format(1) }}",
    "nested format width": "{{ '{:{}}'.format(1, 10**9) }}",
    "format_map width": "{{ '{a:1000000000}'.format_map({'a': 1}) }}",
    "range": "{% for i in range(10**9) %}{% endfor %}",
    "range beyond words": "{{ range(10**30) | length }}",
    "nested loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "loops that filter all": "{% for i in range(99999) if false %}{% endfor %}" * 300,
    "loops that break": "{% for i in range(99999) %}{% for j in range(9) %}{% break %}{% endfor %}{% endfor %}" * 30,
    "double by ~": grow("ns.a ~ ns.a"),
    "double by +": grow("ns.a + ns.a"),
    "double by printf": grow("'%s%s' % (ns.a, ns.a)"),
    "double by format": grow("'{0}{0}'.format(ns.a)"),
    "double by join": grow("[ns.a, ns.a] | join"),
    "double by join method": grow("ns.a.join(['', '', ns.a])"),
    "double by replace": grow("ns.a.replace('a', 'aa')"),
    "double by replace filter": grow("ns.a | replace('a', 'aa')"),
    "double by indent": grow("(ns.a | replace('a', '\\n')) | indent(9000)"),
    "double by json": grow("[ns.a, ns.a] | tojson"),
    "double by block": "{% set ns = namespace(a='a' * 1000) %}{% for i in range(60) %}{% set x %}{{ ns.a }}{{ ns.a }}"
    "{% endset %}{% set ns.a = x %}{% endfor %}",
    "replace nothing": "{{ ('a' * 1000000).replace('', 'b' * 1000000) }}",
    "nested lists": nest("[1]", "[ns.a, ns.a]"),
    "nested tuples": nest("(1,)", "(ns.a, ns.a)"),
    "nested dicts": nest("{}", "{'a': ns.a, 'b': ns.a}"),
    "nested dict calls": nest("{}", "dict(a=ns.a, b=ns.a)"),
    "added lists": nest("[1]", "ns.a + ns.a"),
    "deep lists": "{% set ns = namespace(a=[]) %}{% for i in range(9999) %}{% set ns.a = [ns.a] %}{% endfor %}{{ ns.a }}",
    "hoarded texts": "{% set ns = namespace(a=[]) %}{% for i in range(9999) %}{% set ns.a = ns.a + ['x' * 99999 ~ i] %}"
    "{% endfor %}",
    "hoarded slices": BIG + "{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = [ns.l, s[i:]] %}"
    "{% endfor %}",
    "endless macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "branching macro": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "endless block": "{% block a %}{{ self.a() }}{% endblock %}",
    "endless loop()": "{% for x in [1] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    "repeated literal": "{% for i in range(99999) %}" + "x" * 50000 + "{% endfor %}",
    "captured literal": "{% set y %}{% for i in range(99999) %}" + "x" * 50000 + "{% endfor %}{% endset %}",
    "captured macro": "{% macro m() %}" + "x" * 50000 + "{% endmacro %}{% set y %}{% for i in range(99999) %}{{ m() }}"
    "{% endfor %}{% endset %}",
    "batch": "{{ [1] | batch(10**9, 'x') | list }}",
    "slice": "{{ [1] | slice(10**9) | list }}",
    "indent": "{{ 'a' | indent(10**9, true) }}",
    "round": "{{ 1.5 | round(10**9, 'ceil') }}",
    "json indent": "{{ [1] | tojson(indent=10**9) }}",
    "split": BIG + "{% for i in range(1000) %}{% set x = s.split('a') %}{% endfor %}",
    "splitlines": "{% set s = '\\n' * 3000000 %}{% set x = s.splitlines() %}",
    "list of text": "{% for i in range(100) %}{% set x = ('a' * 3000000) | list %}{% endfor %}",
    "search": "{% set s = 'a' * 3000000 %}{% for i in range(99999) %}" + "{{ 'aaab' in s }}" * 100 + "{% endfor %}",
    "count": "{% set s = 'a' * 3000000 %}{% for i in range(99999) %}{{ s.count('ab') }}{% endfor %}",
    "titles": "{% for i in range(99999) %}{{ ('a b ' * 900000) | title | length }}{% endfor %}",
    "smallest": "{% for i in range(99999) %}{{ ('ab' * 1900000) | min }}{% endfor %}",
    "lists": "{% for i in range(99999) %}{% set x = range(99999) | list %}{% endfor %}",
    "sorting": "{% for i in range(99999) %}{% set x = range(99999) | sort %}{% endfor %}",
    "mapped": "{{ range(99999) | map('string') | map('center', 9999) | list }}",
    "joined": "{{ range(99999) | join('x' * 100000) }}",
    "joined by method": "{{ ('x' * 100000).join(range(99999) | map('string')) }}",
    "sum of lists": "{{ [[1]] | sum(start=[]) }}",
    "time format": "{{ strftime_now('%1000000000Y') }}",
    "integer bytes": "{{ (1).to_bytes(10**9, 'big') }}",
    "tabs": "{{ '\\t'.expandtabs(10**9) }}",
    "class": "{{ ''.__class__.__mro__ }}",
    "class by item": "{{ ''['__class__'].mro() }}",
    "class by format": "{{ '{0.__class__.__mro__}'.format('') }}",
    "globals": "{{ raise_exception.__globals__['x'] }}",
    "mutation": "{{ messages.append(1) }}",
    "mutation of a dict": "{{ messages[0].clear() }}",
    "attr": "{{ '' | attr('__class__') }}",
    "import": "{% import 'x' as y %}",
    "from import": "{% from 'x' import y %}",
    "include": "{% include '/etc/passwd' %}",
    "extends": "{% extends 'x' %}",
    "autoescape": "{% autoescape true %}{% endautoescape %}",
    "syntax": "{% if %}",
    "unclosed": "{% for x in y %}",
    "unknown filter": "{{ 1 | nope }}",
    "unknown tag": "{% nope %}",
    "brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "nested ifs": "{% if 1 %}" * 2000 + "{% endif %}" * 2000,
    "nested fors": "{% for i in a %}" * 30 + "{% endfor %}" * 30,
    "long sum": "{{ 1" + "+1" * 14000 + " }}",
    "long attribute chain": "{{ a" + ".b" * 14000 + " }}",
    "long integer": "{{ " + "9" * 5000 + " }}",
    "many tokens": "{{ a }}" * 18000,
    "large": "x" * 200_000,
    "surrogate": "\ud800",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_refused_at_load_quickly(name: str) -> None:
    begin = time.thread_time()
    with pytest.raises(CheckpointError) as caught:
        ChatTemplate(HOSTILE[name], special_tokens={})
    assert time.thread_time() - begin < 2
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "name",
    [
        "hoarded texts",
        "hoarded slices",
        "captured literal",
        "list of text",
        "lists",
        "double by +",
        "double by ~",
        "slices in variables",
    ],
)
def test_a_hostile_template_gets_little_memory(name: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError):
            ChatTemplate(HOSTILE[name], special_tokens={})
        assert tracemalloc.get_traced_memory()[1] < 300 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["repeat text", "nested loops", "branching macro", "class", "endless macro"])
def test_hostility_that_waits_for_a_request_fails_that_request(name: str) -> None:
    chat = ChatTemplate("{% if messages | length > 1 %}" + HOSTILE[name] + "{% endif %}ok", special_tokens={})
    with pytest.raises(InvalidRequestError) as caught:
        chat.render(HI * 2, add_generation_prompt=True)
    assert caught.value.field == "chat.messages"
    assert "\n" not in str(caught.value)
    assert chat.render(HI, add_generation_prompt=True) == "ok", "the next request is served"
