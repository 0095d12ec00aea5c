"""Paths as mergekit slices, and the checkpoints that mergekit 0.1.5 wrote from them: see tests/golden/README.md."""

import hashlib
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from evovlm.errors import ConfigError
from evovlm.merging.paths.mergekit import path_to_mergekit
from evovlm.merging.paths.plan import PathPlan
from evovlm.merging.writer import write_checkpoint
from evovlm.recipes.documents import load_recipe
from evovlm.recipes.layer_path import LayerPathMerge, ScaleTarget
from evovlm.recipes.model_ref import ModelRef
from tests.golden import path_files
from tests.paths import Steps, path_of
from tests.pico import pico_llm, pico_vlm

FILES = sorted(path.name for path in (path_files.FOLDER / "recipes").glob("*.yaml"))


@pytest.fixture(scope="module")
def golden_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models of the golden files."""
    return path_files.make_models(tmp_path_factory.mktemp("golden").resolve())


@pytest.mark.parametrize("name", FILES)
def test_mergekit_writes_the_bytes_that_we_do(golden_models: Path, name: str, tmp_path: Path) -> None:
    written = write_checkpoint(path_files.place(name, golden_models), tmp_path / "out").folder
    ours = {
        key: {
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": list(tensor.shape),
            "sha256": hashlib.sha256(tensor.flatten().view(torch.uint8).numpy().tobytes()).hexdigest(),
        }
        for key, tensor in load_file(written / "model.safetensors").items()
    }
    assert ours == path_files.results()[name]


@pytest.mark.parametrize("name", FILES)
def test_the_exports_are_those_that_mergekit_read(golden_models: Path, name: str) -> None:
    text = path_files.exported(path_files.place(name, golden_models), golden_models)
    assert text == (path_files.FOLDER / "exported" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", FILES)
def test_an_export_is_read_back_as_the_same_recipe(golden_models: Path, name: str) -> None:
    recipe = path_files.place(name, golden_models)
    exported = golden_models / f"exported-{name}"
    exported.write_text(path_to_mergekit(recipe), encoding="utf-8")
    assert load_recipe(exported).recipe_id == recipe.recipe_id
    # Without evovlm's part, too, the weights are the same.
    document = yaml.safe_load(exported.read_text(encoding="utf-8"))
    del document["evovlm"]
    exported.write_text(yaml.safe_dump(document), encoding="utf-8")
    found = load_recipe(exported)
    assert isinstance(found, LayerPathMerge)
    ours = PathPlan.open(recipe).tensors
    for mine, theirs in zip(ours, PathPlan.open(found).tensors, strict=True):
        assert (mine.planned, mine.place) == (theirs.planned, theirs.place)
        assert mine.change.factor == pytest.approx(theirs.change.factor, rel=1e-12)


def recipe_of(folder: Path, steps: Steps, *, target: ScaleTarget = "stream") -> LayerPathMerge:
    return LayerPathMerge(
        host=ModelRef(text=str(folder / "a")),
        sources={name: ModelRef(text=str(folder / name)) for name in ("a", "b")},
        path=path_of(steps),
        scale_target=target,
    )


def two(folder: Path, family: str, **settings: object) -> Path:
    pico_llm(folder / "a", family=family, **settings)  # type: ignore[arg-type]
    pico_llm(folder / "b", family=family, n_blocks=3, seed=1, **settings)  # type: ignore[arg-type]
    return folder


def test_stretches_of_blocks_become_slices(tmp_path: Path) -> None:
    steps: Steps = (("a", 0, 1.0), ("a", 1, 1.0), ("b", 1, 1.0), ("b", 2, 1.0), ("b", 2, 1.0), ("a", 1, 1.0))
    found = yaml.safe_load(path_to_mergekit(recipe_of(two(tmp_path, "llama"), steps)))
    assert found["merge_method"] == "passthrough"
    assert found["base_model"] == str(tmp_path / "a")
    assert found["dtype"] == "float32"
    slices = [each["sources"][0] for each in found["slices"]]
    assert [(Path(each["model"]).name, *each["layer_range"]) for each in slices] == [
        ("a", 0, 2),
        ("b", 1, 3),
        ("b", 2, 3),
        ("a", 1, 2),
    ]
    assert all(each.keys() == {"model", "layer_range"} for each in slices)


def scales(text: str) -> list[dict[str, float]]:
    parts = [each["sources"][0].get("parameters", {}).get("scale", []) for each in yaml.safe_load(text)["slices"]]
    return [{each["filter"]: each["value"] for each in part} for part in parts]


def test_pending_scales_become_scales_of_tensors(tmp_path: Path) -> None:
    steps: Steps = (("a", 0, 0.5), ("b", 1, 1e-5), ("a", 1, 1.0))
    found = scales(path_to_mergekit(recipe_of(two(tmp_path, "llama"), steps, target="pending")))
    assert found == [{"mlp.down_proj": 1e-5, "embed_tokens": 0.5}, {}, {}]


def test_a_stream_that_turns_becomes_scales_of_norms_too(tmp_path: Path) -> None:
    found = scales(path_to_mergekit(recipe_of(two(tmp_path, "llama"), (("a", 0, 1.0), ("a", 1, -2.0)))))
    norms = {"input_layernorm": -1.0, "post_attention_layernorm": -1.0, "model.norm": -1.0}
    assert found == [{}, {"self_attn.o_proj": -0.5, "mlp.down_proj": -0.5, **norms}]


@pytest.mark.parametrize(
    ("family", "steps", "target", "reason"),
    [
        ("llama", (("b", 0, 1.0), ("a", 1, 1.0)), "stream", r"path\[0\]: mergekit takes the embedding"),
        ("llama", (("a", 0, 1.0), ("b", 1, 1.0)), "stream", r"path\[1\]: mergekit takes the final norm and head"),
        ("llama", (("a", 0, 1.0), ("a", 1, 0.0)), "stream", r"path\[1\]: its scale 0"),
        ("qwen2", (("a", 0, 1.0), ("b", 1, 1.0), ("a", 1, 1.0)), "stream", "lists the attention kinds of its 2 blocks"),
        ("gemma", (("a", 0, 1.0), ("a", 1, -1.0)), "stream", "mergekit multiplies only the weight"),
        ("gemma2", (("a", 0, 1.0), ("a", 1, 0.5)), "pending", "mergekit multiplies only the weight"),
        ("llama", (("a", 0, 0.5), ("a", 1, 1.0)), "pending", "also uses as its head"),
    ],
)
def test_what_mergekit_cannot_do_is_refused(
    tmp_path: Path, family: str, steps: Steps, target: ScaleTarget, reason: str
) -> None:
    two(tmp_path, family, tie=True)
    with pytest.raises(ConfigError, match=reason):
        path_to_mergekit(recipe_of(tmp_path, steps, target=target))


def test_a_head_that_mergekit_drops_is_refused(tmp_path: Path) -> None:
    two(tmp_path, "gemma")
    with pytest.raises(ConfigError, match="has a separate head, which mergekit drops"):
        path_to_mergekit(recipe_of(tmp_path, (("a", 0, 1.0), ("a", 1, 1.0))))


def test_a_model_that_sees_is_refused(tmp_path: Path) -> None:
    pico_vlm(tmp_path / "a")
    pico_llm(tmp_path / "b")
    with pytest.raises(ConfigError, match="sees pictures"):
        path_to_mergekit(recipe_of(tmp_path, (("a", 0, 1.0), ("a", 1, 1.0))))


def test_a_host_that_is_not_at_hand_is_asked_for(tmp_path: Path) -> None:
    ref = ModelRef(text="org/somewhere")
    recipe = LayerPathMerge(host=ref, sources={"a": ref}, path=path_of((("a", 0, 1.0),)), scale_target="stream")
    with pytest.raises(ConfigError, match=r"config\.json is not on this machine"):
        path_to_mergekit(recipe)
