"""LoRA adapters in peft's format, read as changes of the tensors of their base model.

The adapted model has W + s B A in the place of W (Hu et al. 2022, section 4.1), with s = alpha / r, or alpha / sqrt(r)
for rsLoRA (Kalajdzievski 2023). What is computed is equal to peft's `merge_and_unload`, but in float32 and rounded
once. Whole tensors (`modules_to_save`, trained biases), trained tokens and DoRA's magnitudes are read too; what has no
merged form is refused by its name.
"""

import math
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evovlm.errors import BrokenCheckpoint, IncompatibleModels
from evovlm.merging.checkpoint.computed import AdaptedPlace, LowRank
from evovlm.merging.checkpoint.experts import JOINED, Experts, expert_modules
from evovlm.merging.checkpoint.safetensors_file import PLAIN_FLOATS, TensorPlace
from evovlm.recipes.checkpoint_files import ADAPTER_CONFIG_FILE
from evovlm.recipes.model_config import read_model_json
from evovlm.recipes.source_values import is_finite_number

_PREFIX = "base_model.model."
_PART = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_embedding_A|lora_embedding_B"
    r"|lora_magnitude_vector(\.weight)?|token_adapter\.trainable_tokens_delta)"
)
# What peft wraps around a layer; nested wrappers are for several tensors of one module.
_WRAPPED = re.compile(r"\.base_layer\.(?!(?:base_layer\.)*lora_)")
# transformers has moved language models inside VLMs between these modules, and adapters keep the names of their time.
_WRAPPERS = ("model", "language_model", "text_model", "transformer")
# Settings that make an adapter something else than W + s B A.
_WITHOUT_MERGED_FORM = (
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "monteclora_config",
    "use_bdlora",
    "use_qalora",
)
# Initialisations that also change the base's weights, which the adapter does not contain.
_CHANGES_BASE = ("corda", "loftq", "lora_ga", "olora", "pissa")
_LONGEST_PATTERN = 500
_MOST_PATTERNS = 5_000


