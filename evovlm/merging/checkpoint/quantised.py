"""Quantised checkpoints: FP8 and MXFP4 weights are read as floats, with the bits that transformers would give them.

Other quantisations are refused by their names. A config that speaks of a quantisation although its weights are plain
floats, which merging tools and trainers leave behind, loses that part.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from evovlm.errors import BrokenCheckpoint
from evovlm.merging.arithmetic.buffers import Vector
from evovlm.merging.checkpoint.computed import ComputedPlace, read_numbers, size_of
from evovlm.merging.checkpoint.safetensors_file import DTYPE_CODES, PLAIN_FLOATS, TensorPlace
from evovlm.recipes.model_ref import stored_dtype

_KEYS = ("quantization_config", "compression_config", "quantization")
_NAMES: Mapping[str, str] = {"awq": "AWQ", "bitsandbytes": "bitsandbytes", "gptq": "GPTQ", "mlx": "MLX"}
# Tensors that only one kind of quantisation has, for checkpoints whose config is silent.
_TENSORS: Mapping[str, str] = {
    ".quant_map": "bitsandbytes (4 bits)",
    ".SCB": "bitsandbytes (8 bits)",
    ".qweight": "GPTQ or AWQ",
    ".weight_packed": "compressed-tensors",
}
_PACKED = ("F8_E4M3", "F8_E4M3FNUZ", "F8_E5M2", "F8_E5M2FNUZ", "F6_E2M3", "F6_E3M2", "F4", "I8", "U8", "I32", "U32")
_SCALES = ("weight_scale_inv", "scale", "qscale_weight")
_OF_POWERS = ("F8_E8M0", "U8")
_OF_ACTIVATIONS = ("activation_scale", "input_scale", "qscale_act")
_BLOCKS, _EXPONENTS = "_blocks", "_scales"


class PlainWeights(NamedTuple):
    """A checkpoint as plain floats: its config without a quantisation, its tensors, and sentences about the change."""

    config: Mapping[str, Any]
    places: Mapping[str, TensorPlace]
    notes: tuple[str, ...]


def plain_weights(folder: Path, config: Mapping[str, Any], places: Mapping[str, TensorPlace]) -> PlainWeights:
    """Return the checkpoint in `folder` as plain floats.

    Raises BrokenCheckpoint, with the name of the quantisation, for weights that cannot be read as floats.
    """
    settings = next(_settings(config), None)
    by_tensors = next((label for end, label in _TENSORS.items() if any(name.endswith(end) for name in places)), None)
    if by_tensors is None and settings is None:
        return PlainWeights(config, places, ())
    method = "" if settings is None else _method(settings)
    if by_tensors is None and not any(place.dtype_code in _PACKED for place in places.values()):
        note = f"its config.json speaks of a quantisation ({method}), but its weights are plain floats: it is left out"
        return PlainWeights(_without_settings(config), places, (note,))
    if by_tensors is not None or method not in ("fp8", "mxfp4"):
        label = by_tensors if method in ("", "fp8", "mxfp4") else _NAMES.get(method, method)
        raise BrokenCheckpoint(
            f"{folder}: its weights are quantised with {label}; merging needs plain floats (FP8 and MXFP4 are read "
            "as such).\n    Name the checkpoint that it was quantised from (for an adapter of it: MODEL+ADAPTER)."
        )
    dtype_code = DTYPE_CODES.get(stored_dtype(config) or "", "BF16")
    read = _fp8_places if method == "fp8" else _mxfp4_places
    plain = read(folder, places, settings or {}, dtype_code)
    return PlainWeights(_without_settings(config), plain, (f"its {method.upper()} weights are read as {dtype_code}",))


def speaks_of_quantisation(config: Mapping[str, Any]) -> bool:
    """Whether a config.json names a quantisation."""
    return next(_settings(config), None) is not None


def _settings(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            if key in _KEYS:
                yield value if key != "quantization" else {"quant_method": "mlx", **value}
            else:
                yield from _settings(value)


def _method(settings: Mapping[str, Any]) -> str:
    stated = settings.get("quant_method")
    is_old = stated is None and any(str(key).startswith(("load_in_", "_load_in_", "bnb_")) for key in settings)
    return "bitsandbytes" if is_old else str(stated).lower()[:40]


def _without_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_settings(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if not (key in _KEYS and isinstance(value, Mapping))
    }


def _fp8_places(
    folder: Path, places: Mapping[str, TensorPlace], settings: Mapping[str, Any], dtype_code: str
) -> Mapping[str, TensorPlace]:
    found: dict[str, TensorPlace] = {}
    used: set[str] = set()
    for name, place in places.items():
        if place.dtype_code in _PACKED and (scale := _scale_of(name, places)) is not None:
            found[name] = _fp8_place(folder, place, places[scale], settings, dtype_code)
            used.add(scale)
        elif place.dtype_code.startswith(("F8_E4", "F8_E5")):
            raise BrokenCheckpoint(
                f"{folder}: {name} is quantised (FP8), and its scale {name}_scale_inv is missing. Fetch it again."
            )
    return {
        name: found.get(name, place)
        for name, place in places.items()
        if name not in used and not name.endswith(_OF_ACTIVATIONS)
    }


def _scale_of(name: str, places: Mapping[str, TensorPlace]) -> str | None:
    module = name.removesuffix("weight")
    candidates = (f"{name}_scale_inv", *(f"{module}{end}" for end in _SCALES))
    return next((each for each in candidates if each in places and each != name), None)


def _fp8_place(
    folder: Path, place: TensorPlace, scale: TensorPlace, settings: Mapping[str, Any], dtype_code: str
) -> TensorPlace:
    """Return the tensor whose scales are `scale`: one for each block of its last two dimensions, or one for all."""
    rows, columns = (1, *place.shape)[-2:]
    grid = scale.shape[-2:] if len(scale.shape) >= 2 else (1, 1)
    stated = settings.get("weight_block_size")
    block = _block((rows, columns), grid, stated if isinstance(stated, list) and len(stated) == 2 else (0, 0))
    batch = math.prod(place.shape[:-2])
    is_known = place.dtype_code in _VALUES and scale.dtype_code in (*PLAIN_FLOATS, *_OF_POWERS)
    if not is_known or block is None or math.prod(scale.shape) != batch * math.prod(grid):
        raise BrokenCheckpoint(
            f"{folder}: {place.name} ({place.dtype_code}, {list(place.shape)}) with the scales {scale.name} "
            f"({scale.dtype_code}, {list(scale.shape)}) is a form of FP8 that evovlm does not read.\n"
            "    Name the checkpoint that it was quantised from."
        )
    return Fp8Place(
        file=place.file,
        name=place.name,
        dtype_code=dtype_code,
        shape=place.shape,
        start=0,
        stop=size_of(place.shape, dtype_code),
        source=place,
        scales=_Scales(place=scale, grid=grid),
        block=block,
    )


def _block(sizes: tuple[int, int], grid: Sequence[int], stated: Sequence[object]) -> tuple[int, int] | None:
    """Return the size of the blocks that have one scale each; None where the scales do not fit the tensor.

    It is the `stated` size if that makes `grid` blocks, whose last may be smaller, else what divides the tensor evenly.
    """
    found = []
    for size, parts, step in zip(sizes, grid, stated, strict=True):
        if isinstance(step, int) and step > 0 and -(-size // step) == parts:
            found.append(min(step, max(size, 1)))
        elif parts > 0 and size % parts == 0 and size:
            found.append(size // parts)
    return (found[0], found[1]) if len(found) == len(sizes) else None


def _e4m3() -> Vector:
    """Return the 256 values of float8_e4m3fn (Micikevicius et al. 2022)."""
    bits = np.arange(256)
    sign, exponent, mantissa = np.where(bits >> 7, -1.0, 1.0), (bits >> 3) & 15, bits & 7
    values = np.where(exponent == 0, mantissa * 2.0**-9, (1 + mantissa / 8) * 2.0 ** (exponent - 7.0))
    return np.where((bits & 127) == 127, np.nan, sign * values).astype(np.float32)


_VALUES: Mapping[str, Vector] = {
    "F8_E4M3": _e4m3(),
    "F8_E5M2": (np.arange(256).astype(np.uint16) << 8).view(np.float16).astype(np.float32),
}
# The numbers 2**(byte - 127) of float8_e8m0fnu; its largest is infinite, as transformers computes it.
_POWERS = np.array([2.0 ** (byte - 127) if byte < 255 else math.inf for byte in range(256)], dtype=np.float32)
_FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], dtype=np.float32)


@dataclass(slots=True, kw_only=True, eq=False)
class _Scales:
    """The scales of a tensor, read when first needed, as a matrix of float32 with `grid` rows and columns a batch."""

    place: TensorPlace
    grid: tuple[int, ...]
    _read: npt.NDArray[np.float32] | None = field(default=None)

    def matrix(self) -> npt.NDArray[np.float32]:
        # Two threads may both read them; either result is the same.
        if self._read is None:
            if self.place.dtype_code in _OF_POWERS:
                flat = _POWERS[np.frombuffer(self.place.read_bytes(), dtype=np.uint8)]
            else:
                flat = read_numbers(self.place)
            self._read = flat.reshape(-1, self.grid[-1])
        return self._read


@dataclass(frozen=True, slots=True, kw_only=True)
class Fp8Place(ComputedPlace):
    """A tensor of 8-bit floats times scales, one for each block of its last two dimensions."""

    source: TensorPlace
    scales: _Scales
    block: tuple[int, int]

    def numbers(self, first: int, count: int) -> Vector:
        """Return the products, as transformers computes them: in float32."""
        rows, columns = (1, *self.shape)[-2:]
        content = np.empty(count, dtype=np.uint8)
        if not count:
            return content.astype(np.float32)
        self.source.read_into(content.data, start=first)
        top, bottom = first // columns, -(-(first + count) // columns)
        batch, row = np.divmod(np.arange(top, bottom), rows)
        own = self.scales.matrix()[batch * self.scales.grid[0] + row // self.block[0]]
        wide = np.repeat(own, self.block[1], axis=1)[:, :columns].reshape(-1)
        values: Vector = _VALUES[self.source.dtype_code][content] * wide[first - top * columns :][:count]
        return values


def _mxfp4_places(
    folder: Path, places: Mapping[str, TensorPlace], settings: Mapping[str, Any], dtype_code: str
) -> Mapping[str, TensorPlace]:
    del settings
    found: dict[str, TensorPlace] = {}
    for name, place in places.items():
        stem = name.removesuffix(_BLOCKS)
        exponents = places.get(stem + _EXPONENTS)
        if stem != name and exponents is not None:
            found[stem] = _mxfp4_place(folder, stem, place, exponents, dtype_code)
        elif not (name.endswith(_EXPONENTS) and name.removesuffix(_EXPONENTS) + _BLOCKS in places):
            found[name] = place
    return found


def _mxfp4_place(folder: Path, name: str, blocks: TensorPlace, exponents: TensorPlace, dtype_code: str) -> TensorPlace:
    shape = blocks.shape
    if len(shape) != 4 or exponents.shape != shape[:-1] or {blocks.dtype_code, exponents.dtype_code} != {"U8"}:
        raise BrokenCheckpoint(
            f"{folder}: {blocks.name} ({blocks.dtype_code}, {list(shape)}) with {exponents.name} "
            f"({exponents.dtype_code}, {list(exponents.shape)}) is a form of MXFP4 that evovlm does not read."
        )
    experts, rows, groups, width = shape
    plain = (experts, groups * width * 2, rows)
    return Mxfp4Place(
        file=blocks.file,
        name=name,
        dtype_code=dtype_code,
        shape=plain,
        start=0,
        stop=size_of(plain, dtype_code),
        blocks=blocks,
        exponents=exponents,
        experts=_Experts(),
    )


@dataclass(slots=True, eq=False)
class _Experts:
    """The experts of a tensor that were read last: chunks of one follow each other, and its rows are spread on disk."""

    _kept: OrderedDict[int, Vector] = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)

    def get(self, place: "Mxfp4Place", expert: int) -> Vector:
        with self._lock:
            if expert not in self._kept:
                self._kept[expert] = place.expert(expert)
                while len(self._kept) > _KEPT_EXPERTS:
                    self._kept.popitem(last=False)
            return self._kept[expert]


_KEPT_EXPERTS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Mxfp4Place(ComputedPlace):
    """Experts of 4-bit floats (E2M1, two to a byte) times a power of two for each group of 32, transposed.

    The format is OCP Microscaling v1.0; the layout is gpt-oss's, (experts, rows, groups, 16 bytes).
    """

    blocks: TensorPlace
    exponents: TensorPlace
    experts: _Experts

    def numbers(self, first: int, count: int) -> Vector:
        """Return the products in float32; each is exact."""
        size = self.shape[1] * self.shape[2]
        values = np.empty(count, dtype=np.float32)
        done = 0
        while done < count:
            expert, start = divmod(first + done, size)
            part = self.experts.get(self, expert)[start : start + count - done]
            values[done : done + len(part)] = part
            done += len(part)
        return values

    def expert(self, number: int) -> Vector:
        """Return one expert's numbers, row-major."""
        _, rows, groups, width = self.blocks.shape
        packed = np.empty((rows * groups, width), dtype=np.uint8)
        self.blocks.read_into(packed.reshape(-1).data, start=number * packed.size)
        exponents = np.empty(rows * groups, dtype=np.uint8)
        self.exponents.read_into(exponents.data, start=number * exponents.size)
        values = np.empty((rows * groups, 2 * width), dtype=np.float32)
        values[:, 0::2], values[:, 1::2] = _FP4[packed & 15], _FP4[packed >> 4]
        with np.errstate(invalid="ignore"):
            values *= _POWERS[exponents][:, None]
        return np.ascontiguousarray(values.reshape(rows, -1).T).reshape(-1)
