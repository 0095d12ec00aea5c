"""Devices: their names, their memory, what they raise when it runs out, and what Triton needs."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from evovlm import devices
from evovlm.devices import (
    choose_device,
    device_memory,
    device_name,
    is_out_of_memory,
    memory_elsewhere,
    release_memory,
    triton_problem,
)
from evovlm.errors import ConfigError


@pytest.mark.parametrize("name", ["gpu", "meta", "cpu:0", "cuda:-1", "cuda:01", "mps:0", "privateuseone"])
def test_a_name_that_is_not_a_device_is_refused_with_those_that_are(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"device: '{name}' is not a device. Name auto, .* or auto-map"):
        device_name(name)


def test_a_cpu_in_bfloat16_is_a_cpu() -> None:
    assert device_name("cpu:bfloat16") == "cpu:bfloat16"
    assert choose_device("cpu:bfloat16") == torch.device("cpu")


@pytest.mark.parametrize(("name", "kind"), [("cuda:99", "CUDA"), ("xpu:99", "XPU"), ("mps", "MPS")])
def test_a_gpu_that_is_not_there_is_refused_before_torch_looks_for_it(
    name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    with pytest.raises(ConfigError, match=rf"device: '{name}' was not found; torch finds \d+ {kind}"):
        choose_device(name)


@pytest.mark.parametrize(("name", "index"), [("cuda", 0), ("cuda:1", 1), ("xpu:1", 1)])
def test_a_gpu_becomes_current_when_it_is_chosen(name: str, index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    current: list[tuple[str, int]] = []
    for kind in ("cuda", "xpu"):
        monkeypatch.setattr(f"torch.{kind}.device_count", lambda: 2)
        monkeypatch.setattr(f"torch.{kind}.set_device", lambda index, kind=kind: current.append((kind, index)))
    assert choose_device(name) == torch.device(name)
    assert current == [(name.partition(":")[0], index)]


def test_an_apple_gpu_is_chosen_and_has_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    monkeypatch.setattr("torch.mps.recommended_max_memory", lambda: 100)
    monkeypatch.setattr("torch.mps.current_allocated_memory", lambda: 30)
    assert choose_device("mps") == torch.device("mps")
    assert device_memory(torch.device("mps")) == (70, 100)


def test_memory_that_torch_holds_without_using_it_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    _cuda_with(monkeypatch, share=1.0)
    assert device_memory(torch.device("cuda:1")) == (45, 100)


def test_a_share_of_a_gpu_bounds_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    _cuda_with(monkeypatch, share=0.65)
    assert device_memory(torch.device("cuda:1")) == (40, 65)


def _cuda_with(monkeypatch: pytest.MonkeyPatch, *, share: float) -> None:
    """Imitate a GPU of 100 bytes: 10 are free, torch holds 60, of which it uses 25."""
    values = {
        "mem_get_info": (10, 100),
        "memory_reserved": 60,
        "memory_allocated": 25,
        "get_per_process_memory_fraction": share,
    }
    for name, value in values.items():
        monkeypatch.setattr(f"torch.cuda.{name}", lambda _, value=value: value)


@pytest.mark.slow
def test_another_process_is_asked_for_free_memory() -> None:
    found, total = memory_elsewhere("cpu")
    assert total is None
    own = device_memory(torch.device("cpu"))[0]
    assert found is not None
    assert own is not None
    assert 0.2 * own < found < 5 * own
    # One that cannot see the device says nothing.
    assert memory_elsewhere("cuda:99") == (None, None)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (torch.AcceleratorError("CUDA error: out of memory"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"), True),
        (MemoryError(), True),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("the file says: out of memory"), False),
    ],
)
def test_memory_that_ran_out_is_recognised(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_memory_is_released_on_a_machine_without_a_gpu() -> None:
    release_memory()


def _without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")


@pytest.mark.parametrize(
    ("lack", "reason"),
    [
        (lambda m: m.setattr(torch.version, "hip", "6.4"), "ROCm"),
        (lambda m: m.setattr(sys, "platform", "win32"), "Windows"),
        (lambda m: m.setattr(devices, "find_spec", lambda _: None), "triton is not installed"),
        (_without_compiler, "no C compiler"),
        (lambda m: m.setattr(devices.sysconfig, "get_paths", lambda **_: {"include": "/nowhere"}), "/nowhere/Python.h"),
    ],
)
def test_what_triton_lacks_is_named(lack: object, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(devices, "find_spec", lambda _: SimpleNamespace())
    monkeypatch.setattr(devices.sysconfig, "get_paths", lambda **_: {"include": str(tmp_path)})
    monkeypatch.setenv("CC", "cc")
    assert triton_problem() is None
    lack(monkeypatch)  # type: ignore[operator]
    problem = triton_problem()
    assert problem is not None
    assert reason in problem.reason
    assert problem.remedy
