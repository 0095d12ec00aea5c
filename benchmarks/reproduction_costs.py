"""Compute the time and the disk that each step of docs/reproducing.md takes; nothing is measured.

    python benchmarks/reproduction_costs.py

Prints the tables of that page. Sizes follow from the models' shapes, counts of questions and candidates from the paper
and from configs/. The rest are assumptions, the constants below: an A100 with 80 GB, of which evovlm reaches a share
(it has not been timed on a GPU); answers as long as worked answers of GSM8K and as captions usually are.
"""

from collections.abc import Iterator
from dataclasses import dataclass

BYTES_PER_SECOND = 2.0e12 * 0.3
"""A decoding step reads all weights and the keys of all answers: the device's memory, and the share of it reached."""
FLOPS_PER_SECOND = 312e12 * 0.4
"""Reading prompts is bound by arithmetic."""
COPY_BYTES_PER_SECOND = 10e9
"""A merge reads the models from memory over PCIe; converting reads and writes a disk at a tenth of it."""
DISK_BYTES_PER_SECOND = 1e9
ROWS = 64
"""Answers decoded at once."""
BEAMS = 5

HIDDEN, INNER, BLOCKS, ROWS_OF_WORDS, KEY_WIDTH = 4096, 14336, 32, 32000, 1024
BLOCK = 2 * HIDDEN * HIDDEN + 2 * HIDDEN * KEY_WIDTH + 3 * HIDDEN * INNER + 2 * HIDDEN
LLM = BLOCKS * BLOCK + 2 * ROWS_OF_WORDS * HIDDEN + HIDDEN
"""Parameters of Mistral-7B."""
VISION = 303_507_456 + (1024 + 1 + HIDDEN + 1) * HIDDEN
"""Parameters of CLIP-L/14-336 and LLaVA's projector."""
LLAMA_3 = LLM + (128_256 - ROWS_OF_WORDS) * 2 * HIDDEN
KEYS_PER_TOKEN = 2 * BLOCKS * KEY_WIDTH * 2
"""Bytes of keys and values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """Questions of a task for one candidate: how long their prompts and answers are, in tokens."""

    count: int
    prompt: int
    answer: int
    beams: int = 1

    def seconds(self, parameters: int, *, depth: float = 1.0) -> float:
        """Return the seconds that a model of so many parameters takes, with `depth` times the blocks."""
        rows = max(1, ROWS // self.beams)
        keys = rows * self.beams * (self.prompt + self.answer / 2) * KEYS_PER_TOKEN
        step = depth * (2 * parameters + keys) / BYTES_PER_SECOND
        reading = depth * 2 * parameters * self.prompt * self.beams * self.count / FLOPS_PER_SECOND
        return self.count / rows * self.answer * step + reading


MGSM = Questions(count=250, prompt=180, answer=250)
GSM8K = Questions(count=1069, prompt=180, answer=250)
BATCH = Questions(count=200, prompt=180, answer=250)
# A batch of beams ends with its longest answer.
PICTURES = Questions(count=550, prompt=660, answer=60, beams=BEAMS)
VG = Questions(count=1000, prompt=660, answer=60, beams=BEAMS)
VG_GREEDY = Questions(count=1000, prompt=660, answer=30)
VG_BATCH = Questions(count=200, prompt=660, answer=60, beams=BEAMS)
# Four answers each are read for ARC and HellaSwag, two for WinoGrande; GSM8K's prompt has five examples.
HARNESS = (Questions(count=1000, prompt=100, answer=0), Questions(count=100, prompt=1000, answer=250))

PATH_CANDIDATES, PATH_DEPTH, MERGED_MODELS = 12_800, 2.0, 4
"""A path has up to 192 hops; the published one has 65, about twice the blocks of a source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step of the page: its seconds, and the bytes that it adds to the disk by downloads and by results."""

    name: str
    seconds: float
    downloads: float = 0.0
    results: float = 0.0

    @property
    def row(self) -> str:
        """Return the row of the page's table."""
        return f"| {self.name} | {_time(self.seconds)} | {_size(self.downloads)} | {_size(self.results)} |"


def _search(questions: Questions, parameters: int, *, candidates: int, models: int, size: float) -> float:
    """Return the seconds of a search over weights: merges of models of `size` bytes each, and answers."""
    return candidates * (questions.seconds(parameters) + models * size / COPY_BYTES_PER_SECOND)


def _paths(questions: Questions, parameters: int) -> float:
    """Return the seconds of a search over paths: nothing is merged; each generation also tries its mean."""
    tried = PATH_CANDIDATES + PATH_CANDIDATES / 128
    return tried * questions.seconds(parameters, depth=PATH_DEPTH)


def steps() -> Iterator[Step]:
    """Yield the steps of the page, in its order."""
    llm, vlm, llama = 2.0 * LLM, 2.0 * (LLM + VISION), 2.0 * LLAMA_3
    abel, long = 4.0 * LLM, PATH_DEPTH * 2.0 * LLM
    merged = _search(GSM8K, LLM, candidates=999, models=MERGED_MODELS, size=llm)
    seeing, greedy = (_search(each, LLM, candidates=1000, models=3, size=llm) for each in (VG, VG_GREEDY))
    yield Step(name="score EvoLLM-JP-v1-7B", seconds=MGSM.seconds(LLM), downloads=llm)
    yield Step(name="score EvoVLM-JP-v1-7B", seconds=PICTURES.seconds(LLM), downloads=vlm)
    copied = (llm + abel) * 2 / DISK_BYTES_PER_SECOND
    yield Step(name="convert WizardMath and Abel", seconds=copied, downloads=llm + abel, results=llm + abel)
    yield Step(name="score the three sources", seconds=3 * MGSM.seconds(LLM), downloads=llm)
    yield Step(name="search EvoLLM-JP", seconds=merged, downloads=llm, results=llm)
    yield Step(name="search paths for an LLM", seconds=_paths(BATCH, LLM), results=long)
    yield Step(name="search the 10B hybrid", seconds=merged + _paths(BATCH, LLM), results=llm + long)
    yield Step(
        name="convert LLaVA, and score it",
        seconds=2 * vlm / DISK_BYTES_PER_SECOND + PICTURES.seconds(LLM),
        downloads=vlm,
        results=vlm,
    )
    yield Step(name="search EvoVLM-JP", seconds=seeing, results=vlm)
    yield Step(name="the same with `decoding: search`", seconds=greedy, results=vlm)
    yield Step(name="search the VLM hybrid", seconds=seeing + _paths(VG_BATCH, LLM), results=vlm + long)
    asked = sum(questions.seconds(LLAMA_3) for questions in HARNESS)
    interpolated = 990 * (asked + 6 * llama / COPY_BYTES_PER_SECOND)
    yield Step(name="search the interpolated space", seconds=interpolated, downloads=6 * llama, results=llama)


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{max(10, round(seconds, -1)):.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 60 * 3600:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 86400:.0f} days"


def _size(size: float) -> str:
    return f"{size / 1e9:.0f} GB" if size else "-"


def main() -> None:
    """Print the page's table."""
    print("| step | GPU time | downloads | results |\n|---|---:|---:|---:|")
    for step in steps():
        print(step.row)


if __name__ == "__main__":
    main()
