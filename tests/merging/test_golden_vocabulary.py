"""Vocabularies that differ, against mergekit 0.1.5 (tests/golden/README.md): which rows agree, and which cannot."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from evovlm.merging.writer import write_checkpoint
from evovlm.recipes.documents import load_recipe
from tests.golden import vocabulary_files as golden

N_BASE, N_A, N_B = golden.ROWS.values()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return golden.make_models(tmp_path_factory.mktemp("vocabularies"))


def merged(models: Path, method: str, out: Path) -> dict[str, torch.Tensor]:
    recipe = load_recipe(golden.place(method, models))
    return load_file(write_checkpoint(recipe, out).folder / "model.safetensors")


def close(method: str, ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Whether two tensors are equal; of an average, whose sources the peer adds in another order, nearly."""
    return torch.equal(ours, theirs) if method != "linear" else torch.allclose(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", golden.FILES)
def test_tensors_without_rows_for_tokens_are_the_peers(models: Path, method: str, tmp_path: Path) -> None:
    ours, theirs = merged(models, method, tmp_path / "out"), golden.results(method)
    assert ours.keys() == theirs.keys()
    for name in ours.keys() - set(golden.VOCABULARY_TENSORS):
        assert close(method, ours[name], theirs[name]), name


@pytest.mark.parametrize("method", ["task_arithmetic", "linear"])
def test_rows_of_tokens_that_all_models_have_are_the_peers(models: Path, method: str, tmp_path: Path) -> None:
    ours, theirs = merged(models, method, tmp_path / "out"), golden.results(method)
    for name in golden.VOCABULARY_TENSORS:
        assert close(method, ours[name][:N_BASE], theirs[name][:N_BASE]), name


@pytest.mark.parametrize("method", golden.FILES)
def test_rows_that_some_model_lacks_stay_the_hosts_where_the_peer_makes_up_a_base(
    models: Path, method: str, tmp_path: Path
) -> None:
    ours, theirs = merged(models, method, tmp_path / "out"), golden.results(method)
    a, b = (load_file(models / name / "model.safetensors") for name in ("a", "b"))
    for name in golden.VOCABULARY_TENSORS:
        assert torch.equal(ours[name][N_BASE:], b[name][N_BASE:])
        assert torch.allclose(theirs[name][N_A:], b[name][N_A:], rtol=0, atol=1e-6)
        between = slice(N_BASE, N_A)
        if method == "task_arithmetic":
            # The peer takes the mean of the models that have the token for the row that the base lacks.
            made_up = (a[name][between] + b[name][between]) / 2
            expected = made_up + 0.6 * (a[name][between] - made_up) + 0.4 * (b[name][between] - made_up)
            assert torch.allclose(theirs[name][between], expected, rtol=0, atol=1e-6)
        assert not torch.allclose(theirs[name][between], b[name][between])


def test_the_share_kept_is_of_the_rows_that_have_a_task_vector(models: Path, tmp_path: Path) -> None:
    ours, base = merged(models, "ties", tmp_path / "out"), load_file(models / "base" / "model.safetensors")
    a, b = (load_file(models / name / "model.safetensors") for name in ("a", "b"))
    for name in golden.VOCABULARY_TENSORS:
        kept = 0
        for source in (a, b):
            change = (source[name][:N_BASE] - base[name]).abs().flatten()
            kept += int((change >= change.sort(descending=True).values[change.numel() // 2 - 1]).sum())
        assert kept == pytest.approx(base[name].numel(), abs=20)
        assert not torch.equal(ours[name][:N_BASE], golden.results("ties")[name][:N_BASE])
