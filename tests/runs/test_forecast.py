"""What a run would cost: counted as the run then counts, timed on real answers, and nothing written."""

from pathlib import Path

import pytest
import yaml

from evovlm.errors import ConfigError
from evovlm.recipes.candidate import Evaluation
from evovlm.runs.before.forecast import Span, forecast, forecast_stages
from evovlm.runs.config.hybrid import load_search
from evovlm.runs.config.kinds import load_config
from evovlm.runs.config.parameters import EvolveConfig
from evovlm.runs.config.sections import BudgetSection
from evovlm.runs.folder.journal import read_journal
from evovlm.runs.searching.evolve import RunResult, evolve
from tests.runs.conftest import TASK, WriteConfig


def asked_in(run: Path) -> int:
    """Count the samples that a run's journal has scores of."""
    journal = read_journal(run / "journal.jsonl")
    outcomes = [entry.outcome for entry in journal.entries]
    scores = [score for each in outcomes if isinstance(each, Evaluation) for score in each.scores.values()]
    return sum(score.n for score in scores) + sum(
        score.n for parent in journal.parents.values() for score in parent.scores.values()
    )


def test_it_counts_what_the_run_then_has(config: EvolveConfig, whole_run: RunResult) -> None:
    found = forecast(config.resolved(relative_to=None))
    assert (found.genes, found.population, found.generations) == (4, 4, 3)
    assert found.candidates == whole_run.candidates
    assert found.samples == asked_in(whole_run.folder) == 13 * 4
    assert found.tasks[0].samples_per_candidate == 4
    size = (whole_run.folder / "journal.jsonl").stat().st_size
    assert size / 2 < found.journal_bytes < 2 * size
    assert found.tokens.low / 3 <= whole_run.tokens <= 3 * found.tokens.high
    assert 0 < found.seconds.low <= found.seconds.high
    assert found.memory_bytes > 10_000_000
    assert found.checkpoint_bytes
    found.as_json()


def test_batches_validation_and_parents_are_counted(
    write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(
        write_config(
            {
                "batch": 1,
                "validation": 2,
                "winner": "snapshot",
                "objective": {"constraints": [{"task": TASK, "not_below": "math"}]},
            }
        )
    )
    found = forecast(config.resolved(relative_to=None))
    assert any("parent" in each for each in found.assumptions)
    evolve(config, out=tmp_path / "run")
    # The last mean is the last snapshot, and costs nothing again.
    assert found.samples == asked_in(tmp_path / "run") - 2


def test_a_race_is_counted_to_its_end_and_what_is_scored_again_in_full(races: EvolveConfig, raced: RunResult) -> None:
    found = forecast(races)
    # All 12 samples of 8 candidates, of the best three and of the mean.
    assert (found.samples, found.tasks[0].samples_per_candidate) == ((8 + 3 + 1) * 12, 12)
    assert races.racing is not None
    half = races.model_copy(update={"racing": races.racing.model_copy(update={"limit": 0.5})})
    found = forecast(half)
    assert (found.samples, found.tasks[0].samples_per_candidate) == (8 * 6 + 4 * 12, 6)
    assert any("last block of its race" in each for each in found.assumptions)
    journal = read_journal(raced.folder / "journal.jsonl")
    entries = [*journal.candidates, *journal.rescored, *([journal.mean] if journal.mean else [])]
    seen = [
        score.n for each in entries if isinstance(each.outcome, Evaluation) for score in each.outcome.scores.values()
    ]
    assert sum(seen) <= (8 + 3 + 1) * 12


def test_bounds_other_than_candidates_are_reckoned_from_what_one_generation_costs(config: EvolveConfig) -> None:
    resolved = config.resolved(relative_to=None)

    def with_budget(**budget: object) -> EvolveConfig:
        return resolved.model_copy(update={"budget": BudgetSection.model_validate(budget)})

    one = forecast(with_budget(candidates=4)).tokens.middle
    few = forecast(with_budget(tokens=round(one * 5)))
    assert few.generations is not None
    assert 2 <= few.generations <= 12
    waiting = forecast(with_budget(patience=3))
    assert (waiting.generations, waiting.candidates) == (None, 4)
    assert any("one generation" in each for each in waiting.assumptions)


def test_both_stages_of_a_hybrid_have_their_own(write_config: WriteConfig, models: Path) -> None:
    plain = load_config(write_config())
    stage = {"optimizer": {"kind": "cma", "population": 4}, "budget": {"candidates": 4}}
    merge = plain.as_mapping()["merge"]
    path = write_config({"kind": "hybrid"})
    document = {
        "format": 1,
        "kind": "hybrid",
        "tasks": plain.as_mapping()["tasks"],
        "stages": {
            "ps": {"merge": merge, **stage},
            "path": {
                "merge": {"kind": "layer_path", "sources": {"ja": str(models / "ja")}, "scale_target": "pending"},
                "space": {"kind": "path", "repetitions": 1},
                **{"batch": None, "validation": None, "winner": "best"},
                **stage,
            },
        },
    }
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    found = forecast_stages(load_search(path).resolved(relative_to=None))  # type: ignore[arg-type]
    assert list(found) == ["ps", "path"]
    assert [each.candidates for each in found.values()] == [4, 4]
    # Of a path, the longest there is.
    sizes = [each.checkpoint_bytes or 0 for each in found.values()]
    assert 0 < sizes[0] < sizes[1]


def test_a_problem_of_the_run_is_a_problem_of_its_forecast(write_config: WriteConfig) -> None:
    config = load_config(write_config({"validation": 4, "winner": "snapshot"}))
    with pytest.raises(ConfigError, match="too few for the candidates"):
        forecast(config.resolved(relative_to=None))


def test_spans_add_and_scale() -> None:
    assert Span(low=1.0, high=2.0).times(3).plus(Span(low=1.0, high=1.0)) == Span(low=4.0, high=7.0)
    assert Span(low=1.0, high=2.0).middle == 1.5
