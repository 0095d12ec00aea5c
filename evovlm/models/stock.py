"""Prompts as transformers' own `generate` takes them, without a second run of vision encoder and projector."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from evovlm.models.backbone import Backbone
from evovlm.models.image_features import by_layer
from evovlm.models.loading import LoadedModel
from evovlm.models.prompt import Prompt, embed, left_padded, left_padded_positions

# These want more of a picture than embeddings in a row, and take what their image part has made.
_ENCODED = ("gemma3", "qwen3_vl")


def stock_inputs(loaded: LoadedModel, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Return what `generate` wants of these prompts, each tensor with one row per prompt, padded at the left.

    What it generates is what it would for the processor's inputs: positions and token kinds are those of the family.
    """
    backbone = Backbone.of(loaded)
    ids, mask = left_padded(prompts, device=backbone.device)
    # The ids are there beside embeddings too: the repetition penalty sees the prompt, as it does in ordinary use.
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    if any(prompt.positions is not None for prompt in prompts):
        # In front of the three dimensions go the tokens' plain numbers.
        plain = (mask.cumsum(1) - 1).clamp(min=0)
        inputs["position_ids"] = torch.cat([plain[None], left_padded_positions(prompts, device=backbone.device)])
    for name in sorted({name for prompt in prompts for name in prompt.extra}):
        inputs[name] = _padded_extra(prompts, name, like=ids)
    if any(prompt.features is not None for prompt in prompts):
        if loaded.model.config.model_type in _ENCODED:
            inputs["mm_encoder_outputs"] = {"image": _encoded(loaded, prompts)}
        else:
            inputs["inputs_embeds"] = embed(backbone, ids, prompts, image_token=loaded.model.config.image_token_id)
    return inputs


def _encoded(loaded: LoadedModel, prompts: Sequence[Prompt]) -> Any:
    """Return features as the model's own image part would: Gemma 3 by picture, Qwen3-VL by prompt and layer."""
    features = [prompt.features().to(loaded.device) for prompt in prompts if prompt.features is not None]
    config = loaded.model.config
    hidden = config.get_text_config().hidden_size
    kind: Any = BaseModelOutputWithDeepstackFeatures
    if config.model_type == "gemma3":
        return kind(pooler_output=torch.cat(features).view(-1, config.mm_tokens_per_image, hidden))
    at_embedding, *later = zip(*(by_layer(each, hidden=hidden) for each in features), strict=True)
    return kind(pooler_output=list(at_embedding), deepstack_features=[list(layer) for layer in later])


def _padded_extra(prompts: Sequence[Prompt], name: str, *, like: Tensor) -> Tensor:
    padded = torch.zeros_like(like)
    for row, prompt in enumerate(prompts):
        if name in prompt.extra:
            padded[row, like.shape[1] - len(prompt.ids) :] = prompt.extra[name]
    return padded