@dataclass(slots=True, kw_only=True)
class _Changes:
    """What an adapter says about one tensor of the base: a whole new one, and parts of the changes to it."""

    whole: TensorPlace | None = None
    parts: dict[str, TensorPlace] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """An adapter's settings and tensors; made by `Adapter.read`."""

    folder: Path
    settings: Mapping[str, Any]
    changes: Mapping[str, _Changes]
    """By the base's name for the tensor, as the adapter writes it."""

    @staticmethod
    def read(folder: Path, places: Mapping[str, TensorPlace]) -> "Adapter":
        """Return the adapter with the settings of `folder` and the tensors at `places`.

        Raises BrokenCheckpoint when something is missing or has a wrong form, IncompatibleModels for an adapter of
        another kind than LoRA, or one that weights of the base's shapes cannot express.
        """
        settings = _checked(folder, read_model_json(folder / ADAPTER_CONFIG_FILE))
        changes: dict[str, _Changes] = {}
        for name, place in places.items():
            plain = name.removeprefix(_PREFIX).replace(".default", "")
            plain = _WRAPPED.sub(".", plain).replace(".modules_to_save.", ".")
            if place.dtype_code not in PLAIN_FLOATS:
                raise BrokenCheckpoint(f"{place.file}: {name} is {place.dtype_code}; an adapter needs plain floats.")
            match = _PART.fullmatch(plain)
            if match is None and ("lora_" in plain or "trainable_tokens" in plain):
                raise IncompatibleModels(f"{place.file}: {name} is a part of an adapter that evovlm does not know.")
            if match is None:
                changes.setdefault(plain, _Changes()).whole = place
                continue
            part = match["part"].removesuffix(".weight")
            owner = f"{match['module']}.{'bias' if part == 'lora_B.bias' else 'weight'}"
            changes.setdefault(owner, _Changes()).parts[part] = place
        if not changes:
            raise BrokenCheckpoint(f"{folder}: the adapter does not contain tensors. Fetch it again.")
        return Adapter(folder=folder, settings=settings, changes=changes)

    def apply_to(
        self, base: Mapping[str, TensorPlace], *, where: str, embedding: str, tied_head: str | None
    ) -> dict[str, TensorPlace]:
        """Return the tensors of the base `where` with the adapter's changes, by their names on disk.

        `embedding` is the name of the embedding, `tied_head` the name that a head would have if the base had one of its
        own (None: it has). As in the adapted model, a change of only one of both separates them. Raises
        IncompatibleModels when the adapter does not fit the base.
        """
        places = dict(base)
        names = _Names(places if tied_head is None else (*places, tied_head))
        targets: dict[str, str] = {}
        experts: dict[str, list[str]] = {}
        for name in self.changes:
            found = names.find(name)
            if found is None and (module := names.find_experts(name)) is not None:
                experts.setdefault(module, []).append(name)
                continue
            if found is None:
                raise IncompatibleModels(
                    f"{self.folder}: the adapter changes {name}, which its base model {where} does not have.\n"
                    "    Name the model that it was trained on: MODEL+ADAPTER."
                )
            targets[name] = found
        changed = set(targets.values())
        if tied_head is not None and (tied_head in changed or self._separates(targets, embedding)):
            places[tied_head] = base[embedding]
        try:
            for name, target in targets.items():
                places[target] = self._changed(name, places[target], target)
            for module, owners in experts.items():
                places |= self._changed_experts(owners, places, module)
        except _Misfit as misfit:
            raise IncompatibleModels(f"{self.folder}: {misfit}\n    The base model is {where}.") from misfit
        return places

    def _separates(self, targets: Mapping[str, str], embedding: str) -> bool:
        """Whether the change of the embedding leaves a tied head as it was; trained tokens change both."""
        return any(
            target == embedding and (self.changes[name].whole or set(self.changes[name].parts) - {_TOKENS})
            for name, target in targets.items()
        )

    def _changed(self, name: str, source: TensorPlace, target: str) -> TensorPlace:
        changes = self.changes[name]
        parts = changes.parts
        if changes.whole is not None:
            _require(
                changes.whole.shape[1:] == source.shape[1:],
                f"{name} has the shape {_shape(changes.whole)}, and the base's {target} has {_shape(source)}.",
            )
            source = changes.whole
        if not parts:
            return source
        if source.dtype_code not in PLAIN_FLOATS:
            raise _Misfit(f"the base's {target} is {source.dtype_code}; an adapter changes plain floats.")
        if "lora_B.bias" in parts:
            bias, module = parts["lora_B.bias"], name.removesuffix(".bias")
            _require(bias.shape == source.shape, f"{name}: the trained bias has the shape {_shape(bias)}.")
            return AdaptedPlace.of(source, name=target, bias=bias, bias_scale=self._scale(module, self._rank(module)))
        rows: Mapping[int, int] = {}
        if _TOKENS in parts:
            rows = self._rows(name, parts[_TOKENS], source)
        product, magnitude = self._product(name, parts, source), parts.get("lora_magnitude_vector")
        if magnitude is not None:
            _require(
                product is not None and not product.are_transposed and len(source.shape) == 2,
                f"{name} has a magnitude of DoRA; evovlm merges DoRA on linear layers only.",
            )
            _require(math.prod(magnitude.shape) == source.shape[0], f"{name}: {_shape(magnitude)} magnitudes of DoRA.")
        return AdaptedPlace.of(
            source, name=target, rows=rows, row_place=parts.get(_TOKENS), product=product, magnitude=magnitude
        )

    def _product(self, name: str, parts: Mapping[str, TensorPlace], source: TensorPlace) -> LowRank | None:
        """Return what the factors add to a tensor; None where the adapter has no factors for it."""
        is_embedding = "lora_embedding_A" in parts or "lora_embedding_B" in parts
        first, second = ("lora_embedding_A", "lora_embedding_B") if is_embedding else ("lora_A", "lora_B")
        if first not in parts and second not in parts:
            return None
        module = name.removesuffix(".weight")
        _require(first in parts and second in parts, f"{module} has only one of {first} and {second}.")
        a, b = parts[first], parts[second]
        rank = a.shape[0] if a.shape else 0
        stated = self._rank(module)
        _require(
            rank == stated, f"{module}: {first} has {rank} rows, but {ADAPTER_CONFIG_FILE} says r = {stated} for it."
        )
        # (in, out) of the layer; an embedding of v rows, stored as (v, out), is a transposed layer.
        width_in, width_out = math.prod(a.shape[1:]), b.shape[0] if b.shape else 0
        _require(len(a.shape) >= 2 and math.prod(b.shape) == width_out * rank, f"{module}: {second} is {_shape(b)}.")
        columns = math.prod(source.shape[1:])
        straight, turned = (source.shape[0], columns) == (width_out, width_in), source.shape == (width_in, width_out)
        _require(
            (turned if is_embedding else straight or turned),
            f"{module}: its factors {_shape(a)} and {_shape(b)} do not fit the base's shape {_shape(source)}.",
        )
        are_transposed = is_embedding or not straight or (turned and bool(self.settings.get("fan_in_fan_out")))
        left, right = (a, b) if are_transposed else (b, a)
        return LowRank(
            left_place=left, right_place=right, scale=self._scale(module, rank), are_transposed=are_transposed
        )

    def _changed_experts(
        self, changed: Iterable[str], places: Mapping[str, TensorPlace], module: str
    ) -> Mapping[str, TensorPlace]:
        """Return the tensors of a module of experts with what was trained with `target_parameters`.

        peft does not name the tensor that two factors change; their shapes do.
        """
        experts = Experts.among(places, module)
        if experts is None:
            raise _Misfit(f"the experts of the base under {module} are not stored as gate, up and down.")
        form = experts.form
        for name in changed:
            parts = self.changes[name].parts
            _require(set(parts) == {"lora_A", "lora_B"}, f"{name} has other parts than two factors.")
            a, b = parts["lora_A"], parts["lora_B"]
            fitting = [part for part in JOINED if form.shape(part) == (*b.shape[:1], *a.shape[1:])]
            rank = self._rank(f"{module}{JOINED[fitting[0]]}") if fitting else 0
            _require(
                bool(fitting) and a.shape[:1] == b.shape[1:] == (rank * form.n_experts,),
                f"{name}: its factors {_shape(a)} and {_shape(b)} do not fit the base's {form.n_experts} experts.",
            )
            scale = self._scale(f"{module}{JOINED[fitting[0]]}", rank)
            experts = experts.adapted(fitting[0], a, b, scale=scale)
        return {module + name: place for name, place in experts.in_form(form).places.items()}

    def _rank(self, module: str) -> int:
        rank: int = _matched(self.settings["rank_pattern"], module, self.settings["r"])
        return rank

    def _scale(self, module: str, rank: int) -> float:
        alpha: float = _matched(self.settings["alpha_pattern"], module, self.settings["lora_alpha"])
        return alpha / (math.sqrt(rank) if self.settings.get("use_rslora") else rank)

    def _rows(self, name: str, trained: TensorPlace, source: TensorPlace) -> Mapping[int, int]:
        """Return the rows of trained tokens, each with its row in the adapter."""
        stated = self.settings.get("trainable_token_indices")
        module = name.removesuffix(".weight")
        if isinstance(stated, dict):
            stated = next((rows for key, rows in stated.items() if module == key or module.endswith(f".{key}")), None)
            if stated is None and len(self.settings["trainable_token_indices"]) == 1:
                # A tied head has the tokens of its embedding.
                (stated,) = self.settings["trainable_token_indices"].values()
        n_rows = source.shape[0]
        tokens = stated if isinstance(stated, list) else []
        _require(
            len(tokens) == trained.shape[0]
            and all(type(row) is int and 0 <= row < n_rows for row in tokens)
            and trained.shape[1:] == source.shape[1:],
            f"{name}: {_shape(trained)} trained tokens do not fit trainable_token_indices in {ADAPTER_CONFIG_FILE}.",
        )
        return {row: own for own, row in enumerate(tokens)}


