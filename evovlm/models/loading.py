"""Loads a model folder with stock transformers, for generation: safetensors only, no remote code."""

import json
import logging
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
)
from transformers.initialization import no_init_weights
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)
from transformers.utils.logging import disable_progress_bar, get_verbosity, set_verbosity

from evovlm.devices import BFLOAT16_CPU, SPREAD, choose_device
from evovlm.errors import BrokenCheckpoint, ConfigError, NotEnoughRoom, UnknownArchitecture
from evovlm.models.foreign import foreign_model
from evovlm.models.processor import open_processor
from evovlm.recipes.checkpoint_files import (
    CONFIG_FILE,
    INDEX_FILE,
    SINGLE_FILE,
    read_weight_map,
    refuse_odd_files,
    refuse_outside,
)
from evovlm.recipes.language_config import has_vision
from evovlm.recipes.missing_weights import missing_weights
from evovlm.recipes.model_config import GENERATION_CONFIG_FILE, check_generation_config, read_model_config

_MOST_TIMES = 2
_TRIED_TOKENS = 8
_IN_BLOCK = re.compile(r"\.\d+\.")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedModel:
    """A transformers model in evaluation mode with its tokenizer, and its processor where it sees pictures."""

    model: Any
    tokenizer: Any
    processor: Any | None
    folder: Path

    @property
    def sees(self) -> bool:
        """Whether the model takes pictures."""
        return self.processor is not None

    @property
    def config(self) -> Any:
        """The model's config."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """The device of its parameters."""
        device: torch.device = self.model.device
        return device

    @property
    def is_spread(self) -> bool:
        """Whether its parameters are on several devices; its input then goes to `device`."""
        return len({parameter.device for parameter in self.model.parameters()}) > 1


class LazyTensor(Protocol):
    """A tensor that is read when transformers asks for it, as it asks for those of a safetensors file."""

    def __getitem__(self, index: Any) -> torch.Tensor:
        """Return the whole tensor: `index` is always `...`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Weights:
    """The weights of a model that differ from those in its folder: tensors by their names on disk, and their config."""

    config: Mapping[str, Any]
    tensors: Mapping[str, LazyTensor]
    shapes: Mapping[str, Sequence[int]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Override:
    """What a model is loaded with instead of what its folder holds.

    `config` replaces its config.json; a vocabulary of another size grows or shrinks the embedding. If `head_follows`,
    the head gets its values later, so that the weights need not contain it. `tokenizer` is the folder that the
    tokenizer is read from, `chat_template` the processor's template (None: its own), `generation` the content of
    generation_config.json (None: the folder's). `weights` replace its weights; each tensor is read while it is loaded.
    """

    config: Mapping[str, Any]
    head_follows: bool
    tokenizer: Path
    chat_template: str | Mapping[str, str] | None = None
    generation: Mapping[str, Any] | None = None
    weights: Weights | None = None


def load_model(folder: Path, *, device: str = "auto", override: Override | None = None) -> LoadedModel:
    """Load the model in `folder`; `override` replaces its config and tokenizer.

    On a CPU the parameters are float32, or bfloat16 on the device `cpu:bfloat16`, whatever the checkpoint's dtype; on a
    GPU they keep the checkpoint's dtype. The device `auto-map` spreads the model over all GPUs.

    Raises BrokenCheckpoint when config, tokenizer or weights are missing or incomplete, PickledWeights when the weights
    are pickles only, UnknownArchitecture when transformers does not know the model, ConfigError for a device that does
    not exist, NotEnoughRoom when the memory of all GPUs does not suffice.
    """
    is_spread = device == SPREAD
    place = choose_device("auto" if is_spread else device)
    if is_spread:
        _check_accelerate()
    _check_files(folder)
    sees = _check_config(folder)
    weights = override.weights if override else None
    if weights is None:
        _empty_model(folder, config=None, sees=sees, shapes=_stored_shapes(folder))
    else:
        _empty_model(folder, config=weights.config, sees=sees, shapes=weights.shapes)
    on_cpu = torch.bfloat16 if device == BFLOAT16_CPU else torch.float32
    dtype = on_cpu if place.type == "cpu" else "auto"
    with _quiet(), foreign_model(folder):
        tokenizer = AutoTokenizer.from_pretrained(override.tokenizer if override else folder, trust_remote_code=False)
        processor = open_processor(folder) if sees else None
        if override and processor is not None:
            processor.tokenizer = tokenizer
            processor.chat_template = override.chat_template or processor.chat_template
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        model = _load_weights(
            folder, sees=sees, dtype=dtype, override=override, device_map="auto" if is_spread else None
        )
    if is_spread:
        # With a single device, transformers notes no map.
        _check_placed(folder, getattr(model, "hf_device_map", {}), on=place)
    else:
        model = model.to(place)
    loaded = LoadedModel(model=model.eval(), tokenizer=tokenizer, processor=processor, folder=folder)
    _try(loaded)
    return loaded


def _try(loaded: LoadedModel) -> None:
    """Generate two tokens: settings that no one checks before (a window of 0, say) fail here, with the folder's name.

    Raises BrokenCheckpoint.
    """
    ids = torch.zeros((1, _TRIED_TOKENS), dtype=torch.long, device=loaded.device)
    with _quiet(), foreign_model(loaded.folder), torch.inference_mode():
        loaded.tokenizer("a")
        loaded.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            num_beams=1,
            max_new_tokens=2,
            pad_token_id=loaded.tokenizer.pad_token_id,
        )


