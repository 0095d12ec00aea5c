"""Bounds for chat templates, which are programs from strangers.

transformers renders them in jinja's sandbox, which keeps them from reaching anything but not from looping for hours or
filling the memory. A template within the bounds renders as before.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers.utils import chat_template_utils

MOST_STEPS = 200_000
"""Passes through loops and calls in one rendering."""
MOST_CHARACTERS = 2_000_000
"""The longest text, and the most values in a list, that a rendering may make."""
_MOST_BITS = 10_000
_WIDE = re.compile(r"%[^%a-zA-Z]*(\*|\d{5})|:[^{}]*\d{5}")
_COUNTED, _JOINED = "evovlm_counted", "evovlm_joined"
_GROWING_METHODS = frozenset(("center", "expandtabs", "join", "ljust", "replace", "rjust", "translate", "zfill"))
_GROWING_FILTERS = ("batch", "center", "format", "indent", "join", "replace", "slice", "string", "tojson", "wordwrap")

_left: ContextVar[list[int] | None] = ContextVar("steps left in this rendering", default=None)


@contextmanager
def bounded_template(templates: object) -> Iterator[str | None]:
    """Yield what to give to `apply_chat_template` as `chat_template`, in the body, for a rendering within bounds.

    `templates` are those of a tokenizer or processor: a text, or a dict with a `default`. It is None where
    transformers should say what is wrong with them. A rendering that needs more raises jinja's SecurityError. Raises
    jinja's TemplateError and RecursionError for a template that cannot be read.
    """
    text = templates.get("default") if isinstance(templates, dict) else templates
    before = _left.set([MOST_STEPS])
    try:
        yield _bounded(text) if isinstance(text, str) else None
    finally:
        _left.reset(before)


def _bounded(text: str) -> str:
    """Return a text that transformers renders as this template.

    transformers must not compile the template itself, which computes its constants. But it keeps what it has compiled:
    here a comment, which is then replaced by the bounded template.
    """
    comment = "{# " + hashlib.blake2b(text.encode(errors="surrogatepass")).hexdigest() + " #}"
    kept = chat_template_utils._compile_jinja_template(comment)
    if not isinstance(kept.environment, _BoundedEnvironment):
        environment = kept.environment.overlay()
        environment.__class__ = _BoundedEnvironment
        environment.finalize = _checked
        environment.globals = {name: value for name, value in environment.globals.items() if name != "lipsum"}
        growing = {name: _checking(environment.filters[name]) for name in _GROWING_FILTERS}
        environment.filters = {**environment.filters, **growing, _COUNTED: _counted, _JOINED: _joined_texts}
        kept.__dict__.update(environment.from_string(text).__dict__)
    return comment


def _refuse(what: str) -> SecurityError:
    return SecurityError(f"the template {what}")


def _take_steps(count: int) -> None:
    left = _left.get()
    if left is None:
        return
    left[0] -= count
    if left[0] < 0:
        raise _refuse(f"takes more than {MOST_STEPS} steps")


def _size(value: object) -> int:
    """Return how many characters or values there are in a value and the lists in it; stops counting at the limit."""
    size, waiting = 0, [value]
    while waiting and size <= MOST_CHARACTERS:
        each = waiting.pop()
        if isinstance(each, (list, tuple)):
            size += len(each)
            waiting.extend(each)
        elif isinstance(each, dict):
            size += len(each)
            waiting.extend(each.values())
        else:
            size += len(each) if isinstance(each, (str, bytes)) else 1
    return size


def _checked(value: Any) -> Any:
    if _size(value) > MOST_CHARACTERS:
        raise _refuse(f"makes a text of more than {MOST_CHARACTERS} characters")
    return value


def _check_growth(value: object, given: Iterable[object]) -> None:
    """Refuse a text made of `value` and arguments (sizes, fillings) that may become too long."""
    _checked(value)
    if isinstance(value, str) and _WIDE.search(value):
        raise _refuse("formats a text of a great width")
    times = max((abs(each) if isinstance(each, int) else _size(each) for each in given), default=0)
    if (_size(value) + 1) * (times + 1) > 100 * MOST_CHARACTERS:
        raise _refuse(f"makes a text of more than {MOST_CHARACTERS} characters")


def _checking(growing: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter of jinja that refuses to make a text of unbounded length."""
    passes_first = hasattr(growing, "jinja_pass_arg")

    @wraps(growing)
    def checked(*given: Any, **named: Any) -> Any:
        value, *further = given[1:] if passes_first else given
        if isinstance(value, Iterator):
            value = list(value)
            given = (given[0], value, *further) if passes_first else (value, *further)
        _check_growth(value, (*further, *named.values()))
        return _checked(growing(*given, **named))

    return checked


