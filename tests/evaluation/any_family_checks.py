"""What must hold for every model type: its merge is exact, on disk and in memory, and its answers are `generate`'s."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

from evovlm.errors import BrokenCheckpoint, EvovlmError
from evovlm.evaluation.loadable import check_loads
from evovlm.evaluation.resident import ResidentModel
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.merging.writer import write_checkpoint
from evovlm.models.decoding.greedy import generate_greedy
from evovlm.models.loading import LoadedModel, load_model
from evovlm.models.prompt import Prompt
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.recipe import MergeTemplate, Vocabulary
from evovlm.recipes.source_values import SourceParameters

STOPS = (2,)
_NEW_TOKENS = 8


class Outcome(NamedTuple):
    """What can be done with a model type: merged, scored (in memory, with exact answers), and the reason why not."""

    merged: bool
    scored: bool
    reason: str = ""


def template_of(
    host: Path, base: Path, sources: Mapping[str, Path], *, vocabulary: Vocabulary | None = None
) -> MergeTemplate:
    """Return a merge by task arithmetic of models in these folders."""

    def ref(folder: Path) -> ModelRef:
        return ModelRef(text=str(folder))

    return MergeTemplate(
        host=ref(host),
        base=ref(base),
        sources={name: ref(folder) for name, folder in sources.items()},
        method="task_arithmetic",
        vocabulary=vocabulary,
    )


def check_weight_one(base: Path, tuned: Path, out: Path) -> None:
    """Check that the merge of one source with weight 1 has the source's numbers, and the host's outside of it."""
    recipe = template_of(base, base, {"tuned": tuned}).recipe({"tuned": SourceParameters(weight=1.0)})
    write_checkpoint(recipe, out)
    result, source, host = (load_file(folder / "model.safetensors") for folder in (out, tuned, base))
    opened = Checkpoint.open(base)
    merged = {opened.layout.disk_name(name) for name in opened.backbone_names()}
    assert result.keys() == host.keys()
    for name, tensor in result.items():
        assert torch.equal(tensor, (source if name in merged else host)[name]), name
    if not opened.layout.is_vlm:
        assert set(opened.other_names()) == {name for name in host if not host[name].is_floating_point()}


def loaded_as_merged(template: MergeTemplate, out: Path) -> tuple[LoadedModel, LoadedModel]:
    """Return the same merge written and loaded, and made in memory; check that their logits are the same."""
    recipe = template.equal_weights(0.5)
    write_checkpoint(recipe, out, check=check_loads)
    resident = ResidentModel.open(template, device="cpu")
    assert resident.merge(recipe)
    written, ids = load_model(out, device="cpu"), torch.arange(9)[None] * 7
    with torch.inference_mode():
        logits = [loaded.model(input_ids=ids).logits for loaded in (written, resident.loaded)]
    assert torch.equal(*logits)
    return written, resident.loaded


def check_answers(written: LoadedModel, resident: LoadedModel, *, stops: Collection[int] = STOPS) -> None:
    """Check that prompts of several lengths are answered as `generate` answers each of them alone."""
    rows = written.model.get_input_embeddings().num_embeddings
    prompts = [Prompt(ids=(torch.arange(3 + 4 * n) * 5 + 7 + 13 * n) % (rows - 40)) for n in range(4)]
    found = generate_greedy(resident, prompts, max_new_tokens=_NEW_TOKENS, stop_ids=stops)
    for prompt, answer in zip(prompts, found, strict=True):
        inputs = {"input_ids": prompt.ids[None], "attention_mask": torch.ones_like(prompt.ids[None])}
        assert answer == generated(written, inputs, stops=stops)


def generated(loaded: LoadedModel, inputs: Mapping[str, Any], *, stops: Collection[int] = STOPS) -> list[int]:
    """Return the answer of `generate` to a single prompt, without the stop token."""
    found = loaded.model.generate(
        **inputs, do_sample=False, num_beams=1, max_new_tokens=_NEW_TOKENS, pad_token_id=3, eos_token_id=sorted(stops)
    )
    answer: list[int] = found[0, inputs["input_ids"].shape[1] :].tolist()
    ends = [place for place, token in enumerate(answer) if token in stops]
    return answer[: ends[0]] if ends else answer


def outcome_of(base: Path, tuned: Path, out: Path) -> Outcome:
    """Return what can be done with two models of a type; what is done must be exact."""
    try:
        check_weight_one(base, tuned, out / "one")
    except EvovlmError as error:
        return Outcome(merged=False, scored=False, reason=str(error))
    try:
        written, resident = loaded_as_merged(template_of(base, base, {"tuned": tuned}), out / "half")
    except EvovlmError as error:
        no_processor = isinstance(error, BrokenCheckpoint) and "processor" in str(error)
        reason = "this pico has no processor" if no_processor else str(error)
        return Outcome(merged=True, scored=False, reason=reason)
    check_answers(written, resident)
    return Outcome(merged=True, scored=True)
