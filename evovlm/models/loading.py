"""Loads a model folder with stock transformers, for generation: safetensors only, no remote code."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
from transformers.initialization import no_init_weights
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)
from transformers.utils.logging import disable_progress_bar

from evovlm.errors import BrokenCheckpoint, ConfigError, NotEnoughRoom, PickledWeights, UnknownArchitecture
from evovlm.recipes.families import has_vision
from evovlm.recipes.model_config import read_model_config

SPREAD = "auto-map"
"""All GPUs of the machine as one device: the package accelerate divides a model's blocks among them."""

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
    def device(self) -> torch.device:
        """The device of its parameters."""
        device: torch.device = self.model.device
        return device

    @property
    def is_spread(self) -> bool:
        """Whether its parameters are on several devices; its input then goes to `device`."""
        return len({parameter.device for parameter in self.model.parameters()}) > 1


def choose_device(name: str) -> torch.device:
    """Return the device of that name; `auto` is the first CUDA device, or the CPU without one.

    Raises ConfigError for a device that does not exist.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device: '{name}' is not a device. Name auto, cpu, cuda, cuda:N or {SPREAD}.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device: '{name}' was not found; this machine has {torch.cuda.device_count()} CUDA devices.")
    return device


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Override:
    """What a model is loaded with instead of what its folder holds.

    `config` replaces its config.json; a vocabulary of another size grows or shrinks the embedding. The parameters in
    `written` get their values later, so that the weights need not contain them. `tokenizer` is the folder that the
    tokenizer is read from.
    """

    config: Mapping[str, Any]
    written: Collection[str]
    tokenizer: Path


def load_model(folder: Path, *, device: str = "auto", override: Override | None = None) -> LoadedModel:
    """Load the model in `folder`; `override` replaces its config and tokenizer.

    On a CPU the parameters are float32, whatever the checkpoint's dtype (bfloat16 products are slow there); on a GPU
    they keep the checkpoint's dtype. The device `auto-map` spreads the model over all GPUs.

    Raises BrokenCheckpoint when config, tokenizer or weights are missing or incomplete, PickledWeights when the weights
    are pickles only, UnknownArchitecture when transformers does not know the model, ConfigError for a device that does
    not exist, NotEnoughRoom when the memory of all GPUs does not suffice.
    """
    is_spread = device == SPREAD
    place = choose_device("auto" if is_spread else device)
    if is_spread:
        _check_accelerate()
    config = read_model_config(folder)
    _check_names_no_code(folder, config)
    _check_files(folder)
    sees = _sees(folder, config)
    try:
        tokenizer = AutoTokenizer.from_pretrained(override.tokenizer if override else folder, trust_remote_code=False)
        processor = _untyped(AutoProcessor).from_pretrained(folder, trust_remote_code=False) if sees else None
        if override and processor is not None:
            processor.tokenizer = tokenizer
        dtype = torch.float32 if place.type == "cpu" else "auto"
        model = _load_weights(
            folder, sees=sees, dtype=dtype, override=override, device_map="auto" if is_spread else None
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise BrokenCheckpoint(f"{folder}: transformers cannot load it: {error}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if is_spread:
        # With a single device, transformers notes no map.
        _check_placed(folder, getattr(model, "hf_device_map", {}), on=place)
    else:
        model = model.to(place)
    return LoadedModel(model=model.eval(), tokenizer=tokenizer, processor=processor, folder=folder)


def _sees(folder: Path, config: Mapping[str, Any]) -> bool:
    """Return whether the model of a config takes pictures; raises UnknownArchitecture for one of neither kind."""
    model_type = config.get("model_type")
    if model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES and has_vision(config):
        return True
    if model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return False
    raise UnknownArchitecture(
        f"{folder}: config.json says model_type '{model_type}', which the installed transformers does not know.\n"
        "    Models that bring their own code are not loaded."
    )


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
    known = _untyped(CONFIG_MAPPING)[config["model_type"]].from_dict(json.loads(json.dumps(config)))
    # The new parameters are replaced below, so that their memory is never filled.
    with no_init_weights():
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
    _untyped(disable_progress_bar)()
    auto = _untyped(AutoModelForImageTextToText if sees else AutoModelForCausalLM)
    config = _config_for_weights(folder, override.config) if override else None
    model, report = auto.from_pretrained(
        folder,
        config=config,
        dtype=dtype,
        device_map=device_map,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    # transformers fills missing tensors with random numbers and raises nothing.
    missing = sorted(set(report["missing_keys"]) - set(override.written if override else ()))
    if missing:
        raise BrokenCheckpoint(
            f"{folder}: its weights lack {len(missing)} tensors that config.json asks for, the first is {missing[0]}.\n"
            "    Fetch the checkpoint again, or correct its config.json."
        )
    if override:
        # transformers has not tied a head that the weights contain and the override ties.
        model.tie_weights()
        n_rows = _text_part(override.config).get("vocab_size")
        if n_rows is not None and n_rows != model.get_input_embeddings().num_embeddings:
            model.resize_token_embeddings(n_rows, mean_resizing=False)
    return model


def _config_for_weights(folder: Path, config: Mapping[str, Any]) -> Any:
    """Return `config` as transformers' own object, with the vocabulary of the weights in `folder`."""
    plain = json.loads(json.dumps(config))
    stored = _text_part(read_model_config(folder))
    if "vocab_size" in stored:
        _text_part(plain)["vocab_size"] = stored["vocab_size"]
    return _untyped(CONFIG_MAPPING)[plain["model_type"]].from_dict(plain)


def _text_part(config: Any) -> Any:
    return config.get("text_config") or config


def _untyped(part: Any) -> Any:
    """Return a part of transformers that has no types, or wrong ones."""
    return part


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
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise BrokenCheckpoint(
            f"{folder}: no tokenizer was found (looked for {', '.join(_TOKENIZER_FILES)}).\n"
            "    Copy the tokenizer files of the model it was made from into the folder."
        )
    if any(folder.glob("*.safetensors")):
        return
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
        raise PickledWeights(
            f"{folder}: its weights are pickles, which can run code when read; evovlm reads only safetensors.\n"
            f"    `evovlm convert {folder} --out DIR` reads nothing but tensors from them; name DIR instead."
        )
    raise BrokenCheckpoint(f"{folder}: no weights were found (*.safetensors).")
