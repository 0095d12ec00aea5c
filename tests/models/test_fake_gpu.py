"""What runs on a GPU, on a fake one: no tensor is on the wrong device, and no pass waits for a number of the GPU."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedConfig
from transformers.initialization import no_init_weights
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from evovlm.models.backbone import Backbone
from evovlm.models.decoding.packed import packed_attention
from evovlm.models.decoding.runner import Runner, _Running
from evovlm.models.decoding.slots import shape_of
from evovlm.models.loading import LoadedModel, load_model
from evovlm.models.pictures import image_features
from evovlm.models.prompt import Prompt, prepare_prompts
from evovlm.tasks.prompts import Question
from tests.models.fake_gpu import GPU, fake_gpu
from tests.models.pictures import drawn
from tests.pico import pico_llm, pico_vlm
from tests.pico_families import TEXT_PICOS, VLM_PICOS


def on_gpu(loaded: LoadedModel, *, config: PreTrainedConfig | None = None) -> LoadedModel:
    """Return the same model in bfloat16 on the fake GPU."""
    auto: Any = AutoModelForImageTextToText if loaded.sees else AutoModelForCausalLM
    with torch.device(GPU), no_init_weights():
        model = auto.from_config(config or loaded.model.config, dtype=torch.bfloat16).eval()
    return LoadedModel(model=model, tokenizer=loaded.tokenizer, processor=loaded.processor, folder=loaded.folder)


def run_passes(loaded: LoadedModel, prompts: list[Prompt], *, penalty: float, shared: torch.Tensor) -> None:
    """Let two prompts enter, extend both, and extend one while the third prompt enters."""
    backbone = Backbone.of(loaded)
    image_token = getattr(loaded.model.config, "image_token_id", None)
    runner = Runner(
        backbone,
        shape_of(backbone),
        n_slots=3,
        capacity=max(len(prompt.ids) for prompt in prompts) + 80,
        image_token=image_token,
        shared=shared,
        penalty=penalty,
    )
    first, second, third = prompts
    with packed_attention(backbone):
        # The slots are not in order, and one is free.
        assert runner.step({2: first, 0: second}).shape == (3,)
        # What `advance` does with the tokens that it reads.
        runner._running = {
            slot: _Running(token=5, position=len(prompt.ids), length=len(prompt.ids))
            for slot, prompt in ((2, first), (0, second))
        }
        found = runner.step({})
        assert (found.shape, found.device, found.dtype) == ((3,), GPU, torch.int64)
        runner.leave(2)
        assert runner.step({1: third}).shape == (3,)


@pytest.mark.parametrize("penalty", [1.2, pytest.param(1.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", [name for name in TEXT_PICOS if name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES])
def test_texts_are_decoded_without_waiting(tmp_path: Path, family: str, penalty: float) -> None:
    window = 12 if family in ("mistral", "gemma2", "gemma3_text") else None
    loaded = load_model(pico_llm(tmp_path / "m", family=family, sliding_window=window), device="cpu")
    asked = prepare_prompts(loaded, [Question(text=f"りんごが{n}個と、みかんが二個。") for n in ("1", "12", "7と8")])
    prompts = [prompt for prompt in asked if isinstance(prompt, Prompt)]
    with fake_gpu() as gpu:
        run_passes(on_gpu(loaded), prompts, penalty=penalty, shared=prompts[0].ids[:5])
    assert gpu.n_read == 0


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        {"rope_type": "yarn", "factor": 4.0},
        {"rope_type": "linear", "factor": 2.0},
    ],
)
def test_scaled_positions_are_computed_without_waiting(tmp_path: Path, rope: dict[str, Any]) -> None:
    loaded = load_model(pico_llm(tmp_path / "m", family="llama"), device="cpu")
    scaled = {**rope, "rope_theta": 1e4, "original_max_position_embeddings": 64}
    config = type(loaded.model.config).from_dict({**loaded.model.config.to_dict(), "rope_parameters": scaled})
    prompts = [Prompt(ids=torch.arange(n)) for n in (30, 25, 4)]
    with fake_gpu() as gpu:
        run_passes(on_gpu(loaded, config=config), prompts, penalty=1.0, shared=torch.arange(0))
    assert gpu.n_read == 0


@pytest.mark.parametrize(
    "family", [name if name == "llava" else pytest.param(name, marks=pytest.mark.slow) for name in VLM_PICOS]
)
def test_pictures_are_seen_and_answered_on_one_device(tmp_path: Path, family: str) -> None:
    loaded = load_model(pico_vlm(tmp_path / "m", family=family), device="cpu")
    pictures = drawn()
    inputs, _ = image_features._processed(loaded, [pictures["wide"].load()])
    questions = [
        Question(text=text, images=tuple(pictures[name] for name in names))
        for text, names in (("<image>何", ("wide",)), ("3+4は", ()), ("あ<image>", ("tall",)))
    ]
    prompts = [prompt for prompt in prepare_prompts(loaded, questions) if isinstance(prompt, Prompt)]
    with fake_gpu() as gpu:
        moved = on_gpu(loaded)
        found = image_features._model_output(moved, inputs)
        assert {layer.device for layer in image_features._rows(found.pooler_output)} == {GPU}
        # Families read the sizes of pictures, which are known, once per picture and not for each candidate.
        assert gpu.n_read < 40
        gpu.n_read = 0
        if any(prompt.extra for prompt in prompts):
            # Their texts alone are decoded in passes.
            prompts = [prompts[1]] * 3
        run_passes(moved, prompts, penalty=1.2, shared=torch.zeros(0, dtype=torch.long))
    # transformers adds the features of Qwen3-VL's later layers where a mask on the device says so.
    assert gpu.n_read == 0 or family.startswith("qwen3")


def test_the_fake_gpu_refuses_what_a_gpu_would_refuse_and_notices_what_it_would_wait_for() -> None:
    real = torch.arange(6.0)
    with fake_gpu() as gpu:
        numbers = real.to(GPU)
        with pytest.raises(RuntimeError, match="same device"):
            numbers + real
        for read in (lambda: float(numbers.sum()), numbers.tolist, lambda: bool((numbers > 0).any())):
            with pytest.raises(RuntimeError):
                read()
        with pytest.raises(RuntimeError):
            numbers[numbers > 2]
        assert gpu.n_read == 0
        sizes = torch.tensor([3, 4], device=GPU)
        assert (sizes * 2).tolist() == [6, 8]
        assert gpu.n_read > 0
        before = gpu.n_read
        assert sizes[sizes > 3].device == GPU
        assert gpu.n_read > before
