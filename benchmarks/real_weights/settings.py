"""What a run of the stages depends on, and where each stage keeps its files."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.real_weights.lessons import ADAPTERS
from benchmarks.real_weights.training import Training
from evovlm.recipes.model_ref import ModelRef

SETS: Mapping[str, tuple[str, str]] = {
    "mawps": ("mawps_ja", "mawps_ja/dataset_mawps_test.json"),
    "msvamp": ("msvamp_ja", "msvamp/test_Japanese.json"),
    "mgsm": ("mgsm_ja", "mgsm/mgsm_ja.tsv"),
}
"""Sets of Japanese problems: evovlm's task, and the file in the folder of --data (without one: the hub)."""
ENGLISH = "msvamp/test_English.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The arguments of the command line.

    `given_base`, `adapters` and `models` are models as evovlm's recipes name them; without them, the stages make their
    own. `short` leaves only problems with two small numbers, but in a set that is never searched. `racing` is the share
    of the search samples that a candidate is scored on at most (1: all, without races). `seen` is a file with problems
    that were looked at before the search. `prompt` and `max_new_tokens` are those of every Japanese task;
    `chat_template` names the source whose template the merges have.
    """

    out: Path
    data: Path | None
    given_base: str | None
    adapters: tuple[str, ...]
    models: tuple[str, ...]
    search_on: str
    short: bool
    report_on: tuple[str, ...]
    search_samples: int
    report_samples: int
    pilot_samples: int
    seeds: int
    candidates: int
    racing: float
    seen: Path | None
    method: str
    prompt: str
    chat_template: str | None
    max_new_tokens: int
    examples: int
    training: Training
    device: str

    @property
    def base(self) -> str:
        """The model that all sources were fine-tuned from; a folder's path is absolute."""
        return ModelRef(text=self.given_base or str(self.out / "base")).identity

    @property
    def sources(self) -> Mapping[str, str]:
        """The models to merge, by name."""
        if self.trains:
            return {name: f"{self.base}+{self.out / 'adapters' / name}" for name in ADAPTERS}
        adapters = {short_name(each): f"{self.base}+{ModelRef(text=each).identity}" for each in self.adapters}
        return {**adapters, **{short_name(each): ModelRef(text=each).identity for each in self.models}}

    @property
    def trains(self) -> bool:
        """Whether the adapters are made here."""
        return not (self.adapters or self.models)

    def local(self, file: str) -> Path | None:
        """Return a file of the folder of --data; None where that is not given."""
        return None if self.data is None else self.data / file


def short_name(model: str) -> str:
    """Return the last part of a hub id or path as a source's name: augmxnt/shisa-gamma-7b-v1 -> shisa-gamma-7b-v1."""
    last = model.partition("@")[0].rstrip("/").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9]+", "-", last).strip("-")
