"""A hybrid in one folder: the run of each stage in a folder of its own (`ps`, `path`), and the winner of both beside.

config.yaml, ps/ (a run), path/ (a run, whose config holds the winner of the first), best.yaml (mean.yaml where the mean
is to win) and result.json, which tells of both stages.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from evovlm.errors import OutputExists
from evovlm.files import inner_folder, write_file
from evovlm.recipes.documents import recipe_to_yaml
from evovlm.recipes.kinds import PS, parameter_merge_only
from evovlm.runs.before.preflight import preflight_hybrid
from evovlm.runs.config.hybrid import PATH, HybridConfig, load_search
from evovlm.runs.config.parameters import EvolveConfig
from evovlm.runs.config.paths import PathConfig
from evovlm.runs.folder.layout import CONFIG_FILE, JOURNAL_FILE, RESULT_FILE, check_config, check_folder, locked
from evovlm.runs.searching.evolve import RunResult, evolve
from evovlm.runs.searching.search_run import Observer

_RULE = "A budget may only be raised, the first stage's only until the second begins."


def run_search(
    config: EvolveConfig | PathConfig | HybridConfig,
    *,
    out: Path,
    relative_to: Path | None = None,
    resume: bool = False,
    observe: Callable[[str], Observer | None] = lambda _: None,
) -> RunResult:
    """Run what a config asks for: one search, whose stage is called "", or the two of a hybrid; raises as they do."""
    if isinstance(config, HybridConfig):
        return evolve_hybrid(config, out=out, relative_to=relative_to, resume=resume, observe=observe)
    return evolve(config, out=out, relative_to=relative_to, resume=resume, observer=observe(""))


def evolve_hybrid(
    config: HybridConfig,
    *,
    out: Path,
    relative_to: Path | None = None,
    resume: bool = False,
    observe: Callable[[str], Observer | None] = lambda _: None,
) -> RunResult:
    """Run both stages in the folder `out`, or go on where they stopped; `observe` gives a stage's observer.

    Raises what `evolve` raises; what does not fit in the second stage is found before the first begins.
    """
    config = config.resolved(relative_to=relative_to)
    began = (out / CONFIG_FILE).exists() and (out / PS).exists()
    if not began:
        check_folder(out, resume=resume)
    elif not resume:
        raise OutputExists(f"{out} holds a run already.\n    Add --resume to go on with it, or name another folder.")
    else:
        _check_same(out, config)
    with locked(out):
        if not (out / PATH / JOURNAL_FILE).exists():
            preflight_hybrid(config.ps, config.path).raise_problems()
        write_file(out / CONFIG_FILE, config.to_yaml())
        first = evolve(config.ps, out=inner_folder(out, PS), resume=True, observer=observe(PS))
        second_config = config.second(parameter_merge_only(first.recipe))
        second = evolve(second_config, out=inner_folder(out, PATH), resume=True, observer=observe(PATH))
        return _written_result(out, first=first, second=second)


def _check_same(out: Path, config: HybridConfig) -> None:
    """Raise RunMismatch unless the run in `out` is that of a config, or of one with a smaller budget."""
    recorded = load_search(out / CONFIG_FILE)
    raised = []
    if isinstance(recorded, HybridConfig):
        # Another winner of the first stage would be another host of the second.
        if config.ps.budget.is_raised_from(recorded.ps.budget) and not (out / PATH / JOURNAL_FILE).exists():
            raised.append(f"stages.{PS}.budget")
        if config.path.budget.is_raised_from(recorded.path.budget):
            raised.append(f"stages.{PATH}.budget")
    check_config(out, recorded=recorded.as_mapping(), given=config.as_mapping(), raised=raised, rule=_RULE)


def _written_result(out: Path, *, first: RunResult, second: RunResult) -> RunResult:
    result = replace(
        second,
        folder=out,
        candidates=first.candidates + second.candidates,
        failures=first.failures + second.failures,
        tokens=first.tokens + second.tokens,
    )
    write_file(result.recipe_file, recipe_to_yaml(result.recipe, folder=out))
    stages = {PS: first.as_json(), PATH: second.as_json()}
    text = json.dumps({**result.as_json(), "stages": stages}, ensure_ascii=False, indent=1)
    write_file(out / RESULT_FILE, text + "\n")
    return result
