"""A tiny open_clip model with random weights, written as people publish them."""

import json
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
PREPROCESS = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}


def pico_clip(folder: Path, *, seed: int = 0) -> Path:
    """Write the model's folder: open_clip_config.json and open_clip_model.safetensors."""
    folder.mkdir(parents=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vision, text = open_clip.CLIPVisionCfg(**CONFIG["vision_cfg"]), open_clip.CLIPTextCfg(**CONFIG["text_cfg"])
        model = open_clip.CLIP(CONFIG["embed_dim"], vision, text)
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": PREPROCESS}))
    return folder
