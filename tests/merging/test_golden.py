"""The methods against mergekit 0.1.5: see tests/golden/README.md for who made the files, and how."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from evovlm.merging.arithmetic.buffers import Vector
from evovlm.merging.arithmetic.combination import Combination, Term
from evovlm.merging.arithmetic.methods import METHODS
from evovlm.recipes.recipe import MergeSettings
from tests.golden.fixtures import CASES, TENSORS, Case
from tests.merging.vectors import carried_out, method_inputs, task_vectors

# Angles and lengths are sums over a tensor, which the peer takes in float32, in an order that depends on its build.
SPHERICAL = ("slerp", "nuslerp", "multislerp", "karcher", "model_stock")
# Steps so small that the divergence of a row, which the peer sums in float32, is rounding there.
TOO_SMALL = ("model.layers.0.self_attn.k_proj.weight",)
# Column by column (what the peer calls row_wise) is not offered; ties and rescaling are two things here.
NOT_OFFERED = ("nuslerp_columns", "ties_rescale")

OFFERED = [case for case in CASES if not case.name.startswith(NOT_OFFERED)]


@dataclass(frozen=True)
class GivenMask:
    """Keeps what the peer kept."""

    kept: np.ndarray[tuple[int], np.dtype[np.bool_]]

    def scale(self, values: Vector, start: int, first: np.float32, second: np.float32) -> None:
        kept = self.kept[start : start + len(values)]
        np.multiply(values, kept, out=values)
        np.multiply(values, first, out=values)
        np.multiply(values, second, out=values)


def our_settings(case: Case, tensor: str) -> MergeSettings:
    theirs = case.settings(tensor)
    rescales = {"rescale": "l1" if theirs["rescale"] else "none"} if "rescale" in theirs else {}
    renamed = {
        "lambda": "lambda_",
        "normalize": "normalize",
        "normalize_weights": "normalize",
        "filter_wise": "row_wise",
    }
    renamed |= {"epsilon": "threshold"} if case.method == "ram" else {}
    renamed |= {"select_topk": "select_topk", "max_iter": "max_iterations", "tol": "tolerance"}
    values = {ours: theirs[key] for key, ours in renamed.items() if key in theirs}
    if "nuslerp_flatten" in theirs:
        values["row_wise"] = not theirs["nuslerp_flatten"]
    return MergeSettings(**rescales, **values)  # type: ignore[arg-type]


def planned(case: Case, tensor: str, *, given_masks: bool = True) -> tuple[object, Combination]:
    """Return the tensor's vectors and our combination, with the peer's masks and rescale factors put in."""
    models, parameters = case.inputs(tensor), case.parameters(tensor)
    names = case.sources(tensor)
    method = METHODS[case.method]
    sources = [models[name] for name in names]
    base = models[case.base] if case.base else None
    if method.base == "first" and base is not None:
        sources = [base, *sources]
    vectors = task_vectors(base if method.base in ("needed", "optional") else None, sources, name=tensor)

    def numbers(key: str, usual: float) -> list[float]:
        return [float(usual if (value := parameters[name].get(key)) is None else value) for name in names]

    weights = numbers("scale" if case.method == "passthrough" else "weight", 1.0)
    if case.method in ("slerp", "nearswap"):
        weights = [float(case.settings(tensor)["t"])]
    settings = our_settings(case, tensor)
    inputs = method_inputs(
        case.method,
        vectors,
        weights,
        numbers("density", 1.0),
        gammas=numbers("gamma", 0.01),
        epsilons=numbers("epsilon", 0.15),
        settings=settings,
    )
    combination = method.function(inputs)
    if case.method == "arcee_fusion" and tensor in TOO_SMALL:
        taken = (case.expected(tensor) != models[str(case.base)]).flatten().numpy()
        return vectors, replace(combination, terms=(Term(index=0, first=1.0, keep=GivenMask(taken)),))
    if given_masks and case.method == "sce":
        combination = with_selection(case, tensor, combination)
    elif given_masks:
        combination = replace(
            combination, terms=tuple(with_mask(case, tensor, term, weights) for term in combination.terms)
        )
    return vectors, combination


def with_selection(case: Case, tensor: str, combination: Combination) -> Combination:
    """Put in the entries that the peer selected, and its weights: equal ones where squares are below 1e-6."""
    models = case.inputs(tensor)
    mask = case.mask(tensor, "all")
    if not combination.terms:
        assert mask is not None
        assert not mask.any()
        return combination
    selected = np.ones(case.expected(tensor).numel(), dtype=bool) if mask is None else mask.flatten().numpy()
    offsets = [(models[name].double() - models[str(case.base)].double()).flatten() for name in case.sources(tensor)]
    squares = [float((offset.numpy()[selected] ** 2).sum()) / len(selected) for offset in offsets]
    weights = tuple(square / sum(squares) if sum(squares) >= 1e-6 else 1 / len(squares) for square in squares)
    terms = tuple(replace(term, keep=GivenMask(selected)) for term in combination.terms)
    assert combination.election is not None
    if mask is None and sum(squares) >= 1e-6:
        assert combination.election.mix_weights == pytest.approx(weights, rel=1e-4)
    election = replace(combination.election, mix_weights=weights, divisor_weights=weights)
    return replace(combination, terms=terms, across=None, election=election)


def with_mask(case: Case, tensor: str, term: Term, weights: list[float]) -> Term:
    name = case.sources(tensor)[term.index] if term.index < len(case.sources(tensor)) else ""
    mask = case.mask(tensor, name)
    if mask is None:
        return term
    kept = GivenMask(mask.flatten().numpy())
    return replace(term, keep=kept, first=case.factor(tensor, name), second=weights[term.index])


def merged(case: Case, tensor: str) -> torch.Tensor:
    vectors, combination = planned(case, tensor)
    return carried_out(vectors, combination)  # type: ignore[arg-type]


@pytest.mark.parametrize("case", [case for case in OFFERED if case.arithmetic == "float32"], ids=lambda case: case.name)
def test_float32_is_the_peers_to_the_bit_given_its_masks(case: Case) -> None:
    for tensor in TENSORS:
        ours, theirs = merged(case, tensor), case.expected(tensor).flatten()
        if case.method in (*SPHERICAL, "sce", "nearswap"):
            # Within 4 units in the last place of a float32 around 1.
            assert torch.allclose(ours, theirs, rtol=0, atol=5e-7), tensor
        else:
            assert torch.equal(ours, theirs), (tensor, float((ours - theirs).abs().max()))


@pytest.mark.parametrize(
    "case", [c for c in OFFERED if c.arithmetic == "bfloat16_in_float32"], ids=lambda case: case.name
)
def test_bfloat16_models_in_float32_differ_at_most_by_how_a_half_is_rounded(case: Case) -> None:
    for tensor in TENSORS:
        ours, theirs = merged(case, tensor).bfloat16(), case.expected(tensor).flatten()
        differing = ours != theirs
        assert int(differing.sum()) <= (2 if case.method in (*SPHERICAL, "sce") else 0), tensor
        assert torch.equal(steps_apart(ours, theirs)[differing], torch.ones(int(differing.sum()), dtype=torch.int32))


def exact(case: Case, tensor: str) -> torch.Tensor:
    """Return the same combination carried out in float64."""
    _, combination = planned(case, tensor)
    if combination.election is not None or combination.across is not None:
        pytest.skip("the election is by the float32 sum")
    if any(not isinstance(term.keep, (GivenMask, type(None))) for term in combination.terms):
        pytest.skip("what is kept depends on the arithmetic")
    models = case.inputs(tensor)
    base = (
        models[case.base].double().flatten()
        if METHODS[case.method].base in ("needed", "optional") and case.base
        else None
    )
    names = case.sources(tensor)
    total = torch.zeros(case.expected(tensor).numel(), dtype=torch.float64)
    for term in combination.terms:
        name = ([case.base, *names] if METHODS[case.method].base == "first" else names)[term.index]
        vector = models[str(name)].double().flatten()
        vector = vector if base is None else vector - base
        kept = term.keep.kept if isinstance(term.keep, GivenMask) else np.ones(len(vector), dtype=bool)
        total += vector * torch.from_numpy(kept) * term.first * term.second
    return total / combination.divisor * combination.lambda_ + (0 if base is None else base)


@pytest.mark.parametrize("case", [c for c in OFFERED if c.arithmetic == "bfloat16"], ids=lambda case: case.name)
def test_bfloat16_is_nearer_to_float64_than_the_peers_bfloat16_arithmetic(case: Case) -> None:
    ours_off = theirs_off = 0.0
    for tensor in TENSORS:
        wanted = exact(case, tensor)
        ours, theirs = merged(case, tensor).bfloat16().double(), case.expected(tensor).flatten().double()
        # One rounding: never further than half a unit in the last place of bfloat16 (8 bits).
        assert bool(((ours - wanted).abs() <= wanted.abs() * 2**-8 + 1e-6).all())
        ours_off += float(((ours - wanted) ** 2).sum())
        theirs_off += float(((theirs - wanted) ** 2).sum())
    assert ours_off <= theirs_off


def steps_apart(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    return (left.view(torch.int16).int() - right.view(torch.int16).int()).abs()


@pytest.mark.parametrize(
    "case",
    [c for c in OFFERED if c.method in ("ties", "breadcrumbs", "breadcrumbs_ties") and c.arithmetic == "float32"],
    ids=lambda case: case.name,
)
def test_what_is_kept_by_magnitude_is_what_the_peer_keeps_but_for_equal_ones(case: Case) -> None:
    for tensor in TENSORS:
        models = case.inputs(tensor)
        _, combination = planned(case, tensor, given_masks=False)
        for term in combination.terms:
            name = case.sources(tensor)[term.index]
            mask = case.mask(tensor, name)
            if mask is None:
                assert term.keep is None
                continue
            vector = (models[name] - models[str(case.base)]).flatten()
            ours = vector.numpy().copy()
            assert term.keep is not None
            term.keep.scale(ours, 0, np.float32(1), np.float32(1))
            theirs = vector * mask.flatten()
            assert sorted(np.abs(ours).tolist()) == sorted(theirs.abs().tolist())
