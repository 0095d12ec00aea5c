"""docs/reproducing.md: its commands run, on small models under the hub's ids, and its figures are the computed ones."""

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.reproduction_costs import LLAMA_3, LLM, VISION, steps
from evovlm.evaluation.intervals import wilson_interval
from evovlm.runs.config.hybrid import HybridConfig, load_search
from tests.cli.conftest import Command
from tests.hub_fixtures import OpenHub, open_hub
from tests.merging.test_conversion import pickled
from tests.pico import pico_llm, pico_vlm
from tests.tasks.sample_files import SETS

__all__ = ["open_hub"]

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reproducing.md").read_text(encoding="utf-8")
TASKS = ("gsm8k_ja", "mgsm_ja", "ja_vg_vqa", "ja_vlm_bench")
BLOCK = re.compile(r"^```\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
# GSM8K-ja, with answers of 8 tokens.
SHORT_ANSWERS = """
name: short_gsm8k_ja
splits: {search: rows.jsonl}
columns: {question: question, answer: answer_number}
prompt: ja-alpaca-cot
metric: accuracy
decoding: {max_new_tokens: 8}
"""
LLAMAS = (
    "lightblue/suzume-llama-3-8B-multilingual-orpo-borda-top75",
    "Danielbrdz/Barcenas-Llama3-8b-ORPO",
    "Dampfinchen/Llama-3-8B-Ultra-Instruct-SaltSprinkle",
    "TIGER-Lab/MAmmoTH2-8B-Plus",
    "mlabonne/Daredevil-8B",
)


def commands(section: str) -> list[list[str]]:
    """Return the commands of a section, from its heading to the next of the same rank, as words."""
    text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    lines = [line for block in BLOCK.findall(text) for line in block.splitlines() if line.startswith("evovlm ")]
    return [shlex.split(line, comments=False)[1:] for line in (re.sub(r"\s{2,}#.*", "", line) for line in lines)]


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Small models with the peculiarities of those on the hub: pickles, more rows, tiles, a processor of 2024."""
    folder = tmp_path_factory.mktemp("published")
    base = pico_llm(folder / "base", sliding_window=32)
    abel = pico_llm(folder / "abel", sliding_window=32, like=base, seed=1, vocab_rows=600)
    seeing = pico_vlm(folder / "evovlm", extra_rows=64, like=base, seed=4, sliding_window=32)
    processor = json.loads((seeing / "processor_config.json").read_text())
    (seeing / "processor_config.json").unlink()
    (seeing / "preprocessor_config.json").write_text(json.dumps(processor["image_processor"]))
    llama = pico_llm(folder / "llama", family="llama", n_blocks=5)
    return {
        "mistralai/Mistral-7B-v0.1": base,
        "augmxnt/shisa-gamma-7b-v1": pico_llm(folder / "shisa", sliding_window=32, like=base, seed=2),
        "WizardLMTeam/WizardMath-7B-V1.1": pickled(
            pico_llm(folder / "wizard", sliding_window=32, like=base, seed=3), folder / "wizard-pickled"
        ),
        "GAIR/Abel-7B-002": pickled(abel, folder / "abel-pickled", shards=2),
        "llava-hf/llava-v1.6-mistral-7b-hf": pico_vlm(
            folder / "llava", family="llava_next", extra_rows=64, rope_theta=1e6, like=base, seed=5
        ),
        "SakanaAI/EvoLLM-JP-v1-7B": base,
        "SakanaAI/EvoLLM-JP-A-v1-7B": base,
        "SakanaAI/EvoVLM-JP-v1-7B": seeing,
        "meta-llama/Meta-Llama-3-8B-Instruct": llama,
        **{
            name: pico_llm(folder / name.split("/")[1], family="llama", n_blocks=5, like=llama, seed=number)
            for number, name in enumerate(LLAMAS, start=6)
        },
    }


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_hub: OpenHub, published: Mapping[str, Path]) -> Path:
    """The current folder of the page's reader, with two samples of each task and searches of one generation."""
    open_hub(published)
    monkeypatch.chdir(tmp_path)
    for name in TASKS:
        (tmp_path / "data" / name).mkdir(parents=True)
        SETS[name].write_json_lines(tmp_path / "data" / name / "rows.jsonl")
    (tmp_path / "data" / "gsm8k_ja" / "task.yaml").write_text(SHORT_ANSWERS, encoding="utf-8")
    (tmp_path / "configs").mkdir()
    for path in (ROOT / "configs").glob("*.yaml"):
        if path.stem.startswith(("paper-", "llama3-")):
            small = yaml.safe_dump(shortened(yaml.safe_load(path.read_text(encoding="utf-8")), tmp_path))
            (tmp_path / "configs" / path.name).write_text(small, encoding="utf-8")
    return tmp_path


def shortened(config: dict[str, Any], place: Path) -> dict[str, Any]:
    """Return a search of four candidates on the local samples, with the models and settings of a shipped one."""
    found = {**config, "device": "cpu"}
    if "tasks" in found:
        names = {task["name"] for task in found["tasks"]}
        settings = {key: task[key] for task in found["tasks"] for key in ("extractor", "gate") if key in task}
        if names == {"ja_vg_vqa"}:
            rows = place / "data" / "ja_vg_vqa" / "rows.jsonl"
            settings |= {"name": "ja_vg_vqa", "data": str(rows), "decoding": "search"}
        else:
            settings |= {"name": str(place / "data" / "gsm8k_ja" / "task.yaml")}
        found["tasks"] = [settings]
    if "budget" in found:
        found["optimizer"] = {**found["optimizer"], "population": 4}
        found["budget"] = {"candidates": 4}
    for key in ("batch", "validation"):
        if key in found:
            found[key] = 1
    if "stages" in found:
        found["stages"] = {name: shortened(stage, place) for name, stage in found["stages"].items()}
        for stage in found["stages"].values():
            del stage["device"]
    return found


def run(evovlm: Command, words: list[str]) -> None:
    """Run a command of the page. Its scores are asked of the local samples, a few tokens each."""
    more: list[str] = []
    if words[0] == "score":
        named = {name for text in words for name in text.split(",")} & set(TASKS)
        more = [f"--data={name}=data/{name}/rows.jsonl" for name in sorted(named)] + ["--max-new-tokens=4"]
    told = evovlm(*words, *more)
    assert told.code == 0, (words, told)
    if "--out" in words:
        assert Path(words[words.index("--out") + 1]).is_dir()
    if "--checkpoint" in words:
        assert (Path(words[words.index("--checkpoint") + 1]) / "config.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("section", "count"),
    [
        ("The published models", 3),
        ("Table 1: Japanese math", 13),
        ("Table 3: Japanese VLM", 8),
        ("The interpolated space", 3),
    ],
)
def test_the_commands_of_a_section_run_one_after_the_other(
    evovlm: Command, place: Path, section: str, count: int
) -> None:
    found = commands(section)
    assert len(found) == count
    for words in found:
        # The harness's data are on the hub; tests/evaluation/test_harness.py runs such tasks.
        if not any(word.startswith("lm_eval:") for word in words):
            run(evovlm, words)
    assert {path.name for path in place.iterdir()} <= {"answers", "configs", "data", "models", "runs"}


def test_every_command_of_the_page_is_in_one_of_these_sections() -> None:
    lines = [line for block in BLOCK.findall(PAGE) for line in block.splitlines() if line.startswith("evovlm ")]
    assert len(lines) == 3 + 13 + 8 + 3 + 1
    assert "evovlm doctor" in lines[0]


def test_the_page_says_what_the_script_computes() -> None:
    rows = [line for line in PAGE.split("\n## Time and disk\n")[1].splitlines() if line.startswith("| ")]
    assert rows[1:] == [step.row for step in steps()]


def test_the_computed_sizes_are_those_of_the_models_files() -> None:
    # The files of EvoLLM-JP-v1-7B and EvoVLM-JP-v1-7B on the hub have 14.48 GB and 15.14 GB; Llama 3 has 8.03e9.
    assert pytest.approx(14.48, abs=0.01) == 2 * LLM / 1e9
    assert pytest.approx(15.14, abs=0.02) == 2 * (LLM + VISION) / 1e9
    assert pytest.approx(8.03, abs=0.01) == LLAMA_3 / 1e9


def test_the_computed_searches_are_those_of_the_configs() -> None:
    def budget(name: str, stage: str = "") -> int | None:
        search = load_search(ROOT / "configs" / f"{name}.yaml")
        assert isinstance(search, HybridConfig) == bool(stage)
        return search.stage(stage).budget.candidates

    assert budget("paper-evollm") == budget("paper-hybrid", "ps") == 999
    assert budget("paper-evovlm") == budget("paper-hybrid-vlm", "ps") == 1000
    assert budget("paper-dfs") == budget("paper-hybrid", "path") == budget("paper-hybrid-vlm", "path") == 12_800
    assert budget("llama3-interpolated") == 990


def test_the_intervals_of_published_scores_are_wilsons() -> None:
    rows = re.findall(r"^\| .* \| (\d+\.\d)(?: \(.*\))? \| (\d+\.\d) - (\d+\.\d) \|", PAGE, flags=re.MULTILINE)
    assert len(rows) == 6
    for score, low, high in rows:
        interval = wilson_interval(successes=round(float(score) * 2.5), n=250)
        assert (f"{100 * interval.low:.1f}", f"{100 * interval.high:.1f}") == (low, high)
