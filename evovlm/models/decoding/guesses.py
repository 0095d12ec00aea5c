"""Guesses of an answer's next tokens: how earlier candidates of a search answered the same prompt.

A pass computes the tokens that follow several guessed ones at once, and only those count that follow right guesses
(Leviathan et al. 2023, with greedy decoding). So answers stay as they are, and a search needs fewer passes.
"""

from collections import deque
from collections.abc import MutableMapping, Sequence

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

_EARLIER = 3
_CONTEXT = 2

_answers: MutableMapping[Tensor, deque[list[int]]] = WeakTensorKeyDictionary()
"""The latest answers to each prompt, newest first, by the tensor of its tokens: a task's prompts keep theirs."""


def note_answer(prompt: Tensor, tokens: Sequence[int]) -> None:
    """Note the answer to a prompt, given by the tensor of its tokens, for as long as that tensor exists."""
    known = _answers.get(prompt)
    if known is None:
        known = _answers[prompt] = deque(maxlen=_EARLIER)
    known.appendleft(list(tokens))


def guess(prompt: Tensor, tokens: list[int], *, most: int) -> Sequence[int]:
    """Return at most `most` tokens that may follow the first `tokens` of an answer; none without a similar answer.

    They are from the latest answer that begins in the same way, or else from one with the last tokens near this place.
    """
    if most <= 0:
        return ()
    earlier, n = tuple(_answers.get(prompt, ())), len(tokens)
    for answer in earlier:
        if answer[:n] == tokens:
            return answer[n : n + most]
    context = tokens[-_CONTEXT:]
    for answer in earlier:
        places = [place for place in range(_CONTEXT, len(answer)) if answer[place - _CONTEXT : place] == context]
        if places:
            place = min(places, key=lambda place: abs(place - n))
            return answer[place : place + most]
    return ()
