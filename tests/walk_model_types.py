"""Prints what evovlm can do with every model type of transformers: `python -m tests.walk_model_types [TYPE ...]`.

One line a type: merged, scored (merged in memory with exact logits and answers), or the reason why not; then the sums.
"""

import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.any_family import TEXT_TYPES, VLM_TYPES, save_pair
from tests.evaluation.any_family_checks import outcome_of


def line_of(model_type: str, folder: Path) -> tuple[str, str]:
    """Return a word for what can be done with a model type, and the reason why no more can."""
    try:
        base, tuned = save_pair(folder, model_type)
    # Validators of configs and constructors of models raise anything for sizes that do not suit them.
    except Exception as error:  # noqa: BLE001
        return "not built", f"{type(error).__name__}: {error}"
    try:
        found = outcome_of(base, tuned, folder / "out")
    except Exception as error:  # noqa: BLE001
        return "WRONG", f"{type(error).__name__}: {error}"
    word = "scored" if found.scored else "merged" if found.merged else "refused"
    return word, found.reason


def main(names: list[str]) -> None:
    """Walk over the named types, or over all."""
    sums: dict[str, Counter[str]] = {"text": Counter(), "pictures": Counter()}
    for name in names or dict.fromkeys((*TEXT_TYPES, *VLM_TYPES)):
        with TemporaryDirectory() as folder:
            word, reason = line_of(name, Path(folder))
        sums["pictures" if name in VLM_TYPES else "text"][word] += 1
        sys.stdout.write(f"{name}: {word}" + f" ({' '.join(reason.split())[:200]})" * bool(reason) + "\n")
        sys.stdout.flush()
    for kind, words in sums.items():
        listed = ", ".join(f"{count} {word}" for word, count in words.most_common())
        sys.stdout.write(f"{kind}: {words.total()} types, {listed}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
