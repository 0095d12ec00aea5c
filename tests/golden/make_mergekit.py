"""Make the golden files of merge methods with mergekit 0.1.5; run by hand, in an environment of its own.

    python -m venv peer && peer/bin/pip install mergekit==0.1.5
    peer/bin/python tests/golden/make_mergekit.py

The versions that made the committed files stand in `mergekit/index.json`. Every case is a real `mergekit-yaml` run (its
`run_merge`) over small Llama checkpoints on disk; the functions wrapped here only write down what passed through them.
"""

import contextlib
import json
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mergekit.merge_methods.generalized_task_arithmetic as family
import mergekit.merge_methods.sce as sce
import mergekit.merge_methods.task_adapter as task_adapter
import mergekit.sparsify as sparsify
import numpy as np
import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.io.tasks import LoaderCache
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

OUT = Path(__file__).parent / "mergekit"
SEED = 20260
SOURCES = ("a", "b", "c")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

STORED = (
    "lm_head.weight",
    "model.embed_tokens.weight",
    "model.layers.0.input_layernorm.weight",
    "model.layers.0.mlp.down_proj.weight",
    "model.layers.0.self_attn.k_proj.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.1.input_layernorm.weight",
    "model.layers.1.self_attn.k_proj.weight",
    "model.norm.weight",
)
"""Every kind of tensor once, and enough of the second block to see a gradient; all others are merged, not stored."""

# How a case is computed: the stored dtype of the models, and the `dtype` and `out_dtype` of the YAML.
NATIVE = ("float32", None, None)
HALF = ("bfloat16", None, None)
MIXED = ("bfloat16", "float32", "bfloat16")
ARITHMETICS = {"float32": NATIVE, "bfloat16": HALF, "bfloat16_in_float32": MIXED}


def make_models(folder: Path) -> None:
    """Write base, a, b and c, in both dtypes, as Hugging Face checkpoints."""
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=8,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    rng = np.random.default_rng(SEED)
    base = {name: _base_values(name, tuple(p.shape), rng) for name, p in model.named_parameters()}
    models = {"base": base, **{name: {} for name in SOURCES}}
    for tensor, values in base.items():
        for name, merged in zip(SOURCES, _source_values(tensor, values, rng), strict=True):
            models[name][tensor] = merged
    for dtype in DTYPES:
        for name, tensors in models.items():
            model.load_state_dict({key: torch.from_numpy(value) for key, value in tensors.items()})
            model.to(DTYPES[dtype]).save_pretrained(folder / dtype / name)
            model.to(torch.float32)