_TOKENS = "token_adapter.trainable_tokens_delta"


class _Misfit(Exception):
    """Says what of an adapter does not fit."""


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise _Misfit(problem)


def _shape(place: TensorPlace) -> str:
    return " x ".join(map(str, place.shape)) or "1"


class _Names:
    """Finds the tensor that an adapter means: by its name, or by its name without modules that only wrap others."""

    def __init__(self, names: Iterable[str]) -> None:
        self._exact = frozenset(names)
        self._plain: dict[str, list[str]] = {}
        self._experts: frozenset[str] | None = None
        for name in self._exact:
            self._plain.setdefault(_unwrapped(name), []).append(name)

    def find_experts(self, name: str) -> str | None:
        """Return what precedes the names of the experts that peft's wrapper of a module's tensor means."""
        module = re.sub(r"(\.base_layer)*\.weight$", ".", name)
        if self._experts is None:
            self._experts = expert_modules(self._exact)
        found = [each for each in self._experts if _unwrapped(each) == _unwrapped(module)]
        if not found and module.endswith(".experts."):
            # In Mixtral's files, the module around the experts has another name than in memory.
            found = [each for each in self._experts if _block(each) == _block(module)]
        return found[0] if len(found) == 1 else None

    def find(self, name: str) -> str | None:
        if name in self._exact:
            return name
        found = self._plain.get(_unwrapped(name), [])
        return found[0] if len(found) == 1 else None


