"""Train the embedded VLM in LLaVA's two stages, only on English, and save it with its processor.

The vision tower is always frozen, so every picture goes through it once. Stage 1 trains the projector with the
unchanged ancestor and, as LLaVA's first stage intends, aligns image tokens with word embeddings: each is pulled towards
the emoji of the concept at its position, as the ancestor reads it in text. Without that, image tokens become anything
that makes the ancestor say the English name, and mean nothing in Japanese. Stage 2 trains the projector, slowly, and
the language model's first blocks, on pictures mixed with text: they learn to process image tokens as the ancestor's
blocks process emoji, while later blocks would learn to attach English names to them. Every question on a picture and
every answer is English.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPVisionModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)

from evovlm.recipes.checkpoint_files import SINGLE_FILE
from evovlm.seeding import derive_seed, generator
from evovlm.tasks.emoji_pictures import PICTURE_SIDE_PX
from evovlm.zoo.picture_lessons import IMAGE_TOKEN, Alignment, Lessons, answer_loss, image_token_id
from evovlm.zoo.vision import IMAGE_MEAN, IMAGE_STD, PicturePool, draw_pool, normalised

_ROWS_MULTIPLE = 8
_FEATURE_BATCH = 256
_TOWER_NAME = re.compile(r"^(vision_tower\.)(?!vision_model\.)")


@dataclass(frozen=True, slots=True, kw_only=True)
class VlmPlan:
    """Sizes of the two stages; a step has `batch` pictures, of which stage 2 replaces the share `text_share` by text.

    `alignment` weighs the distance of image tokens to emoji beside the answers' loss: of their embeddings in stage 1,
    of what the trained blocks make of them in stage 2.
    Stage 2 trains the first `blocks` of the language model at `stage2_rate` and the projector at `projector_rate`. Its
    text is the ancestor's own reading about concepts, replayed so that what it knows is not unlearned.
    """

    pictures: int = 16_000
    batch: int = 64
    stage1_steps: int = 40
    stage1_rate: float = 1.5e-3
    alignment: float = 3.0
    stage2_steps: int = 400
    stage2_rate: float = 1e-3
    projector_rate: float = 1e-5
    blocks: int = 2
    text_share: float = 0.3


class VlmProgress(NamedTuple):
    """Progress of the training."""

    stage: int
    step: int
    steps: int
    loss: float


def _silent(_progress: VlmProgress) -> None:
    return None


def train_vlm(
    base: Path,
    vision: Path,
    out: Path,
    *,
    seed: int,
    plan: VlmPlan | None = None,
    on_progress: Callable[[VlmProgress], None] = _silent,
) -> LlavaForConditionalGeneration:
    """Train a VLM over the language model in `base` and the vision tower in `vision`, write it to `out`, return it.

    `out` gets an ordinary LLaVA folder: bfloat16 safetensors, config, tokenizer, image processor, processor.
    """
    plan = plan or VlmPlan()
    torch.manual_seed(derive_seed("vlm", seed) % 2**63)
    tokenizer = _tokenizer_with_image(base)
    model = assemble(
        MistralForCausalLM.from_pretrained(base, dtype=torch.float32),
        CLIPVisionModel.from_pretrained(vision, dtype=torch.float32),
        tokenizer=tokenizer,
    )
    pool = draw_pool(generator("vlm-pictures", seed), count=plan.pictures)
    features = tower_features(model, pool)
    lessons = Lessons(
        tokenizer,
        pool,
        features,
        batch=plan.batch,
        text_share=plan.text_share,
        rng=generator("vlm-batches", seed),
    )
    projector = list(model.model.multi_modal_projector.parameters())
    reading = list(model.model.language_model.layers[: plan.blocks].parameters())
    stages: list[tuple[int, list[dict[str, Any]]]] = [
        (plan.stage1_steps, [{"params": projector, "rate": plan.stage1_rate}]),
        (
            plan.stage2_steps,
            [{"params": projector, "rate": plan.projector_rate}, {"params": reading, "rate": plan.stage2_rate}],
        ),
    ]
    alignment = Alignment(model, tokenizer, lessons, blocks=plan.blocks, weight=plan.alignment)
    for stage, (steps, groups) in enumerate(stages, 1):
        _fit(model, lessons, alignment, stage=stage, steps=steps, groups=groups, on_progress=on_progress)
    save_vlm(model, tokenizer, out)
    return model


def assemble(
    language: MistralForCausalLM, vision: CLIPVisionModel, *, tokenizer: PreTrainedTokenizerFast
) -> LlavaForConditionalGeneration:
    """Join a language model and a vision tower by a fresh projector, float32.

    The vocabulary is the language model's rows and, after them, new ones for the image token and for rounding up.
    """
    old_rows = language.config.vocab_size
    rows = math.ceil(max(len(tokenizer), old_rows + 1) / _ROWS_MULTIPLE) * _ROWS_MULTIPLE
    language.resize_token_embeddings(rows, mean_resizing=False)
    for table in (language.model.embed_tokens, language.lm_head):
        table.weight.data[old_rows:] = table.weight.data[:old_rows].mean(dim=0)
    # Users of the model do not need the paths of its parts.
    language.config.name_or_path = vision.config.name_or_path = ""
    config = LlavaConfig(
        vision_config=vision.config,
        text_config=language.config,
        image_token_index=image_token_id(tokenizer),
        image_seq_length=int(vision.embeddings.num_patches),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    model = LlavaForConditionalGeneration(config)
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.lm_head.load_state_dict(language.lm_head.state_dict())
    model.model.vision_tower.load_state_dict(vision.state_dict())
    model.model.vision_tower.requires_grad_(False)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def tower_features(model: LlavaForConditionalGeneration, pool: PicturePool) -> Tensor:
    """Return the projector's input for every picture: float32, shape (pictures, image tokens, tower width)."""
    tower, layer = model.model.vision_tower, model.config.vision_feature_layer
    parts = []
    with torch.inference_mode():
        for pixels in torch.split(pool.pixels, _FEATURE_BATCH):
            states = tower(normalised(pixels), output_hidden_states=True).hidden_states
            parts.append(states[layer][:, 1:])
    return torch.cat(parts).clone()


