"""Train a small CLIP on emoji pictures and their English names with open_clip, and export its vision tower.

The export is an ordinary `CLIPVisionModel` of transformers with the same features up to rounding, stored in bfloat16.
The text tower is dropped, as in LLaVA. A caption names the concepts shown and, half the time, the background:

    goblin and sake, red background

The contrastive loss reaches only one token of a picture, while LLaVA reads the patches of the second-to-last layer. So
a linear classifier also trains these patches to recognise the concept at their position; it is dropped afterwards.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import open_clip
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel

from evovlm.seeding import derive_seed, generator
from evovlm.tasks.emoji_pictures import PICTURE_SIDE_PX, draw
from evovlm.zoo.concepts import COLOURS, all_concepts, mosaic_cells, name_answer
from evovlm.zoo.emoji import Scene, training_scenes

IMAGE_MEAN = (0.5, 0.5, 0.5)
IMAGE_STD = (0.5, 0.5, 0.5)

_CONTEXT = 16
_SHIFT_PX = 4
_START, _END_WORD = "<start>", "<end>"


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionPlan:
    """Sizes of the towers and of the training."""

    width: int = 160
    layers: int = 4
    heads: int = 5
    patch: int = 16
    embedding: int = 96
    text_width: int = 96
    pictures: int = 32_000
    steps: int = 2_000
    batch: int = 128
    learning_rate: float = 2e-3


class ContrastiveProgress(NamedTuple):
    """Progress of the contrastive training."""

    step: int
    steps: int
    loss: float


def _silent(_progress: ContrastiveProgress) -> None:
    return None


class PicturePool(NamedTuple):
    """Drawn pictures, uint8, shape (count, 3, 64, 64), and the scenes that they show."""

    pixels: Tensor
    scenes: Sequence[Scene]


def train_vision(
    out: Path,
    *,
    seed: int,
    plan: VisionPlan | None = None,
    on_progress: Callable[[ContrastiveProgress], None] = _silent,
) -> open_clip.CLIP:
    """Train the CLIP, write its vision tower to the folder `out`, and return the whole CLIP in evaluation mode."""
    plan = plan or VisionPlan()
    torch.manual_seed(derive_seed("vision", seed) % 2**63)
    pool = draw_pool(generator("vision-pictures", seed), count=plan.pictures)
    clip = new_clip(plan)
    _fit(clip, pool, plan=plan, seed=seed, on_progress=on_progress)
    stored: Any = export_tower(clip, plan=plan)
    stored.to(torch.bfloat16).save_pretrained(out)
    return clip


def draw_pool(rng: np.random.Generator, *, count: int) -> PicturePool:
    """Draw `count` training pictures; about 2 ms and 12 kB each."""
    scenes = list(training_scenes(rng, count))
    return PicturePool(picture_tensor([draw(scene.spec) for scene in scenes]), scenes)


def picture_tensor(pictures: Sequence[Image.Image]) -> Tensor:
    """Stack RGB pictures of equal size into a uint8 tensor of shape (count, 3, height, width)."""
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2).contiguous()


def normalised(pixels: Tensor) -> Tensor:
    """Return uint8 pictures as the float32 pixel values that the tower takes."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
    return (pixels.to(torch.float32) / 255 - mean) / std


def new_clip(plan: VisionPlan) -> open_clip.CLIP:
    """Return an untrained CLIP of open_clip with `plan`'s sizes and a vocabulary of words."""
    vision = open_clip.CLIPVisionCfg(
        layers=plan.layers,
        width=plan.width,
        head_width=plan.width // plan.heads,
        patch_size=plan.patch,
        image_size=PICTURE_SIDE_PX,
    )
    text = open_clip.CLIPTextCfg(
        context_length=_CONTEXT, vocab_size=len(_words()), width=plan.text_width, heads=2, layers=1
    )
    return open_clip.CLIP(plan.embedding, vision, text)


def caption_ids(captions: Sequence[str]) -> Tensor:
    """Return captions as word numbers, shape (count, 16); open_clip pools at the highest one, which ends a caption."""
    words = _words()
    rows = torch.zeros(len(captions), _CONTEXT, dtype=torch.long)
    for row, caption in enumerate(captions):
        known = [words[word] for word in caption.replace(",", "").split()][: _CONTEXT - 2]
        ids = [words[_START], *known, words[_END_WORD]]
        rows[row, : len(ids)] = torch.tensor(ids)
    return rows


def export_tower(clip: open_clip.CLIP, *, plan: VisionPlan) -> CLIPVisionModel:
    """Return the vision tower as a float32 `CLIPVisionModel` with the same hidden states."""
    config = CLIPVisionConfig(
        hidden_size=plan.width,
        intermediate_size=4 * plan.width,
        num_hidden_layers=plan.layers,
        num_attention_heads=plan.heads,
        image_size=PICTURE_SIDE_PX,
        patch_size=plan.patch,
        projection_dim=plan.embedding,
        hidden_act="gelu",
        layer_norm_eps=1e-5,
    )
    tower = CLIPVisionModel(config)
    tower.load_state_dict(_tower_weights(clip.visual, layers=plan.layers))
    tower.train(False)
    return tower


