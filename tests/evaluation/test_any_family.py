"""Model types without a row in the table of families, as small models of transformers' own classes."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evovlm.errors import ConfigError, IncompatibleModels
from evovlm.evaluation.loadable import check_loads
from evovlm.evaluation.resident import ResidentModel, open_recipe_stack
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.merging.merge import Merger
from evovlm.merging.writer import write_checkpoint
from evovlm.models.decoding.greedy import generate_greedy
from evovlm.models.loading import LoadedModel, load_model
from evovlm.models.pictures.image_features import is_decoded_here
from evovlm.models.prompt import Prompt, prepare_prompts
from evovlm.recipes.layer_path import LayerPath, LayerPathMerge, LayerStep
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.source_values import SourceParameters
from evovlm.tasks.prompts import Question
from tests.any_family import TEXT_TYPES, VLM_TYPES, save_pair
from tests.evaluation.any_family_checks import (
    Outcome,
    check_answers,
    generated,
    loaded_as_merged,
    outcome_of,
    template_of,
)
from tests.models.pictures import drawn, own_text

# One of each kind: fused experts, experts one by one, linear attention, learned positions, sinks, no pre-norm.
SOME = ("qwen3_moe", "qwen3_5_text", "gpt2", "gpt_oss", "olmo2")
WANTED = (
    *("qwen3_5_moe_text", "qwen3_next", "ministral3", "gemma4_text", "phi3", "olmo3", "glm4", "glm4_moe", "cohere2"),
    *("granite", "smollm3", "mixtral", "deepseek_v3", "exaone4", "lfm2", "gpt_neox"),
)
# A VLM, its language model where it is not the usual one, and a text model of the same architecture.
VLMS = (
    ("qwen3_5", None, "qwen3_5_text"),
    ("qwen3_5_moe", None, "qwen3_5_moe_text"),
    ("glm4v", None, "glm4"),
    ("mistral3", "ministral3", "ministral3"),
    ("internvl", "qwen3_moe", "qwen3_moe"),
    ("qwen3_vl_moe", None, "qwen3_moe"),
    ("aya_vision", None, "cohere2"),
    ("gemma4", None, "gemma4_text"),
)
LOADS_OTHERWISE = ("youtu",)
QUESTIONS = (("<image>\n何の絵ですか", ("square",)), ("あ<image>と<image>", ("wide", "tall")), ("3+4は", ()))


def some_or_slow(names: tuple[str, ...]) -> list[object]:
    return [name if name in SOME else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("model_type", some_or_slow((*SOME, *WANTED)))
def test_a_type_without_a_row_merges_exactly_and_answers_as_generate_does(model_type: str, tmp_path: Path) -> None:
    base, tuned = save_pair(tmp_path, model_type)
    assert outcome_of(base, tuned, tmp_path / "out") == Outcome(merged=True, scored=True)


@pytest.mark.parametrize(
    ("family", "text", "alone"), [VLMS[0], *(pytest.param(*row, marks=pytest.mark.slow) for row in VLMS[1:])]
)
def test_a_vlm_without_a_row_takes_a_text_model(family: str, text: str | None, alone: str, tmp_path: Path) -> None:
    vlm, _ = save_pair(tmp_path / "vlm", family, text=text)
    base, ja = save_pair(tmp_path / "text", alone)
    template = template_of(vlm, base, {"ja": ja, "vlm": vlm}, vocabulary="host")
    merger = Merger.open(template)
    # Experts have the form in which the VLM stores them.
    merged, alone_names = (
        {name for name in names if ".experts." not in name} | {"lm_head.weight"}
        for names in (merger.tensor_names, Checkpoint.open(base).backbone_names())
    )
    assert merged == alone_names
    written, resident = loaded_as_merged(template, tmp_path / "out")
    host, result = Checkpoint.open(vlm), Checkpoint.open(tmp_path / "out")
    assert host.other_names()
    assert all(result.places[name].read_bytes() == host.places[name].read_bytes() for name in host.other_names())
    check_answers(written, resident)
    check_pictures(written, resident)


@pytest.mark.parametrize("turned", ["host", pytest.param("source", marks=pytest.mark.slow)])
def test_experts_that_a_vlm_stores_turned_merge_with_those_of_a_text_model(turned: str, tmp_path: Path) -> None:
    # As published, Qwen3-VL-MoE exchanges two dimensions of its experts; transformers saves it as in memory.
    vlm, other = save_pair(tmp_path / "vlm", "qwen3_vl_moe", sizes={"moe_intermediate_size": 24})
    base, ja = save_pair(tmp_path / "text", "qwen3_moe", sizes={"moe_intermediate_size": 24})
    file = (vlm if turned == "host" else other) / "model.safetensors"
    tensors = {name: tensor.mT if ".experts." in name else tensor for name, tensor in load_file(file).items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, metadata={"format": "pt"})
    template = template_of(vlm, base, {"ja": ja, "vlm": other}, vocabulary="host")
    check_answers(*loaded_as_merged(template, tmp_path / "out"))
    recipe = template_of(vlm, base, {"ja": ja}, vocabulary="host").recipe({"ja": SourceParameters(weight=1.0)})
    write_checkpoint(recipe, tmp_path / "one")
    merged = load_model(tmp_path / "one", device="cpu").model.model.language_model.layers
    source = load_model(ja, device="cpu").model.model.layers
    for name, tensor in source.named_parameters():
        assert torch.equal(merged.get_parameter(name), tensor), name


def check_pictures(written: LoadedModel, resident: LoadedModel) -> None:
    """Check that questions with pictures are answered as `generate` answers the processor's inputs."""
    shown = drawn()
    questions = [Question(text=text, images=tuple(shown[name] for name in names)) for text, names in QUESTIONS]
    prompts = [prompt for prompt in prepare_prompts(resident, questions) if isinstance(prompt, Prompt)]
    assert len(prompts) == len(questions)
    answers = generate_greedy(resident, prompts, max_new_tokens=8, stop_ids=(2,))
    for question, answer in zip(questions, answers, strict=True):
        text = own_text(written, question.text)
        pictures = [picture.load() for picture in question.images]
        inputs = written.processor(text=[text], images=[pictures] if pictures else None, return_tensors="pt")
        assert answer == generated(written, inputs)


