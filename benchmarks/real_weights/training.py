"""Train a LoRA adapter (Hu et al. 2022) with peft, so that a killed training resumes with the same result.

The loss is over the answers alone. The examples of a step follow from the seed and the step, nothing is drawn while
training, and the factors and AdamW's moments are saved every few minutes: `state.safetensors`, with the step.
"""

import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from evovlm.files import new_folder, write_file
from evovlm.recipes.model_ref import ModelRef
from evovlm.seeding import derive_seed, generator
from evovlm.zoo.corpus import Example

STATE_FILE = "state.safetensors"
LOG_FILE = "log.jsonl"
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_SORTED_TOGETHER = 8
"""Batches whose examples are sorted by length, so that little is padded."""

Row = tuple[list[int], list[int]]
"""The tokens of a prompt and of its answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What an adapter's training depends on, besides the base and the examples."""

    rank: int = 16
    learning_rate: float = 7e-4
    batch: int = 16
    epochs: int = 1
    seed: int = 0
    save_every_s: float = 120.0


def train_adapter(base: str, examples: list[Example], out: Path, *, training: Training, device: str) -> None:
    """Write the adapter to the folder `out`, in peft's format; its state is kept in `out`.part until then.

    Prints a line for each step. Returns at once if `out` exists.
    """
    if out.exists():
        return
    part = out.with_name(f"{out.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    folder = ModelRef(text=base).resolve()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(derive_seed("real-weights", "lora", out.name, training.seed) % 2**63)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    model.to(device)
    settings = LoraConfig(
        r=training.rank, lora_alpha=training.rank, target_modules=list(TARGETS), task_type="CAUSAL_LM"
    )
    model = get_peft_model(model, settings)
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    optimizer = torch.optim.AdamW(weights.values(), lr=training.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    batches = list(batches_of(encoded(examples, tokenizer), training=training))
    begin = restore(part / STATE_FILE, weights, optimizer)
    saved = time.monotonic()
    for step in range(begin, len(batches)):
        began = time.monotonic()
        optimizer.param_groups[0]["lr"] = training.learning_rate * schedule(step, len(batches))
        loss, tokens = fit(model, optimizer, batches[step], pad=tokenizer.pad_token_id or 0)
        seconds = time.monotonic() - began
        line = {"step": step + 1, "steps": len(batches), "loss": round(loss, 4), "tokens": tokens}
        record(part / LOG_FILE, {**line, "seconds": round(seconds, 2)})
        print(f"{out.name}: step {step + 1} of {len(batches)}, loss {loss:.3f}, {seconds:.1f} s", flush=True)
        if time.monotonic() - saved > training.save_every_s:
            save_state(part / STATE_FILE, weights, optimizer, step=step + 1)
            saved = time.monotonic()
    with new_folder(out) as unfinished:
        model.save_pretrained(unfinished)
        (unfinished / "README.md").unlink(missing_ok=True)
        write_file(unfinished / "training.json", json.dumps(asdict(training), indent=2) + "\n")
    save_state(part / STATE_FILE, weights, optimizer, step=len(batches))


def encoded(examples: list[Example], tokenizer: Any) -> list[Row]:
    """Return the tokens of prompts and answers; each answer ends with the end of text."""
    prompts = tokenizer([example.prompt for example in examples]).input_ids
    answers = tokenizer([example.answer for example in examples], add_special_tokens=False).input_ids
    return [(prompt, [*answer, tokenizer.eos_token_id]) for prompt, answer in zip(prompts, answers, strict=True)]


def batches_of(rows: list[Row], *, training: Training) -> Iterator[list[Row]]:
    """Yield the examples of each step, every example once per epoch, in an order that follows from the seed."""
    for epoch in range(training.epochs):
        rng = generator("real-weights", "order", training.seed, epoch)
        order = [rows[index] for index in rng.permutation(len(rows))]
        size = training.batch * _SORTED_TOGETHER
        for start in range(0, len(order), size):
            together = sorted(order[start : start + size], key=lambda row: len(row[0]) + len(row[1]))
            batches = [together[at : at + training.batch] for at in range(0, len(together), training.batch)]
            yield from (batches[index] for index in rng.permutation(len(batches)))


def padded(rows: list[Row], *, pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids, attention mask and labels (int64): all prompts end in the same column, so that answers start in one.

    ids and mask have the shape (rows, longest prompt + longest answer), labels (rows, longest answer); -100 is ignored.
    """
    before, after = (max(len(row[part]) for row in rows) for part in (0, 1))
    ids = torch.full((len(rows), before + after), pad)
    mask = torch.zeros_like(ids)
    labels = torch.full((len(rows), after), -100)
    for index, (prompt, answer) in enumerate(rows):
        start, end = before - len(prompt), before + len(answer)
        ids[index, start:end] = torch.tensor(prompt + answer)
        mask[index, start:end] = 1
        labels[index, : len(answer)] = torch.tensor(answer)
    return ids, mask, labels


def fit(model: Any, optimizer: torch.optim.Optimizer, rows: list[Row], *, pad: int) -> tuple[float, int]:
    """Take one step; return the mean loss of the answers' tokens, and the number of tokens read."""
    ids, mask, labels = (tensor.to(model.device) for tensor in padded(rows, pad=pad))
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    with torch.autocast(ids.device.type, torch.bfloat16):
        logits = model(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False,
            logits_to_keep=labels.shape[1] + 1,
        ).logits  # fmt: skip
    kept = labels != -100
    loss = torch.nn.functional.cross_entropy(logits[:, :-1][kept].float(), labels[kept])
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_([weight for group in optimizer.param_groups for weight in group["params"]], 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss.detach()), int(mask.sum())


def schedule(step: int, steps: int) -> float:
    """Return the factor on the learning rate: it rises over the first 5 % of the steps and falls to a tenth."""
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def save_state(path: Path, weights: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, *, step: int) -> None:
    """Write factors and moments under a temporary name, then rename."""
    tensors = {name: weight.detach() for name, weight in weights.items()}
    for name, weight in weights.items():
        for key in ("exp_avg", "exp_avg_sq"):
            tensors[f"{key}:{name}"] = optimizer.state[weight][key]
    unfinished = path.with_suffix(".new")
    save_file(tensors, unfinished, metadata={"step": str(step)})
    unfinished.replace(path)


def restore(path: Path, weights: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> int:
    """Read a state into the weights and the optimizer; return the number of steps done, 0 without a file."""
    if not path.exists():
        return 0
    with safe_open(path, framework="pt") as opened, torch.no_grad():
        step = int(opened.metadata()["step"])
        for name, weight in weights.items():
            weight.copy_(opened.get_tensor(name))
            moments = {key: opened.get_tensor(f"{key}:{name}").to(weight.device) for key in ("exp_avg", "exp_avg_sq")}
            optimizer.state[weight] = {"step": torch.tensor(float(step)), **moments}
    return step


def record(path: Path, values: Mapping[str, object]) -> None:
    """Append a line to a training's log."""
    with path.open("a", encoding="utf-8") as log:
        log.write(json.dumps(values) + "\n")
