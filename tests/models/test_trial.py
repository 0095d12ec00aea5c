"""The trials of a model: trained weights in every dtype pass, attention that differs in any way does not, and no answer
depends on what is decoded beside it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from evovlm.assets import asset_path
from evovlm.models.backbone import Backbone
from evovlm.models.decoding import packed, slots, trial
from evovlm.models.decoding.greedy import generate_greedy
from evovlm.models.decoding.packed import packed_attention
from evovlm.models.decoding.slots import Continuing, Rule, Slots
from evovlm.models.decoding.trial import least_rows, packs_exactly
from evovlm.models.loading import LoadedModel, load_model
from evovlm.models.prompt import Prompt, prepare_prompts
from evovlm.tasks.prompts import Question
from tests.marks import quick_and_slow
from tests.paths import LLM_FAMILIES
from tests.pico import pico_llm, pico_vlm
from tests.pico_families import PICTURE_FAMILIES, VLM_PICOS

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def trained(name: str, dtype: torch.dtype) -> LoadedModel:
    """Return an embedded model in a dtype that `load_model` gives it only on a GPU."""
    folder = asset_path("zoo") / name
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return LoadedModel(model=model, tokenizer=tokenizer, processor=None, folder=folder)


def asked(loaded: LoadedModel, n: int = 6) -> list[Prompt]:
    """Return prompts of several lengths."""
    texts = [f"りんごが{number}個あります。{'みかんも。' * (number % 3)}何個ですか。" for number in range(n)]
    prompts = prepare_prompts(loaded, [Question(text=text) for text in texts])
    return [prompt for prompt in prompts if isinstance(prompt, Prompt)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["base", "math-a", "ja"])
def test_trained_weights_are_decoded_here_in_every_dtype_and_stay_as_they_are(name: str, dtype: torch.dtype) -> None:
    loaded = trained(name, dtype)
    before = {name: (each.data_ptr(), each.clone()) for name, each in loaded.model.named_parameters()}
    assert packs_exactly(Backbone.of(loaded))
    for name, each in loaded.model.named_parameters():
        place, values = before[name]
        assert (each.data_ptr(), each.dtype) == (place, dtype)
        assert torch.equal(each, values)


@pytest.mark.parametrize("family", [*quick_and_slow(LLM_FAMILIES, quick=3), *quick_and_slow(PICTURE_FAMILIES, quick=3)])
def test_every_family_is_decoded_here_in_sixteen_bits(tmp_path: Path, family: str) -> None:
    make = pico_vlm if family in VLM_PICOS else pico_llm
    loaded = load_model(make(tmp_path / "m", family=family), device="cpu")
    loaded.model.to(torch.bfloat16)
    assert packs_exactly(Backbone.of(loaded))


def seeing(change: Callable[[Tensor], Tensor]) -> Callable[[pytest.MonkeyPatch], None]:
    """Return what changes which tokens (queries, keys) a prompt's tokens attend to."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        def attention(queries: Tensor, keys: Tensor, values: Tensor, rule: Rule) -> Tensor:
            n = keys.shape[1]
            group = queries.shape[1] // keys.shape[0]
            keys, values = (states.repeat_interleave(group, 0)[None] for states in (keys, values))
            seen = change(torch.ones(queries.shape[2], n, dtype=torch.bool))
            if rule.window is not None:
                seen = seen.triu(1 - rule.window)
            return slots.masked_attention(queries, keys, values, seen=seen, rule=rule)[0]

        monkeypatch.setattr(packed, "_prompt_attention", attention)

    return patch


def stepping(change: Callable[[Continuing], Continuing]) -> Callable[[pytest.MonkeyPatch], None]:
    """Return what changes which slots, and how much of them, an answer's next token attends to."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        attend = Slots.attend

        def changed(self: Slots, *given: Any, rule: Rule, rows: Continuing) -> Tensor:
            return attend(self, *given, rule=rule, rows=change(rows))

        monkeypatch.setattr(Slots, "attend", changed)

    return patch


def at_positions(change: Callable[[Tensor], Tensor]) -> Callable[[pytest.MonkeyPatch], None]:
    """Return what changes the positions of all tokens of a pass."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        forward = trial.forward

        def moved(backbone: Backbone, inputs: Any, positions: Tensor, **rest: Any) -> Tensor:
            return forward(backbone, inputs, change(positions), **rest)

        monkeypatch.setattr(trial, "forward", moved)

    return patch


def of_all_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a prompt's tokens attend to all tokens before them in the pass, also to those of other prompts."""
    attention = packed._packed_attention

    def mixed(module: Any, query: Tensor, key: Tensor, value: Tensor, *given: Any, **rest: Any) -> Any:
        found, nothing = attention(module, query, key, value, *given, **rest)
        if rest["packed_pass"].entering:
            rule = Rule(scale=rest["scaling"], window=rest.get("sliding_window"))
            found = packed._prompt_attention(query, key[0], value[0], rule).transpose(0, 1)[None]
        return found, nothing

    monkeypatch.setattr(packed, "_packed_attention", mixed)


