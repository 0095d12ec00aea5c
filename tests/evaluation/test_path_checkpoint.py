"""Paths through layers as written checkpoints: stock transformers computes what the running path does."""

import functools
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, LlamaConfig, LlamaForCausalLM

from evovlm.errors import BrokenCheckpoint, ConfigError, IncompatibleModels
from evovlm.evaluation.resident import load_recipe_model
from evovlm.merging.writer import write_checkpoint
from evovlm.models.decoding.greedy import generate_greedy
from evovlm.models.decoding.stock import Greedy, generate_stock
from evovlm.models.loading import LoadedModel, load_model
from evovlm.recipes.documents import load_recipe
from evovlm.recipes.kinds import HybridMerge
from evovlm.recipes.layer_path import LayerPathMerge, ScaleTarget
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.recipe import ParameterMerge
from evovlm.recipes.source_values import SourceParameters
from tests.marks import quick_and_slow
from tests.models.pictures import drawn, own_text
from tests.models.test_generation import prompts_for
from tests.paths import INTERLEAVED, LLM_FAMILIES, WINDOW, Steps, identity, path_of, shaken, two_folders
from tests.pico import pico_llm, pico_tokenizer, pico_vlm
from tests.pico_families import PICTURE_FAMILIES, VLM_PICOS

TARGETS: tuple[ScaleTarget, ...] = ("pending", "stream")
TOKENS = [1, 40, 300, 77, 40, 150, 9, 320, 61, 62, 63]
# In float32, of the norm of all logits. Measured over families, seeds and these paths: 6e-7 and, at an eps of 1e-5,
# up to 6e-4 (Llama, Mistral, Qwen; Gemma 2e-5 at most, whose embedding is larger beside eps).
TOLERANCE: Mapping[ScaleTarget, float] = {"pending": 3e-6, "stream": 2e-3}


