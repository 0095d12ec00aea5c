"""How many threads share a product: small models have the same bits for any number of threads."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from evovlm.models import threads
from evovlm.models.backbone import Backbone
from evovlm.models.decoding.greedy import generate_greedy
from evovlm.models.loading import load_model
from evovlm.models.pictures.image_features import see_pictures
from evovlm.models.prompt import Prompt, prepare_prompts
from evovlm.tasks.prompts import Question
from tests.pico import pico_llm, pico_vlm


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("n_prompts", "small"), [(3, True), (70, True), (3, False)])
def test_products_of_a_small_model_are_one_thread_s_however_many_there_are(
    n_prompts: int, small: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_model(pico_llm(tmp_path / "model"), device="cpu")
    prompts = prepare_prompts(loaded, [Question(text=f"あめが{number}個") for number in range(n_prompts)])
    asked = [prompt for prompt in prompts if isinstance(prompt, Prompt)]
    torch.set_num_threads(1)
    wanted = generate_greedy(loaded, asked, max_new_tokens=6, stop_ids={2})
    if not small:
        monkeypatch.setattr(threads, "SMALL_HIDDEN_SIZE", 1)
    seen: set[int] = set()
    first = Backbone.of(loaded).decoder.layers[0]
    first.register_forward_pre_hook(lambda *_: seen.add(torch.get_num_threads()))
    for n in (2, 3):
        torch.set_num_threads(n)
        assert generate_greedy(loaded, asked, max_new_tokens=6, stop_ids={2}) == wanted
        assert torch.get_num_threads() == n
    assert seen == ({1} if small else {2, 3})


def test_pictures_of_a_small_model_are_seen_by_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_model(pico_vlm(tmp_path / "model"), device="cpu")
    picture = Image.new("RGB", (40, 30), "#2068e6")
    torch.set_num_threads(1)
    wanted, _ = see_pictures(loaded, [picture])
    seen: set[int] = set()
    loaded.model.model.vision_tower.register_forward_pre_hook(lambda *_: seen.add(torch.get_num_threads()))
    torch.set_num_threads(2)
    assert torch.equal(see_pictures(loaded, [picture])[0], wanted)
    assert (seen, torch.get_num_threads()) == ({1}, 2)
    monkeypatch.setattr(threads, "SMALL_HIDDEN_SIZE", 1)
    see_pictures(loaded, [picture])
    assert seen == {1, 2}
