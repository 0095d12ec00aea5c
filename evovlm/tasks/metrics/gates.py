"""The language gates: what counts as an answer in Japanese."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from evovlm.tasks.metrics.japanese import fasttext_share, script_share


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """One way to tell Japanese: a text's `share` of it, in [0, 1], and whether exactly one half is enough."""

    name: str
    description: str
    share: Callable[[str], float]
    half_suffices_for_numbers: bool

    def passes(self, text: str, *, for_numbers: bool = False) -> bool:
        """Say whether the text counts as Japanese; `for_numbers` where the answer is a number in a worked solution."""
        share = self.share(text)
        if for_numbers and not self.half_suffices_for_numbers:
            return share > 0.5
        return share >= 0.5


_ROWS = (
    Gate(
        name="script",
        description="at least half of the letters are kana or kanji; judges single words too",
        share=script_share,
        half_suffices_for_numbers=True,
    ),
    Gate(
        name="fasttext",
        description="as in the paper: p(ja) by fastText's lid.176.ftz; unreliable for single words",
        share=fasttext_share,
        # The paper's code takes exactly one half for Japanese in the ROUGE metrics, and for foreign in the accuracy.
        half_suffices_for_numbers=False,
    ),
)
GATES: Mapping[str, Gate] = {gate.name: gate for gate in _ROWS}
