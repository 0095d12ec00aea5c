import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlavaForConditionalGeneration,
    MistralConfig,
    MistralForCausalLM,
)

from evovlm.assets import asset_path
from evovlm.seeding import generator
from evovlm.tasks.emoji_pictures import draw
from evovlm.zoo.concepts import concept_texts
from evovlm.zoo.emoji import training_scenes
from evovlm.zoo.language_models import train_tokenizer
from evovlm.zoo.picture_lessons import IMAGE_TOKEN, picture_question
from evovlm.zoo.vision import draw_pool, normalised, picture_tensor
from evovlm.zoo.vlm import VlmPlan, tower_features, train_vlm

TINY = VlmPlan(pictures=24, batch=6, stage1_steps=2, stage2_steps=2)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny language model `base` and a tiny vision tower `vision`."""
    folder = tmp_path_factory.mktemp("parents")
    texts = [text for pair in concept_texts(np.random.default_rng(0), 400) for text in pair]
    tokenizer = train_tokenizer(texts, folder=folder / "base", pieces=800)
    torch.manual_seed(0)
    language = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=None,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    MistralForCausalLM(language).to(torch.bfloat16).save_pretrained(folder / "base")
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=64, patch_size=16
    )
    CLIPVisionModel(vision).to(torch.bfloat16).save_pretrained(folder / "vision")
    return folder


@pytest.fixture(scope="module")
def trained(parents: Path) -> Path:
    train_vlm(parents / "base", parents / "vision", parents / "vlm", seed=3, plan=TINY)
    return parents / "vlm"


def loaded(folder: Path) -> LlavaForConditionalGeneration:
    return LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)


def test_the_folder_is_an_ordinary_llava_that_answers_through_its_own_processor(trained: Path) -> None:
    model, processor = loaded(trained), AutoProcessor.from_pretrained(trained)
    scene = next(training_scenes(np.random.default_rng(5), 1))
    inputs = processor(
        images=draw(scene.spec), text=f"{IMAGE_TOKEN}\nQuestion: What is this?\nAnswer:", return_tensors="pt"
    )
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == 16
    answer = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert answer.shape[1] <= inputs["input_ids"].shape[1] + 3


def test_no_file_names_a_folder_of_the_machine_that_trained_it(trained: Path, parents: Path) -> None:
    for file in trained.glob("*.json"):
        assert str(parents) not in file.read_text(encoding="utf-8"), file.name


def test_the_processors_pixels_are_those_of_the_training(trained: Path) -> None:
    picture = draw(next(training_scenes(np.random.default_rng(5), 1)).spec)
    pixels = AutoProcessor.from_pretrained(trained)(images=picture, text=IMAGE_TOKEN, return_tensors="pt")[
        "pixel_values"
    ]
    torch.testing.assert_close(pixels, normalised(picture_tensor([picture])), rtol=0, atol=1e-5)


def test_the_vocabulary_is_the_ancestors_and_a_few_rows_more(trained: Path, parents: Path) -> None:
    rows = loaded(trained).get_input_embeddings().weight.shape[0]
    base = MistralForCausalLM.from_pretrained(parents / "base").get_input_embeddings().weight.shape[0]
    assert base < rows <= base + 8
    assert rows % 8 == 0


def test_the_vision_tower_is_kept_bit_for_bit(trained: Path, parents: Path) -> None:
    tower = CLIPVisionModel.from_pretrained(parents / "vision", dtype=torch.float32).state_dict()
    for name, tensor in loaded(trained).model.vision_tower.state_dict().items():
        assert torch.equal(tensor, tower[name]), name


# blake2b over each tensor's name, shape and bytes in sorted order, of zoo:vlm before its vision tower was renamed.
WEIGHTS_OF_ZOO_VLM = "1604525ee05fd13e9d4524edfeefc41f"


def test_the_vision_tower_is_named_as_in_the_llavas_of_the_hub(trained: Path) -> None:
    for folder in (trained, asset_path("zoo/vlm")):
        names = load_file(folder / "model.safetensors").keys()
        tower = [name for name in names if name.startswith("vision_tower.")]
        assert tower
        assert all(name.startswith("vision_tower.vision_model.") for name in tower)


def test_the_names_of_zoo_vlm_changed_and_its_bytes_did_not() -> None:
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(load_file(asset_path("zoo/vlm/model.safetensors")).items()):
        digest.update(f"{name.replace('.vision_model.', '.')} {list(tensor.shape)}".encode())
        digest.update(tensor.view(torch.uint8).numpy().tobytes())
    assert digest.hexdigest() == WEIGHTS_OF_ZOO_VLM


def test_stock_transformers_loads_zoo_vlm_whole() -> None:
    weights = load_file(asset_path("zoo/vlm/model.safetensors"))
    model, report = LlavaForConditionalGeneration.from_pretrained(
        asset_path("zoo/vlm"), dtype=torch.bfloat16, output_loading_info=True
    )
    assert not any(report.values())
    tower = {f"vision_tower.vision_model.{name}": own for name, own in model.model.vision_tower.state_dict().items()}
    assert all(torch.equal(weights[name], tensor) for name, tensor in tower.items())


def test_stage_1_leaves_the_language_model_alone_and_stage_2_moves_it(parents: Path, tmp_path: Path) -> None:
    base = MistralForCausalLM.from_pretrained(parents / "base", dtype=torch.float32).state_dict()
    plans = {"one": VlmPlan(pictures=24, batch=6, stage1_steps=2, stage2_steps=0), "two": TINY}
    for name, plan in plans.items():
        model = train_vlm(parents / "base", parents / "vision", tmp_path / name, seed=3, plan=plan)
        theirs = model.model.language_model.layers[0].mlp.up_proj.weight
        assert torch.equal(theirs, base["model.layers.0.mlp.up_proj.weight"]) == (name == "one")


def test_the_same_seed_trains_the_same_vlm(trained: Path, parents: Path, tmp_path: Path) -> None:
    train_vlm(parents / "base", parents / "vision", tmp_path / "again", seed=3, plan=TINY)
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()


def test_cached_features_are_what_the_projector_reads_of_a_picture(trained: Path) -> None:
    model, pool = loaded(trained), draw_pool(generator("test"), count=3)
    with torch.inference_mode():
        projected = model.model.multi_modal_projector(tower_features(model, pool))
        whole = torch.stack(list(model.get_image_features(normalised(pool.pixels)).pooler_output))
    torch.testing.assert_close(projected, whole, rtol=0, atol=1e-6)


def test_stage_1_draws_image_tokens_towards_the_emoji_at_their_places(parents: Path, tmp_path: Path) -> None:
    def distance(alignment: float) -> float:
        plan = VlmPlan(pictures=24, batch=12, stage1_steps=60, stage1_rate=1e-2, stage2_steps=0, alignment=alignment)
        model = train_vlm(parents / "base", parents / "vision", tmp_path / f"{alignment}", seed=3, plan=plan)
        tokenizer = AutoProcessor.from_pretrained(tmp_path / f"{alignment}").tokenizer
        words = model.get_input_embeddings().weight
        pool = draw_pool(generator("vlm-pictures", 3), count=plan.pictures)
        single = [index for index, scene in enumerate(pool.scenes) if len(scene.shown) == 1]
        with torch.inference_mode():
            found = model.model.multi_modal_projector(tower_features(model, pool))[single]
        emoji = [
            words[tokenizer(pool.scenes[index].shown[0].emoji, add_special_tokens=False).input_ids].mean(0)
            for index in single
        ]
        wanted = torch.stack(emoji).detach().unsqueeze(1)
        return float((found - wanted).square().sum() / (wanted.square().sum() * 16))

    assert distance(1.0) < 0.9 < distance(0.0)


def test_the_vlm_is_taught_in_english_alone() -> None:
    rng = np.random.default_rng(0)
    for scene in training_scenes(rng, 200):
        prompt, answer = picture_question(rng, scene)
        assert prompt.isascii()
        assert answer.isascii()
