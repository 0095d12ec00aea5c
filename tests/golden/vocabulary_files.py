# ruff: noqa: S106 (the "passwords" are tokens of a tokenizer)
"""The files of `mergekit_vocabulary/`: models whose vocabularies nest, and what mergekit made of them.

base has 280 tokens, a these and 11 more, b those and 12 more. mergekit 0.1.5 merged them with `tokenizer_source: b`:

    peer/bin/python tests/golden/vocabulary_files.py FOLDER
"""

import json
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

FOLDER = Path(__file__).parent / "mergekit_vocabulary"
ROWS = {"base": 280, "a": 291, "b": 303}
VOCABULARY_TENSORS = ("lm_head.weight", "model.embed_tokens.weight")
FILES = ("task_arithmetic", "ties", "linear")
_HIDDEN = 8
_BLOCK = {
    "input_layernorm": (_HIDDEN,),
    "post_attention_layernorm": (_HIDDEN,),
    "self_attn.q_proj": (_HIDDEN, _HIDDEN),
    "self_attn.k_proj": (_HIDDEN, _HIDDEN),
    "self_attn.v_proj": (_HIDDEN, _HIDDEN),
    "self_attn.o_proj": (_HIDDEN, _HIDDEN),
    "mlp.gate_proj": (12, _HIDDEN),
    "mlp.up_proj": (12, _HIDDEN),
    "mlp.down_proj": (_HIDDEN, 12),
}


def make_models(folder: Path) -> Path:
    """Write the models, whose numbers are made by integer arithmetic; return the folder."""
    for salt, (name, rows) in enumerate(ROWS.items()):
        _tokenizer(rows).save_pretrained(folder / name)
        config = {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": _HIDDEN,
            "intermediate_size": 12,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "vocab_size": rows,
            "tie_word_embeddings": False,
            "rms_norm_eps": 1e-5,
            "dtype": "float32",
        }
        (folder / name / "config.json").write_text(json.dumps(config))
        save_file(_weights(salt, rows), folder / name / "model.safetensors", {"format": "pt"})
    return folder


def _tokenizer(rows: int) -> PreTrainedTokenizerFast:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += [chr(0x3041 + number) for number in range(rows - len(tokens))]
    model = BPE({token: row for row, token in enumerate(tokens)}, [], unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.ByteFallback()
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def _weights(salt: int, rows: int) -> dict[str, torch.Tensor]:
    shapes = {f"model.layers.0.{part}.weight": shape for part, shape in _BLOCK.items()}
    shapes |= {"model.norm.weight": (_HIDDEN,), **dict.fromkeys(VOCABULARY_TENSORS, (rows, _HIDDEN))}
    found = {}
    for place, (name, shape) in enumerate(sorted(shapes.items())):
        index = torch.arange(torch.Size(shape).numel(), dtype=torch.int64)
        shared = (index * 7919 + 104729 * place) % 2003 - 1001
        own = (index * 6007 + 1299709 * salt) % 1009 - 504
        found[name] = (shared.double() / 977 + (own.double() / 9001 if salt else 0)).float().reshape(shape)
    return found


def place(method: str, folder: Path) -> Path:
    """Write the mergekit file of a method beside the models; return it."""
    given = {"a": "weight: 0.6", "b": "weight: 0.4"}
    if method == "linear":
        given = {"base": "weight: 0.2", "a": "weight: 0.5", "b": "weight: 0.3"}
    further = ", density: 0.5" if method == "ties" else ""
    models = [f"  - {{model: {name}, parameters: {{{weight}{further}}}}}" for name, weight in given.items()]
    base = [] if method == "linear" else ["base_model: base"]
    lines = [f"merge_method: {method}", *base, "models:", *models, "tokenizer_source: b", "dtype: float32", ""]
    (folder / f"{method}.yaml").write_text("\n".join(lines))
    return folder / f"{method}.yaml"


def results(method: str) -> dict[str, torch.Tensor]:
    """Return what mergekit wrote."""
    return load_file(FOLDER / f"{method}.safetensors")


if __name__ == "__main__":
    models = make_models(Path(sys.argv[1]).resolve())
    tool = Path(sys.executable).with_name("mergekit-yaml")
    FOLDER.mkdir(exist_ok=True)
    for file in FILES:
        out = models / f"out-{file}"
        subprocess.run([str(tool), place(file, models).name, str(out), "--no-write-model-card"], cwd=models, check=True)
        merged = {name: tensor for shard in out.glob("*.safetensors") for name, tensor in load_file(shard).items()}
        save_file(merged, FOLDER / f"{file}.safetensors")
        (FOLDER / f"{file}.safetensors").chmod(0o644)