def _tower_weights(visual: Any, *, layers: int) -> dict[str, Tensor]:
    theirs = {name: tensor.detach().clone() for name, tensor in visual.state_dict().items()}
    ours = {
        "embeddings.class_embedding": theirs["class_embedding"],
        "embeddings.patch_embedding.weight": theirs["conv1.weight"],
        "embeddings.position_embedding.weight": theirs["positional_embedding"],
    }
    renamed = {"ln_pre": "pre_layrnorm", "ln_post": "post_layernorm"}
    for layer in range(layers):
        here, there = f"encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        renamed |= {f"{there}.ln_1": f"{here}.layer_norm1", f"{there}.ln_2": f"{here}.layer_norm2"}
        renamed |= {f"{there}.mlp.c_fc": f"{here}.mlp.fc1", f"{there}.mlp.c_proj": f"{here}.mlp.fc2"}
        renamed[f"{there}.attn.out_proj"] = f"{here}.self_attn.out_proj"
        for kind in ("weight", "bias"):
            parts = theirs[f"{there}.attn.in_proj_{kind}"].chunk(3)
            ours |= {f"{here}.self_attn.{name}_proj.{kind}": part for name, part in zip("qkv", parts, strict=True)}
    for there, here in renamed.items():
        ours |= {f"{here}.{kind}": theirs[f"{there}.{kind}"] for kind in ("weight", "bias")}
    return ours


def _fit(
    clip: open_clip.CLIP,
    pool: PicturePool,
    *,
    plan: VisionPlan,
    seed: int,
    on_progress: Callable[[ContrastiveProgress], None],
) -> None:
    rng = generator("vision-batches", seed)
    contrast = open_clip.ClipLoss()
    patches = _PatchLoss(clip, pool, plan=plan)
    optimizers = _optimizers(clip, patches, learning_rate=plan.learning_rate)
    clip.train()
    for step in range(plan.steps):
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = plan.learning_rate * _schedule(step, plan.steps)
        # Neighbours in the pool come from one shuffled round of concepts: few pictures of a batch share a name.
        start = int(rng.integers(len(pool.scenes) - plan.batch + 1))
        dealt = slice(start, start + plan.batch)
        captions = [_caption(rng, scene) for scene in pool.scenes[dealt]]
        features = clip(_varied(rng, normalised(pool.pixels[dealt])), caption_ids(captions))
        loss = contrast(*features) + patches(dealt)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            clip.logit_scale.clamp_(0, math.log(100))
        on_progress(ContrastiveProgress(step + 1, plan.steps, float(loss.detach())))
    patches.hook.remove()
    clip.eval()


class _PatchLoss(torch.nn.Module):
    """Cross-entropy of every patch against the concept at its position, in the second-to-last layer."""

    def __init__(self, clip: open_clip.CLIP, pool: PicturePool, *, plan: VisionPlan) -> None:
        super().__init__()
        numbers = {concept.emoji: number for number, concept in enumerate(all_concepts())}
        cells = [[numbers[cell.emoji] for cell in mosaic_cells(scene.shown)] for scene in pool.scenes]
        self._wanted = torch.tensor(cells)
        self._seen: list[Tensor] = []
        self.classifier = torch.nn.Sequential(torch.nn.LayerNorm(plan.width), torch.nn.Linear(plan.width, len(numbers)))
        self.hook = clip.visual.transformer.resblocks[-2].register_forward_hook(self._see)

    def forward(self, dealt: slice) -> Tensor:
        """Return the loss on the pictures that the tower has seen last, a scalar."""
        logits = self.classifier(self._seen.pop()[:, 1:])
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), self._wanted[dealt].flatten())

    def _see(self, _block: torch.nn.Module, _inputs: object, tokens: Tensor) -> None:
        self._seen = [tokens]


def _optimizers(clip: open_clip.CLIP, patches: torch.nn.Module, *, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices of the blocks and AdamW for all other parameters."""
    matrices = [p for name, p in clip.named_parameters() if p.ndim == 2 and ".resblocks." in name]
    chosen = {id(p) for p in matrices}
    others = [p for p in (*clip.parameters(), *patches.parameters()) if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=learning_rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def _varied(rng: np.random.Generator, pictures: Tensor) -> Tensor:
    """Shift a batch by up to four pixels and brighten each picture's channels a little: cached pictures stay new."""
    padded = torch.nn.functional.pad(pictures, (_SHIFT_PX,) * 4, mode="replicate")
    x, y = (int(offset) for offset in rng.integers(0, 2 * _SHIFT_PX + 1, size=2))
    shifted = padded[:, :, y : y + PICTURE_SIDE_PX, x : x + PICTURE_SIDE_PX]
    gains = torch.from_numpy(rng.uniform(0.9, 1.1, size=(len(pictures), 3, 1, 1)).astype(np.float32))
    return shifted * gains


def _caption(rng: np.random.Generator, scene: Scene) -> str:
    names = name_answer(scene.shown, language="en")
    if scene.colour is None or rng.random() < 0.5:
        return names
    return f"{names}, {scene.colour.names['en']} background"


def _schedule(step: int, steps: int) -> float:
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.02 + 0.49 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


@lru_cache(maxsize=1)
def _words() -> dict[str, int]:
    """Number every word of a caption; 0 pads, and the end word has the highest number."""
    seen = {"and": None, "background": None}
    for concept in all_concepts():
        seen |= dict.fromkeys(concept.names["en"].split())
    for colour in COLOURS:
        seen |= dict.fromkeys(colour.names["en"].split())
    return {word: number for number, word in enumerate(("<pad>", _START, *seen, _END_WORD))}
