"""`tensor_parallel`: which numbers are refused, what the journal says of it, which GPUs a worker gets."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from evovlm import devices
from evovlm.errors import ConfigError, RunMismatch
from evovlm.evaluation.answers import TaskChoice
from evovlm.evaluation.engines import table, vllm_support
from evovlm.evaluation.engines.table import BUILTIN, EngineId, choose_engine
from evovlm.evaluation.engines.work import Work
from evovlm.evaluation.workers.local import _environment
from evovlm.recipes.model_ref import ModelRef
from evovlm.runs import workers
from evovlm.runs.before.preflight import preflight_search
from evovlm.runs.config.hybrid import load_search
from evovlm.runs.config.kinds import load_config
from evovlm.runs.folder.journal import Journal, read_journal
from evovlm.runs.workers import check_gpus, engine_of, worker_settings
from tests.runs.conftest import WriteConfig

WORK = Work(host=ModelRef(text="zoo:base"), tasks=(TaskChoice(name="word_problems_ja"),), device="auto")
TWO = EngineId(name="vllm", version="9.8.7", tensor_parallel=2)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Say that vLLM is installed and knows the model, and how many GPUs there are."""

    def say(gpus: int) -> None:
        row = replace(table.ENGINES["vllm"], version=lambda: TWO.version)
        monkeypatch.setattr(table, "ENGINES", {**table.ENGINES, "vllm": row})
        monkeypatch.setattr(vllm_support, "version", lambda: TWO.version)
        monkeypatch.setattr(vllm_support, "_architectures", lambda: frozenset({"MistralForCausalLM"}))
        for module in (table, workers, devices):
            monkeypatch.setattr(module, "count_gpus", lambda _="cuda": gpus)

    return say


def test_vllm_divides_a_model_where_it_can(installed: Callable[[int], None]) -> None:
    installed(2)
    for asked in ("auto", "vllm"):
        found = choose_engine(asked, replace(WORK, tensor_parallel=2)).engine
        assert found == TWO
        assert str(found) == "vllm 9.8.7 (tensor_parallel: 2)"


@pytest.mark.parametrize(
    ("host", "parts", "reason"),
    [
        ("zoo:base", 4, "tensor_parallel: 4 must divide the 6 attention heads of zoo:base"),
        ("zoo:base", 3, "tensor_parallel: 3 must divide the 2 heads of keys of zoo:base, or be a multiple"),
        ("zoo:base", 6, "tensor_parallel: 6 must divide the 448 numbers inside an MLP of zoo:base"),
        ("zoo:vlm", 2, "tensor_parallel: 2 must divide the 5 attention heads of the vision part of zoo:vlm"),
    ],
)
def test_a_number_that_does_not_divide_the_model_is_refused(
    installed: Callable[[int], None], host: str, parts: int, reason: str
) -> None:
    installed(0)
    with pytest.raises(ConfigError) as raised:
        choose_engine("vllm", replace(WORK, host=ModelRef(text=host), tensor_parallel=parts))
    assert reason in str(raised.value)
    assert "Change tensor_parallel, or leave it out." in str(raised.value)