def test_pictures_of_a_family_without_a_row_are_read_again_for_each_answer(tmp_path: Path) -> None:
    vlm, _ = save_pair(tmp_path, "qwen3_5")
    loaded = load_model(vlm, device="cpu")
    assert not is_decoded_here(loaded)
    question = Question(text="<image>何", images=(drawn()["square"],))
    (prompt,) = prepare_prompts(loaded, [question])
    assert isinstance(prompt, Prompt)
    assert prompt.own is not None
    assert prompt.features is None
    assert torch.equal(prompt.own()["input_ids"][0], prompt.ids)
    assert "pixel_values" in prompt.own()


def test_experts_that_lie_one_by_one_are_written_into_the_joined_tensor(tmp_path: Path) -> None:
    base, tuned = save_pair(tmp_path, "qwen3_moe")
    template = template_of(base, base, {"tuned": tuned})
    names = Merger.open(template).tensor_names
    assert "model.layers.1.mlp.experts.3.down_proj.weight" in names
    resident = ResidentModel.open(template, device="cpu")
    assert resident.merge(template.equal_weights(1.0))
    experts = resident.loaded.model.model.layers[1].mlp.experts
    source = Checkpoint.open(tuned)
    for number in range(4):
        prefix = f"model.layers.1.mlp.experts.{number}."
        gate, up = experts.gate_up_proj[number].chunk(2)
        assert torch.equal(gate, source.read(f"{prefix}gate_proj.weight"))
        assert torch.equal(up, source.read(f"{prefix}up_proj.weight"))
        assert torch.equal(experts.down_proj[number], source.read(f"{prefix}down_proj.weight"))


