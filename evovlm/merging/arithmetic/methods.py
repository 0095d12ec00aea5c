"""The table of merge methods: what each takes, and which paper it is from."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from evovlm.errors import ConfigError
from evovlm.merging.arithmetic import method_functions as functions
from evovlm.merging.arithmetic.combination import Combination
from evovlm.merging.arithmetic.method_functions import MethodInputs
from evovlm.merging.models.tensor_names import component_of
from evovlm.plugins import PluginTable
from evovlm.recipes.problems import did_you_mean
from evovlm.recipes.recipe import MergeTemplate, ParameterMerge
from evovlm.recipes.source_values import (
    BASE_COMPONENTS,
    COMPONENTS,
    SOURCE_PARAMETERS,
    Component,
    name_in_block,
    numbers_of,
    value_at,
)

BaseRole = Literal["needed", "optional", "first", "none"]
"""What a method does with a base: take differences (`optional`: if one is given), blend it in as the first model, or
nothing."""

_CANCELS = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A row of the table.

    `parameters` are those that a source takes, `settings` the fields of `MergeSettings` that the method uses,
    `normalize` is the default of that setting. `sources` gives the least and the largest number of sources (None: any).
    `copies_sole` says that at weight 1 a source alone is the result, byte for byte.
    `elects` says that only entries of the elected sign count; `whole_rows`, that an entry depends on its whole row;
    `by_inner_products`, that it depends on sums over the whole tensor.
    """

    name: str
    summary: str
    paper: str
    base: BaseRole
    function: Callable[[MethodInputs], Combination]
    parameters: tuple[str, ...] = ("weight",)
    settings: frozenset[str] = field(default_factory=frozenset)
    normalize: bool = False
    sources: tuple[int, int | None] = (1, None)
    copies_sole: bool = True
    elects: bool = False
    whole_rows: bool = False
    by_inner_products: bool = False

    @property
    def needs_base(self) -> bool:
        """Whether the method needs a base."""
        return self.base in ("needed", "first")


_TASK_VECTORS = frozenset({"normalize", "lambda_"})
_DROPPING = _TASK_VECTORS | {"rescale"}

_ROWS = (
    Method(
        name="linear",
        summary="weighted average of the models",
        paper="Wortsman et al. 2022, arXiv 2203.05482",
        base="none",
        function=functions.linear,
        settings=frozenset({"normalize"}),
        normalize=True,
    ),
    Method(
        name="slerp",
        summary="point on the arc from the base to the source; the weight is t",
        paper="Shoemake 1985, SIGGRAPH 19(3)",
        base="first",
        function=functions.slerp,
        by_inner_products=True,
        sources=(1, 1),
    ),
    Method(
        name="nuslerp",
        summary="point on the arc between two models or task vectors, by weight",
        paper="Goddard et al. 2024, arXiv 2403.13257 (mergekit)",
        base="optional",
        function=functions.nuslerp,
        by_inner_products=True,
        settings=frozenset({"row_wise"}),
        sources=(2, 2),
    ),
    Method(
        name="multislerp",
        summary="barycentric mean on the sphere of any number of models",
        paper="Goddard et al. 2024, arXiv 2403.13257 (mergekit)",
        base="optional",
        function=functions.multislerp,
        by_inner_products=True,
        settings=frozenset({"normalize"}),
        normalize=True,
    ),
    Method(
        name="karcher",
        summary="Riemannian mean of the models' directions, by weight",
        paper="Grove & Karcher 1973, Math. Z. 132",
        base="none",
        function=functions.karcher,
        by_inner_products=True,
        settings=frozenset({"max_iterations", "tolerance"}),
    ),
    Method(
        name="task_arithmetic",
        summary="base plus the weighted sum of task vectors",
        paper="Ilharco et al. 2023, arXiv 2212.04089",
        base="needed",
        function=functions.task_arithmetic,
        settings=_TASK_VECTORS,
    ),
    Method(
        name="ties",
        summary="largest entries by magnitude, elected sign, mean of those that agree",
        paper="Yadav et al. 2023, arXiv 2306.01708",
        base="needed",
        function=functions.ties,
        elects=True,
        parameters=("weight", "density"),
        settings=_TASK_VECTORS,
        normalize=True,
    ),
    Method(
        name="dare_linear",
        summary="random entries kept and rescaled, weighted sum",
        paper="Yu et al. 2024, arXiv 2311.03099",
        base="needed",
        function=functions.dare_linear,
        parameters=("weight", "density"),
        settings=_DROPPING,
    ),
    Method(
        name="dare_ties",
        summary="random entries kept and rescaled, elected sign, sum of those that agree",
        paper="Yu et al. 2024, arXiv 2311.03099; Akiba et al. 2025, arXiv 2403.13187",
        base="needed",
        function=functions.dare_ties,
        elects=True,
        parameters=("weight", "density"),
        settings=_DROPPING,
    ),
    Method(
        name="breadcrumbs",
        summary="entries neither very large nor small, weighted sum",
        paper="Davari & Belilovsky 2024, arXiv 2312.06795",
        base="needed",
        function=functions.breadcrumbs,
        parameters=("weight", "density", "gamma"),
        settings=_TASK_VECTORS,
    ),
    Method(
        name="breadcrumbs_ties",
        summary="entries neither very large nor small, elected sign, sum of those that agree",
        paper="Davari & Belilovsky 2024, arXiv 2312.06795; Yadav et al. 2023, arXiv 2306.01708",
        base="needed",
        function=functions.breadcrumbs_ties,
        elects=True,
        parameters=("weight", "density", "gamma"),
        settings=_TASK_VECTORS,
    ),
    Method(
        name="della",
        summary="random entries kept, large ones more often, elected sign, mean of those that agree",
        paper="Deep et al. 2024, arXiv 2406.11617",
        base="needed",
        function=functions.della,
        elects=True,
        parameters=("weight", "density", "epsilon"),
        settings=_DROPPING,
        normalize=True,
        whole_rows=True,
    ),
    Method(
        name="della_linear",
        summary="random entries kept, large ones more often, weighted sum",
        paper="Deep et al. 2024, arXiv 2406.11617",
        base="needed",
        function=functions.della_linear,
        parameters=("weight", "density", "epsilon"),
        settings=_DROPPING,
        whole_rows=True,
    ),
    Method(
        name="model_stock",
        summary="base moved towards the mean as far as the task vectors agree",
        paper="Jang et al. 2024, arXiv 2403.19522",
        base="needed",
        function=functions.model_stock,
        by_inner_products=True,
        parameters=(),
        settings=frozenset({"row_wise"}),
        sources=(2, None),
    ),
    Method(
        name="sce",
        summary="entries that vary most, sources weighted by their squares, opposing signs erased",
        paper="Wan et al. 2024, arXiv 2408.07990 (FuseChat)",
        base="needed",
        function=functions.sce,
        by_inner_products=True,
        parameters=(),
        settings=frozenset({"select_topk"}),
    ),
    Method(
        name="nearswap",
        summary="each entry of the base moved towards the source by at most t; the weight is t",
        paper="alchemonaut 2024, QuartetAnemoi-70B (model card); mergekit",
        base="needed",
        function=functions.nearswap,
        sources=(1, 1),
        copies_sole=False,
    ),
    Method(
        name="arcee_fusion",
        summary="the source's most important entries, by change and divergence of their row",
        paper="Arcee AI 2025 (mergekit)",
        base="needed",
        function=functions.arcee_fusion,
        by_inner_products=True,
        parameters=(),
        sources=(1, 1),
    ),
    Method(
        name="ram",
        summary="all changes of all sources, averaged where several change an entry",
        paper="arXiv 2601.13572",
        base="needed",
        function=functions.ram,
        parameters=(),
        settings=frozenset({"threshold"}),
    ),
    Method(
        name="passthrough",
        summary="one model as it is, times its weight",
        paper="-",
        base="none",
        function=functions.passthrough,
        sources=(1, 1),
    ),
)
METHODS: Mapping[str, Method] = PluginTable(
    "evovlm.methods", {method.name: method for method in _ROWS}, row_type=Method
)


