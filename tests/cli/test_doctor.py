"""`evovlm doctor`: everything it looks at, what it says of what is not there, and that it gives no secret away."""

import importlib
import importlib.metadata
import json
import tomllib
import types
from collections.abc import Mapping
from pathlib import Path

import pytest
from huggingface_hub import constants

from evovlm import devices
from evovlm.runs import doctor
from tests.cli.conftest import Command

SECRET = "hf_neverToBeSeen0123456789"  # noqa: S105 - nobody's


@pytest.fixture(autouse=True)
def _as_this_checkout_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment may have been made for an older pyproject.toml."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [f"{text}; extra == 'lm-eval'" for text in project["optional-dependencies"]["lm-eval"]]
    extras += [f"{text}; extra == 'dev'" for text in project["optional-dependencies"]["dev"]]
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: [*project["dependencies"], *extras])


def findings(evovlm: Command) -> tuple[int, Mapping[str, Mapping[str, str]]]:
    shown = evovlm("doctor", "--json")
    assert SECRET not in shown.out + shown.err
    found = json.loads(shown.out)
    assert found["ok"] == (shown.code == 0)
    return shown.code, {each["name"]: each for each in found["findings"]}


def test_everything_is_looked_at_and_this_machine_can_run(evovlm: Command) -> None:
    code, found = findings(evovlm)
    assert code == 0
    for name in ("evovlm", "python", "torch", "transformers", "cma", "typer", "cpu", "memory", "cache", "login"):
        assert found[name]["found"], name
    assert "in float32" in found["cpu:bfloat16"]["found"]
    assert found["torch"]["found"] == importlib.metadata.version("torch")
    assert found["embedded models"]["found"] == "base, ja, lora-ja, lora-math-a, lora-math-b, math-a, math-b, vlm"
    assert {"offline mode", "address", "font Noto Color Emoji", "lm_eval (extra lm-eval)"} <= found.keys()
    assert all(each["remedy"] for each in found.values() if each["state"] != "ok")
    shown = evovlm("doctor")
    assert shown.code == 0
    assert shown.out.splitlines()[-1].startswith("evovlm can run here")
    for each in found.values():
        assert f"{each['name']}: " in shown.out


def test_a_token_is_mentioned_and_never_shown(evovlm: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert (findings(evovlm)[1]["login"]["state"], findings(evovlm)[1]["login"]["remedy"]) == (
        "optional",
        "hf auth login",
    )
    monkeypatch.setenv("HF_TOKEN", SECRET)
    assert findings(evovlm)[1]["login"]["found"] == "a token is set"
    assert SECRET not in evovlm("doctor").out


def test_a_package_that_lacks_or_is_too_old_is_broken_and_comes_with_the_command(
    evovlm: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = importlib.metadata.version

    def version(name: str) -> str:
        if name in ("cma", "lm_eval"):
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0" if name == "transformers" else installed(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    code, found = findings(evovlm)
    assert code == 2
    assert (found["cma"]["state"], found["cma"]["remedy"]) == ("broken", 'pip install "cma>=4.3"')
    assert found["transformers"]["found"].startswith("1.0, but ")
    extra = found["lm_eval (extra lm-eval)"]
    assert (extra["state"], extra["remedy"]) == ("optional", 'pip install "evovlm[lm-eval]"')


def test_a_package_that_does_not_load_is_broken(evovlm: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    load = importlib.import_module

    def failing(name: str, package: str | None = None) -> types.ModuleType:
        if name == "torch":
            raise OSError("libcudart.so.13: cannot open shared object file")
        return load(name, package)

    monkeypatch.setattr(importlib, "import_module", failing)
    code, found = findings(evovlm)
    assert code == 2
    assert "libcudart" in found["torch loads"]["found"]
    assert "cpu" not in found


def test_an_unwritable_cache_and_offline_mode_are_reported(evovlm: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "/proc/evovlm/hub")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    code, found = findings(evovlm)
    assert (code, found["cache"]["state"]) == (2, "broken")
    assert found["offline mode"]["found"].startswith("on: nothing is fetched")


def test_a_hub_that_does_not_answer_is_optional_and_says_why(evovlm: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "unreachable_reason", lambda: "huggingface.co cannot be reached (no route)")
    code, found = findings(evovlm)
    assert (code, found["connection"]["state"]) == (0, "optional")
    assert found["connection"]["found"] == "huggingface.co cannot be reached (no route)"
    monkeypatch.setattr(doctor, "unreachable_reason", lambda: None)
    assert findings(evovlm)[1]["connection"]["found"] == "the hub answers"


def test_a_font_that_is_not_there_is_optional(evovlm: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "noto_font", lambda: None)
    code, found = findings(evovlm)
    assert (code, found["font Noto Color Emoji"]["state"]) == (0, "optional")
    assert "fonts-noto-color-emoji" in found["font Noto Color Emoji"]["remedy"]


def test_a_checkout_that_is_not_installed_is_reported(evovlm: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", missing)
    code, found = findings(evovlm)
    assert (code, found["install"]["state"]) == (0, "optional")


def test_gpus_of_every_kind_are_listed_with_what_uses_them(evovlm: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "H200")
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (100 * 10**9, 141 * 10**9))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda _: 0)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda _: 0)
    monkeypatch.setattr("torch.cuda.get_per_process_memory_fraction", lambda _: 1.0)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    monkeypatch.setattr("torch.mps.recommended_max_memory", lambda: 16 * 10**9)
    monkeypatch.setattr("torch.mps.current_allocated_memory", lambda: 10**9)
    lack = devices.Explained(reason="no C compiler", remedy="apt-get install gcc")
    monkeypatch.setattr(doctor, "triton_problem", lambda: lack)
    code, found = findings(evovlm)
    assert code == 0
    assert found["cuda:0"]["found"] == "H200, 100.0 of 141.0 GB free"
    assert found["mps"]["found"] == "15.0 of 16.0 GB free; used only when it is named (device: mps)"
    assert found["merging on the GPU"]["found"] == "not possible, the CPU merges: no C compiler"
    assert found["merging on the GPU"]["remedy"] == "apt-get install gcc"
    assert "gpu" not in found
