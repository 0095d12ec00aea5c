"""The commands `merge`, `methods` and `spaces`."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from evovlm.cli.merge import merge
from evovlm.cli.methods import methods
from evovlm.cli.spaces import spaces
from evovlm.errors import ConfigError
from evovlm.merging.methods import METHODS
from evovlm.recipes.documents import recipe_to_yaml
from evovlm.recipes.search_space import SPACES
from tests.merging.recipes import make_recipe

app = typer.Typer()
for command in (merge, methods, spaces):
    app.command()(command)


def test_merge_writes_a_model_and_tells_what_it_did(models: Path, tmp_path: Path) -> None:
    recipe = make_recipe(models, {"other-rope": (0.7, 0.5)})
    (tmp_path / "recipe.yaml").write_text(recipe_to_yaml(recipe, folder=tmp_path))
    outcome = CliRunner().invoke(
        app, ["merge", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "out"), "--json"]
    )
    assert outcome.exit_code == 0, outcome.output
    told = json.loads(outcome.stdout)
    assert told["recipe_id"] == recipe.recipe_id
    assert told["n_merged"] == 21
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert "warning: rope_theta" in outcome.stderr


def test_merge_passes_errors_on(tmp_path: Path) -> None:
    outcome = CliRunner().invoke(app, ["merge", str(tmp_path / "no.yaml"), "--out", str(tmp_path / "out")])
    assert isinstance(outcome.exception, ConfigError)


@pytest.mark.parametrize(("command", "table"), [("methods", METHODS), ("spaces", SPACES)])
def test_the_tables_are_shown_whole(command: str, table: dict[str, object]) -> None:
    shown = CliRunner().invoke(app, [command])
    as_json = CliRunner().invoke(app, [command, "--json"])
    assert shown.exit_code == as_json.exit_code == 0
    assert [row["name"] for row in json.loads(as_json.stdout)] == list(table)
    assert all(name in shown.stdout for name in table)
