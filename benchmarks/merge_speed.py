"""Compare merging with mergekit: four models of 405 M parameters, whole commands, and candidates in a loop.

    python benchmarks/merge_speed.py --mergekit PATH/TO/mergekit-yaml [--methods linear ties] [--runs 3] [--loop]

Both tools get the same mergekit YAML, each in a cold process with the files in the page cache, in turn (A B A B).
Prints minima and medians of wall and processor time: on a busy machine, only processor time compares. Memory is the
peak of the process's own memory, without file pages. The bound is the time of reading and writing the same bytes from
and to the page cache, measured before every pair; the start-up is a merge of models of 0.1 M parameters. Models are
random (base, and three of base plus noise), bfloat16: hidden 1024, 24 layers, MLP 3584, 16 heads, 8 KV heads,
vocabulary 32000.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import yaml

SOURCES = ("a", "b", "c")
WEIGHTS = {"a": 0.7, "b": 0.5, "c": 0.3}
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Size:
    """The shape of a Llama."""

    hidden: int = 1024
    blocks: int = 24
    mlp: int = 3584
    heads: int = 16
    kv_heads: int = 8
    rows: int = 32000

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor."""
        hidden, kv = self.hidden, self.hidden // self.heads * self.kv_heads
        found: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.rows, hidden),
            "lm_head.weight": (self.rows, hidden),
            "model.norm.weight": (hidden,),
        }
        for block in range(self.blocks):
            at = f"model.layers.{block}."
            found |= {at + f"self_attn.{each}_proj.weight": (hidden, hidden) for each in "qo"}
            found |= {at + f"self_attn.{each}_proj.weight": (kv, hidden) for each in "kv"}
            found |= {at + f"mlp.{each}_proj.weight": (self.mlp, hidden) for each in ("gate", "up")}
            found[at + "mlp.down_proj.weight"] = (hidden, self.mlp)
            found |= {at + f"{each}_layernorm.weight": (hidden,) for each in ("input", "post_attention")}
        return found

    def config(self) -> Mapping[str, object]:
        """Return the config.json."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "num_hidden_layers": self.blocks,
            "intermediate_size": self.mlp,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": self.rows,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False,
            "max_position_embeddings": 2048,
            "torch_dtype": "bfloat16",
        }


TINY = Size(hidden=64, blocks=2, mlp=128, heads=4, kv_heads=2, rows=512)


@dataclass(frozen=True)
class Case:
    """What the YAML of a method holds: models, parameters for each and for all, and whether it has a base."""

    models: tuple[str, ...] = SOURCES
    own: Mapping[str, float] = field(default_factory=dict)
    weighted: bool = True
    shared: Mapping[str, float] = field(default_factory=dict)
    has_base: bool = True


_DENSITY = {"density": 0.4}
CASES: Mapping[str, Case] = {
    "linear": Case(has_base=False),
    "slerp": Case(models=("base", "a"), weighted=False, shared={"t": 0.4}),
    "nuslerp": Case(models=("a", "b"), has_base=False),
    "multislerp": Case(has_base=False),
    "karcher": Case(weighted=False, has_base=False),
    "task_arithmetic": Case(),
    "ties": Case(own=_DENSITY),
    "dare_linear": Case(own=_DENSITY),
    "dare_ties": Case(own=_DENSITY),
    "breadcrumbs": Case(own={**_DENSITY, "gamma": 0.01}),
    "breadcrumbs_ties": Case(own={**_DENSITY, "gamma": 0.01}),
    "della": Case(own={**_DENSITY, "epsilon": 0.1}),
    "della_linear": Case(own={**_DENSITY, "epsilon": 0.1}),
    "model_stock": Case(weighted=False),
    "sce": Case(weighted=False, shared={"select_topk": 0.4}),
    "nearswap": Case(models=("base", "a"), weighted=False, shared={"t": 0.001}),
    "arcee_fusion": Case(models=("base", "a"), weighted=False),
    "ram": Case(weighted=False),
}
"""The methods that both tools have, but for passthrough, which merges nothing."""
IN_A_LOOP = ("linear", "ties", "dare_ties")


@dataclass(frozen=True)
class Run:
    """A command's wall and processor time (s), and the peak of its own memory (GB)."""

    wall_s: float
    cpu_s: float
    own_gb: float = 0.0


