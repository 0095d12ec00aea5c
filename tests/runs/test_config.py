"""Configs of searches: all problems at once, each with its place; everything shipped is valid."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from evovlm.assets import asset_path
from evovlm.errors import ConfigError, ModelNotFound
from evovlm.recipes.kinds import HybridMerge
from evovlm.recipes.layer_path import LayerPathMerge
from evovlm.runs.config.hybrid import HybridConfig, load_search, parse_sources
from evovlm.runs.config.kinds import config_from_mapping, load_config
from evovlm.runs.config.parameters import EvolveConfig
from evovlm.runs.config.paths import PathConfig
from evovlm.tasks.catalogue import get_task
from tests.runs.conftest import WriteConfig, search_document

SHIPPED = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


def problems_of(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    return str(caught.value)


def test_every_problem_of_a_file_is_named_at_once_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(
        "format: 1\n"
        "kind: evolve\n"
        "seed: forty-two\n"
        "merge:\n"
        "  base: ./nowhere\n"
        "  sources: {ja: 'zoo:nobody'}\n"
        "  method: dare_tise\n"
        "space: {kind: layers, weight: [1, 0], density: [0, 2]}\n"
        "optimizer: {kind: cma, population: 3, sigma: 0}\n"
        "budget: {candidates: 0}\n"
        "tasks:\n"
        "  - {name: word_problem_ja, limit: 0}\n"
        "  - {name: emoji_ja, split: report}\n"
        "  - {name: mgsm_ja, data: gone.tsv}\n"
        "winner: worst\n"
        "colour: blue\n",
        encoding="utf-8",
    )
    message = problems_of(path)
    for line, key, words in (
        (3, "seed", "integer"),
        (5, "merge.base", "no such model.*nowhere"),
        (6, "merge.sources.ja", "no such model.*zoo:nobody"),
        (7, "merge.method", "did you mean 'dare_ties'"),
        (8, "space.kind", "did you mean 'layer'"),
        (8, "space.weight", r"\[1, 0\] is not a range"),
        (8, "space.density", r"\[0, 2\] leaves \[0, 1\]"),
        (9, "optimizer.population", "4 or more"),
        (9, "optimizer.sigma", "greater than 0"),
        (10, "budget.candidates", "greater than or equal to 1"),
        (12, r"tasks\[0\].name", "did you mean 'word_problems_ja'"),
        (12, r"tasks\[0\].limit", "greater than or equal to 1"),
        (13, r"tasks\[1\].split", "unknown key"),
        (14, r"tasks\[2\].name", "only a report split"),
        (14, r"tasks\[2\].data", "no such file"),
        (15, "winner", "'best', 'mean' or 'snapshot'"),
        (16, "colour", "unknown key"),
    ):
        assert re.search(rf"^\s+{re.escape(str(path))}:{line}: {key}: .*{words}", message, re.MULTILINE), (key, message)
    assert "17 problems" in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tasks": [{"name": "emoji_ja"}, {"name": "emoji_ja"}]}, r"tasks: a task is named twice"),
        ({"budget": {"candidates": 3}}, r"budget.candidates is 3, but one generation .* has 4 candidates"),
        ({"budget": {}}, r"budget: needs a bound: candidates, tokens, seconds, patience"),
        ({"tasks": []}, r"tasks: .*at least 1"),
        ({"space": {"fixed": {"weights": 1.0}}}, r"space: fixed: 'weights' names no parameter; did you mean 'weight'"),
        ({"space": {"fixed": {"math.density": 2.0}}}, r"space: fixed: math.density should be in \[0, 1\]"),
        ({"space": {"fixed": {"weight": 1.0, "density": 1.0}}}, r"space: every parameter is fixed"),
        ({"format": 2}, r"format: .*1"),
        ({"kind": "parameter_merge"}, r"kind: .*'evolve'"),
    ],
)
def test_a_config_that_cannot_be_run_says_so(write_config: WriteConfig, changes: dict[str, object], words: str) -> None:
    assert re.search(words, problems_of(write_config(changes)))


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"name": "gsm8k_ja", "gate": "fastext"}, r"tasks\[0\]\.gate: unknown gate; did you mean 'fasttext'"),
        (
            {"name": "gsm8k_ja", "extractor": "papers"},
            r"tasks\[0\]\.extractor: unknown extractor; did you mean 'paper'",
        ),
        ({"name": "emoji_ja", "extractor": "paper"}, r"extractor: reads the number .* is scored by rouge_l_ja; leave"),
        ({"name": "lm_eval:gsm8k", "gate": "script"}, r"gate: the harness scores its tasks itself; leave gate out"),
    ],
)
def test_a_scoring_that_the_task_cannot_have_is_refused(
    write_config: WriteConfig, section: dict[str, object], words: str
) -> None:
    assert re.search(words, problems_of(write_config({"tasks": [section]})))


def test_a_search_may_score_as_the_paper_did_and_says_nothing_where_it_was_not_asked() -> None:
    document = search_document(Path("models"))
    for section, extractor, gate in (
        ({"name": "gsm8k_ja"}, "robust", "script"),
        ({"name": "gsm8k_ja", "extractor": "paper", "gate": "fasttext"}, "paper", "fasttext"),
        ({"name": "gsm8k_ja", "gate": "none"}, "robust", None),
    ):
        config = EvolveConfig.model_validate({**document, "tasks": [section]})
        (choice,) = config.task_choices()
        scoring = get_task(choice.name).scoring.changed(extractor=choice.extractor, gate=choice.gate)
        assert (scoring.extractor, scoring.gate) == (extractor, gate)
        written = config.tasks[0].model_dump()
        assert {key: written[key] for key in ("extractor", "gate") if key in written} == {
            key: section[key] for key in ("extractor", "gate") if key in section
        }


def test_another_model_takes_a_source_s_place_wherever_it_is(tmp_path: Path) -> None:
    sources = parse_sources([f"abel={tmp_path}", "shisa=org/shisa@v2"])
    paper = SHIPPED[0].parent
    llm = load_search(paper / "paper-evollm.yaml", sources=sources).stage("").merge
    assert llm.sources == {
        "shisa": "org/shisa@v2",
        "wizardmath": "WizardLMTeam/WizardMath-7B-V1.1",
        "abel": str(tmp_path),
    }
    path = load_search(paper / "paper-dfs.yaml", sources=sources).stage("").merge
    assert (path.host, path.sources["abel"]) == (str(tmp_path), str(tmp_path))
    stages = load_search(paper / "paper-hybrid.yaml", sources=sources).stages
    assert stages["ps"].merge.sources["abel"] == str(tmp_path)
    assert stages["path"].merge.sources["shisa"] == "org/shisa@v2"
    # The stand-in for the first stage's winner is of the same models.
    assert stages["path"].merge.ps.sources["abel"] == str(tmp_path)
    vlm = load_search(paper / "paper-evovlm.yaml", sources={"llava": str(tmp_path)}).stage("").merge
    assert vlm.host == vlm.sources["llava"] == str(tmp_path)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["abel"], "write NAME=MODEL"),
        (["=x"], "write NAME=MODEL"),
        (["abel=a/b", "abel=c/d"], "each source once"),
        (["abell=a/b"], r"paper-evollm\.yaml has no source 'abell'; did you mean 'abel'\?$"),
        (["abel=./nowhere"], "nowhere"),
    ],
)
def test_a_replacement_that_cannot_be_is_refused(texts: list[str], words: str) -> None:
    with pytest.raises((ConfigError, ModelNotFound), match=words):
        load_search(SHIPPED[0].parent / "paper-evollm.yaml", sources=parse_sources(texts))


@pytest.mark.parametrize("name", ["evollm", "dfs", "hybrid"])
def test_the_papers_searches_score_with_its_own_extractor_and_fasttext(name: str) -> None:
    for stage in load_search(SHIPPED[0].parent / f"paper-{name}.yaml").stages.values():
        assert {(task.extractor, task.gate) for task in stage.tasks} == {("paper", "fasttext")}


@pytest.mark.parametrize(
    ("merge", "space", "words"),
    [
        ({"method": "dare_ties", "base": None}, {}, "merge: base: missing; dare_ties takes differences"),
        ({"method": "ties", "settings": {"rescale": "l1"}}, {}, "merge: settings.rescale: l1 would make no difference"),
        ({"method": "linear"}, {"density": [0.0, 0.5]}, "space: density: linear does not have it"),
        ({"method": "linear", "base": None}, {}, "merge.host: missing, and there is no base to take it from"),
    ],
)
def test_a_method_gets_what_it_needs_and_nothing_that_it_would_ignore(
    write_config: WriteConfig, models: Path, merge: dict[str, object], space: dict[str, object], words: str
) -> None:
    document = search_document(models)
    whole = {**document["merge"], **merge}  # type: ignore[dict-item]
    assert words in problems_of(write_config({"merge": whole, "space": space}))


def test_a_key_given_twice_and_a_missing_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("format: 1\nseed: 1\nseed: 2\n", encoding="utf-8")
    assert "twice.yaml:3: 'seed' was already given in line 2" in problems_of(path)
    assert "gone.yaml: this file does not exist" in problems_of(tmp_path / "gone.yaml")


def test_a_resolved_config_reads_back_the_same_from_any_folder(
    models: Path, tmp_path: Path, write_config: WriteConfig
) -> None:
    here = write_config(
        {
            "merge": {
                "base": "models/base",
                "sources": {"math": "./models/math", "ja": "models/ja", "hub": "org/name@v1"},
                "method": "dare_ties",
                "settings": {"rescale": "l1", "lambda": 0.5},
            },
            "tasks": [{"name": "word_problems_en", "data": "models/problems.jsonl", "weight": 2}],
            "space": {"kind": "layer", "weight": [-1, 2], "fixed": {"ja.density": 1.0}},
            "budget": {"candidates": 40},
        }
    )
    (tmp_path / "models").symlink_to(models)
    resolved = load_config(here).resolved(relative_to=tmp_path)
    assert resolved.merge.base == resolved.merge.host == str(models / "base")
    assert resolved.merge.sources["math"] == str(models / "math")
    assert resolved.merge.sources["hub"] == "org/name@v1"
    assert resolved.tasks[0].data == str(models / "problems.jsonl")

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "config.yaml").write_text(resolved.to_yaml(), encoding="utf-8")
    again = load_config(elsewhere / "config.yaml")
    assert again.as_mapping() == resolved.as_mapping()
    assert again.resolved(relative_to=elsewhere).as_mapping() == resolved.as_mapping()
    assert config_from_mapping(resolved.as_mapping()).as_mapping() == resolved.as_mapping()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_config_opens_with_what_it_is_and_the_command_that_runs_it(path: Path) -> None:
    comment = path.read_text(encoding="utf-8").split("\nformat:")[0]
    assert all(line.startswith("#") for line in comment.splitlines())
    assert len(comment.splitlines()[0]) > 20
    assert f"evovlm evolve configs/{path.name} --out runs/" in comment


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_config_is_valid_without_the_hub(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if "zoo:" in path.read_text(encoding="utf-8") and not asset_path("zoo/catalogue.json").is_file():
        pytest.skip("the embedded models are not built here")
    resolved = load_search(path).resolved(relative_to=path.parent)
    if not isinstance(resolved, HybridConfig):
        assert config_from_mapping(resolved.as_mapping()) == resolved


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_search_has_whole_generations_and_at_least_five(path: Path) -> None:
    for stage in load_search(path).resolved(relative_to=path.parent).stages.values():
        sources = stage.template(relative_to=None).shaped_like
        n_blocks = 6 if path.stem.startswith("demo-") else 32
        assert stage.notes_for(stage.whole_space(dict.fromkeys(sources, n_blocks))) == ()


def test_a_budget_is_rounded_visibly_and_fewer_than_five_generations_are_warned_about(
    write_config: WriteConfig,
) -> None:
    def notes(candidates: int, **optimizer: object) -> tuple[str, ...]:
        changes = {"budget": {"candidates": candidates}, "optimizer": {"population": 10, **optimizer}}
        config = load_config(write_config(changes)).resolved(relative_to=None)
        return config.notes_for(config.whole_space(config.least_blocks(relative_to=None)))

    assert notes(50) == ()
    assert notes(59) == ("budget.candidates: 59 is rounded down to 50, whole generations of 10.",)
    assert notes(20) == (
        "budget.candidates: 20 candidates in generations of 10 are too few to evolve. Set it to 50 (5 generations) or "
        "more.",
    )
    assert len(notes(21)) == 2
    # With restarts, generations grow.
    assert notes(21, kind="cma_ipop") == ()


def test_the_paper_s_runs_have_the_paper_s_settings() -> None:
    configs = {path.stem: load_search(path) for path in SHIPPED if path.stem.startswith("paper-")}
    assert set(configs) == {"paper-evollm", "paper-evovlm", "paper-dfs", "paper-hybrid", "paper-hybrid-vlm"}
    hybrid, seeing = configs["paper-hybrid"], configs["paper-hybrid-vlm"]
    assert isinstance(hybrid, HybridConfig)
    assert isinstance(seeing, HybridConfig)
    # The first stages are the paper's merges of parameters, word for word.
    for first, whole in ((hybrid.ps, configs["paper-evollm"]), (seeing.ps, configs["paper-evovlm"])):
        assert first.as_mapping() == whole.as_mapping()
    # 1000 trials in the paper, here in whole generations.
    for config, population, candidates in ((hybrid.ps, 9, 999), (seeing.ps, 8, 1000)):
        assert isinstance(config, EvolveConfig)
        space = config.whole_space(dict.fromkeys(config.merge.sources, 32))
        assert config.population(dim=space.dim) == population
        assert np.array_equal(space.initial, np.full(space.dim, 0.5))
        assert config.optimizer.sigma == pytest.approx(1 / 6, abs=1e-3)
        assert config.budget.candidates == candidates
        assert config.winner == "best"
        assert config.merge.method == "dare_ties"
        assert config.merge.vocabulary is not None


def test_the_paper_s_searches_through_layers_have_the_paper_s_settings() -> None:
    configs = {path.stem: load_search(path) for path in SHIPPED if path.stem.startswith("paper-")}
    hybrids = [config.path for config in configs.values() if isinstance(config, HybridConfig)]
    assert len(hybrids) == 2
    for config in (configs["paper-dfs"], *hybrids):
        assert isinstance(config, PathConfig)
        template = config.template(relative_to=None)
        blocks = dict.fromkeys(template.source_names, 32)
        space = config.space_for(blocks)
        # T = 192 positions, of which two are forced, and a scale for each.
        assert space.dim == 190 + 192
        assert (config.population(dim=space.dim), config.budget.candidates) == (128, 12800)
        assert (config.optimizer.sigma, config.batch, config.validation) == (0.1, 200, 200)
        assert (config.winner, template.scale_target) == ("snapshot", "pending")
        recipe = space.decode(space.initial)
        assert isinstance(recipe, LayerPathMerge | HybridMerge)
        assert recipe.path.canonical() == [[template.source_names[0], layer, 1.0] for layer in range(32)]


def test_the_demo_s_configs_are_all_shipped() -> None:
    assert {path.stem for path in SHIPPED} >= {"demo-evollm", "demo-evovlm", "demo-both", "demo-dfs"}
    assert {path.stem for path in SHIPPED} >= {"demo-hybrid", "demo-hybrid-vlm"}
    both = yaml.safe_load(next(path for path in SHIPPED if path.stem == "demo-both").read_text(encoding="utf-8"))
    assert {task["name"] for task in both["tasks"]} == {"emoji_ja", "word_problems_ja"}


def test_the_demo_that_trades_two_tasks_has_a_front_sought() -> None:
    traded = load_search(next(path for path in SHIPPED if path.stem == "demo-pareto"))
    assert isinstance(traded, EvolveConfig)
    assert traded.goal({}).tasks == ("emoji_ja", "word_problems_ja")
    assert traded.objective.pareto
    assert traded.optimizer.factory.takes_goals
    assert traded.notes_for(traded.whole_space(dict.fromkeys(traded.merge.sources, 6))) == ()


def test_a_task_of_the_harness_is_named_from_anywhere(write_config: WriteConfig, tmp_path: Path) -> None:
    tasks = [{"name": "lm_eval:my/task.yaml#acc,none"}, {"name": "lm_eval:gsm8k#exact_match"}]
    path = write_config({"tasks": tasks})
    resolved = load_config(path).resolved(relative_to=path.parent)
    names = [task.name for task in resolved.tasks]
    assert names == [f"lm_eval:{path.parent.resolve() / 'my' / 'task.yaml'}#acc,none", "lm_eval:gsm8k#exact_match"]
    assert resolved.resolved(relative_to=tmp_path / "elsewhere").as_mapping() == resolved.as_mapping()