Pair = Callable[..., tuple[Path, Path]]


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Return two models of a family, as `two_folders` saves them, each pair once; they are only read."""

    @functools.cache
    def saved(family: str, tie: bool = False, **config: float) -> tuple[Path, Path]:
        return two_folders(tmp_path_factory.mktemp("pairs"), family, tie=tie, **config)

    return saved


def recipe_of(steps: Steps, target: ScaleTarget, host: Path, **sources: Path) -> LayerPathMerge:
    return LayerPathMerge(
        host=ModelRef(text=str(host)),
        sources={name: ModelRef(text=str(folder)) for name, folder in sources.items()},
        path=path_of(steps),
        scale_target=target,
    )


@torch.inference_mode()
def logits_of(loaded: LoadedModel) -> torch.Tensor:
    return loaded.model(input_ids=torch.tensor([TOKENS]), use_cache=False).logits[0].double()


def distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def check_written(
    recipe: LayerPathMerge | HybridMerge, out: Path, *, tolerance: float
) -> tuple[LoadedModel, LoadedModel]:
    """Write a path and check it against the running one; return both."""
    running = load_recipe_model(recipe, device="cpu")
    written = load_model(write_checkpoint(recipe, out).folder, device="cpu")
    assert distance(logits_of(written), logits_of(running)) < tolerance
    return written, running


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("family", quick_and_slow(LLM_FAMILIES, quick=2))
def test_a_written_path_computes_what_the_running_one_does(
    tmp_path: Path, pair: Pair, family: str, tie: bool, target: ScaleTarget
) -> None:
    first, second = pair(family, tie=tie)
    recipe = recipe_of(INTERLEAVED, target, first, a=first, b=second)
    written, running = check_written(recipe, tmp_path / "out", tolerance=TOLERANCE[target])
    assert written.model.config.num_hidden_layers == len(INTERLEAVED)
    assert getattr(written.model.config, "layer_types", None) == getattr(running.model.config, "layer_types", None)
    # A tied head stays tied unless the embedding is scaled.
    head = written.model.lm_head.weight.data_ptr() == written.model.model.embed_tokens.weight.data_ptr()
    assert head == (tie and target == "stream")


@pytest.mark.parametrize("family", quick_and_slow(LLM_FAMILIES, quick=2))
def test_nothing_but_the_norms_eps_distinguishes_a_folded_stream_from_the_running_one(
    tmp_path: Path, pair: Pair, family: str
) -> None:
    first, second = pair(family, rms_norm_eps=1e-30)
    check_written(recipe_of(INTERLEAVED, "stream", first, a=first, b=second), tmp_path / "out", tolerance=3e-6)


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_hops_keep_the_window_that_begins_at_a_block_at_home(tmp_path: Path, pair: Pair, family: str) -> None:
    folders = []
    for folder, n_blocks in zip(pair(family), (2, 3), strict=True):
        copied = shutil.copytree(folder, tmp_path / folder.name)
        kinds = ["full_attention", *["sliding_attention"] * (n_blocks - 1)]
        window = {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1, "layer_types": kinds}
        folders.append(shaken(copied, seed=4, **window))
    recipe = recipe_of(INTERLEAVED, "pending", folders[0], a=folders[0], b=folders[1])
    written, running = check_written(recipe, tmp_path / "out", tolerance=TOLERANCE["pending"])
    kinds = ["full_attention" if layer == 0 else "sliding_attention" for _, layer, _ in INTERLEAVED]
    assert written.model.config.layer_types == running.model.config.layer_types == kinds
    # The window is shorter than the text, and counts.
    plain = recipe_of(INTERLEAVED, "pending", pair(family)[0], a=folders[0], b=folders[1])
    assert distance(logits_of(load_recipe_model(plain, device="cpu")), logits_of(running)) > 1e-3
    prompts = prompts_for(running)
    answers = generate_greedy(running, prompts, max_new_tokens=12, stop_ids={2})
    assert generate_stock(written, prompts, decoding=Greedy(max_new_tokens=12), stop_ids={2}) == answers


@pytest.mark.parametrize("family", quick_and_slow(LLM_FAMILIES, quick=2))
def test_greedy_answers_of_the_checkpoint_are_the_paths(tmp_path: Path, pair: Pair, family: str) -> None:
    first, second = pair(family)
    for target in TARGETS:
        recipe = recipe_of(INTERLEAVED, target, first, a=first, b=second)
        written, running = check_written(recipe, tmp_path / target, tolerance=TOLERANCE[target])
        prompts = prompts_for(running)
        answers = generate_greedy(running, prompts, max_new_tokens=12, stop_ids={2})
        assert generate_stock(written, prompts, decoding=Greedy(max_new_tokens=12), stop_ids={2}) == answers


@settings(max_examples=6, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 1), st.floats(0.3, 2).map(lambda scale: round(scale, 3)),
                  st.sampled_from([1, 1, -1])),
        min_size=1,
        max_size=8,
    ),
    target=st.sampled_from(TARGETS),
    family=st.sampled_from(["qwen2", "gemma3_text"]),
)  # fmt: skip
def test_any_path_has_its_checkpoint(
    pair: Pair,
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[str, int, float, int]],
    target: ScaleTarget,
    family: str,
) -> None:
    first, second = pair(family, rms_norm_eps=1e-30)
    through = tuple((name, layer, scale * sign) for name, layer, scale, sign in steps)
    recipe = recipe_of(through, target, first, a=first, b=second)
    check_written(recipe, tmp_path_factory.mktemp("any") / "out", tolerance=1e-5)


@pytest.mark.parametrize("target", TARGETS)
def test_biases_everywhere_are_folded_too(tmp_path: Path, target: ScaleTarget) -> None:
    config = LlamaConfig(
        vocab_size=len(pico_tokenizer()),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        attention_bias=True,
        mlp_bias=True,
        initializer_range=0.1,
        rms_norm_eps=1e-30,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
    )
    folder = tmp_path / "a"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    pico_tokenizer().save_pretrained(folder)
    shaken(folder, seed=1)
    assert "model.layers.0.mlp.down_proj.bias" in load_file(folder / "model.safetensors")
    steps = tuple((("a", layer, scale) for _, layer, scale in INTERLEAVED))
    check_written(recipe_of(steps, target, folder, a=folder), tmp_path / "out", tolerance=3e-6)


@pytest.mark.parametrize("target", TARGETS)
def test_an_identity_path_is_written_as_the_same_bytes(tmp_path: Path, target: ScaleTarget) -> None:
    folder = pico_llm(tmp_path / "a", n_blocks=3, dtype=torch.bfloat16)
    out = write_checkpoint(recipe_of(identity("a", 3), target, folder, a=folder), tmp_path / "out").folder
    assert (out / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert json.loads((out / "config.json").read_text()) == json.loads((folder / "config.json").read_text())


def test_blocks_of_another_dtype_are_rounded_alike_in_memory_and_on_disk(tmp_path: Path) -> None:
    first = pico_llm(tmp_path / "a", dtype=torch.bfloat16)
    second = pico_llm(tmp_path / "b", seed=3)
    recipe = recipe_of((("a", 0, 1.0), ("b", 1, 1.0), ("a", 1, 1.0)), "stream", first, a=first, b=second)
    written, running = check_written(recipe, tmp_path / "out", tolerance=1e-12)
    assert torch.equal(logits_of(written), logits_of(running))
    assert {weight.dtype for weight in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}


@pytest.mark.parametrize("target", TARGETS)
def test_in_bfloat16_a_scale_costs_the_rounding_of_the_weights_it_is_folded_into(
    tmp_path: Path, target: ScaleTarget
) -> None:
    folder = pico_llm(tmp_path / "a", n_blocks=3, dtype=torch.bfloat16)
    steps: Steps = (("a", 0, 1.1), ("a", 1, 0.9), ("a", 2, 1.3))
    check_written(recipe_of(steps, target, folder, a=folder), tmp_path / "out", tolerance=1e-2)


def test_a_first_scale_unties_a_tied_head(tmp_path: Path) -> None:
    folder = pico_llm(tmp_path / "a", family="gemma", tie=True)
    recipe = recipe_of((("a", 0, 0.5), ("a", 1, 1.0)), "pending", folder, a=folder)
    written, _ = check_written(recipe, tmp_path / "out", tolerance=3e-6)
    weights, own = load_file(tmp_path / "out" / "model.safetensors"), load_file(folder / "model.safetensors")
    assert torch.equal(weights["lm_head.weight"], own["model.embed_tokens.weight"])
    assert torch.equal(weights["model.embed_tokens.weight"], own["model.embed_tokens.weight"] * 0.5)
    assert written.model.config.tie_word_embeddings is False


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_pending_scale_of_zero_has_a_checkpoint(tmp_path: Path, pair: Pair, family: str) -> None:
    first, second = pair(family)
    steps: Steps = (("a", 0, 1.0), ("b", 0, 0.0), ("b", 1, -0.5))
    check_written(recipe_of(steps, "pending", first, a=first, b=second), tmp_path / "out", tolerance=3e-6)


@pytest.mark.parametrize("family", quick_and_slow(LLM_FAMILIES, quick=2))
def test_a_stream_that_turns_has_a_checkpoint(tmp_path: Path, pair: Pair, family: str) -> None:
    first, second = pair(family, rms_norm_eps=1e-30)
    for number, scales in enumerate(((-1.0, 1.0, 1.0), (1.0, -1.0, 1.0), (1.0, 1.0, -2.0), (-1.0, -1.0, 1.0))):
        steps = tuple(zip(("a", "b", "a"), (0, 2, 1), scales, strict=True))
        recipe = recipe_of(steps, "stream", first, a=first, b=second)
        check_written(recipe, tmp_path / f"out{number}", tolerance=3e-6)


def test_a_stream_scale_of_zero_runs_but_is_not_written(tmp_path: Path, pair: Pair) -> None:
    first, second = pair("llama")
    recipe = recipe_of((("a", 0, 1.0), ("b", 0, 0.0)), "stream", first, a=first, b=second)
    assert torch.isfinite(logits_of(load_recipe_model(recipe, device="cpu"))).all()
    with pytest.raises(ConfigError, match=r"path\[1\]: its scale 0 removes the whole stream"):
        write_checkpoint(recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_scale_that_overflows_the_hosts_dtype_is_refused(tmp_path: Path) -> None:
    folder = pico_llm(tmp_path / "a", dtype=torch.float16)
    recipe = recipe_of((("a", 0, 1e-6), ("a", 1, 1.0)), "stream", folder, a=folder)
    with pytest.raises(ConfigError, match=r"multiply it by 1e\+06, so its numbers do not fit into F16"):
        write_checkpoint(recipe, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_numbers_that_are_not_finite_are_refused_unless_asked_for(tmp_path: Path) -> None:
    folder = pico_llm(tmp_path / "a")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    for scale in (1.0, 0.5):
        recipe = recipe_of((("a", 0, 1.0), ("a", 1, scale)), "stream", folder, a=folder)
        with pytest.raises(BrokenCheckpoint, match=r"up_proj\.weight holds numbers that are not finite"):
            write_checkpoint(recipe, tmp_path / "out")
        write_checkpoint(recipe, tmp_path / f"out{scale}", allow_non_finite=True)
    # Blocks that are not on the path are not read.
    write_checkpoint(recipe_of((("a", 0, 1.0),), "stream", folder, a=folder), tmp_path / "out")


def test_models_that_norm_in_other_ways_are_refused_though_shapes_agree(tmp_path: Path) -> None:
    first, second = pico_llm(tmp_path / "a", family="llama"), pico_llm(tmp_path / "b", family="gemma")
    recipe = recipe_of((("a", 0, 1.0), ("b", 1, 1.0)), "stream", first, a=first, b=second)
    for make in (lambda: load_recipe_model(recipe, device="cpu"), lambda: write_checkpoint(recipe, tmp_path / "out")):
        with pytest.raises(IncompatibleModels, match=r"sources\.b .*gemma.* and host .*llama.* use different norms"):
            make()


def test_frequencies_that_old_checkpoints_hold_by_block_are_left_out(tmp_path: Path) -> None:
    folder = pico_llm(tmp_path / "a", family="llama")
    weights = load_file(folder / "model.safetensors")
    weights |= {f"model.layers.{n}.self_attn.rotary_emb.inv_freq": torch.ones(4) for n in range(2)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    recipe = recipe_of((("a", 1, 1.0),), "stream", folder, a=folder)
    out = write_checkpoint(recipe, tmp_path / "out").folder
    names = load_file(out / "model.safetensors").keys()
    assert not any("inv_freq" in name for name in names)
    AutoModelForCausalLM.from_pretrained(out)


@pytest.fixture(scope="module", params=quick_and_slow(PICTURE_FAMILIES, quick=3))
def vlm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """A family, a pico VLM of it, and a language model for its backbone."""
    family: str = request.param
    folder = tmp_path_factory.mktemp("vlms")
    text = VLM_PICOS[family].text
    like = {"qwen2_vl_text": "qwen2", "qwen2_5_vl_text": "qwen2", "qwen3_vl_text": "qwen3"}.get(text, text)
    seeing = shaken(pico_vlm(folder / "vlm", family=family, n_blocks=4), seed=1, rms_norm_eps=1e-30)
    return family, seeing, shaken(pico_llm(folder / "b", family=like, n_blocks=3, seed=3), seed=2, rms_norm_eps=1e-30)


THROUGH_A_VLM: Steps = (("vlm", 0, 1.0), ("b", 1, 0.9), ("vlm", 1, -1.2), ("b", 2, -1.0), ("vlm", 3, 0.8))


@torch.inference_mode()
def picture_logits(loaded: LoadedModel) -> torch.Tensor:
    """Return the logits of the answers' first tokens to three questions about pictures."""
    pictures = drawn()
    rows = []
    for text, names in (
        ("<image>何の絵ですか", ("square",)),
        ("<image>と<image>1", ("wide", "tall")),
        ("<image>何の絵ですか", ("tall",)),
    ):
        images = [[pictures[name].load() for name in names]]
        inputs = loaded.processor(text=[own_text(loaded, text)], images=images, return_tensors="pt")
        rows.append(loaded.model(**inputs).logits[0, -1].double())
    return torch.stack(rows)


