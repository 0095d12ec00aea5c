"""Merging on a GPU gives the bits that a CPU gives: in Triton's interpreter, and on a device where there is one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from evovlm.evaluation.resident import ResidentModel
from evovlm.merging.arithmetic.methods import METHODS
from tests.merging.recipes import make_recipe

triton = pytest.importorskip("triton")
from triton.backends.compiler import GPUTarget  # noqa: E402 (only where Triton is installed)
from triton.compiler import ASTSource  # noqa: E402

from evovlm.merging.arithmetic import gpu_kernels  # noqa: E402

ROOT = Path(__file__).parents[2]


def run_equality(environment: dict[str, str]) -> None:
    """Run gpu_equality.py in a process of its own: Triton is imported either with its interpreter or without."""
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "tests/merging/gpu_equality.py"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@pytest.mark.slow
def test_the_kernel_in_the_interpreter() -> None:
    run_equality({"TRITON_INTERPRET": "1"})


@pytest.mark.gpu
def test_the_kernel_on_a_device() -> None:
    run_equality({"TRITON_INTERPRET": "0"})


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
def test_the_resident_model_on_a_device(models: Path, method: str) -> None:
    row = METHODS[method]
    usual = (0.7 if "weight" in row.parameters else 1.0, 0.5 if "density" in row.parameters else 1.0)
    numbers = dict.fromkeys(("math16", "ja")[: row.sources[1]], usual)
    base = None if row.base == "none" else "base16"
    recipe = make_recipe(models, numbers, method=method, base=base, host="base16")
    on_cpu = ResidentModel.open(recipe.template, device="cpu")
    on_gpu = ResidentModel.open(recipe.template, device="cuda")
    assert on_cpu.merge(recipe)
    assert on_gpu.merge(recipe)
    found = dict(on_gpu.loaded.model.named_parameters())
    for name, parameter in on_cpu.loaded.model.named_parameters():
        assert torch.equal(found[name].cpu().float(), parameter), name


COMBINATIONS = {
    "fused": (gpu_kernels.FUSED, gpu_kernels.KEEP_ALL),
    "plain": (gpu_kernels.PLAIN, gpu_kernels.KEEP_DRAWN),
    "elected": (gpu_kernels.ELECTED, gpu_kernels.KEEP_DRAWN),
    "elected mean": (gpu_kernels.ELECTED_MEAN, gpu_kernels.KEEP_BETWEEN),
}


@pytest.mark.parametrize("name", COMBINATIONS)
@pytest.mark.parametrize("capability", [80, 90])
def test_what_is_compiled_rounds_every_operation(
    name: str, capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    join, keep = COMBINATIONS[name]
    ptx = compiled(join.value, keep.value, capability)
    # Tiny numbers stay what they are, and no product is fused into a sum unawares.
    for inexact in (".ftz", "div.full", "div.approx"):
        assert inexact not in ptx
    assert ("fma." in ptx) == (name == "fused")
    # Four models, each read in loads of 16 bytes, and what is made of them is stored in one.
    assert ptx.count("ld.global.v4") == 4
    assert ptx.count("st.global.v4") == 1


def compiled(join: int, keep: int, capability: int) -> str:
    """Return the PTX of the kernel for three sources and a base in bfloat16."""
    constants = {
        "DTYPES": (gpu_kernels.BFLOAT16.value,) * 4,
        "STORED": gpu_kernels.BFLOAT16.value,
        "PARAMETER": gpu_kernels.BFLOAT16.value,
        "HAS_BASE": True,
        "KEEP": keep,
        "JOIN": join,
        "HAS_ROW_FACTORS": False,
        "DIVIDED": True,
        "ALIGNED": True,
        "SIZE": gpu_kernels.BLOCK,
    }
    kernel = gpu_kernels.combine_entries
    source = ASTSource(
        fn=kernel,
        signature={name: "constexpr" if name in constants else "*i64" for name in kernel.arg_names},
        constexprs={(kernel.arg_names.index(name),): value for name, value in constants.items()},
        attrs={(0,): [["tt.divisibility", 16]]},
    )
    options = {"num_warps": gpu_kernels.N_WARPS, "enable_fp_fusion": False}
    ptx: str = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options).asm["ptx"]
    return ptx