def make_models(folder: Path, size: Size) -> None:
    """Write the models that the folder lacks: a base of random numbers, and three with noise on top of it."""
    import torch
    from safetensors.torch import save_file

    for number, name in enumerate(("base", *SOURCES)):
        if (folder / name / "model.safetensors").is_file():
            continue
        (folder / name).mkdir(parents=True, exist_ok=True)
        common, own = (torch.Generator().manual_seed(seed) for seed in (0, number))
        weights = {}
        for tensor, shape in size.shapes().items():
            values = torch.empty(shape).normal_(0, 0.02, generator=common)
            if number:
                values += torch.empty(shape).normal_(0, 0.002, generator=own)
            weights[tensor] = values.bfloat16()
        save_file(weights, folder / name / "model.safetensors", metadata={"format": "pt"})
        (folder / name / "config.json").write_text(json.dumps(size.config()))


def write_recipe(folder: Path, method: str) -> Path:
    """Write the mergekit YAML that both tools get."""
    case = CASES[method]
    models = []
    for name in case.models:
        own = {**({"weight": WEIGHTS[name]} if case.weighted else {}), **case.own}
        models.append({"model": str(folder / name), **({"parameters": own} if own else {})})
    document: dict[str, object] = {"merge_method": method, "dtype": "bfloat16", "models": models}
    if case.has_base:
        document["base_model"] = str(folder / "base")
    if case.shared:
        document["parameters"] = dict(case.shared)
    path = folder / f"{method}.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def measured(command: list[str]) -> Run:
    """Run a command; stop with its errors when it fails."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    own_kb = 0
    ended = threading.Event()

    def watch() -> None:
        nonlocal own_kb
        while not ended.wait(0.01):
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                return
            kilobytes = {line.split(":")[0]: line.split()[1] for line in status.splitlines() if line.endswith("kB")}
            own_kb = max(own_kb, int(kilobytes.get("RssAnon", 0)) + int(kilobytes.get("RssShmem", 0)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    errors = process.stderr.read() if process.stderr else b""
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    ended.set()
    watcher.join()
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{errors.decode()[-2000:]}")
    return Run(wall_s=wall_s, cpu_s=usage.ru_utime + usage.ru_stime, own_gb=own_kb / 1e6)


def bound(folder: Path, method: str) -> Run:
    """Return the time of reading the models' bytes from the page cache and writing those of the result to it."""
    case = CASES[method]
    names = dict.fromkeys((*case.models, *(("base",) if case.has_base else ())))
    buffer = bytearray(_CHUNK_BYTES)
    target = folder / "bound"
    wall, cpu = time.perf_counter(), time.process_time()
    with target.open("wb", buffering=0) as out:
        for number, name in enumerate(names):
            with (folder / name / "model.safetensors").open("rb", buffering=0) as stream:
                while count := stream.readinto(buffer):
                    if number == 0:
                        out.write(memoryview(buffer)[:count])
    found = Run(wall_s=time.perf_counter() - wall, cpu_s=time.process_time() - cpu)
    target.unlink()
    return found


def compare(folder: Path, method: str, mergekit: Path | None, runs: int) -> dict[str, list[Run]]:
    """Return the runs of each tool, and of the bound, in turn."""
    path, out = write_recipe(folder, method), folder / "out"
    commands = {"evovlm": [sys.executable, "-m", "evovlm", "merge", str(path), "--out", str(out)]}
    if mergekit is not None:
        commands["mergekit"] = [str(mergekit), str(path), str(out)]
    found: dict[str, list[Run]] = {"bound": []}
    for _ in range(runs):
        found["bound"].append(bound(folder, method))
        for tool, command in commands.items():
            found.setdefault(tool, []).append(measured(command))
            shutil.rmtree(out)
    return found


