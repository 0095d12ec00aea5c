"""A model of another ancestor is found by the cosine and the length of its task vector."""

from pathlib import Path

import pytest
import torch

from evovlm.merging.before.preflight import preflight
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.merging.merge import Merger
from evovlm.merging.models.ancestry import resemblance
from evovlm.merging.models.compatibility import NamedCheckpoint
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.recipe import MergeTemplate
from tests.pico import pico_llm, pico_vlm


def named(folder: Path, name: str) -> NamedCheckpoint:
    return NamedCheckpoint(name=name, text=folder.name, checkpoint=Checkpoint.open(folder))


def template(base: Path, **sources: Path) -> MergeTemplate:
    refs = {name: ModelRef(text=str(folder)) for name, folder in sources.items()}
    return MergeTemplate(base=ModelRef(text=str(base)), host=ModelRef(text=str(base)), sources=refs, method="ties")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_model_of_another_ancestor_is_reported_with_figures(tmp_path: Path, dtype: torch.dtype) -> None:
    base = pico_llm(tmp_path / "base", dtype=dtype)
    tuned = pico_llm(tmp_path / "tuned", like=base, seed=1, drift=0.002, dtype=dtype)
    other = pico_llm(tmp_path / "other", seed=2, dtype=dtype)
    merge = template(base, tuned=tuned, other=other)
    (warning,) = [each for each in preflight(merge.first_recipe()).warnings if "ancestor" in each]
    assert warning.startswith(f"sources.other ('{other}')")
    assert "the cosine of their weights is 0.0" in warning or "is -0.0" in warning
    assert "the task vector is 1.4" in warning
    # What evolve and merge say is the same.
    assert warning in Merger.open(merge).warnings


def test_figures_are_those_of_the_weights(tmp_path: Path) -> None:
    base = pico_llm(tmp_path / "base")
    tuned = pico_llm(tmp_path / "tuned", like=base, seed=1, drift=0.01)
    found = resemblance(named(base, "base"), named(tuned, "sources.tuned"))
    assert found is not None
    ours, theirs = [], []
    for name in named(base, "base").checkpoint.backbone_names():
        if ".weight" in name and "norm" not in name and "embed" not in name and "lm_head" not in name:
            ours.append(named(base, "base").checkpoint.read(name).flatten())
            theirs.append(named(tuned, "t").checkpoint.read(name).flatten())
    left, right = torch.cat(ours).double(), torch.cat(theirs).double()
    # The sample has about half of these small models' matrices.
    assert found[0] == pytest.approx(float(left @ right / left.norm() / right.norm()), abs=0.02)
    assert found[1] == pytest.approx(float((right - left).norm() / left.norm()), abs=0.05)


def test_a_vlm_of_another_ancestor_is_reported_too(tmp_path: Path) -> None:
    base = pico_llm(tmp_path / "base")
    vlm = pico_vlm(tmp_path / "vlm", seed=3)
    merge = MergeTemplate(
        base=ModelRef(text=str(base)),
        host=ModelRef(text=str(vlm)),
        sources={"vlm": ModelRef(text=str(vlm))},
        method="ties",
    )
    # It is both host and source, and is named once.
    assert len([each for each in preflight(merge.first_recipe()).warnings if "ancestor" in each]) == 1
