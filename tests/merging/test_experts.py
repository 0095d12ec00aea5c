"""Experts one by one, joined and transposed: each form is computed from the others, as transformers converts them."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from evovlm.merging.checkpoint.experts import Experts, ExpertsForm, expert_modules, form_of
from evovlm.merging.checkpoint.safetensors_file import TensorPlace, tensor_places

MODULE = "model.layers.0.mlp.experts."
N, INNER, HIDDEN = 3, 5, 8
BY_ONE = ({"gate_proj": "gate", "up_proj": "up", "down_proj": "down"}, {"w1": "gate", "w3": "up", "w2": "down"})
SIZES = {"n_experts": N, "inner": INNER, "hidden": HIDDEN}
FORMS = [
    *(ExpertsForm(**SIZES, leaves=leaves) for leaves in BY_ONE),  # type: ignore[arg-type]
    *(ExpertsForm(**SIZES, are_transposed=turned) for turned in (False, True)),
]


def stored(form: ExpertsForm, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return the same experts in any form, written as transformers' conversions define the forms."""
    gate, up = torch.randn(2, N, INNER, HIDDEN, generator=torch.Generator().manual_seed(0)).to(dtype)
    down = torch.randn(N, HIDDEN, INNER, generator=torch.Generator().manual_seed(1)).to(dtype)
    if form.leaves is not None:
        parts = {"gate": gate, "up": up, "down": down}
        return {f"{MODULE}{n}.{leaf}.weight": parts[part][n] for n in range(N) for leaf, part in form.leaves.items()}
    joined = {"gate_up_proj": torch.cat([gate, up], dim=1), "down_proj": down}
    return {MODULE + name: tensor.mT if form.are_transposed else tensor for name, tensor in joined.items()}


def places_of(folder: Path, form: ExpertsForm, dtype: torch.dtype = torch.bfloat16) -> dict[str, TensorPlace]:
    file = folder / "experts.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in stored(form, dtype).items()}, file)
    return dict(tensor_places(file))


@pytest.mark.parametrize("wanted", FORMS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16])
def test_experts_of_one_form_have_the_bits_of_any_other(
    form: ExpertsForm, wanted: ExpertsForm, dtype: torch.dtype, tmp_path: Path
) -> None:
    places = places_of(tmp_path, form, dtype)
    assert expert_modules([*places, "model.layers.0.mlp.gate.weight"]) == {MODULE}
    assert form_of(places, MODULE) == form
    experts = Experts.among(places, MODULE)
    assert experts is not None
    found, exact = experts.in_form(wanted).places, stored(wanted, dtype)
    assert {MODULE + name for name in found} == exact.keys()
    for name, place in found.items():
        assert torch.equal(place.read(), exact[MODULE + name]), name


@given(start=st.integers(0, 500), size=st.integers(1, 500))
def test_any_part_of_joined_experts_has_the_bytes_of_the_whole(turned: TensorPlace, start: int, size: int) -> None:
    whole = bytes(turned.read_bytes())
    start %= len(whole)
    part = bytearray(min(size, len(whole) - start))
    turned.read_into(part, start=start)
    assert bytes(part) == whole[start : start + len(part)]


@pytest.fixture(scope="module")
def turned(tmp_path_factory: pytest.TempPathFactory) -> TensorPlace:
    experts = Experts.among(places_of(tmp_path_factory.mktemp("experts"), FORMS[0]), MODULE)
    assert experts is not None
    return experts.in_form(FORMS[3]).places["gate_up_proj"]


@pytest.mark.parametrize("change", ["an expert lacks a matrix", "another shape", "quantised", "two dtypes"])
def test_other_forms_are_left_as_they_are(change: str, tmp_path: Path) -> None:
    file = tmp_path / "experts.safetensors"
    places_of(tmp_path, FORMS[0])
    tensors = load_file(file)
    name = f"{MODULE}1.up_proj.weight"
    if change == "an expert lacks a matrix":
        del tensors[name]
    else:
        changed = {"another shape": tensors[name][:2], "quantised": tensors[name].to(torch.int8)}
        tensors[name] = changed.get(change, tensors[name].float())
    if change == "quantised":
        tensors = {name: tensor.to(torch.int8) for name, tensor in tensors.items()}
    save_file(tensors, file)
    assert Experts.among(tensor_places(file), MODULE) is None
