"""The searches: ordinary configs of evovlm, run with several seeds; and the merges that do not need a search."""

import json
from collections.abc import Mapping
from pathlib import Path

import yaml

from benchmarks.real_weights.settings import Settings
from benchmarks.real_weights.tasks import task_file
from evovlm.evaluation.evaluator import Evaluator
from evovlm.files import make_folder, write_file
from evovlm.recipes.kinds import Recipe
from evovlm.recipes.recipe import MergeTemplate
from evovlm.runs.config.kinds import load_config
from evovlm.runs.config.parameters import EvolveConfig
from evovlm.runs.searching.evolve import evolve, open_evaluator

SEARCHES: Mapping[str, tuple[Mapping[str, object], str]] = {
    "random": ({"kind": "model"}, "random"),
    "model-wise": ({"kind": "model"}, "cma"),
    "interpolated": ({"kind": "interpolated", "knots": 3}, "cma"),
}
"""The space and the optimizer of each search."""
WEIGHT = [0.0, 1.5]
GRID = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
"""The weight that all sources have, in the grid."""
GRID_FILE = "grid.jsonl"


def config_file(settings: Settings, name: str, seed: int) -> Path:
    """Write the config of a search if it does not exist; return its path."""
    path = settings.out / "configs" / f"{name}-{seed}.yaml"
    space, optimizer = SEARCHES[name]
    merge = {"base": settings.base, "sources": dict(settings.sources), "method": settings.method}
    if settings.chat_template is not None:
        merge["chat_template"] = settings.chat_template
    document = {
        "format": 1,
        "kind": "evolve",
        "seed": seed,
        "merge": merge,
        "space": {**space, "weight": WEIGHT},
        "optimizer": {"kind": optimizer},
        "budget": {"candidates": settings.candidates},
        "tasks": [{"name": str(task_file(settings, settings.search_on).resolve())}],
        **({"racing": {"limit": settings.racing}} if settings.racing < 1 else {}),
        "device": settings.device,
    }
    if not path.exists():
        make_folder(path.parent)
        write_file(path, yaml.safe_dump(document, allow_unicode=True, sort_keys=False))
    return path


def read_search(settings: Settings, name: str, seed: int) -> EvolveConfig:
    """Return the config of a search, with absolute paths."""
    path = config_file(settings, name, seed)
    config = load_config(path)
    if not isinstance(config, EvolveConfig):
        raise SystemExit(f"{path}: this is not a search over parameters. Remove the file.")
    return config.resolved(relative_to=path.parent)


def open_models(settings: Settings) -> tuple[Evaluator, MergeTemplate]:
    """Open the models, and the search samples."""
    config = read_search(settings, "model-wise", 0)
    return open_evaluator(config), config.template(relative_to=None)


def plain_merges(settings: Settings) -> Mapping[str, Recipe]:
    """Return the base, each parent, and equal weights (which add up to 1)."""
    config = read_search(settings, "model-wise", 0)
    base = config.template(relative_to=None).equal_weights(0.0)
    return {"base": base, **{name: config.source_alone(name) for name in settings.sources}, "equal": config.baseline()}


def run_grid(settings: Settings, evaluator: Evaluator, template: MergeTemplate) -> None:
    """Score every weight of the grid on the search samples."""
    file = grid_file(settings)
    done = grid_scores(settings)
    for weight in GRID:
        if weight not in done:
            outcome = evaluator.evaluate(template.equal_weights(weight))
            fitness = outcome.evaluation.fitness if outcome.evaluation else 0.0
            print(f"all weights {weight}: {100 * fitness:.1f}", flush=True)
            make_folder(file.parent)
            with file.open("a", encoding="utf-8") as opened:
                opened.write(json.dumps({"weight": weight, "fitness": fitness}) + "\n")


def grid_file(settings: Settings) -> Path:
    """Return the path of the grid's scores."""
    return settings.out / "search" / GRID_FILE


def grid_scores(settings: Settings) -> Mapping[float, float]:
    """Return the fitness of the weights that were scored."""
    file = grid_file(settings)
    if not file.exists():
        return {}
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    return {row["weight"]: row["fitness"] for row in rows}


def best_of_grid(settings: Settings) -> float:
    """Return the weight with the best score, the smallest of those that are equal. Raises SystemExit without scores."""
    scores = grid_scores(settings)
    if not scores:
        raise SystemExit(f"{grid_file(settings)}: no weight was scored. Run the stage search first.")
    return min(scores, key=lambda weight: (-scores[weight], weight))


def run_searches(settings: Settings) -> None:
    """Run the grid and every search, seed by seed, so that an interrupted run still compares equal seeds."""
    evaluator, template = open_models(settings)
    run_grid(settings, evaluator, template)
    for seed in range(settings.seeds):
        for name in SEARCHES:
            config = read_search(settings, name, seed)
            result = evolve(config, out=search_folder(settings, name, seed), resume=True, evaluator=evaluator)
            print(f"{name}, seed {seed}: {100 * result.fitness:.1f} after {result.candidates} candidates", flush=True)


def search_folder(settings: Settings, name: str, seed: int) -> Path:
    """Return the folder of a search, which `evovlm show` and `evovlm report` read."""
    return settings.out / "search" / f"{name}-{seed}"