def test_old_versions_of_vllm_and_other_systems_are_refused(
    installed: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(0)
    monkeypatch.setattr(vllm_support, "version", lambda: "0.31.2")
    with pytest.raises(ConfigError, match=r"tensor_parallel: 2 needs vLLM 0\.32 or newer, and 0\.31\.2 is installed"):
        choose_engine("vllm", replace(WORK, tensor_parallel=2))
    monkeypatch.setattr(vllm_support.sys, "platform", "darwin")
    with pytest.raises(ConfigError, match="tensor_parallel: 2 needs Linux"):
        choose_engine("vllm", replace(WORK, tensor_parallel=2))


def test_other_engines_do_not_divide_a_model(installed: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_support, "version", lambda: None)
    row = replace(table.ENGINES["vllm"], version=lambda: None)
    monkeypatch.setattr(table, "ENGINES", {**table.ENGINES, "vllm": row})
    with pytest.raises(ConfigError, match=r"which engine: auto does not choose: vLLM is not installed \(pip install"):
        choose_engine("auto", replace(WORK, tensor_parallel=2))
    with pytest.raises(ConfigError, match="engine: builtin cannot answer: it does not divide a model over GPUs"):
        choose_engine(BUILTIN, replace(WORK, tensor_parallel=2))
    installed(0)
    with pytest.raises(ConfigError, match=r"needs the engine vllm, which .*no GPU is used.\n    Set engine to vllm"):
        choose_engine("auto", replace(WORK, tensor_parallel=2))
    with pytest.raises(ConfigError, match="workers of a Ray cluster answer with evovlm's own loop"):
        choose_engine("vllm", replace(WORK, tensor_parallel=2, on_ray=True))


@pytest.mark.parametrize(
    ("n_workers", "device", "gpus", "message"),
    [
        (1, "auto", 1, r"tensor_parallel: 2 needs 2 GPUs, and device: auto gives 1 on.*\n    Set tensor_parallel to 1"),
        (1, "cuda:1", 4, r"needs 2 GPUs, and device: cuda:1 gives 1 on.*\n.*device to cuda for all its GPUs"),
        (3, "auto", 4, r"needs 6 GPUs for 3 workers, and device: auto gives 4 on.*\n    Set workers to 2"),
    ],
)
def test_more_gpus_than_there_are_is_an_error(
    installed: Callable[[int], None], n_workers: int, device: str, gpus: int, message: str
) -> None:
    installed(gpus)
    with pytest.raises(ConfigError, match=message):
        check_gpus(n_workers, device=device, each=2)
    check_gpus(gpus, device="auto", each=1)
    check_gpus(n_workers, device="cpu", each=2)


def test_each_worker_sees_its_own_gpus(installed: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    installed(4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = worker_settings(2, device="auto", engine=TWO)
    assert [each.device for each in found] == ["cuda:0", "cuda:2"]
    assert [_environment(each)["CUDA_VISIBLE_DEVICES"] for each in found] == ["0,1", "2,3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,5,3,1")
    assert [_environment(each)["CUDA_VISIBLE_DEVICES"] for each in found] == ["7,5", "3,1"]


def test_the_host_of_a_divided_model_is_loaded_over_all_gpus(installed: Callable[[int], None]) -> None:
    for device in ("cpu", "cpu:bfloat16"):
        assert TWO.device_to_load(device) == device
    installed(2)
    assert TWO.device_to_load("cuda") == "auto-map"
    assert replace(TWO, tensor_parallel=1).device_to_load("cuda") == "cuda"


def test_the_key_is_read_and_not_recorded(write_config: WriteConfig) -> None:
    plain, asked = load_config(write_config()), load_config(write_config({"tensor_parallel": 2}, name="other.yaml"))
    assert (plain.tensor_parallel, asked.tensor_parallel) == (None, 2)
    assert plain.as_mapping() == asked.as_mapping()
    assert plain.with_engine(None, tensor_parallel=2).tensor_parallel == 2
    for wrong in (0, 1.5, "two"):
        with pytest.raises(ConfigError, match="tensor_parallel"):
            load_config(write_config({"tensor_parallel": wrong}, name="wrong.yaml"))


def test_the_second_stage_of_a_hybrid_is_not_divided() -> None:
    config = load_search(Path("configs/demo-hybrid.yaml"))
    ps, path = config.with_engine("vllm", tensor_parallel=2).stages.values()
    assert (ps.engine, ps.tensor_parallel) == ("vllm", 2)
    assert path.tensor_parallel is None


def test_the_header_names_it_only_where_a_model_is_divided(tmp_path: Path) -> None:
    for name, engine in (("one", replace(TWO, tensor_parallel=1)), ("two", TWO)):
        Journal.create(tmp_path / name, config={"a": 1}, blocks={"math": 2}, engine=engine)
        assert read_journal(tmp_path / name).engine == engine
    header: Mapping[str, object] = json.loads((tmp_path / "one").read_text())
    assert header["engine"] == {"name": "vllm", "version": "9.8.7"}
    assert json.loads((tmp_path / "two").read_text())["engine"] == {
        "name": "vllm",
        "version": "9.8.7",
        "tensor_parallel": 2,
    }


def test_a_run_keeps_it(write_config: WriteConfig, installed: Callable[[int], None]) -> None:
    installed(0)
    path = write_config()
    config = load_config(path).resolved(relative_to=path.parent)
    assert engine_of(config, recorded=TWO).engine == TWO
    assert engine_of(config.with_engine("vllm", tensor_parallel=2), recorded=TWO).engine == TWO
    with pytest.raises(RunMismatch, match=r"vllm with tensor_parallel: 2, and tensor_parallel: 1 was asked for\.\n"):
        engine_of(config.with_engine(None, tensor_parallel=1), recorded=TWO)
    with pytest.raises(RunMismatch, match=r"with tensor_parallel: 1, and tensor_parallel: 2 was asked for"):
        engine_of(config.with_engine(None, tensor_parallel=2), recorded=replace(TWO, tensor_parallel=1))


def test_a_check_reports_what_cannot_be_divided(write_config: WriteConfig, installed: Callable[[int], None]) -> None:
    path = write_config({"engine": "vllm", "tensor_parallel": 5, "device": "cpu"})
    installed(0)
    found = preflight_search(load_config(path).resolved(relative_to=path.parent))
    assert any("tensor_parallel: 5 must divide the" in str(problem) for problem in found.problems)
