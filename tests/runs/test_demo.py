"""The demo's pipelines, run through on a pico zoo: what they score, what they write, how they go on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from evovlm import assets
from evovlm.errors import RunMismatch
from evovlm.evaluation import resident
from evovlm.evaluation.answering import score_model
from evovlm.evaluation.answers import TaskChoice
from evovlm.evaluation.intervals import mean_interval
from evovlm.models.loading import load_model
from evovlm.recipes.candidate import TaskScore
from evovlm.recipes.documents import load_recipe
from evovlm.recipes.source_values import SourceParameters
from evovlm.report.reading import read_run
from evovlm.runs.config.kinds import load_config
from evovlm.runs.config.search import LEAST_GENERATIONS
from evovlm.runs.demo import PIPELINES, PipelineResult, Size, demo_config, run_pipeline
from evovlm.runs.folder.entries import Entry
from evovlm.runs.run import Run
from evovlm.runs.scores.contenders import score_missing
from evovlm.runs.scores.standings import Standing
from evovlm.search.loop import Generation
from tests.pico_zoo import pico_zoo


class Silent:
    """Watches a search; like Ctrl-C at the candidate of index `stop`."""

    def __init__(self, *, stop: int | None = None) -> None:
        self.stop = stop
        self.done = 0

    def started(self, *, candidates: int, generations: int, done: int, warnings: tuple[str, ...]) -> None:
        self.done = done

    def evaluated(self, entry: Entry) -> None:
        if entry.index == self.stop:
            raise KeyboardInterrupt

    def generation_ended(self, generation: Generation) -> None:
        pass


@pytest.fixture(scope="module", autouse=True)
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A pico zoo that is found in the place of the embedded one."""
    folder = pico_zoo(tmp_path_factory.mktemp("wheel") / "_assets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assets, "_IN_WHEEL", folder)
        yield folder


@pytest.fixture(scope="module")
def evollm(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> PipelineResult:
    """The math pipeline, run through."""
    return quick("evollm", tmp_path_factory.mktemp("demo") / "evollm")


@pytest.fixture(scope="module")
def evovlm(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> PipelineResult:
    """The picture pipeline, run through."""
    return quick("evovlm", tmp_path_factory.mktemp("demo") / "evovlm")


def quick(name: str, out: Path, *, stop: int | None = None, seed: int = 0) -> PipelineResult:
    return run_pipeline(PIPELINES[name], out=out, size=Size.QUICK, seed=seed, observe=lambda _: Silent(stop=stop))


def test_evollm_scores_sources_baselines_and_winner_on_the_report_split(evollm: PipelineResult) -> None:
    assert [(each.name, each.role) for each in evollm.standings] == [
        ("math-a", "parent"),
        ("math-b", "parent"),
        ("ja", "parent"),
        ("equal-weights", "baseline"),
        ("random", "baseline"),
        ("winner", "winner"),
    ]
    document = evollm.as_json()
    assert list(document) == ["sources", "uniform", "random", "evolved"]
    assert list(document["sources"]) == ["math-a", "math-b", "ja"]
    assert evollm.n_samples == 4
    for standing in evollm.standings:
        assert 0 <= standing.interval.low <= standing.score <= standing.interval.high <= 1
    for row in (*document["sources"].values(), document["uniform"], document["random"], document["evolved"]):
        assert set(row) == {"score", "interval", "ungated", "japanese"}
    assert len(evollm.examples) == 3
    for example in evollm.examples:
        assert list(example.answers) == ["math-a", "math-b", "ja", "evolved"]


def figures(standing: Standing) -> tuple[object, ...]:
    return standing.score, standing.interval, standing.ungated, standing.japanese, standing.unscored


def figures_of(score: TaskScore) -> tuple[object, ...]:
    return score.score, mean_interval(score.per_sample), score.ungated, score.japanese, score.unscored


def test_a_source_s_row_is_what_the_source_itself_scores(evollm: PipelineResult, zoo: Path) -> None:
    for name in ("math-a", "ja"):
        alone = score_model(load_model(zoo / "zoo" / name), tasks=[TaskChoice(name="word_problems_ja")])[0]
        (standing,) = (each for each in evollm.standings if each.name == name)
        assert figures_of(alone.score) == figures(standing)
        texts = {answer.sample.question: answer.text for answer in alone.answers}
        assert all(texts[example.question] == example.answers[name] for example in evollm.examples)


def test_evovlm_scores_a_text_source_as_the_vlm_s_language_model_and_culture_apart(
    evovlm: PipelineResult,
) -> None:
    document = evovlm.as_json()
    assert list(document["sources"]) == ["vlm", "ja"]
    for row in (*document["sources"].values(), document["uniform"], document["random"], document["evolved"]):
        assert set(row) == {"score", "interval", "ungated", "japanese", "culture"}


def test_the_written_model_is_the_winner_and_scores_as_reported(evovlm: PipelineResult) -> None:
    recipe = load_recipe(evovlm.model_folder / "recipe.yaml")
    assert recipe.recipe_id == load_recipe(evovlm.run_folder / "best.yaml").recipe_id
    scored = score_model(load_model(evovlm.model_folder), tasks=[TaskChoice(name="emoji_ja")])[0]
    assert figures_of(scored.score) == figures(evovlm.winner)


def test_the_answers_are_kept_for_the_page_which_asks_no_model_again(
    evollm: PipelineResult, evovlm: PipelineResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    for result in (evollm, evovlm):
        content = read_run(result.run_folder)
        assert content.unscored == ()
        (report,) = content.reports
        kept = {each.name: figures(each) for each in report.standings}
        assert kept == {each.name: figures(each) for each in result.standings}

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(resident, "load_recipe_model", refuse)
    score_missing(Run.open(evovlm.run_folder))


@pytest.mark.slow
def test_a_demo_interrupted_continues_and_ends_the_same(evollm: PipelineResult, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        quick("evollm", tmp_path / "stopped", stop=10)
    assert quick("evollm", tmp_path / "stopped").as_json() == evollm.as_json()
    # And once more, when everything is there.
    assert quick("evollm", tmp_path / "stopped").as_json() == evollm.as_json()


def test_a_demo_with_other_settings_in_the_same_folder_is_refused(evollm: PipelineResult) -> None:
    with pytest.raises(RunMismatch, match="seed: 0 -> 1"):
        quick("evollm", evollm.run_folder.parent, seed=1)


@pytest.mark.parametrize("name", list(PIPELINES))
@pytest.mark.parametrize("size", Size)
def test_both_searches_spend_the_whole_budget_in_whole_generations(name: str, size: Size) -> None:
    config = demo_config(PIPELINES[name], size=size, seed=5)
    population = config.population(dim=config.whole_space(dict.fromkeys(config.merge.sources, 6)).dim)
    assert config.seed == 5
    assert config.budget.candidates % population == 0
    assert config.budget.candidates >= (2 if size is Size.QUICK else LEAST_GENERATIONS) * population


def test_the_equal_weights_merge_drops_nothing_and_gives_each_source_its_share(zoo: Path) -> None:
    baseline = load_config(zoo / "configs/demo-evollm.yaml").baseline()
    assert baseline is not None
    assert baseline.parameters == {
        name: SourceParameters(weight=1 / 3, density=1.0) for name in ("math-a", "math-b", "ja")
    }