@pytest.mark.parametrize("target", TARGETS)
def test_a_vlms_path_is_written_with_everything_it_sees_by(
    vlm: tuple[str, Path, Path], tmp_path: Path, target: ScaleTarget
) -> None:
    _, seeing, text = vlm
    recipe = recipe_of(THROUGH_A_VLM, target, seeing, vlm=seeing, b=text)
    running = load_recipe_model(recipe, device="cpu")
    written = load_model(write_checkpoint(recipe, tmp_path / "out").folder, device="cpu")
    found = picture_logits(written)
    assert distance(found, picture_logits(running)) < 1e-5
    assert distance(found[:1], found[2:3]) > 1e-2
    AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    own, result = load_file(seeing / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    kept = [name for name in own if "vision" in name or "visual" in name or "projector" in name]
    assert kept
    assert all(torch.equal(own[name], result[name]) for name in kept)
    assert (tmp_path / "out" / "processor_config.json").read_bytes() == (seeing / "processor_config.json").read_bytes()


def test_a_scaled_embedding_beside_pictures_is_a_scaled_stream(vlm: tuple[str, Path, Path], tmp_path: Path) -> None:
    family, seeing, text = vlm
    for number, first in enumerate((0.5, -2.0)):
        steps = (("vlm", 0, first), *THROUGH_A_VLM[1:])
        recipe = recipe_of(steps, "pending", seeing, vlm=seeing, b=text)
        if family == "qwen3_vl":
            with pytest.raises(ConfigError, match="the host's vision encoder adds to the stream"):
                write_checkpoint(recipe, tmp_path / f"out{number}")
            continue
        running = load_recipe_model(recipe, device="cpu")
        written = load_model(write_checkpoint(recipe, tmp_path / f"out{number}").folder, device="cpu")
        assert distance(picture_logits(written), picture_logits(running)) < 1e-5


def test_a_forgotten_embedding_beside_pictures_is_refused(vlm: tuple[str, Path, Path], tmp_path: Path) -> None:
    _, seeing, _ = vlm
    recipe = recipe_of((("vlm", 0, 0.0), ("vlm", 1, 1.0)), "pending", seeing, vlm=seeing)
    with pytest.raises(ConfigError, match=r"path\[0\]: its scale 0 also removes the embedding of pictures"):
        write_checkpoint(recipe, tmp_path / "out")


def hybrid_of(models: Path, **changes: object) -> HybridMerge:
    sources = {name: ModelRef(text=str(models / name)) for name in ("math", "ja")}
    ps = ParameterMerge(
        base=ModelRef(text=str(models / "base")),
        host=ModelRef(text=str(models / "base")),
        sources=sources,
        method="dare_ties",
        parameters=dict.fromkeys(sources, SourceParameters(weight=0.6, density=0.8)),
    )
    steps: Steps = (("ps", 0, 1.0), ("ja", 1, 0.9), ("ps", 1, 1.2))
    given = {"ps": ps, "sources": {"ja": sources["ja"]}, "path": path_of(steps), "scale_target": "pending", **changes}
    return HybridMerge(**given)  # type: ignore[arg-type]


def test_a_hybrid_is_its_merge_and_then_the_path_through_it(models: Path, tmp_path: Path) -> None:
    recipe = hybrid_of(models)
    out = write_checkpoint(recipe, tmp_path / "out").folder
    first = write_checkpoint(recipe.ps, tmp_path / "first").folder
    by_hand = write_checkpoint(recipe.path_merge(ModelRef(text=str(first))), tmp_path / "second").folder
    assert (out / "model.safetensors").read_bytes() == (by_hand / "model.safetensors").read_bytes()
    assert (out / "config.json").read_bytes() == (by_hand / "config.json").read_bytes()
    assert not [path for path in out.rglob("*") if path.is_dir()]
    again = load_recipe(out / "recipe.yaml")
    assert isinstance(again, HybridMerge)
    assert again.recipe_id == recipe.recipe_id
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "by the method `dare_ties`, then as a path of 3 blocks" in card
    assert "ps: source `math`" in card
    running, written = load_recipe_model(recipe, device="cpu"), load_model(out, device="cpu")
    assert distance(logits_of(written), logits_of(running)) < 1e-2


def test_the_running_hybrid_is_the_path_through_the_written_merge(models: Path, tmp_path: Path) -> None:
    recipe = hybrid_of(models)
    first = write_checkpoint(recipe.ps, tmp_path / "first").folder
    by_hand = load_recipe_model(recipe.path_merge(ModelRef(text=str(first))), device="cpu")
    wanted = logits_of(by_hand)
    assert torch.equal(logits_of(load_recipe_model(recipe, device="cpu")), wanted)


def test_a_hybrid_of_a_vlm_takes_pictures(models: Path, tmp_path: Path) -> None:
    sources = {name: ModelRef(text=str(models / name)) for name in ("vlm", "ja")}
    ps = ParameterMerge(
        base=ModelRef(text=str(models / "base")),
        host=sources["vlm"],
        sources=sources,
        method="linear",
        vocabulary="host",
        parameters=dict.fromkeys(sources, SourceParameters(weight=0.5)),
    )
    recipe = hybrid_of(models, ps=ps)
    written = load_model(write_checkpoint(recipe, tmp_path / "out").folder, device="cpu")
    running = load_recipe_model(recipe, device="cpu")
    assert written.sees
    assert distance(picture_logits(written), picture_logits(running)) < 1e-2


def test_a_hybrid_that_fails_in_its_second_stage_leaves_nothing(models: Path, tmp_path: Path) -> None:
    recipe = hybrid_of(models, path=path_of((("ps", 0, 0.0),)), scale_target="stream")
    with pytest.raises(ConfigError, match="its scale 0"):
        write_checkpoint(recipe, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_written_path_names_its_recipe_and_its_models(tmp_path: Path, pair: Pair) -> None:
    first, second = pair("qwen2")
    recipe = recipe_of(INTERLEAVED, "stream", first, a=first, b=second)
    out = write_checkpoint(recipe, tmp_path / "out").folder
    assert load_recipe(out / "recipe.yaml").recipe_id == recipe.recipe_id
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "as a path of 7 blocks" in card
    assert "source `b`" in card
    shutil.rmtree(out)
    again = write_checkpoint(recipe, tmp_path / "out", shard_bytes=60_000).folder
    assert len(list(again.glob("*.safetensors"))) > 1
    assert torch.equal(
        logits_of(load_model(again, device="cpu")),
        logits_of(load_model(write_checkpoint(recipe, tmp_path / "one").folder, device="cpu")),
    )
