"""What an engine is: it holds a candidate's weights and turns prompts into answers."""

from collections.abc import Callable, Sequence
from typing import Protocol

from evovlm.merging.merged_tensors import MergedTensors
from evovlm.models.decoding.generation import Generated
from evovlm.models.decoding.stock import DecodingSettings
from evovlm.models.loading import LoadedModel
from evovlm.models.prompt import Prompt
from evovlm.thoughts import ThoughtMarks


class Engine(Protocol):
    """Holds the weights of one candidate after another; a row of `ENGINES` opens it for a host."""

    @property
    def loaded(self) -> LoadedModel:
        """The model that prompts are made for: config, tokenizer and processor; its weights may be elsewhere."""
        ...

    def become(self, tensors: MergedTensors) -> bool:
        """Take a candidate's weights; return whether all of them are finite. Raises as `Merger.merge` does."""
        ...

    def answer(
        self,
        prompts: Sequence[Prompt],
        *,
        decoding: DecodingSettings,
        marks: ThoughtMarks | None = None,
        on_answers: Callable[[int, int], None] | None = None,
    ) -> Generated:
        """Answer every prompt, each within its limit; `marks` and `on_answers` are those of `generate`.

        Raises FloatingPointError when the logits are not finite.
        """
        ...

    def close(self) -> None:
        """Release the memory and the processes that it holds."""
        ...
