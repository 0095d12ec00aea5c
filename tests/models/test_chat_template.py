"""Chat templates are programs of strangers: they end in bounded time and memory, and sound ones render as before."""

import time
from pathlib import Path

import pytest
from jinja2.exceptions import TemplateError
from transformers import AutoTokenizer

from evovlm.models.chat_template import bounded_template
from tests.pico import pico_llm

SOUND = (
    "{% for m in messages %}{{ '<' ~ m.role ~ '>' + m['content'] | trim }}{% if not loop.last %}, {% endif %}"
    "{% endfor %}{{ loop is defined }}",
    "{% macro say(m) %}{{ m.role | upper }}: {{ m.content }}{% endmacro %}{% for m in messages if m.role == 'user' %}"
    "{{ loop.index }}/{{ loop.length }} {{ say(m) }}{% else %}nobody{% endfor %}",
    "{% set ns = namespace(n=0, text='') %}{% for m in messages %}{% set ns.n = ns.n + 1 * 2 %}"
    "{% set ns.text = ns.text ~ ns.n ~ m.content.split('x')[0].strip() %}{% endfor %}{{ ns.text }}"
    "{{ messages | tojson }}",
    "{{ messages | map(attribute='role') | join(', ') }}{{ '%s and %d' | format('a', 2) }}{{ 'ab'.center(6) }}"
    "{% for a in range(3) %}{% if a == 1 %}{% continue %}{% endif %}{{ a ** 2 }}{% endfor %}{{ ('-' * 5) % () }}",
    "{% for m in messages recursive %}{{ m.role }}{% if m.parts %}{{ loop(m.parts) }}{% endif %}{% endfor %}"
    "{{ bos_token }}{{ add_generation_prompt }}{% set x %}block{{ 1 }}{% endset %}{{ x | replace('b', 'c') }}",
)
HOSTILE = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% for a in range(10**9) %}{% endfor %}",
    "{{ 'a' * 10**9 }}",
    "{{ [0] * 10**9 }}",
    "{{ 10 ** (10**10) }}",
    "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% set ns = namespace(x='ab') %}{% for a in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "{% set ns = namespace(x='ab') %}{% for a in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{% set ns = namespace(x=[1]) %}{% for a in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace(x=[1]) %}{% for a in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}"
    "{{ ns.x | tojson }}",
    "{{ 'a'.center(10**9) }}",
    "{{ 'a'.replace('a', 'b' * 10**6).replace('b', 'c' * 10**6) }}",
    "{{ 'a' | center(10**9) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%1000000000d' | format(1) }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ '{:{}}'.format(1, 10**9) }}",
    "{{ lipsum(n=10**8) }}",
    "{% for a in range(90000) %}" + "x" * 10_000 + "{% endfor %}",
    "{{ 1 / 0 }}",
    "{{ messages[7].role.nothing }}",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pico LLM."""
    return pico_llm(tmp_path_factory.mktemp("models") / "llm")


MESSAGES = [{"role": "system", "content": " axb "}, {"role": "user", "content": "1と2で?"}]


@pytest.mark.parametrize("template", SOUND)
def test_a_sound_template_renders_as_in_transformers(folder: Path, template: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    expected = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=False)
    with bounded_template(template) as given:
        found = tokenizer.apply_chat_template(MESSAGES, chat_template=given, add_generation_prompt=True, tokenize=False)
    assert found == expected
    assert expected


@pytest.mark.parametrize("template", HOSTILE)
def test_a_hostile_template_is_refused_soon(folder: Path, template: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    started = time.process_time()
    with pytest.raises((TemplateError, ArithmeticError, RecursionError)), bounded_template(template) as given:
        tokenizer.apply_chat_template(MESSAGES, chat_template=given, tokenize=False)
    assert time.process_time() - started < 3