def save_vlm(model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the VLM and its processor as an ordinary folder, weights in bfloat16."""
    stored: Any = LlavaForConditionalGeneration(model.config)
    stored.to(torch.bfloat16)
    stored.load_state_dict({name: tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items()})
    stored.generation_config = model.generation_config
    stored.save_pretrained(out)
    _name_as_on_the_hub(out / SINGLE_FILE)
    processor_of(model, tokenizer).save_pretrained(out)


def _name_as_on_the_hub(weights: Path) -> None:
    """Give the vision tower's tensors the prefix that the hub's LLaVAs have, and that programs other than transformers
    expect (vLLM): transformers reads both, and writes the tower without it.
    """
    tensors = load_file(weights)
    renamed = {_TOWER_NAME.sub(r"\1vision_model.", name): tensor for name, tensor in tensors.items()}
    save_file(renamed, weights, metadata={"format": "pt"})


def processor_of(model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """Return the processor: pictures of 64 x 64 without resizing, one image token per patch."""
    side = {"height": PICTURE_SIDE_PX, "width": PICTURE_SIDE_PX}
    images = CLIPImageProcessor(
        size=side,
        crop_size=side,
        do_center_crop=False,
        image_mean=list(IMAGE_MEAN),
        image_std=list(IMAGE_STD),
    )
    return LlavaProcessor(  # type: ignore[no-untyped-call]
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=model.model.vision_tower.config.patch_size,
        vision_feature_select_strategy=model.config.vision_feature_select_strategy,
        image_token=IMAGE_TOKEN,
        num_additional_image_tokens=1,
    )


def _tokenizer_with_image(base: Path) -> PreTrainedTokenizerFast:
    tokenizer = cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(base))
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    return tokenizer


def _fit(
    model: LlavaForConditionalGeneration,
    lessons: Lessons,
    alignment: Alignment,
    *,
    stage: int,
    steps: int,
    groups: Sequence[dict[str, Any]],
    on_progress: Callable[[VlmProgress], None],
) -> None:
    """Train the parameters of `groups`, each at its `rate`, and no others."""
    trained = [parameter for group in groups for parameter in group["params"]]
    model.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * _schedule(step, steps)
        rows = lessons.batch(stage=stage)
        loss = answer_loss(model, rows, lessons.features)
        loss = loss + alignment.weight * alignment.loss(rows, stage=stage)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        on_progress(VlmProgress(stage, step + 1, steps, float(loss.detach())))


def _schedule(step: int, steps: int) -> float:
    warm = max(1, steps // 30)
    if step < warm:
        return (step + 1) / warm
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
