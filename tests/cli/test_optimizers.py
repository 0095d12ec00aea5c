"""`evovlm optimizers`."""

import json

from typer.testing import CliRunner

from evovlm.cli.app import app
from evovlm.search.catalogue import OPTIMIZERS


def test_every_optimizer_is_listed_with_what_it_is_for() -> None:
    rows = json.loads(CliRunner().invoke(app, ["optimizers", "--json"]).stdout)
    assert [row["name"] for row in rows] == list(OPTIMIZERS)
    assert {row["name"] for row in rows if row["takes_goals"]} == {"nsga2"}
    for row in rows:
        assert row["purpose"] == OPTIMIZERS[row["name"]].purpose
        assert row["summary"].endswith((".", ")"))
    shown = CliRunner().invoke(app, ["optimizers"]).stdout
    assert all(name in shown for name in OPTIMIZERS)
