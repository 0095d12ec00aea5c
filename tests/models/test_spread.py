"""Models that accelerate divides among the devices of a machine; here all of them are the CPU."""

from pathlib import Path

import pytest
import torch

from evovlm.devices import SPREAD
from evovlm.errors import ConfigError, NotEnoughRoom
from evovlm.evaluation.resident import ResidentModel
from evovlm.models import loading
from evovlm.models.decoding import greedy
from evovlm.models.decoding.greedy import generate_greedy
from evovlm.models.loading import LoadedModel, load_model
from evovlm.models.prompt import Prompt, prepare_prompts
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.recipe import MergeTemplate
from evovlm.recipes.source_values import SourceParameters
from evovlm.tasks.prompts import Question
from tests.pico import pico_llm


def test_a_spread_model_takes_the_same_merges_as_one_in_one_place(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    base = pico_llm(tmp_path / "base", dtype=torch.bfloat16)
    pico_llm(tmp_path / "math", like=base, seed=1, drift=0.1, dtype=torch.bfloat16)
    template = MergeTemplate(
        base=ModelRef(text="base", origin=tmp_path),
        host=ModelRef(text="base", origin=tmp_path),
        sources={"math": ModelRef(text="math", origin=tmp_path)},
        method="task_arithmetic",
        seed=0,
        vocabulary="host",
    )
    recipe = template.recipe({"math": SourceParameters(weight=0.7)})
    spread, whole = (ResidentModel.open(template, device=device) for device in (SPREAD, "cpu"))
    before = {name: value.clone() for name, value in whole.loaded.model.state_dict().items()}
    assert spread.merge(recipe)
    assert whole.merge(recipe)
    merged = spread.loaded.model.state_dict()
    assert all(torch.equal(merged[name], value) for name, value in whole.loaded.model.state_dict().items())
    assert not all(torch.equal(merged[name], value) for name, value in before.items())


def test_a_model_on_several_devices_is_answered_by_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_model(pico_llm(tmp_path / "model"), device="cpu")
    prompts = [p for p in prepare_prompts(loaded, [Question(text="あめが3個")]) if isinstance(p, Prompt)]
    assert not loaded.is_spread
    wanted = generate_greedy(loaded, prompts, max_new_tokens=6, stop_ids={2})

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(LoadedModel, "is_spread", property(lambda _: True))
    monkeypatch.setattr(greedy, "_decode_all", refuse)
    assert generate_greedy(loaded, prompts, max_new_tokens=6, stop_ids={2}) == wanted


def test_parts_on_two_devices_are_noticed(tmp_path: Path) -> None:
    loaded = load_model(pico_llm(tmp_path / "model"), device="cpu")
    loaded.model.lm_head.to("meta")
    assert loaded.is_spread


def test_a_model_that_the_gpus_do_not_hold_is_refused_with_what_is_left() -> None:
    places = {"model.embed_tokens": 0, "model.layers.0": 1, "model.layers.1": "cpu", "lm_head": "disk"}
    with pytest.raises(NotEnoughRoom, match=r"2 of its 4 parts are left out, the first is model.layers.1"):
        loading._check_placed(Path("model"), places, on=torch.device("cuda"))
    loading._check_placed(Path("model"), {"": "cpu"}, on=torch.device("cpu"))


def test_without_accelerate_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"evovlm\[spread\]"):
        load_model(pico_llm(tmp_path / "model"), device=SPREAD)
