"""Greedy decoding with continuous batching: a finished answer leaves its slot at once, and a waiting prompt takes it.

New prompts are read in the same pass in which the running answers move on, so that no row waits and nothing is padded.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from evovlm.models.decoding.runner import Runner
from evovlm.models.prompt import Prompt

_TOKENS_BETWEEN_TEXT_CHECKS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """When an answer ends before its limit: at a token of `stop_ids`, or where `is_over` (its tokens) holds.

    `is_over` is asked now and then only; what stands behind the end is for the caller to cut.
    """

    stop_ids: frozenset[int]
    is_over: Callable[[list[int]], bool] | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class _Answer:
    prompt: int
    limit: int
    tokens: list[int] = field(default_factory=list)

    def take(self, tokens: Sequence[int], ending: Ending) -> bool:
        """Append tokens up to the answer's end; return whether it has come."""
        for token in tokens:
            if token in ending.stop_ids:
                return True
            self.tokens.append(token)
            if len(self.tokens) >= self.limit:
                return True
            is_asked = ending.is_over is not None and len(self.tokens) % _TOKENS_BETWEEN_TEXT_CHECKS == 0
            if is_asked and ending.is_over is not None and ending.is_over(self.tokens):
                return True
        return False


def decode(
    runner: Runner, prompts: Mapping[int, Prompt], *, ending: Ending, limits: Sequence[int]
) -> Iterator[tuple[int, list[int]]]:
    """Yield each prompt's number and its answer in tokens, without the stop token, as soon as it is there.

    `limits`, by number, says how many tokens each answer has at most.
    Raises FloatingPointError when the model's logits are not finite.
    """
    waiting = deque(prompts)
    free = list(range(runner.n_slots))[::-1]
    running: dict[int, _Answer] = {}
    while waiting or running:
        entering = _admitted(waiting, free, prompts, budget=runner.prompt_tokens_at_once)
        for slot, number in entering.items():
            running[slot] = _Answer(prompt=number, limit=limits[number])
        new = runner.advance({slot: prompts[number] for slot, number in entering.items()})
        for slot, tokens in new.items():
            if running[slot].take(tokens, ending):
                answer = running.pop(slot)
                runner.leave(slot)
                free.append(slot)
                yield answer.prompt, answer.tokens


def _admitted(waiting: deque[int], free: list[int], prompts: Mapping[int, Prompt], *, budget: int) -> dict[int, int]:
    """Take prompts off the queue for free slots, as many as one pass may read; return them by slot."""
    entering: dict[int, int] = {}
    while waiting and free:
        n_tokens = len(prompts[waiting[0]].ids)
        # One that is longer than the budget goes alone.
        if entering and n_tokens > budget:
            break
        budget -= n_tokens
        entering[free.pop()] = waiting.popleft()
    return entering
