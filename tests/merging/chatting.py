"""Pico LLMs that chat: a template with tokens of its own, and weights that say one token and then the stop token.

base has neither template nor the tokens; math and chat are made from it and have both, at rows beyond base's.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.merging.vocabularies import add_tokens
from tests.pico import pico_llm, pico_tokenizer

START, END = "<|im_start|>", "<|im_end|>"
ANSWER = "百"
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}{{ eos_token }}\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ROWS = len(pico_tokenizer())


def chatting_models(folder: Path) -> Path:
    """Write base, math and chat into a folder; return it."""
    pico_llm(folder / "base")
    _set_weights(folder / "base", stop=None)
    for name in ("math", "chat"):
        pico_llm(folder / name, vocab_rows=ROWS + 2)
        _set_weights(folder / name, stop=ROWS + 1)
        speak(folder / name)
    return folder


def speak(folder: Path, template: str = TEMPLATE) -> None:
    """Give a folder the tokens, the template and the stop token."""
    add_tokens(folder, {START: ROWS, END: ROWS + 1})
    (folder / "chat_template.jinja").write_text(template)
    change_json(folder / "tokenizer_config.json", eos_token=END)
    change_json(folder / "generation_config.json", eos_token_id=[ROWS + 1], temperature=0.5, do_sample=True)


def change_json(file: Path, **changes: object) -> None:
    """Change keys of a JSON file, which may not exist yet."""
    content = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({**content, **changes}))


def _set_weights(folder: Path, *, stop: int | None) -> None:
    """Let the model answer `ANSWER` after any token but that, and `stop` after it."""
    weights = {name: torch.zeros_like(tensor) for name, tensor in load_file(folder / "model.safetensors").items()}
    answer = pico_tokenizer().get_vocab()[ANSWER]
    embedding, head = weights["model.embed_tokens.weight"], weights["lm_head.weight"]
    embedding[:, 0] = 1.0
    embedding[answer] = 0.0
    embedding[answer, 1] = 1.0
    weights["model.norm.weight"][:] = 1.0
    head[answer, 0] = 1.0
    head[answer, 1] = 0.5
    if stop is not None:
        head[stop, 1] = 1.0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
