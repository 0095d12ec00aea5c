"""Metrics of the `evaluate` library as ours: `evaluate:PLACE`, with `#KEY` and `*FACTOR` where they are needed.

    evaluate:./my_metric.py              a local script, or a folder that holds one of its name
    evaluate:./my_bleu#bleu              which of its results counts
    evaluate:sacrebleu#score*0.01        from the hub, of 0 to 100: made 0 to 1

Such a metric is a Python script, fetched first if it is one of the hub, and runs only where the user allowed it
(foreign_code.py). A local path starts at the current folder, in a task file at the file's own.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from evovlm.errors import FOREIGN_ERRORS, TaskError, first_line
from evovlm.foreign_code import ForeignCode, read_start, require_allowed

PREFIX = "evaluate:"

_NAME = re.compile(
    r"evaluate:(?P<place>[^#*]+)(?:#(?P<key>[^#*]+))?(?:\*(?P<factor>[0-9]*\.?[0-9]+(?:[eE]-?[0-9]+)?))?"
)
_ROUNDING = 1e-6
# As evaluate's get_imports has them: a file beside the script, and an import whose comment says where to fetch it.
_IMPORTS = re.compile(
    r"^(?:import|from)\s+(?P<beside>\.?)(?P<module>[^\s.]+)[^#\r\n]*(?:#\s+From:\s+(?P<url>\S+))?", re.MULTILINE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Name:
    place: str
    key: str | None
    factor: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LibraryMetric:
    """A metric whose script was loaded; open it with `open_library_metric`."""

    name: str
    module: Any

    def values(self, *, references: tuple[str, ...], text: str) -> tuple[float, ...]:
        """Return the metric's value of an answer for each reference, in [0, 1].

        Raises TaskError when the metric fails, gives several numbers of which none is named, or one outside [0, 1].
        """
        return tuple(_value(self.module, self.name, reference=reference, text=text) for reference in references)


def open_library_metric(name: str, *, allow_code: bool) -> LibraryMetric:
    """Load a metric's script, which runs it.

    Raises CodeNotAllowed without `allow_code`, TaskError when the script cannot be loaded or compares something else
    than texts.
    """
    require_allowed(metric_code(name), allow_code=allow_code)
    return LibraryMetric(name=name, module=_load(name))


def metric_code(name: str) -> tuple[ForeignCode, ...]:
    """Return the script that a metric would run, and the files that it has `evaluate` copy or fetch; runs nothing.

    Raises TaskError for a name that cannot be read, or a script that does not exist.
    """
    path = _local(name, Path())
    if path is None:
        return (ForeignCode(file=f"hub:{_parse(name).place}", used_for=f"the metric {name}"),)
    script = path / f"{path.resolve().name}.py" if path.is_dir() else path
    if not script.is_file():
        raise TaskError(
            f"{name}: the metric script {script} does not exist. Name a .py file, or a folder with one of its name."
        )
    more = [
        found["url"] or str(script.with_name(f"{found['module']}.py"))
        for found in _IMPORTS.finditer(read_start(script))
        if found["url"] or found["beside"]
    ]
    return (
        ForeignCode(file=str(script), used_for=f"the metric {name}"),
        *(ForeignCode(file=each, used_for=f"imported by {script.name}") for each in more),
    )


def metric_from(folder: Path, name: str) -> str:
    """Return a metric's name with its path, if it names one from `folder` on, absolute.

    Raises TaskError for a name that cannot be read, or a script that does not exist.
    """
    path = _local(name, folder)
    return name if path is None else f"{PREFIX}{path.resolve()}{name.removeprefix(PREFIX + _parse(name).place)}"


def _local(name: str, folder: Path) -> Path | None:
    """Return the script or folder that a metric names from `folder` on; None for a metric of the hub."""
    place = _parse(name).place
    path = folder / Path(place).expanduser()
    if path.exists():
        return path
    if place.startswith((".", "/", "~")) or place.endswith(".py") or place.count("/") > 1:
        raise TaskError(
            f"{name}: the metric script {path} does not exist. Name a .py file, or a folder with one of its name."
        )
    return None


def _parse(name: str) -> _Name:
    found = _NAME.fullmatch(name)
    if found is None:
        raise TaskError(
            f"The metric '{name}' cannot be read. Write evaluate:NAME_OR_PATH, then #KEY and *FACTOR if need be."
        )
    return _Name(place=found["place"], key=found["key"], factor=float(found["factor"] or 1.0))


@lru_cache(maxsize=8)
def _load(name: str) -> Any:
    place = _parse(name).place
    path = _local(name, Path())
    import evaluate

    try:
        module = evaluate.load(place if path is None else str(path.resolve()), keep_in_memory=True)
    except FOREIGN_ERRORS as error:
        raise TaskError(
            f"{name}: evaluate cannot load it ({first_line(error)}).\n"
            "    Correct the script, or without a connection save it and name its path: evaluate:PATH.py"
        ) from error
    _check_takes_texts(module, name)
    return module


def _check_takes_texts(module: Any, name: str) -> None:
    for features in _feature_sets(module):
        if set(features) == {"predictions", "references"} and _is_text(features["predictions"]):
            return
    raise TaskError(
        f"{name}: should compare predictions with references, both texts, and takes {_feature_sets(module)[0]}.\n"
        "    Use a metric of texts; for numbers there is accuracy."
    )


def _feature_sets(module: Any) -> list[Mapping[str, Any]]:
    features = module.features
    return list(features) if isinstance(features, list) else [features]


def _is_text(feature: Any) -> bool:
    return getattr(feature, "dtype", None) in ("string", "large_string")


def _value(module: Any, name: str, *, reference: str, text: str) -> float:
    several = not any(_is_text(features["references"]) for features in _feature_sets(module))
    try:
        results = module.compute(predictions=[text], references=[[reference]] if several else [reference])
    except FOREIGN_ERRORS as error:
        raise TaskError(
            f"{name}: failed on the answer {text[:60]!r} with the reference {reference[:60]!r}: {first_line(error)}"
        ) from error
    parsed = _parse(name)
    value = parsed.factor * _chosen(results, parsed.key, name=name)
    if not -_ROUNDING <= value <= 1 + _ROUNDING:
        raise TaskError(
            f"{name}: gave {value:g}, and a score lies in [0, 1]. Add a factor to its name, such as *0.01 for per cent."
        )
    return min(1.0, max(0.0, value))


def _chosen(results: Mapping[str, Any] | None, key: str | None, *, name: str) -> float:
    numbers = {each: number for each, value in (results or {}).items() if (number := _number(value)) is not None}
    if key is None and len(numbers) == 1:
        return next(iter(numbers.values()))
    if key is None or key not in numbers:
        found = ", ".join(numbers) or "none"
        raise TaskError(f"{name}: which number counts? It gives: {found}. Name one of them after a #.")
    return numbers[key]


def _number(value: Any) -> float | None:
    """Return a single number, or the only one of a list; None for anything else."""
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    if isinstance(value, (str, bytes, bool, list, tuple, dict)) or value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
