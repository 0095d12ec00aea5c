"""Compare merging with mergekit: four models of 405 M parameters, whole commands, and candidates in a loop.

    python benchmarks/merge_speed.py --mergekit PATH/TO/mergekit-yaml [--models DIR] [--runs 1]

Prints the table of benchmarks/LOG.md. Models are random (base, and three of base plus noise), bfloat16:
hidden 1024, 24 layers, MLP 3584, 16 heads, 8 KV heads, vocabulary 32000. Each command is a cold process with the files
in the page cache; both tools may use every processor. Memory is the peak of the process's own memory (without file
pages), and the largest resident set. The dare_ties rows do not compare the same merge: see `write_recipes`.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

HIDDEN, BLOCKS, MLP, HEADS, KV_HEADS, ROWS = 1024, 24, 3584, 16, 8, 32000
SOURCES = ("a", "b", "c")
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "num_hidden_layers": BLOCKS,
    "intermediate_size": MLP,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "vocab_size": ROWS,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "max_position_embeddings": 2048,
    "torch_dtype": "bfloat16",
}
METHODS = {
    "linear": {"weights": (0.5, 0.3, 0.2), "density": None},
    "ties": {"weights": (0.7, 0.5, 0.3), "density": 0.4},
    "dare_ties": {"weights": (0.7, 0.5, 0.3), "density": 0.4},
}


@dataclass(frozen=True)
class Run:
    """A command's wall time and peak memory: its own pages, and its resident set."""

    seconds: float
    own_gb: float
    resident_gb: float


def shapes() -> dict[str, tuple[int, ...]]:
    kv = HIDDEN // HEADS * KV_HEADS
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (ROWS, HIDDEN), "lm_head.weight": (ROWS, HIDDEN)}
    found["model.norm.weight"] = (HIDDEN,)
    for block in range(BLOCKS):
        at = f"model.layers.{block}."
        found |= {at + f"self_attn.{each}_proj.weight": (HIDDEN, HIDDEN) for each in "qo"}
        found |= {at + f"self_attn.{each}_proj.weight": (kv, HIDDEN) for each in "kv"}
        found |= {at + f"mlp.{each}_proj.weight": (MLP, HIDDEN) for each in ("gate", "up")}
        found[at + "mlp.down_proj.weight"] = (HIDDEN, MLP)
        found |= {at + f"{each}_layernorm.weight": (HIDDEN,) for each in ("input", "post_attention")}
    return found


