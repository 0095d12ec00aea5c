"""Separate what a model thinks from its answer: tags such as <think>, and the channels of the harmony format."""

import re
from collections.abc import Collection
from dataclasses import dataclass

NOT_FINISHED = "reasoning not finished"
"""Why an answer whose thought never ends is not scored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A model's text: its `thought` (empty without one), and the `final` part, None if the thought never ends."""

    thought: str
    final: str | None


_NAMES = r"(?:think|thinking|thought|thoughts|reasoning|reason|seed:think)"
_OPEN = re.compile(rf"<{_NAMES}>|\[THINK\]|◁think▷|<\|begin_of_thought\|>|<\|START_THINKING\|>", re.IGNORECASE)
_OPEN_AGAIN = re.compile(rf"(?:^|\n)[ \t]*(?:{_OPEN.pattern})", re.IGNORECASE)
_CLOSE = re.compile(rf"</{_NAMES}>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>|<\|END_THINKING\|>", re.IGNORECASE)
_OPENED = re.compile(rf"(?:{_OPEN.pattern})\s*$", re.IGNORECASE)
_LONGEST_TAG = 60
_HARMONY = frozenset({"<|start|>", "<|channel|>", "<|message|>", "<|end|>"})
_CHANNEL = re.compile(r"<\|channel\|>\s*(?P<name>[a-z]+)[^<\n]{0,40}<\|message\|>")
_CHANNEL_END = re.compile(r"<\|(?:end|return|call|start)\|>")
# Harmony without its special tokens, as decoders that skip them write it.
_BARE_CHANNELS = re.compile(r"analysis(?P<thought>[\s\S]*?)(?:assistant)?(?:commentary[\s\S]*?)?assistantfinal")
# What some models put around the answer that follows the thought.
_SOLUTION = re.compile(r"<\|begin_of_solution\|>|<\|end_of_solution\|>|<\|(?:START|END)_RESPONSE\|>")


def split_thought(text: str) -> Parts:
    """Return a text's thought and its final part.

    A thought is in <think>...</think> or similar tags, before a closing tag alone (the prompt opened it), or in the
    channels of the harmony format.
    """
    if channels := list(_CHANNEL.finditer(text)):
        return _of_channels(text, channels)
    if bare := _BARE_CHANNELS.match(text.lstrip()):
        return Parts(thought=bare["thought"].strip(), final=text.lstrip()[bare.end() :])
    last = _last(_CLOSE, text)
    rest = text[last.end() :] if last else text
    thought = _OPEN.sub("", text[: last.start()], count=1).strip() if last else ""
    if opened := _OPEN_AGAIN.search(rest):
        # What follows a tag that is not closed is thought; an answer before it counts.
        thought = f"{thought}\n{rest[opened.end() :]}".strip()
        rest = rest[: opened.start()]
        if not rest.strip():
            return Parts(thought=thought, final=None)
    return Parts(thought=thought, final=_SOLUTION.sub("", rest) if last else rest)


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    matches = list(pattern.finditer(text))
    return matches[-1] if matches else None


def _of_channels(text: str, channels: list[re.Match[str]]) -> Parts:
    bodies: dict[str, list[str]] = {}
    for number, channel in enumerate(channels):
        until = channels[number + 1].start() if number + 1 < len(channels) else len(text)
        end = _CHANNEL_END.search(text, channel.end(), until)
        bodies.setdefault(channel["name"], []).append(text[channel.end() : end.start() if end else until])
    final = bodies.pop("final", None)
    thought = "\n".join(body for parts in bodies.values() for body in parts)
    return Parts(thought=thought.strip(), final=None if final is None else final[-1])


def opened_thought(prompt: str) -> str:
    """Return the tag with which a prompt begins its model's thought, as some chat templates do; otherwise nothing."""
    found = _OPENED.search(prompt[-_LONGEST_TAG:])
    return found[0] if found else ""


def thought_marks(tokens: Collection[str]) -> frozenset[str]:
    """Return the special tokens that separate thought and answer; a text must keep them to be split."""
    harmony = _HARMONY if "<|channel|>" in tokens else frozenset()
    return harmony | {token for token in tokens if _OPEN.fullmatch(token) or _CLOSE.fullmatch(token)}
