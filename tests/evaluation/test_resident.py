"""The resident model computes what the written checkpoint does, whatever config, head or tokens the recipe gives it."""

import gc
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from evovlm.assets import asset_path
from evovlm.devices import Explained
from evovlm.evaluation import resident as resident_models
from evovlm.evaluation.engines import builtin as builtin_engine
from evovlm.evaluation.engines.builtin import BuiltinEngine
from evovlm.evaluation.engines.table import ENGINES, EngineId
from evovlm.evaluation.engines.work import Load
from evovlm.evaluation.resident import ResidentModel, load_merged
from evovlm.merging.writer import write_checkpoint
from evovlm.models.decoding.greedy import generate_greedy
from evovlm.models.loading import LoadedModel
from evovlm.models.prompt import Prompt
from evovlm.recipes.recipe import ParameterMerge
from tests.merging.recipes import make_recipe
from tests.merging.vocabularies import add_tokens
from tests.pico import IMAGE_TOKEN, pico_llm, pico_tokenizer, pico_vlm

ROWS = len(pico_tokenizer())
QUESTION = "あめが7個あります。3個食べました。何個残りますか。答え: " * 3


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models of one ancestor: rope, window, head and tokens differ."""
    folder = tmp_path_factory.mktemp("pairs")
    base = pico_llm(folder / "base")
    pico_llm(folder / "rope", like=base, seed=1, rope_theta=100.0, sliding_window=16)
    pico_llm(folder / "tied", like=base, seed=2, tie=True)
    pico_vlm(folder / "vlm", family="llava_next", like=base, seed=3, rope_theta=1e6)
    pico_vlm(folder / "tied-vlm", family="llava_next", like=folder / "tied", seed=4, tie=True)
    pico_llm(folder / "tokens", like=base, seed=5, vocab_rows=ROWS + 7)
    add_tokens(folder / "tokens", {f"<|{name}|>": ROWS + row for row, name in enumerate("abcdefg")})
    return folder


def encoded(tokenizer: Any, processor: Any, text: str) -> dict[str, Any]:
    if processor is None:
        return dict(tokenizer(text, return_tensors="pt"))
    picture = Image.new("RGB", (40, 48), (200, 30, 20))
    return dict(processor(images=picture, text=f"{IMAGE_TOKEN}\n{text}", return_tensors="pt"))


def check_same(recipe: ParameterMerge, out: Path, *, text: str = QUESTION) -> tuple[LoadedModel, Any, Any]:
    """Compare the logits of the model in memory and of what is written and loaded by transformers alone."""
    resident = load_merged(recipe, device="cpu")
    folder = write_checkpoint(recipe, out).folder
    auto = AutoModelForImageTextToText if resident.sees else AutoModelForCausalLM
    model = auto.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder) if resident.sees else None
    inputs = encoded(tokenizer, processor, text)
    with torch.inference_mode():
        wanted = model(**inputs).logits
        found = resident.model(**encoded(resident.tokenizer, resident.processor, text)).logits
    assert found.shape == wanted.shape
    assert torch.equal(found, wanted)
    return resident, model, inputs


@pytest.mark.parametrize("host", ["base", "vlm"])
def test_a_rope_and_window_taken_from_a_source(pairs: Path, tmp_path: Path, host: str) -> None:
    taken = make_recipe(pairs, {"rope": (0.5, 1.0)}, host=host, method="task_arithmetic", config_from="rope")
    resident, _, inputs = check_same(taken, tmp_path / "taken")
    plain = make_recipe(pairs, {"rope": (0.5, 1.0)}, host=host, method="task_arithmetic")
    with torch.inference_mode():
        other = load_merged(plain, device="cpu").model(**inputs).logits
        assert not torch.allclose(resident.model(**inputs).logits, other, atol=1e-3)


@pytest.mark.parametrize("host", ["tied", "tied-vlm"])
def test_a_tied_host_that_gets_a_head(pairs: Path, tmp_path: Path, host: str) -> None:
    recipe = make_recipe(pairs, {"rope": (0.5, 1.0)}, host=host, method="task_arithmetic", config_from="base")
    resident, _, _ = check_same(recipe, tmp_path / "out")
    model = resident.model
    assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight


@pytest.mark.parametrize("host", ["base", "vlm"])
def test_a_host_that_loses_its_head(pairs: Path, tmp_path: Path, host: str) -> None:
    recipe = make_recipe(pairs, {"tied": (0.5, 1.0)}, host=host, method="task_arithmetic", config_from="tied")
    resident, _, _ = check_same(recipe, tmp_path / "out")
    model = resident.model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("host", ["base", "tied", "vlm"])
def test_a_host_with_tokens_added(pairs: Path, tmp_path: Path, host: str) -> None:
    recipe = make_recipe(pairs, {"tokens": (0.5, 1.0)}, host=host, method="task_arithmetic", vocabulary="union")
    resident, model, inputs = check_same(recipe, tmp_path / "out", text=f"<|a|>{QUESTION}<|g|>")
    # The VLM has one token more than its language model, and five rows.
    first = ROWS + (host == "vlm")
    assert first in inputs["input_ids"]
    assert inputs["input_ids"][0, -1] == first + 6
    assert model.get_input_embeddings().num_embeddings == ROWS + (8 if host == "vlm" else 7)
    assert model.config.get_text_config().vocab_size == model.get_input_embeddings().num_embeddings
    assert resident.model.config.get_text_config().vocab_size == model.config.get_text_config().vocab_size


def test_a_cpu_in_bfloat16_holds_and_answers_what_the_written_model_does(tmp_path: Path) -> None:
    # The embedded models are stored in bfloat16.
    recipe = make_recipe(asset_path("zoo"), {"math-a": (0.5, 0.7), "ja": (0.5, 0.7)})
    resident = load_merged(recipe, device="cpu:bfloat16")
    written = AutoModelForCausalLM.from_pretrained(write_checkpoint(recipe, tmp_path / "out").folder).eval()
    found, wanted = resident.model.state_dict(), written.state_dict()
    assert found.keys() == wanted.keys()
    assert {each.dtype for each in found.values()} == {torch.bfloat16}
    assert all(torch.equal(found[name], wanted[name]) for name in found)
    ids = resident.tokenizer(QUESTION, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        answer = written.generate(ids, do_sample=False, max_new_tokens=8, pad_token_id=0)[0, ids.shape[1] :].tolist()
    assert generate_greedy(resident, [Prompt(ids=ids[0])], max_new_tokens=8, stop_ids=()) == [answer]


def test_the_cpu_merges_for_a_gpu_where_triton_cannot_be_used_which_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    problem = Explained(reason="no C compiler", remedy="apt-get install gcc")
    monkeypatch.setattr(builtin_engine, "triton_problem", lambda: problem)
    on_gpu: Any = SimpleNamespace(device=torch.device("cuda"), is_spread=False)
    nothing: Any = None
    assert builtin_engine._gpu_merger(on_gpu, nothing, nothing) is None
    assert builtin_engine._gpu_merger(on_gpu, nothing, nothing) is None
    (said,) = caplog.messages
    assert "on the CPU" in said
    assert "no C compiler. To merge on the GPU: apt-get install gcc" in said


def test_another_engine_can_have_the_memory_of_the_parameters(pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resident = ResidentModel.open(make_recipe(pairs, {"rope": (0.5, 1.0)}).template, device="cpu")
    parameters = [weakref.ref(each) for each in resident.loaded.model.parameters()]
    kept: list[object] = []

    def opened(loaded: LoadedModel, *_: object) -> BuiltinEngine:
        # As vLLM is opened: only then does it look how much memory is free.
        loaded.model.to("meta")
        gc.collect()
        kept.extend(each() for each in parameters if each() is not None)
        return BuiltinEngine(loaded=loaded)

    row = replace(ENGINES["vllm"], open=opened)
    monkeypatch.setattr(resident_models, "ENGINES", {**ENGINES, "vllm": row})
    resident.hand_over(EngineId(name="vllm"), Load(n_prompts=1, longest=8))
    assert parameters
    assert kept == []