def make_models(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    for number, name in enumerate(("base", *SOURCES)):
        if (folder / name / "model.safetensors").is_file():
            continue
        (folder / name).mkdir(parents=True, exist_ok=True)
        common, own = (torch.Generator().manual_seed(seed) for seed in (0, number))
        weights = {}
        for tensor, shape in shapes().items():
            values = torch.empty(shape).normal_(0, 0.02, generator=common)
            if number:
                values += torch.empty(shape).normal_(0, 0.002, generator=own)
            weights[tensor] = values.bfloat16()
        save_file(weights, folder / name / "model.safetensors", metadata={"format": "pt"})
        (folder / name / "config.json").write_text(json.dumps(CONFIG))


def write_recipes(folder: Path, method: str) -> tuple[Path, Path]:
    """Write a recipe for each tool. For dare_ties evovlm rescales by density, mergekit by the L1 norm: not the same."""
    numbers = METHODS[method]
    density = numbers["density"]
    weights = dict(zip(SOURCES, numbers["weights"], strict=True))
    ours = ["format: 1", "kind: parameter_merge", "base: ./base", "sources: {a: ./a, b: ./b, c: ./c}"]
    ours += [f"method: {method}", "seed: 1", "parameters:"]
    theirs = [f"merge_method: {method}", "dtype: bfloat16", "models:"]
    for name, weight in weights.items():
        ours.append(f"  {name}: {{weight: {weight}" + (f", density: {density}}}" if density else "}"))
        theirs += [f"  - model: {folder / name}", "    parameters:", f"      weight: {weight}"]
        theirs += [f"      density: {density}"] if density else []
    if method != "linear":
        theirs.append(f"base_model: {folder / 'base'}")
    paths = folder / f"{method}.yaml", folder / f"{method}-mergekit.yaml"
    for path, lines in zip(paths, (ours, theirs), strict=True):
        path.write_text("\n".join(lines) + "\n")
    return paths


def measured(command: list[str]) -> Run:
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    own = resident = 0

    def watch() -> None:
        nonlocal own, resident
        while process.returncode is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                return
            kilobytes = {line.split(":")[0]: line.split()[1] for line in status.splitlines() if line.endswith("kB")}
            own = max(own, int(kilobytes.get("RssAnon", 0)) + int(kilobytes.get("RssShmem", 0)))
            resident = max(resident, int(kilobytes.get("VmRSS", 0)))
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    errors = process.stderr.read() if process.stderr else b""
    process.wait()
    seconds = time.perf_counter() - started
    watcher.join()
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{errors.decode()[-2000:]}")
    return Run(seconds=seconds, own_gb=own / 1e6, resident_gb=resident / 1e6)


def copy_bandwidth(size_bytes: int = 1 << 29) -> float:
    """Return the bytes per second (read and written) when every processor copies memory."""
    threads = os.cpu_count() or 1
    sources = [np.ones(size_bytes // threads, dtype=np.uint8) for _ in range(threads)]
    targets = [np.zeros_like(source) for source in sources]
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(5):
            started = time.perf_counter()
            list(pool.map(np.copyto, targets, sources))
            best = max(best, 2 * size_bytes / (time.perf_counter() - started))
    return best


def candidates(folder: Path, method: str, *, count: int = 4) -> list[float]:
    """Return the seconds for each of `count` candidates merged into a model in memory, after a first one."""
    import torch
    from transformers import AutoModelForCausalLM

    from evovlm.evaluation.engines.builtin import ParameterSink
    from evovlm.merging.arithmetic.methods import METHODS as TABLE
    from evovlm.merging.merge import Merger
    from evovlm.models.backbone import ParameterWriter
    from evovlm.recipes.documents import load_recipe
    from evovlm.recipes.recipe import SourceParameters
    from evovlm.resources import available_memory_bytes

    recipe = load_recipe(folder / f"{method}.yaml", methods=TABLE)
    merger = Merger.open(recipe, cache_bytes=(available_memory_bytes() or 0) // 2)
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    names = {name: merger.host.layout.disk_name(name) for name in merger.tensor_names}
    writer = ParameterWriter(model, names, shapes={name: merger.host.shape(name) for name in names})
    seconds = []
    for number in range(count + 1):
        density = None if METHODS[method]["density"] is None else 0.3 + 0.11 * number
        numbers = {
            name: SourceParameters(weight=0.3 + 0.1 * number, density=1.0 if density is None else density)
            for name in SOURCES
        }
        started = time.perf_counter()
        merger.merge(replace(recipe, parameters=numbers), ParameterSink(writer))
        seconds.append(time.perf_counter() - started)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mergekit", type=Path, help="mergekit's command; without it only evovlm is measured")
    parser.add_argument("--models", type=Path, default=Path(tempfile.gettempdir()) / "evovlm-merge-speed")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    arguments = parser.parse_args()
    make_models(arguments.models)
    moved = (len(SOURCES) + 2) * 2 * sum(int(np.prod(shape)) for shape in shapes().values())
    bandwidth = copy_bandwidth()
    print(f"copying memory: {bandwidth / 1e9:.1f} GB/s read and written; a merge moves {moved / 1e9:.1f} GB")
    print("| method | tool | wall s | own memory GB | resident GB |")
    print("| --- | --- | --- | --- | --- |")
    peers: dict[str, float] = {}
    for method in arguments.methods:
        ours, theirs = write_recipes(arguments.models, method)
        out = arguments.models / "out"
        commands = {"evovlm": [sys.executable, "-m", "evovlm", "merge", str(ours), "--out", str(out)]}
        if arguments.mergekit:
            commands["mergekit"] = [str(arguments.mergekit), str(theirs), str(out)]
        best: dict[str, Run] = {}
        for _ in range(arguments.runs):
            for tool, command in commands.items():
                shutil.rmtree(out, ignore_errors=True)
                run = measured(command)
                best[tool] = min(best.get(tool, run), run, key=lambda each: each.seconds)
        shutil.rmtree(out, ignore_errors=True)
        for tool, run in best.items():
            print(f"| {method} | {tool} | {run.seconds:.1f} | {run.own_gb:.2f} | {run.resident_gb:.2f} |", flush=True)
        if "mergekit" in best:
            peers[method] = best["mergekit"].seconds
            ratio = best["mergekit"].seconds / best["evovlm"].seconds
            print(
                f"|  | ratio | {ratio:.1f} x | {best['evovlm'].own_gb / best['mergekit'].own_gb:.2f} |  |", flush=True
            )
    for method in arguments.methods:
        first, *rest = candidates(arguments.models, method)
        each = min(rest)
        shown = ", ".join(f"{seconds:.2f}" for seconds in rest)
        print(f"{method} in the loop: first {first:.2f} s, then {shown} s per candidate")
        print(f"    {moved / each / 1e9:.1f} GB/s, {moved / each / bandwidth:.2f} of the copy's bandwidth")
        if method in peers:
            print(f"    {peers[method] / each:.0f} times as fast as mergekit's whole run", flush=True)


if __name__ == "__main__":
    main()