def _base_values(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    values = rng.normal(0, 0.05, shape)
    values[rng.random(shape) < 0.05] = 0.0
    # Multiples of 1/64: a step of 1/64 from them is exact in bfloat16 too.
    coarse = rng.random(shape) < 0.15
    values[coarse] = np.round(values[coarse] * 64) / 64
    return values.astype(np.float32)


def _source_values(name: str, base: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Return a, b, c: random steps from the base, with equal entries, cancelling entries and degenerate tensors."""
    if base.ndim == 1:
        steps = [rng.normal(0, 0.02, base.shape) for _ in SOURCES]
    elif name == "model.layers.0.self_attn.k_proj.weight":
        # As small as a real fine-tune's: the peer's sce then weighs all sources the same.
        steps = [rng.normal(0, 4e-4, base.shape) for _ in SOURCES]
    else:
        steps = [rng.normal(0, 0.02, base.shape) for _ in SOURCES]
        for step in steps:
            step[rng.random(base.shape) < 0.2] = 0.0
        # Where the base is a multiple of 1/64: a and b step by the same, in opposite directions, so that they cancel.
        coarse = (base * 64 == np.round(base * 64)) & (rng.random(base.shape) < 0.7)
        sign = np.where(rng.random(base.shape) < 0.5, 1, -1)
        steps[0][coarse] = (sign / 64)[coarse]
        steps[1][coarse] = (-sign / 64)[coarse]
        steps[2][coarse] = 0.0
    sources = [(base.astype(np.float64) + step).astype(np.float32) for step in steps]
    if name == "model.norm.weight":
        sources[0] = base.copy()
    if name == "model.layers.0.input_layernorm.weight":
        sources = [base.copy(), base.copy(), (base * 1.5).astype(np.float32)]
    if name == "model.layers.1.input_layernorm.weight":
        sources[2] = np.zeros_like(base)
    return sources


class Case(dict[str, Any]):
    """A YAML configuration, as a dict, under a name."""

    def __init__(self, name: str, method: str, **config: Any) -> None:
        super().__init__(config, merge_method=method)
        self.name = name
        self.arithmetics = ("float32",)

    def everywhere(self) -> "Case":
        self.arithmetics = tuple(ARITHMETICS)
        return self


def models(**parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the `models:` list."""
    return [{"model": name, **({"parameters": values} if values else {})} for name, values in parameters.items()]


def weighted(*weights: float, **lists: list[Any]) -> list[dict[str, Any]]:
    """Return the `models:` list of a, b, c with weights and, in lists, other parameters."""
    rows: dict[str, dict[str, Any]] = {name: {"weight": w} for name, w in zip(SOURCES, weights, strict=False)}
    for parameter, values in lists.items():
        for name, value in zip(rows, values, strict=True):
            rows[name][parameter] = value
    return models(**rows)


def cases() -> Iterator[Case]:
    """Yield every case."""
    yield from plain_cases()
    yield from family_cases()
    yield from geometry_cases()


def plain_cases() -> Iterator[Case]:
    yield Case("linear", "linear", models=weighted(1.0, 1.0, 1.0))
    yield Case("linear_weights", "linear", models=weighted(0.5, -0.3, 0.8)).everywhere()
    yield Case("linear_sum", "linear", models=weighted(0.5, 0.3, 0.4), parameters={"normalize": False})
    yield Case("linear_base_too", "linear", models=models(base={"weight": 0.2}, a={"weight": 0.7}, c={"weight": 0.4}))
    gradient = models(a={"weight": [0.2, 0.8]}, b={"weight": [{"filter": "self_attn", "value": [1.0, 0.1]}]})
    yield Case("linear_gradient", "linear", models=gradient, parameters={"weight": 0.25})
    slices = [
        {"sources": [{"model": "a", "layer_range": [0, 1]}]},
        {"sources": [{"model": "b", "layer_range": [1, 2]}]},
    ]
    scale = [{"filter": "k_proj", "value": 0.3}, {"value": 1.7}]
    yield Case("passthrough", "passthrough", slices=slices)
    yield Case("passthrough_scale", "passthrough", models=models(b={"scale": scale})).everywhere()


def family_cases() -> Iterator[Case]:
    def delta(name: str, method: str, models: list[dict[str, Any]], **parameters: Any) -> Case:
        extra = {"parameters": parameters} if parameters else {}
        return Case(name, method, base_model="base", models=models, **extra)

    halves = {"density": [0.5, 0.5, 0.5]}
    uneven = {"density": [1.0, 0.3, 0.0]}
    factor = {"lambda": 0.7}
    yield delta("task_arithmetic", "task_arithmetic", weighted(0.4, 0.3, 0.6)).everywhere()
    yield delta("task_arithmetic_negative", "task_arithmetic", weighted(1.1, -0.4, 0.6), **factor)
    yield delta("task_arithmetic_normalize", "task_arithmetic", weighted(0.9, -0.4, 0.6), normalize=True)
    gradient = models(a={"weight": [0.0, 1.0]}, b={"weight": [{"filter": "mlp", "value": 0.5}, {"value": [0.9, 0.2]}]})
    yield delta("task_arithmetic_gradient", "task_arithmetic", gradient)
    yield delta("ties", "ties", weighted(0.4, 0.3, 0.6, **halves)).everywhere()
    yield delta("ties_equal", "ties", weighted(1.0, 1.0, 1.0, **halves))
    yield delta("ties_negative", "ties", weighted(1.1, -0.4, 0.6, density=[0.7, 0.2, 0.4]), **{"lambda": 1.3})
    yield delta("ties_sum", "ties", weighted(0.4, 0.3, 0.6, **halves), normalize=False)
    yield delta("ties_rescale", "ties", weighted(0.4, 0.3, 0.6, **uneven), rescale=True)
    for method in ("dare_linear", "dare_ties"):
        yield delta(method, method, weighted(0.4, 0.3, 0.6, **halves)).everywhere()
        yield delta(f"{method}_negative", method, weighted(1.1, -0.4, 0.6, density=[0.7, 0.2, 0.4]), **factor)
        yield delta(f"{method}_raw", method, weighted(0.4, 0.3, 0.6, **uneven), rescale=False, normalize=True)
    yield delta("breadcrumbs", "breadcrumbs", weighted(0.4, 0.3, 0.6, **halves)).everywhere()
    gamma = {"density": [0.8, 0.3, 0.0], "gamma": [0.1, 0.05, 0.1]}
    yield delta("breadcrumbs_gamma", "breadcrumbs", weighted(1.1, -0.4, 0.6, **gamma), **factor)
    yield delta("breadcrumbs_ties", "breadcrumbs_ties", weighted(0.4, 0.3, 0.6, **halves)).everywhere()
    # Wider than what density leaves: the peer then drops fewer of the largest.
    wide = {"density": [0.9, 0.9, 1.0], "gamma": [0.2, 0.05, 0.1]}
    yield delta("breadcrumbs_ties_gamma", "breadcrumbs_ties", weighted(0.4, -0.3, 0.6, **wide), normalize=True)
    yield delta("della", "della", weighted(0.4, 0.3, 0.6, **halves)).everywhere()
    narrow = {"density": [0.7, 0.2, 1.0], "epsilon": [0.05, 0.1, 0.1]}
    yield delta("della_epsilon", "della", weighted(1.1, -0.4, 0.6, **narrow), rescale=False, normalize=False)
    yield delta("della_linear", "della_linear", weighted(0.4, 0.3, 0.6, **halves)).everywhere()
    yield delta("della_linear_epsilon", "della_linear", weighted(1.1, -0.4, 0.6, **narrow), normalize=True, **factor)


def geometry_cases() -> Iterator[Case]:
    pair = models(base={}, a={})
    yield Case("slerp", "slerp", base_model="base", models=pair, parameters={"t": 0.3}).everywhere()
    # Listed last, the base is the end at t = 0 all the same.
    t = [{"filter": "self_attn", "value": [0.1, 0.9]}, {"filter": "mlp", "value": [0.8, 0.2]}, {"value": 0.5}]
    yield Case("slerp_gradient", "slerp", base_model="b", models=models(a={}, b={}), parameters={"t": t})
    yield Case("nuslerp", "nuslerp", models=weighted(0.6, 0.2)).everywhere()
    yield Case("nuslerp_base", "nuslerp", base_model="base", models=weighted(0.3, 0.7)).everywhere()
    for name, row_wise in (("nuslerp_rows", False), ("nuslerp_columns", True)):
        modes = {"nuslerp_flatten": False, "nuslerp_row_wise": row_wise}
        yield Case(name, "nuslerp", models=weighted(0.6, 0.2), parameters=modes)
        yield Case(f"{name}_base", "nuslerp", base_model="base", models=weighted(0.3, 0.7), parameters=modes)
    yield Case("multislerp", "multislerp", models=weighted(0.6, 0.2, 0.4)).everywhere()
    yield Case("multislerp_base", "multislerp", base_model="base", models=weighted(0.6, 0.2, 0.4)).everywhere()
    plain = {"normalize_weights": False}
    yield Case("multislerp_sum", "multislerp", base_model="base", models=weighted(0.6, 0.2, 0.5), parameters=plain)
    trio = models(a={}, b={}, c={})
    yield Case("karcher", "karcher", models=trio).everywhere()
    yield Case("karcher_steps", "karcher", models=trio, parameters={"max_iter": 1, "tol": 1e-3})
    yield Case("model_stock", "model_stock", base_model="base", models=trio).everywhere()
    yield Case("model_stock_rows", "model_stock", base_model="base", models=trio, parameters={"filter_wise": True})
    yield Case("model_stock_two", "model_stock", base_model="base", models=models(a={}, c={}))
    yield Case("sce", "sce", base_model="base", models=trio).everywhere()
    yield Case("sce_topk", "sce", base_model="base", models=trio, parameters={"select_topk": 0.4}).everywhere()
    yield Case("sce_two", "sce", base_model="base", models=models(a={}, b={}), parameters={"select_topk": 0.1})
    yield from selection_cases()


def selection_cases() -> Iterator[Case]:
    pair, trio = models(base={}, a={}), models(a={}, b={}, c={})
    for name, t in (("nearswap", 0.005), ("nearswap_far", 1.0)):
        yield Case(name, "nearswap", base_model="base", models=pair, parameters={"t": t}).everywhere()
    yield Case("arcee_fusion", "arcee_fusion", base_model="base", models=pair).everywhere()
    yield Case("ram", "ram", base_model="base", models=trio).everywhere()
    yield Case("ram_epsilon", "ram", base_model="base", models=models(a={}, c={}), parameters={"epsilon": 0.01})


class Recorder:
    """What one run drew, chose and resolved, per tensor: filled by the wrapped functions."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.models: list[str] = []
        self.settings: dict[str, dict[str, Any]] = {}
        self.parameters: dict[str, dict[str, dict[str, Any]]] = {}
        self.masks: dict[str, dict[str, Tensor]] = {}
        self.factors: dict[str, dict[str, float]] = {}
        self.probabilities: dict[str, dict[str, Tensor]] = {}
        self.tensor = ""
        self.sources: Iterator[str] = iter(())
        self.source = ""


@contextlib.contextmanager
def recorded() -> Iterator[Recorder]:
    """Wrap the functions that decide something, for one run."""
    record = Recorder()
    task, merge, family_sparsify = (
        task_adapter.ExecuteMergeMethodTask.execute,
        family.GeneralizedTaskArithmeticMerge.merge_group,
        family.sparsify,
    )
    masked, bernoulli, sce_mask = sparsify.rescaled_masked_tensor, torch.bernoulli, sce.sce_mask

    def execute(self: Any, tensors: Any, **rest: Any) -> Any:
        name = record.tensor = self.output_weight.name
        record.order.append(name)
        record.settings[name] = dict(sorted(self.parameters.items()))
        record.models = [str(model) for model in self.model_order]
        resolved = {str(m): dict(sorted(values.items())) for m, values in self.input_parameters.items()}
        record.parameters[name] = {model: resolved[model] for model in record.models}
        return task(self, tensors, **rest)

    def merge_group(self: Any, group: Any, **parameters: Any) -> Tensor:
        record.sources = iter([str(entry.id) for entry in group.non_base])
        return merge(self, group, **parameters)

    def sparsify_one(tensor: Tensor, density: float, **rest: Any) -> Tensor:
        record.source = next(record.sources)
        if density <= 0:
            record.masks.setdefault(record.tensor, {})[record.source] = torch.zeros_like(tensor)
        return family_sparsify(tensor, density=density, **rest)

    def rescaled(tensor: Tensor, mask: Tensor, norm: Any, eps: float = 1e-7) -> Tensor:
        record.masks.setdefault(record.tensor, {})[record.source] = mask
        before, after = tensor.abs().sum(), (tensor * mask).abs().sum()
        if norm is not None and before >= eps and after >= eps:
            record.factors.setdefault(record.tensor, {})[record.source] = float(before / after)
        return masked(tensor, mask, norm, eps)

    def draw(probabilities: Tensor, **rest: Any) -> Tensor:
        record.probabilities.setdefault(record.tensor, {})[record.source] = probabilities.clone()
        return bernoulli(probabilities, **rest)

    def select(tvs: Tensor, density: float, mask_dtype: Any = None) -> Tensor:
        mask = sce_mask(tvs, density, mask_dtype)
        record.masks.setdefault(record.tensor, {})["all"] = mask
        return mask

    wrapped = (
        (task_adapter.ExecuteMergeMethodTask, "execute", task, execute),
        (family.GeneralizedTaskArithmeticMerge, "merge_group", merge, merge_group),
        (family, "sparsify", family_sparsify, sparsify_one),
        (sparsify, "rescaled_masked_tensor", masked, rescaled),
        (torch, "bernoulli", bernoulli, draw),
        (sce, "sce_mask", sce_mask, select),
    )
    for place, name, _, wrapper in wrapped:
        setattr(place, name, wrapper)
    try:
        yield record
    finally:
        for place, name, original, _ in wrapped:
            setattr(place, name, original)


class Store:
    """The golden files in the making."""

    def __init__(self) -> None:
        self.index: list[dict[str, Any]] = []
        self.outputs: dict[str, Tensor] = {}
        self.masks: dict[str, Tensor] = {}

    def add(self, case: Case, arithmetic: str, record: Recorder, merged: dict[str, Tensor]) -> None:
        name = f"{case.name}-{arithmetic}"
        for tensor in STORED:
            self.outputs[f"{name}/{tensor}"] = merged[tensor].contiguous()
            for source, mask in record.masks.get(tensor, {}).items():
                self.masks[f"{name}/{tensor}/{source}"] = torch.from_numpy(np.packbits(mask.bool().numpy()))
            for source, probabilities in record.probabilities.get(tensor, {}).items():
                if case.name == "della":
                    self.masks[f"{name}/{tensor}/{source}/probability"] = probabilities.reshape(merged[tensor].shape)
        settings, parameters = record.settings[STORED[0]], record.parameters[STORED[0]]
        varying = {
            tensor: {"settings": record.settings[tensor], "parameters": record.parameters[tensor]}
            for tensor in STORED
            if (record.settings[tensor], record.parameters[tensor]) != (settings, parameters)
        }
        self.index.append(
            {
                "name": name,
                "method": case["merge_method"],
                "arithmetic": arithmetic,
                "base": case.get("base_model"),
                "shared": settings,
                "per_source": parameters,
                "varying": varying,
                "factors": {tensor: record.factors[tensor] for tensor in STORED if tensor in record.factors},
                "yaml": yaml.safe_dump(dict(case), sort_keys=False),
            }
        )


def run_case(case: Case, arithmetic: str, folder: Path, store: Store) -> None:
    """Run mergekit on the case, in the folder where base, a, b and c lie, and store what came of it."""
    stored, dtype, out_dtype = ARITHMETICS[arithmetic]
    case = Case(case.name, case["merge_method"], **{key: value for key, value in case.items() if key != "merge_method"})
    case.update({key: value for key, value in (("dtype", dtype), ("out_dtype", out_dtype)) if value})
    text = yaml.safe_dump(dict(case), sort_keys=False)
    options = MergeOptions(random_seed=SEED, quiet=True, copy_tokenizer=False, write_model_card=False)
    # Loaders are cached by the model's name, which is the same for both dtypes.
    LoaderCache().loaders.clear()
    with tempfile.TemporaryDirectory() as out, contextlib.chdir(folder / stored), recorded() as record:
        run_merge(MergeConfiguration.model_validate(yaml.safe_load(text)), out, options)
        merged = {
            name: tensor for shard in Path(out).glob("*.safetensors") for name, tensor in load_file(shard).items()
        }
    if record.order != sorted(record.order):
        raise SystemExit(f"{case.name}: tensors were not merged in the order of their names: {record.order}")
    store.add(case, arithmetic, record, merged)


def write(store: Store, folder: Path) -> None:
    """Write the golden files."""
    OUT.mkdir(exist_ok=True)
    inputs = {
        f"{dtype}/{name}/{tensor}": value
        for dtype in DTYPES
        for name in ("base", *SOURCES)
        for tensor, value in load_file(folder / dtype / name / "model.safetensors").items()
        if tensor in STORED
    }
    for name, tensors in (("inputs", inputs), ("outputs", store.outputs), ("masks", store.masks)):
        save_file(tensors, OUT / f"{name}.safetensors")
        (OUT / f"{name}.safetensors").chmod(0o644)
    versions = {name: version(name) for name in ("mergekit", "torch", "transformers", "numpy")}
    index = {
        "versions": {"python": sys.version.split()[0], **versions, "cpu": torch.backends.cpu.get_cpu_capability()},
        "seed": SEED,
        "tensors": STORED,
        "cases": store.index,
    }
    rows = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in index.pop("cases"))  # type: ignore[attr-defined]
    head = json.dumps(index, indent=1, ensure_ascii=False).removesuffix("\n}")
    (OUT / "index.json").write_text(f'{head},\n "cases": [\n{rows}\n ]\n}}\n', encoding="utf-8")


def main() -> None:
    """Make all files again."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    random.seed(SEED)
    store = Store()
    with tempfile.TemporaryDirectory() as folder:
        make_models(Path(folder))
        for case in cases():
            for arithmetic in case.arithmetics:
                run_case(case, arithmetic, Path(folder), store)
                print(store.index[-1]["name"])
        write(store, Path(folder))


if __name__ == "__main__":
    main()
