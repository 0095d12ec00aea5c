"""The commands `merge`, `methods` and `spaces`."""

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from evovlm.cli.merge import merge
from evovlm.cli.methods import methods
from evovlm.cli.spaces import spaces
from evovlm.errors import ConfigError
from evovlm.merging.arithmetic.methods import METHODS
from evovlm.recipes.path_space import SCALES
from evovlm.recipes.source_values import SOURCE_PARAMETERS
from evovlm.recipes.space_kinds import SPACES
from evovlm.recipes.writing import recipe_to_yaml
from tests.merging.recipes import make_recipe

app = typer.Typer()
for command in (merge, methods, spaces):
    app.command()(command)


def test_merge_writes_a_model_and_says_what_it_did(models: Path, tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    ("command", "table"), [("methods", METHODS), ("spaces", (*SPACES, *(f"path, scales {name}" for name in SCALES)))]
)
def test_the_tables_are_shown_whole(command: str, table: Iterable[str]) -> None:
    shown = CliRunner().invoke(app, [command])
    as_json = CliRunner().invoke(app, [command, "--json"])
    assert shown.exit_code == as_json.exit_code == 0
    assert [row["name"] for row in json.loads(as_json.stdout)] == list(table)
    assert all(word in shown.stdout for name in table for word in name.split())


def test_the_table_of_methods_fits_in_100_columns_and_names_every_parameter_and_setting() -> None:
    shown = CliRunner().invoke(app, ["methods"]).stdout
    assert max(map(len, shown.splitlines())) <= 100
    assert "epsilon: 0 to 0.5" in shown
    assert "1 or more, base" in shown
    for row in json.loads(CliRunner().invoke(app, ["methods", "--json"]).stdout):
        # From the line with its name to the empty line.
        own = next(
            part for part in re.split(r"\n(?: *\n)+", shown.replace("─", "")) if part.split()[:1] == [row["name"]]
        )
        assert all(each["name"] in own for each in (*row["parameters"], *row["settings"])), own


def test_the_json_of_methods_is_complete() -> None:
    rows = {row["name"]: row for row in json.loads(CliRunner().invoke(app, ["methods", "--json"]).stdout)}
    for name, method in METHODS.items():
        row = rows[name]
        assert (row["summary"], row["paper"], row["base"]) == (method.summary, method.paper, method.base)
        assert (row["sources"]["least"], row["sources"]["most"]) == method.sources
        assert [each["name"] for each in row["parameters"]] == list(method.parameters)
        for each in row["parameters"]:
            parameter = SOURCE_PARAMETERS[each["name"]]
            assert (each["default"], each["meaning"]) == (parameter.default, parameter.meaning)
            for bound, end in ((each["low"], parameter.low), (each["high"], parameter.high)):
                assert bound == (end if math.isfinite(end) else None)
        assert {each["name"] for each in row["settings"]} == {setting.rstrip("_") for setting in method.settings}
    settings = {each["name"]: each["default"] for each in rows["della"]["settings"]}
    assert settings == {"lambda": 1.0, "normalize": True, "rescale": "density"}
