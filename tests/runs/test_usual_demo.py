"""The demo as it is usually run, on the embedded models."""

from pathlib import Path

import pytest

from evovlm.assets import asset_path
from evovlm.runs.config.kinds import load_config
from evovlm.runs.demo import PIPELINES, Size, run_pipeline
from evovlm.runs.run import Run
from evovlm.runs.scores.contenders import RANDOM
from tests.runs.test_demo import Silent


@pytest.mark.slow
@pytest.mark.parametrize("name", list(PIPELINES))
def test_the_usual_demo_runs_through_and_evolves(name: str, tmp_path: Path) -> None:
    found = run_pipeline(PIPELINES[name], out=tmp_path, size=Size.USUAL, seed=0, observe=lambda _: Silent())
    assert found.candidates == load_config(asset_path(PIPELINES[name].usual)).budget.candidates
    assert len(Run.open(found.run_folder).rescored) == 4
    scores = {each.name: each.score for each in found.standings}
    evolved = next(each.score for each in found.standings if each.role == "winner")
    assert evolved > max(score for other, score in scores.items() if other in ("equal-weights", RANDOM))
