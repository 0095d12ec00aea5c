"""Separate what a model thinks from its answer: tags such as <think>, and the channels of the harmony format."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias

from evovlm.errors import TaskError

NOT_FINISHED = "reasoning not finished"
"""Why an answer whose thought never ends is not scored."""
AUTO = "auto"

Reasoning: TypeAlias = str | tuple[str, str]
"""How a task's answers mark thoughts: `auto` (what the model's chat template and vocabulary hold), `think` (tags),
`harmony` (channels), `none`, or the two texts that begin and end a thought (the first may be empty)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A model's text: its `thought` (empty without one), and the `final` part, None if the thought never ends.

    `begins` is where the text behind the last thought begins; None while a thought is unfinished.
    """

    thought: str
    final: str | None
    begins: int | None = 0


_NAMES = (
    "think",
    "thinking",
    "thought",
    "thoughts",
    "reasoning",
    "reason",
    "seed:think",
    "longcat_think",
    "scratchpad",
)
TAGS: tuple[tuple[str, str], ...] = (
    *((f"<{name}>", f"</{name}>") for name in _NAMES),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<|channel>", "<channel|>"),
)
"""The tags around thoughts of published models."""
_HARMONY = frozenset({"<|start|>", "<|channel|>", "<|message|>", "<|end|>"})
_CHANNEL = re.compile(r"<\|channel\|>\s*(?P<name>[a-z]+)[^<\n]{0,40}<\|message\|>")
_CHANNEL_END = re.compile(r"<\|(?:end|return|call|start)\|>")
# Harmony without its special tokens, as decoders that skip them write it.
_BARE_THOUGHT, _BARE_FINAL = "analysis", "assistantfinal"
_BARE_CUT = re.compile(r"analysis(?=[A-Z\u3040-\u30ff\u4e00-\u9fff])")
_OPENED_CHANNEL = re.compile(r"<\|channel\|>analysis<\|message\|>\s*$")
# What some models put around the answer that follows the thought.
_SOLUTION = re.compile(
    r"<\|begin_of_solution\|>|<\|end_of_solution\|>|<\|(?:START|END)_RESPONSE\|>|</?(?:answer|response)>", re.IGNORECASE
)
_LONGEST_END = 200
# Full-width forms, character for character, so that places stay the same.
_NARROW = {full: full - 0xFEE0 for full in range(0xFF01, 0xFF5F)}
_QUOTES = frozenset({"``", '""', "''", "「」", "『』", "“”", "‘’"})
_BEGINS_THERE = re.compile(r"(?:^|[\n。．.!?！？>])[ \t\u3000]*$")
_BEFORE = 40
_FENCE = "```"


@dataclass(frozen=True)
class ThoughtMarks:
    """What marks thoughts in a text: `tags`, pairs of an opening and a closing one, and `channels` (harmony)."""

    tags: tuple[tuple[str, str], ...] = TAGS
    channels: bool = True

    @cached_property
    def tag(self) -> re.Pattern[str]:
        """Any of the tags, in the group `open` or `close`, in any case."""
        # A text without an opening tag has only the closing one.
        openings, closings = (
            "|".join(re.escape(tag) for tag in each if tag) or "(?!)" for each in zip(*self.tags, strict=True)
        )
        return re.compile(rf"(?P<open>{openings})|(?P<close>{closings})", re.IGNORECASE)

    def special(self, tokens: Collection[str]) -> frozenset[str]:
        """Return the special tokens that separate thought and answer; a text must keep them to be split."""
        harmony = _HARMONY if self.channels and "<|channel|>" in tokens else frozenset()
        return harmony | ({each for pair in self.tags for each in pair} & frozenset(tokens))

    def opened(self, prompt: str) -> str:
        """Return what begins the thought at the end of a prompt, as some chat templates write it; otherwise nothing."""
        end = prompt[-_LONGEST_END:]
        if self.channels and (channel := _OPENED_CHANNEL.search(end)):
            return channel[0]
        if not self.tags:
            return ""
        last = _last(self.tag, end)
        return end[last.start() :] if last is not None and last["open"] and not end[last.end() :].strip() else ""


def marks_of(reasoning: Reasoning) -> ThoughtMarks:
    """Return the marks that a setting names; all known ones for `auto`. Raises TaskError for an unknown setting."""
    if isinstance(reasoning, tuple):
        return ThoughtMarks(tags=(reasoning,), channels=False)
    if reasoning not in _SETTINGS:
        raise TaskError(
            f"reasoning: '{reasoning}' is unknown. Write {', '.join(_SETTINGS)}, or the two texts that begin and end a "
            "thought (<a>,</a>; in a file a list of two)."
        )
    return _SETTINGS[reasoning]


_SETTINGS: Mapping[str, ThoughtMarks] = {
    AUTO: ThoughtMarks(),
    "think": ThoughtMarks(channels=False),
    "harmony": ThoughtMarks(tags=()),
    "none": ThoughtMarks(tags=(), channels=False),
}


def marks_for(reasoning: Reasoning, *, tokens: Collection[str], template: str) -> ThoughtMarks:
    """Return the marks of a model: for `auto`, those among its added `tokens` and in its chat template.

    A model that shows none of them may still write tags as plain text, so all are known then.
    """
    marks = marks_of(reasoning)
    if reasoning != AUTO:
        return marks
    shown = tuple(pair for pair in TAGS if any(each in tokens or each in template for each in pair))
    channels = "<|channel|>" in tokens or "<|channel|>" in template
    return replace(marks, tags=shown, channels=channels) if shown or channels else marks


def parse_reasoning(text: str) -> Reasoning:
    """Return the setting that a command line names: a word, two texts with a comma between, or a JSON list of them.

    Raises TaskError for anything else.
    """
    begin, comma, end = text.partition(",")
    reasoning: Reasoning = (begin, end) if comma else text
    if text.startswith('["'):
        with suppress(ValueError):
            reasoning = reasoning_from(json.loads(text))
    check_reasoning(reasoning)
    return reasoning


def reasoning_from(given: str | Sequence[str]) -> Reasoning:
    """Return the setting in a file: a word, or a list of two texts. Raises TaskError for another number of them."""
    if isinstance(given, str):
        return given
    if len(given) != 2:
        raise TaskError(f"reasoning: {list(given)} should be two texts, which begin and end a thought.")
    return given[0], given[1]


def check_reasoning(reasoning: Reasoning) -> None:
    """Raise TaskError for an unknown setting, and for a pair with an empty or the same text twice."""
    if isinstance(reasoning, tuple) and (not reasoning[1].strip() or reasoning[0] == reasoning[1]):
        raise TaskError(
            f"reasoning: {list(reasoning)} should be two different texts, which begin and end a thought; the first may "
            "be empty."
        )
    marks_of(reasoning)


def reasoning_text(reasoning: Reasoning) -> str:
    """Return the setting as text that `reasoning_of` reads."""
    return reasoning if isinstance(reasoning, str) else json.dumps(reasoning, ensure_ascii=False)


def reasoning_of(text: str) -> Reasoning:
    """Return the setting whose text this is. Raises ValueError for another text, TaskError for an unknown setting."""
    found = json.loads(text) if text.startswith("[") else text
    if not all(isinstance(each, str) for each in found):
        raise ValueError(f"{text!r:.80} is not a pair of texts")
    reasoning = reasoning_from(found)
    check_reasoning(reasoning)
    return reasoning


def split_thought(text: str, marks: ThoughtMarks = _SETTINGS[AUTO]) -> Parts:
    """Return a text's thought and its final part.

    A thought is in <think>...</think> or similar tags, before a closing tag alone (the prompt opened it), or in the
    channels of the harmony format. Several thoughts are joined, and so is what is between and behind them. A tag in
    quotes, or in a code block of the answer, is a word. A thought that is not finished begins a line or a sentence.
    """
    if marks.channels:
        if channels := list(_CHANNEL.finditer(text)):
            return _of_channels(text, channels)
        if (bare := _of_bare_channels(text)) is not None:
            return bare
    return _Tags(text=text, marks=marks).parts() if marks.tags else Parts(thought="", final=text)


def _of_bare_channels(text: str) -> Parts | None:
    """Return the parts of a text whose channels have lost their special tokens; None where it has none."""
    start = len(text) - len(text.lstrip())
    if not text.startswith(_BARE_THOUGHT, start):
        return None
    end = text.find(_BARE_FINAL, start)
    if end < 0:
        cut = _BARE_CUT.match(text, start)
        return None if cut is None else Parts(thought=text[cut.end() :].strip(), final=None, begins=None)
    thought = text[start + len(_BARE_THOUGHT) : end].removesuffix("assistant")
    begins = end + len(_BARE_FINAL)
    return Parts(thought=thought.replace("assistantcommentary", "\n").strip(), final=text[begins:], begins=begins)


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    matches = list(pattern.finditer(text))
    return matches[-1] if matches else None


@dataclass(slots=True, kw_only=True)
class _Tags:
    """A text that is read tag by tag: the thoughts and the parts of the answer so far."""

    text: str
    marks: ThoughtMarks
    thoughts: list[str] = field(default_factory=list)
    answer: list[str] = field(default_factory=list)
    start: int = 0
    opened: int | None = None
    closed: bool = False
    prefix: int = 0

    def parts(self) -> Parts:
        """Return the parts of the whole text."""
        plain = self.text.translate(_NARROW)
        tags = [tag for tag in self.marks.tag.finditer(plain) if not _is_quoted(plain, tag)]
        last_end = max((tag.start() for tag in tags if tag["close"]), default=-1)
        fences, counted = 0, 0
        for tag in tags:
            fences += plain.count(_FENCE, counted, tag.start())
            counted = tag.end()
            if tag["close"] and (self.opened is not None or fences % 2 == 0):
                self._end(tag)
                fences = 0
            elif self.opened is None and fences % 2 == 0 and (tag.start() < last_end or _begins_there(plain, tag)):
                self.answer.append(self.text[self.start : tag.start()])
                self.opened = tag.end()
        return self._finished()

    def _end(self, tag: re.Match[str]) -> None:
        if self.opened is None:
            # A thought that the prompt opened, or one tag within another: everything before is thought.
            self.prefix, self.thoughts, self.answer = tag.start(), [], []
        else:
            self.thoughts.append(self.text[self.opened : tag.start()])
        self.opened, self.start, self.closed = None, tag.end(), True

    def _finished(self) -> Parts:
        if self.opened is not None:
            self.thoughts.append(self.text[self.opened :])
            self.answer[-1] = self.answer[-1].rstrip()
        else:
            self.answer.append(self.text[self.start :])
        prefix = self.marks.tag.sub("", self.text[: self.prefix])
        thought = "\n".join(each.strip() for each in (prefix, *self.thoughts) if each.strip())
        final = "".join(self.answer)
        if self.opened is not None and not final.strip():
            return Parts(thought=thought, final=None, begins=None)
        if self.closed:
            final = _SOLUTION.sub("", final)
        return Parts(thought=thought, final=final, begins=self.start if self.opened is None else None)


def _is_quoted(text: str, tag: re.Match[str]) -> bool:
    around = text[tag.start() - 1 : tag.start()] + text[tag.end() : tag.end() + 1]
    return tag.start() > 0 and around in _QUOTES


def _begins_there(text: str, tag: re.Match[str]) -> bool:
    return _BEGINS_THERE.search(text[max(0, tag.start() - _BEFORE) : tag.start()]) is not None or tag.start() == 0


def _of_channels(text: str, channels: list[re.Match[str]]) -> Parts:
    bodies: dict[str, list[str]] = {}
    begins = None
    for number, channel in enumerate(channels):
        until = channels[number + 1].start() if number + 1 < len(channels) else len(text)
        end = _CHANNEL_END.search(text, channel.end(), until)
        bodies.setdefault(channel["name"], []).append(text[channel.end() : end.start() if end else until])
        begins = channel.end() if channel["name"] == "final" else begins
    final = bodies.pop("final", None)
    thought = "\n".join(body for parts in bodies.values() for body in parts)
    return Parts(thought=thought.strip(), final=None if final is None else final[-1], begins=begins)