def show(method: str, found: Mapping[str, Sequence[Run]]) -> None:
    """Print a row for each tool, and how many times as fast evovlm is."""
    for tool, runs in found.items():
        walls, cpus = [run.wall_s for run in runs], [run.cpu_s for run in runs]
        times = " | ".join(f"{min(each):.2f} / {statistics.median(each):.2f}" for each in (walls, cpus))
        memory = f"{max(run.own_gb for run in runs):.2f}" if tool != "bound" else ""
        print(f"| {method} | {tool} | {times} | {memory} |", flush=True)
    if "mergekit" in found:
        ours, theirs = found["evovlm"], found["mergekit"]
        wall = min(run.wall_s for run in theirs) / min(run.wall_s for run in ours)
        cpu = min(run.cpu_s for run in theirs) / min(run.cpu_s for run in ours)
        print(f"| {method} | ratio of minima | {wall:.1f} times | {cpu:.1f} times | |", flush=True)


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
    from evovlm.recipes.source_values import SourceParameters
    from evovlm.resources import available_memory_bytes

    recipe = load_recipe(write_recipe(folder, method), methods=TABLE)
    merger = Merger.open(recipe, cache_bytes=(available_memory_bytes() or 0) // 2)
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    names = {name: merger.host.layout.disk_name(name) for name in merger.tensor_names}
    writer = ParameterWriter(model, names, shapes={name: merger.host.shape(name) for name in names})
    sink = ParameterSink(writer)
    seconds = []
    for number in range(count + 1):
        density = 0.3 + 0.11 * number if "density" in CASES[method].own else 1.0
        numbers = {name: SourceParameters(weight=0.3 + 0.1 * number, density=density) for name in SOURCES}
        started = time.perf_counter()
        merger.merge(replace(recipe, parameters=numbers), sink)
        seconds.append(time.perf_counter() - started)
    return seconds


def show_candidates(folder: Path, size: Size, methods: Sequence[str]) -> None:
    """Print the time of candidates in a loop, and how it compares with copying memory."""
    moved = (len(SOURCES) + 2) * 2 * sum(int(np.prod(shape)) for shape in size.shapes().values())
    bandwidth = copy_bandwidth()
    print(f"copying memory: {bandwidth / 1e9:.1f} GB/s read and written; a merge moves {moved / 1e9:.1f} GB")
    for method in methods:
        first, *rest = candidates(folder, method)
        shown = ", ".join(f"{seconds:.2f}" for seconds in rest)
        print(f"{method} in the loop: first {first:.2f} s, then {shown} s per candidate")
        speed = moved / min(rest)
        print(f"    {speed / 1e9:.1f} GB/s, {speed / bandwidth:.2f} of the copy's bandwidth", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mergekit", type=Path, help="mergekit's command; without it only evovlm is measured")
    parser.add_argument("--models", type=Path, default=Path(tempfile.gettempdir()) / "evovlm-merge-speed")
    parser.add_argument("--blocks", type=int, default=Size().blocks)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=list(CASES), choices=list(CASES), metavar="METHOD")
    parser.add_argument("--loop", action="store_true", help="also measure candidates in a loop")
    arguments = parser.parse_args()
    size, folder = Size(blocks=arguments.blocks), arguments.models / str(arguments.blocks)
    make_models(folder, size)
    make_models(arguments.models / "tiny", TINY)
    print("| method | tool | wall s, minimum / median | CPU s, minimum / median | own memory GB |")
    print("| --- | --- | --- | --- | --- |")
    show("start-up (linear)", compare(arguments.models / "tiny", "linear", arguments.mergekit, arguments.runs))
    for method in arguments.methods:
        show(method, compare(folder, method, arguments.mergekit, arguments.runs))
    if arguments.loop:
        show_candidates(folder, size, [method for method in IN_A_LOOP if method in arguments.methods])


if __name__ == "__main__":
    main()