def _counted(values: Any) -> Any:
    """Return what a loop passes through, once its number of passes is counted."""
    if not isinstance(values, Sized) and isinstance(values, Iterable):
        values = list(values)
    _take_steps(len(values) if isinstance(values, Sized) else 0)
    return values


def _joined(chunks: Iterable[str]) -> str:
    found, size = [], 0
    for chunk in chunks:
        size += len(chunk)
        if size > MOST_CHARACTERS:
            raise _refuse(f"makes a text of more than {MOST_CHARACTERS} characters")
        found.append(chunk)
    return "".join(found)


def _joined_texts(values: Iterable[object]) -> str:
    return _joined(str(_checked(value)) for value in values)


class _BoundedEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox of transformers, with a count of steps and a limit on the size of what operators and calls make."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))
    concat = staticmethod(_joined)

    def compile(self, source: Any, *given: Any, **named: Any) -> Any:
        tree = self.parse(source) if isinstance(source, str) else source
        for loop in tree.find_all(nodes.For):
            loop.iter = _filtered(loop.iter, _COUNTED)
        self._replace_concatenations(tree)
        return super().compile(tree, *given, **named)

    def _replace_concatenations(self, node: nodes.Node) -> None:
        for name, value in list(node.iter_fields()):
            if isinstance(value, list):
                setattr(node, name, [self._replaced(each) for each in value])
            else:
                setattr(node, name, self._replaced(value))

    def _replaced(self, part: Any) -> Any:
        if not isinstance(part, nodes.Node):
            return part
        self._replace_concatenations(part)
        if isinstance(part, nodes.Concat):
            return _filtered(nodes.List(part.nodes, lineno=part.lineno, environment=self), _JOINED)
        return part

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        _take_steps(1)
        numbers = [each for each in (left, right) if isinstance(each, int)]
        if operator == "+" and len(numbers) < 2:
            if _size(left) + _size(right) > MOST_CHARACTERS:
                raise _refuse(f"makes a text of more than {MOST_CHARACTERS} characters")
        elif operator == "*" and len(numbers) == 1 and isinstance(right if left is numbers[0] else left, Sized):
            sized = right if left is numbers[0] else left
            if len(sized) * numbers[0] > MOST_CHARACTERS:
                raise _refuse(f"makes a text of more than {MOST_CHARACTERS} characters")
        elif operator == "%" and isinstance(left, str):
            _check_growth(left, right if isinstance(right, tuple) else (right,))
        elif len(numbers) == 2 and operator in ("*", "**"):
            bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
            if bits > _MOST_BITS:
                raise _refuse("computes with numbers of thousands of digits")
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        formatting = super().wrap_str_format(value)
        if formatting is None:
            return None

        def bounded(*given: Any, **named: Any) -> str:
            _check_growth(value.__self__, (*given, *named.values()))
            return formatting(*given, **named)

        return bounded

    def call(__self, __context: Any, __obj: Any, *given: Any, **named: Any) -> Any:  # noqa: N805 (as jinja names it)
        _take_steps(1)
        if isinstance(__obj, LoopContext) and given:
            given = (_counted(given[0]), *given[1:])
        receiver = getattr(__obj, "__self__", None)
        if isinstance(receiver, str) and getattr(__obj, "__name__", "") in _GROWING_METHODS:
            _check_growth(receiver, (*given, *named.values()))
            return _checked(super().call(__context, __obj, *given, **named))
        return super().call(__context, __obj, *given, **named)


def _filtered(value: Any, name: str) -> nodes.Filter:
    return nodes.Filter(value, name, [], [], None, None, lineno=value.lineno, environment=value.environment)
