"""What mergekit 0.1.5 calls the merge methods' inputs and parameters, beside what a recipe calls them.

From its documentation and its behaviour; `tests/golden/mergekit_yaml` holds what it made of real files.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

BaseRole = Literal["required", "optional", "input"]
"""What `base_model` is to a method: what deltas are taken from (always, or if given), or one input like the others."""


class SharedSetting(NamedTuple):
    """A parameter that all sources share: mergekit's name; `kind` is how its value is read.

    An "inverse" is the recipe's flag turned round.
    """

    name: str
    kind: Literal["number", "whole", "flag", "inverse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MergekitMethod:
    """A row of the table.

    `weight` is mergekit's name for a source's weight (None: it weighs all sources the same), shared like a setting
    if `weight_is_shared`, and `weight_default` what it takes for one that is not given. `parameters` are the source's
    other numbers, under the same name on both sides; `settings` maps fields of `MergeSettings` to mergekit's.
    `averages` says that the sum is divided by its weights unless `normalize` is false.
    `rescales` says that mergekit restores the L1 norm by default. `fixed` are parameters that have an equivalent
    here with one value only, which is also their default; `no_effect` those that change no number.
    """

    base: BaseRole
    min_sources: int = 1
    max_sources: int | None = None
    weight: str | None = "weight"
    weight_is_shared: bool = False
    weight_default: float | None = None
    parameters: tuple[str, ...] = ()
    settings: Mapping[str, SharedSetting] = field(default_factory=dict)
    averages: bool = False
    rescales: bool = False
    fixed: Mapping[str, float | bool] = field(default_factory=dict)
    no_effect: frozenset[str] = frozenset()

    @property
    def source_parameters(self) -> tuple[str, ...]:
        """The parameters that a model may have in mergekit's file."""
        return self.parameters if self.weight is None or self.weight_is_shared else (self.weight, *self.parameters)

    @property
    def shared_parameters(self) -> tuple[str, ...]:
        """The parameters that may only be above the models."""
        weight = (self.weight,) if self.weight is not None and self.weight_is_shared else ()
        rescale = ("rescale",) if self.rescales else ()
        return (*weight, *rescale, *self.fixed, *(setting.name for setting in self.settings.values()))


ALWAYS_IGNORED = frozenset({"int8_mask"})
"""Parameters that are in many published files and do not change a number of any method."""

_FAMILY = MergekitMethod(
    base="required",
    parameters=("density",),
    settings={"normalize": SharedSetting("normalize", "flag"), "lambda_": SharedSetting("lambda", "number")},
)
_TRIMMED = replace(_FAMILY, fixed={"rescale": False})
_DARE = replace(_FAMILY, rescales=True)
_BREADCRUMBS = replace(_TRIMMED, parameters=("density", "gamma"))
_DELLA = replace(_DARE, parameters=("density", "epsilon"))

MERGEKIT_METHODS: Mapping[str, MergekitMethod] = {
    "linear": MergekitMethod(base="input", averages=True, settings={"normalize": SharedSetting("normalize", "flag")}),
    "slerp": MergekitMethod(base="required", max_sources=1, weight="t", weight_is_shared=True),
    "nuslerp": MergekitMethod(
        base="optional",
        min_sources=2,
        max_sources=2,
        settings={"row_wise": SharedSetting("nuslerp_flatten", "inverse")},
        fixed={"nuslerp_row_wise": False},
    ),
    "multislerp": MergekitMethod(
        base="optional",
        averages=True,
        settings={"normalize": SharedSetting("normalize_weights", "flag")},
        fixed={"eps": 1e-8},
    ),
    "karcher": MergekitMethod(
        base="input",
        weight=None,
        settings={"max_iterations": SharedSetting("max_iter", "whole"), "tolerance": SharedSetting("tol", "number")},
    ),
    "task_arithmetic": replace(_FAMILY, parameters=(), no_effect=frozenset({"density", "rescale"})),
    "ties": replace(_TRIMMED, averages=True),
    "dare_linear": _DARE,
    "dare_ties": _DARE,
    "breadcrumbs": _BREADCRUMBS,
    "breadcrumbs_ties": _BREADCRUMBS,
    "della": replace(_DELLA, averages=True),
    "della_linear": _DELLA,
    "model_stock": MergekitMethod(
        base="required", min_sources=2, weight=None, settings={"row_wise": SharedSetting("filter_wise", "flag")}
    ),
    "sce": MergekitMethod(
        base="required", weight=None, settings={"select_topk": SharedSetting("select_topk", "number")}
    ),
    "nearswap": MergekitMethod(base="required", max_sources=1, weight="t", weight_is_shared=True),
    "arcee_fusion": MergekitMethod(base="required", max_sources=1, weight=None),
    "ram": MergekitMethod(base="required", weight=None, settings={"threshold": SharedSetting("epsilon", "number")}),
    "passthrough": MergekitMethod(base="input", max_sources=1, weight="scale", weight_default=1.0),
}