def get_method(template: MergeTemplate) -> Method:
    """Return the row for the template's method.

    Raises ConfigError for an unknown method, a missing base, too few or too many sources, or a setting that the method
    would ignore.
    """
    if template.method not in METHODS:
        raise ConfigError(f"method: unknown method '{template.method}'{did_you_mean(template.method, METHODS)}")
    method = METHODS[template.method]
    if method.needs_base and template.base is None:
        takes = "starts from" if method.base == "first" else "takes differences from"
        raise ConfigError(f"base: missing; {method.name} {takes} a base model.")
    least, most = method.sources
    n_sources = len(template.sources)
    if n_sources < least or (most is not None and n_sources > most):
        needed = f"exactly {least}" if most == least else f"at least {least}"
        besides = " besides the base" if method.base == "first" else ""
        raise ConfigError(f"sources: {method.name} takes {needed}{besides}, not {n_sources}.")
    for name, given in template.settings.changed().items():
        if name not in method.settings:
            raise ConfigError(f"settings.{name.rstrip('_')}: {given} would make no difference to {method.name}.")
    return method


def check_parameters(method: Method, recipe: ParameterMerge) -> None:
    """Raise ConfigError for a number that the method would ignore, or weights that sum to 0 where it divides."""
    for source, numbers in recipe.parameters.items():
        for name, parameter in SOURCE_PARAMETERS.items():
            given = set(numbers_of(getattr(numbers, name)))
            if name not in method.parameters and given != {parameter.default}:
                raise ConfigError(f"parameters.{source}.{name}: {method.name} has no {name}.")
    _check_sums(method, recipe)


def check_tensor_names(recipe: ParameterMerge, tensor_names: Iterable[str]) -> None:
    """Raise ConfigError when numbers are for a tensor that the merge does not have."""
    known = {name_in_block(name) for name in tensor_names}
    for name in sorted(recipe.tensor_names() - known):
        raise ConfigError(f"parameters: '{name}' is not a merged tensor of these models{did_you_mean(name, known)}")


def _component_in_block(name: str) -> Component:
    return component_of(name if name.startswith(("model.", "lm_head.")) else f"model.layers.0.{name}")


def _check_sums(method: Method, recipe: ParameterMerge) -> None:
    """Raise ConfigError when the method divides by the sum of the weights and they cancel."""
    wanted = recipe.settings.normalize
    if "normalize" not in method.settings or method.elects or not (method.normalize if wanted is None else wanted):
        return
    single = [(_component_in_block(name), name) for name in sorted(recipe.tensor_names())]
    for unit in range(max(recipe.unit_lengths(), default=1)):
        for component, name in [*((each, None) for each in (*COMPONENTS, *BASE_COMPONENTS)), *single]:
            weights = [value_at(numbers.weight, unit, component, name) for numbers in recipe.parameters.values()]
            if abs(math.fsum(weights)) < _CANCELS * math.fsum(map(abs, weights)):
                raise ConfigError(
                    f"parameters: the weights {', '.join(f'{weight:g}' for weight in weights)} sum to 0, and "
                    f"{method.name} divides by their sum.\n"
                    "    Choose other weights, or set `normalize: false` in the settings."
                )