def _unwrapped(name: str) -> str:
    parts = name.split(".")
    while len(parts) > 1 and parts[0] in _WRAPPERS:
        parts = parts[1:]
    return ".".join(parts)


def _block(module: str) -> str:
    """Return a module's name up to the number of its block, without modules that only wrap others."""
    return re.sub(r"(\.[0-9]+\.).*", r"\1", _unwrapped(module))


def _matched(patterns: Mapping[re.Pattern[str], Any], module: str, default: Any) -> Any:
    """Return the value of the first pattern that matches the module's name."""
    return next((value for pattern, value in patterns.items() if pattern.match(module)), default)


def _checked(folder: Path, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings of an adapter whose kind and values can be merged, with peft's defaults."""
    file = folder / ADAPTER_CONFIG_FILE
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise IncompatibleModels(
            f"{file}: the adapter is of the kind {str(kind)[:40]!r}; evovlm reads LoRA.\n"
            "    Merge it into its base with peft (merge_and_unload), and name the result."
        )
    refused = [name for name in _WITHOUT_MERGED_FORM if settings.get(name)]
    if refused:
        raise IncompatibleModels(
            f"{file}: {refused[0]} is set, which evovlm does not read.\n"
            "    Merge the adapter into its base with peft (merge_and_unload), if peft can, and name the result."
        )
    start = settings.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        raise IncompatibleModels(
            f"{file}: init_lora_weights is {start[:40]!r}, which also changed the base's weights in the training.\n"
            "    Convert the adapter with peft: save_pretrained(..., path_initial_model_for_weight_conversion=...)."
        )
    values = {"r": 8, "lora_alpha": 8, **settings}
    for name in ("rank_pattern", "alpha_pattern"):
        values[name] = _patterns(file, name, settings.get(name))
    for name, numbers, is_good in (
        ("r", [values["r"], *values["rank_pattern"].values()], _is_rank),
        ("lora_alpha", [values["lora_alpha"], *values["alpha_pattern"].values()], is_finite_number),
    ):
        wrong = [number for number in numbers if not is_good(number)]
        if wrong:
            raise BrokenCheckpoint(f"{file}: {name} is {str(wrong[0])[:40]!r}; it should be a number, r a whole one.")
    return values


def _is_rank(value: object) -> bool:
    return type(value) is int and 1 <= value <= 1_000_000


def _patterns(file: Path, key: str, found: object) -> Mapping[re.Pattern[str], Any]:
    """Return patterns for ends of modules' names, as peft matches them, that are sure to be matched quickly."""
    patterns = {} if found is None else found
    if not isinstance(patterns, dict) or len(patterns) > _MOST_PATTERNS:
        raise BrokenCheckpoint(f"{file}: {key} should map names of modules, at most {_MOST_PATTERNS}, to numbers.")
    compiled: dict[re.Pattern[str], Any] = {}
    for pattern, value in patterns.items():
        # Repetitions inside repetitions, or many of them, can take forever.
        repeats = len(re.findall(r"[*+{]", pattern))
        is_simple = len(pattern) <= _LONGEST_PATTERN and repeats <= 2 and not re.search(r"\)[*+{?]", pattern)
        try:
            # Python warns of forms whose meaning is to change.
            with warnings.catch_warnings(action="error"):
                compiled[re.compile(rf"(.*\.)?({pattern if is_simple else ''})$")] = value
        except (re.error, RecursionError, OverflowError, Warning):
            is_simple = False
        if not is_simple:
            raise BrokenCheckpoint(
                f"{file}: {key}: {pattern[:60]!r} is not a pattern that evovlm matches; simplify it."
            )
    return compiled