def test_files_without_the_prefix_of_the_model_inside_are_written_into_too(tmp_path: Path) -> None:
    # GPT-2 as published: `wte.weight` for `transformer.wte.weight`.
    base, tuned = save_pair(tmp_path, "gpt2")
    for folder in (base, tuned):
        file = folder / "model.safetensors"
        tensors = {name.removeprefix("transformer."): tensor for name, tensor in load_file(file).items()}
        save_file(tensors, file, metadata={"format": "pt"})
    template = template_of(base, base, {"tuned": tuned})
    assert Merger.open(template).host.layout.disk_name("model.embed_tokens.weight") == "wte.weight"
    check_answers(*loaded_as_merged(template, tmp_path / "out"))


def path_through(base: Path, tuned: Path, *, scale: float = 1.0) -> LayerPathMerge:
    """Return a path of five blocks through two models of four, which leaves one out and repeats one."""
    hops = (("a", 0), ("b", 1), ("a", 3), ("b", 1), ("b", 2))
    steps = tuple(LayerStep(source=name, layer=layer, scale=scale) for name, layer in hops)
    sources = {"a": ModelRef(text=str(base)), "b": ModelRef(text=str(tuned))}
    return LayerPathMerge(host=sources["a"], sources=sources, path=LayerPath(steps=steps), scale_target="stream")


@pytest.mark.parametrize(
    "model_type",
    [
        "exaone4",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("cohere2", "olmo2", "phi3", "qwen3_moe", "gpt_oss")),
    ],
)
def test_a_path_through_blocks_that_do_not_depend_on_their_place_is_exact(model_type: str, tmp_path: Path) -> None:
    recipe = path_through(*save_pair(tmp_path, model_type))
    write_checkpoint(recipe, tmp_path / "out", check=check_loads)
    stack = open_recipe_stack(recipe, device="cpu")
    stack.take(recipe.path, recipe.scale_target)
    written, ids = load_model(tmp_path / "out", device="cpu"), torch.arange(40)[None] * 7
    with torch.inference_mode():
        logits = [loaded.model(input_ids=ids).logits for loaded in (written, stack.loaded)]
    assert torch.equal(*logits)


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("smollm3", "some blocks have no positions"),
        ("gemma4_text", "each block has another input from the embedding"),
        ("qwen3_5_text", "every few blocks have full attention|not all of its blocks have"),
        ("deepseek_v3", "not all of its blocks have"),
    ],
)
def test_a_path_is_refused_where_a_block_depends_on_its_place(model_type: str, reason: str, tmp_path: Path) -> None:
    recipe = path_through(*save_pair(tmp_path, model_type))
    with pytest.raises(IncompatibleModels, match=reason):
        write_checkpoint(recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(IncompatibleModels, match=reason):
        open_recipe_stack(recipe, device="cpu")


def test_scales_are_refused_where_it_is_not_known_how_norms_scale(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"scales cannot be folded into weights"):
        write_checkpoint(path_through(*save_pair(tmp_path, "olmo2"), scale=0.9), tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("model_type", [*TEXT_TYPES, *(name for name in VLM_TYPES if name not in TEXT_TYPES)])
def test_every_type_of_transformers_is_merged_exactly_or_refused_with_a_reason(
    model_type: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    try:
        base, tuned = save_pair(tmp_path, model_type)
    # Validators of configs and constructors of models raise anything for sizes that do not suit them.
    except Exception as error:  # noqa: BLE001
        pytest.skip(f"no small {model_type}: {type(error).__name__}: {error}")
    if model_type in LOADS_OTHERWISE:
        pytest.xfail("transformers loads other numbers than the file holds")
    found = outcome_of(base, tuned, tmp_path / "out")
    record_property("outcome", f"{model_type}: {found}")
    assert found.merged or found.reason