def check_fit(folder: Path, shapes: Mapping[str, Sequence[int]], *, config: Mapping[str, Any] | None = None) -> None:
    """Load the model in `folder` without its weights: does its config fit the `shapes` of its tensors, by name on disk?

    `config` replaces the config.json of the folder.
    Raises BrokenCheckpoint, which names a tensor and both shapes, when they contradict each other, and what
    `load_model` raises for a model that transformers cannot load. Quantised weights are not compared, nor are those of
    a model type that needs its own code.
    """
    if not runs_here(read_model_config(folder)):
        return
    sees = _check_config(folder)
    empty = _empty_model(folder, config=config, sees=sees, shapes=shapes)
    if empty is None:
        return
    # Without memory: some are joined into larger ones (experts).
    weights = {name: torch.empty(tuple(shape), device="meta") for name, shape in shapes.items()}
    with _quiet(), foreign_model(folder):
        _, report = type(empty).from_pretrained(
            None,
            config=empty.config,
            state_dict=weights,
            dtype=torch.float32,
            device_map="meta",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    _check_report(folder, report)


def _empty_model(
    folder: Path, *, config: Mapping[str, Any] | None, sees: bool, shapes: Mapping[str, Sequence[int]]
) -> Any:
    """Return the model of a config (None: the folder's) without memory for its weights, None for quantised weights.

    Raises BrokenCheckpoint when it is much larger than the weights: what is missing would be filled with random
    numbers, which takes memory and time.
    """
    if (config or read_model_config(folder)).get("quantization_config") is not None:
        return None
    stored = sum(math.prod(shape) for shape in shapes.values())
    with _quiet(), foreign_model(folder):
        if config is None:
            known = _untyped(AutoConfig).from_pretrained(folder, trust_remote_code=False)
        else:
            known = _as_known(config)
        with torch.device("meta"), no_init_weights():
            auto = _untyped(AutoModelForImageTextToText if sees else AutoModelForCausalLM)
            empty = auto.from_config(known, trust_remote_code=False)
    needed = sum(parameter.numel() for parameter in empty.parameters())
    if needed > _MOST_TIMES * stored:
        raise BrokenCheckpoint(
            f"{folder / CONFIG_FILE}: describes a model of {needed} numbers, but the weights beside it have {stored}.\n"
            "    Correct config.json, or fetch the model again."
        )
    return empty


def _stored_shapes(folder: Path) -> Mapping[str, Sequence[int]]:
    """Return the shape of each tensor in the files that transformers loads."""
    files = [folder / SINGLE_FILE]
    if not files[0].is_file() and (folder / INDEX_FILE).is_file():
        files = [folder / name for name in sorted(set(read_weight_map(folder / INDEX_FILE).values()))]
    found: dict[str, Sequence[int]] = {}
    with foreign_model(folder):
        for file in files:
            refuse_outside(file, folder)
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 (not a mapping)
                    found[name] = opened.get_slice(name).get_shape()
    return found


def _check_report(folder: Path, report: Mapping[str, Any], follow: Collection[str] = ()) -> None:
    """Raise BrokenCheckpoint when tensors are missing, have other shapes than the config's, or do not belong to it."""
    for name, stored, needed in sorted(report["mismatched_keys"]):
        raise BrokenCheckpoint(
            f"{folder / CONFIG_FILE}: contradicts the weights beside it: {name} has shape {list(stored)}, and the "
            f"config needs {list(needed)}.\n    Correct config.json, or fetch the model again."
        )
    # transformers fills missing tensors with random numbers, and leaves out blocks beyond those of the config.
    missing = sorted(set(report["missing_keys"]) - set(follow))
    if missing:
        raise BrokenCheckpoint(
            f"{folder}: its weights lack {len(missing)} tensors that config.json asks for, the first is {missing[0]}.\n"
            "    Fetch the checkpoint again, or correct its config.json."
        )
    surplus = sorted(name for name in report["unexpected_keys"] if _IN_BLOCK.search(name) and "inv_freq" not in name)
    if surplus:
        raise BrokenCheckpoint(
            f"{folder}: its weights have {len(surplus)} tensors in blocks that the model of its config.json lacks, the "
            f"first is {surplus[0]}.\n    Correct config.json, or fetch the model again."
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from logging what the caller reports."""
    _untyped(disable_progress_bar)()
    before = get_verbosity()
    _untyped(set_verbosity)(logging.CRITICAL)
    try:
        yield
    finally:
        _untyped(set_verbosity)(before)


def runs_here(config: Mapping[str, Any]) -> bool:
    """Return whether transformers has a class for the model of a config.json; others can be merged, but not scored."""
    model_type = config.get("model_type")
    return model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES or model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def _sees(folder: Path, config: Mapping[str, Any]) -> bool:
    """Return whether the model of a config takes pictures; raises UnknownArchitecture for one of neither kind."""
    if not runs_here(config):
        raise UnknownArchitecture(
            f"{folder}: config.json says model_type '{config.get('model_type')}', which the installed transformers "
            "does not know.\n    Models that bring their own code are not loaded: they can be merged, but not scored."
        )
    model_type = config.get("model_type")
    can_see = model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return can_see and (has_vision(config) or model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def load_like(loaded: LoadedModel, *, config: Mapping[str, Any]) -> LoadedModel:
    """Return a model with another config.json that shares the parameters of `loaded`; nothing is read.

    The config must keep the shapes of the parameters: another rope, window or norm eps. Raises
    ConfigError for a model that is spread over several devices.
    """
    if loaded.is_spread:
        raise ConfigError(
            "space.choices: config_from chooses among configs of one model in memory, which must be on one device.\n"
            f"    Leave config_from out, or name another device than {SPREAD}."
        )
    ours = loaded.model
    # The new parameters are replaced below, so that their memory is never filled.
    with foreign_model(loaded.folder), no_init_weights():
        known = _as_known(config)
        model = _untyped(AutoModelForImageTextToText if loaded.sees else AutoModelForCausalLM).from_config(
            known, dtype=ours.dtype, trust_remote_code=False
        )
    for name, tensor in ours.state_dict(keep_vars=True).items():
        module, _, own = name.rpartition(".")
        setattr(model.get_submodule(module), own, tensor)
    model.generation_config = ours.generation_config
    return replace(loaded, model=model.to(loaded.device).eval())


def _check_accelerate() -> None:
    if find_spec("accelerate") is None:
        raise ConfigError(
            f"device: {SPREAD} needs the package accelerate. Install the extra: pip install 'evovlm[spread]'."
        )


def _check_placed(folder: Path, places: Mapping[str, object], *, on: torch.device) -> None:
    """Raise NotEnoughRoom when parts of the model are not on the GPUs: a merge could not reach them."""
    left = [part for part, place in places.items() if place == "disk" or (place == "cpu" and on.type == "cuda")]
    if left:
        raise NotEnoughRoom(
            f"{folder}: the model does not fit in the memory of this machine's GPUs; {len(left)} of its {len(places)} "
            f"parts are left out, the first is {left[0]}.\n    Free memory, or use a machine with more of it."
        )


def _load_weights(
    folder: Path, *, sees: bool, dtype: torch.dtype | str, override: Override | None, device_map: str | None
) -> Any:
    auto = _untyped(AutoModelForImageTextToText if sees else AutoModelForCausalLM)
    config = _config_for_weights(folder, override) if override else None
    tensors = override.weights.tensors if override and override.weights else None
    if tensors is not None:
        # Without a folder, transformers cannot find out which of its classes reads the config.
        auto = auto._model_mapping[type(config)]
    model, report = auto.from_pretrained(
        folder if tensors is None else None,
        config=config,
        state_dict=tensors,
        dtype=dtype,
        device_map=device_map,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        # The report below names them; transformers would only log them.
        ignore_mismatched_sizes=True,
    )
    _check_report(folder, report, follow=_names_of_head(model) if override and override.head_follows else ())
    if tensors is not None and (folder / GENERATION_CONFIG_FILE).is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    if override:
        # transformers has not tied a head that the weights contain and the override ties.
        model.tie_weights()
        n_rows = _text_part(override.config).get("vocab_size")
        if n_rows is not None and n_rows != model.get_input_embeddings().num_embeddings:
            model.resize_token_embeddings(n_rows, mean_resizing=False)
        if override.generation is not None:
            model.generation_config = _untyped(GenerationConfig).from_dict(dict(override.generation))
    return model


def _names_of_head(model: Any) -> list[str]:
    head = model.get_output_embeddings()
    own = set() if head is None else {id(parameter) for parameter in head.parameters()}
    return [name for name, parameter in model.named_parameters(remove_duplicate=False) if id(parameter) in own]


def _config_for_weights(folder: Path, override: Override) -> Any:
    """Return the config as transformers' own object, with the vocabulary of the weights that are loaded."""
    plain = json.loads(json.dumps(override.config))
    stored = _text_part(override.weights.config if override.weights else read_model_config(folder))
    if "vocab_size" in stored:
        _text_part(plain)["vocab_size"] = stored["vocab_size"]
    return _as_known(plain)


def _as_known(config: Mapping[str, Any]) -> Any:
    """Return a config.json as transformers' own object."""
    return _untyped(CONFIG_MAPPING)[config["model_type"]].from_dict(json.loads(json.dumps(config)))


def _text_part(config: Any) -> Any:
    return config.get("text_config") or config


def _untyped(part: Any) -> Any:
    """Return a part of transformers that has no types, or wrong ones."""
    return part


def _check_config(folder: Path) -> bool:
    """Check that transformers can load the model of a folder's config.json; return whether it sees pictures."""
    config = read_model_config(folder)
    check_generation_config(folder)
    _check_names_no_code(folder, config)
    return _sees(folder, config)


def _check_names_no_code(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise UnknownArchitecture for a config that has transformers fetch compiled code from the hub."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            _check_names_no_code(folder, value)
        elif key.endswith("_implementation") and "/" in str(value):
            raise UnknownArchitecture(
                f"{folder}: config.json says {key}: {str(value)[:80]}, code from the hub, which is not run.\n"
                f"    Remove {key} from config.json."
            )


def _check_files(folder: Path) -> None:
    if folder.is_dir():
        refuse_odd_files(folder)
        if not any((folder / name).is_file() for name in (SINGLE_FILE, INDEX_FILE)):
            raise missing_weights(folder)
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise BrokenCheckpoint(
            f"{folder}: no tokenizer was found (looked for {', '.join(_TOKENIZER_FILES)}).\n"
            "    Copy the tokenizer files of the model it was made from into the folder."
        )