def with_lengths(by: int) -> Callable[[Continuing], Continuing]:
    """Return what changes how many tokens of its slot an answer's next token attends to."""
    return lambda rows: Continuing(
        slots=rows.slots, lengths=(rows.lengths + by).clamp(min=0), end=rows.end, reach=rows.reach
    )


WRONG: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "no causal mask": seeing(lambda seen: seen),
    "the next token too": seeing(lambda seen: seen.tril(1)),
    "without the token before": seeing(lambda seen: seen.tril() & ~seen.tril(-1).triu(-1)),
    "only itself": seeing(lambda seen: seen.tril().triu()),
    "the other prompt's tokens": of_all_prompts,
    "a step with the other slot": stepping(
        lambda rows: Continuing(slots=rows.slots.flip(0), lengths=rows.lengths, end=rows.end, reach=rows.reach)
    ),
    "a step without the last token": stepping(with_lengths(-1)),
    "positions twice as far apart": at_positions(lambda positions: 2 * positions),
    "no positions": at_positions(torch.zeros_like),
    "a step at the next position": at_positions(lambda positions: positions + (len(positions) == 2)),
}


@pytest.mark.parametrize("dtype", quick_and_slow(DTYPES, quick=1))
@pytest.mark.parametrize("in_rows", [True, False])
@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_attention_is_noticed_in_every_dtype(
    wrong: str, in_rows: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = shared(dtype)
    if not in_rows:
        monkeypatch.setattr(slots, "has_row_step", lambda *_: False)
    monkeypatch.setattr(trial, "_exact", {})
    WRONG[wrong](monkeypatch)
    assert not packs_exactly(Backbone.of(loaded))
    assert not packs_exactly(Backbone.of(loaded))
    (said,) = caplog.messages
    assert said == (
        "MistralForCausalLM answers with transformers' generate, which is slower than evovlm's decoding: "
        "its attention is computed in another way."
    )


_loaded: dict[torch.dtype, LoadedModel] = {}


def shared(dtype: torch.dtype) -> LoadedModel:
    """Return one embedded model per dtype, which is only read."""
    if dtype not in _loaded:
        _loaded[dtype] = trained("base", dtype)
    return _loaded[dtype]


def logits_of_first(loaded: LoadedModel, prompts: list[Prompt]) -> Tensor:
    """Return the logits of all steps of the first prompt's answer, (steps, vocabulary), decoded beside the others."""
    # As prompts of their own: earlier answers to the same ones would be guessed, several tokens in a pass.
    prompts = [dataclasses.replace(prompt, ids=prompt.ids.clone()) for prompt in prompts]
    # Its trials run the head, too.
    generate_greedy(loaded, prompts, max_new_tokens=1, stop_ids=())
    found: list[Tensor] = []
    # It stays in the first row as long as it runs, and gets the most tokens.
    handle = Backbone.of(loaded).head.register_forward_hook(lambda _module, _given, out: found.append(out[0].clone()))
    generate_greedy(loaded, prompts, max_new_tokens=12, stop_ids=(), limits=[12, *range(1, len(prompts))])
    handle.remove()
    return torch.stack(found)


@pytest.mark.parametrize(
    ("dtype", "n_beside"), [*((torch.float32, n) for n in (1, 2, 4, 11)), *((torch.bfloat16, n) for n in (1, 11))]
)
def test_logits_have_the_same_bits_whatever_is_decoded_beside_them(dtype: torch.dtype, n_beside: int) -> None:
    loaded = shared(dtype)
    prompts = asked(loaded, 12)
    alone = logits_of_first(loaded, prompts[:1])
    assert len(alone) == 12
    assert torch.equal(alone, logits_of_first(loaded, [prompts[0], *prompts[-n_beside:]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_passes_of_enough_rows_compute_each_row_in_the_same_way(dtype: torch.dtype) -> None:
    backbone = Backbone.of(shared(dtype))
    with packed_attention(backbone), torch.inference_mode():
        least = least_rows(backbone)
        assert 1 <= least <= 16
        wanted = trial._logits_of_rows(backbone, range(100))
        for n in (*range(least, 40), 63, 64, 65, 99):
            assert torch.equal(trial._logits_of_rows(backbone, range(100 - n, 100)), wanted[-n:])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_answers_in_sixteen_bits_are_those_of_generate(dtype: torch.dtype, caplog: pytest.LogCaptureFixture) -> None:
    loaded = shared(dtype)
    prompts = asked(loaded)
    wanted = []
    for prompt in prompts:
        found = loaded.model.generate(
            input_ids=prompt.ids[None],
            attention_mask=torch.ones_like(prompt.ids[None]),
            max_new_tokens=16,
            do_sample=False,
            eos_token_id=[2],
            pad_token_id=3,
        )
        wanted.append([token for token in found[0, len(prompt.ids) :].tolist() if token != 2])
    answers = generate_greedy(loaded, prompts, max_new_tokens=16, stop_ids={2})
    assert not caplog.messages
    assert answers == wanted
