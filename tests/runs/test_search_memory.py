"""What a search will hold in memory, for models of real sizes on GPUs that this machine does not have."""

from pathlib import Path

import pytest
import yaml

from evovlm.cli.memory_lines import memory_lines
from evovlm.evaluation.engines.table import EngineChoice, EngineId
from evovlm.merging.before.findings import SearchMemory
from evovlm.models.answer_memory import row_bytes
from evovlm.models.backbone import Backbone
from evovlm.models.decoding import slots
from evovlm.models.loading import load_model
from evovlm.recipes.language_config import language_config
from evovlm.recipes.model_config import read_model_config
from evovlm.runs.before import memory, preflight
from evovlm.runs.before.forecast import forecast
from evovlm.runs.config.execution import RaySection
from evovlm.runs.config.kinds import load_config
from evovlm.runs.config.parameters import EvolveConfig
from tests.runs.conftest import TASK, WriteConfig
from tests.sparse_models import SIZES, count_weights, sparse_model

GIB = 1 << 30
SEVEN = "Mistral-7B-v0.1"
SEVEN_BYTES = 14_483_464_192
"""Of mistralai/Mistral-7B-v0.1, as its index on the hub says (total_size)."""


@pytest.fixture(scope="module")
def seven(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a search over a 7B model and two sources of the same shapes."""
    folder = tmp_path_factory.mktemp("seven")
    for name in ("base", "a", "b"):
        sparse_model(folder / name, SIZES[SEVEN])
    merge = {"base": str(folder / "base"), "sources": {"a": str(folder / "a"), "b": str(folder / "b")}}
    document = {
        "format": 1,
        "kind": "evolve",
        "merge": {**merge, "method": "dare_ties"},
        "budget": {"candidates": 8},
        "tasks": [{"name": str(models / f"{TASK}.yaml"), "decoding": {"max_new_tokens": 1000}}],
    }
    (folder / "search.yaml").write_text(yaml.safe_dump(document))
    return folder / "search.yaml"


@pytest.fixture
def gpu_of(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Pretend that this machine has a GPU."""
    monkeypatch.setattr(preflight, "device_name", lambda _: "cuda")
    return monkeypatch


def held_on(config: EvolveConfig, gpu_of: pytest.MonkeyPatch, *, gib: int) -> SearchMemory:
    gpu_of.setattr(preflight, "memory_elsewhere", lambda _: (gib * GIB, gib * GIB))
    found = preflight.preflight_search(config)
    assert found.memory is not None
    return found.memory


def test_a_real_7b_has_the_size_that_the_hub_says() -> None:
    assert 2 * count_weights(SIZES[SEVEN]) == SEVEN_BYTES
    assert 3.2e9 < count_weights(SIZES["Qwen3-30B-A3B"], active=True) < 3.4e9


@pytest.mark.parametrize(("gib", "kept"), [(16, 0), (24, 4), (48, 24), (80, 43), (141, 43)])
def test_sources_stay_on_the_gpu_as_far_as_a_quarter_is_left(
    seven: Path, gpu_of: pytest.MonkeyPatch, gib: int, kept: int
) -> None:
    found = held_on(load_config(seven).resolved(relative_to=None), gpu_of, gib=gib)
    assert (found.where, found.free_bytes, found.model_bytes) == ("the memory of cuda", gib * GIB, SEVEN_BYTES)
    assert found.sources_bytes == 3 * SEVEN_BYTES
    assert found.kept_bytes // 10**9 == kept
    assert found.kept_bytes + found.read_again_bytes == found.sources_bytes
    assert found.answer_tokens > 1000
    # Keys and values of a token: 2 x 32 blocks x 8 heads x 128 numbers x 2 bytes; the rest are activations.
    assert found.answer_bytes > 131_072 * found.answer_tokens
    left = found.free_bytes - found.model_bytes - found.kept_bytes
    assert 1 <= found.answers_at_once <= 512
    assert found.answers_at_once * found.answer_bytes <= left
    assert found.files_bytes == 3 * SEVEN_BYTES
    assert found.processes_bytes < 1e9
    text = "\n".join(memory_lines(found))
    assert ("read again for each candidate" in text) == (gib < 80)
    assert "the model: 14.5 GB" in text


def test_memory_is_counted_for_a_gpu_that_is_not_there(seven: Path) -> None:
    config = load_config(seven).resolved(relative_to=None)
    found = preflight.preflight_search(config, gpu_bytes=80 * 10**9)
    assert found.memory is not None
    assert (found.memory.where, found.memory.free_bytes) == ("a GPU of 80.0 GB", 80 * 10**9 - 600_000_000)
    assert found.memory.kept_bytes == 3 * SEVEN_BYTES
    small = preflight.preflight_search(config, gpu_bytes=12 * 10**9)
    assert any("14.5 GB of a GPU of 12.0 GB are needed" in warning for warning in small.warnings)
    tight = preflight.preflight_search(config, gpu_bytes=SEVEN_BYTES + 700_000_000)
    assert any("the model and one answer of " in warning for warning in tight.warnings)


def test_each_worker_has_a_gpu_and_a_model(seven: Path, gpu_of: pytest.MonkeyPatch) -> None:
    config = load_config(seven).resolved(relative_to=None)
    one = held_on(config, gpu_of, gib=141)
    two = held_on(config.with_workers(2), gpu_of, gib=141)
    assert (two.workers, two.processes, two.processes_bytes) == (1, 2, 2 * one.processes_bytes)
    assert (two.model_bytes, two.kept_bytes, two.answers_at_once) == (
        one.model_bytes,
        one.kept_bytes,
        one.answers_at_once,
    )


def test_workers_without_a_gpu_share_the_memory(seven: Path) -> None:
    found = preflight.preflight_search(load_config(seven).resolved(relative_to=None).with_workers(2)).memory
    assert found is not None
    assert (found.where, found.workers) == ("memory", 2)
    assert "shared by 2 workers, each with:" in next(iter(memory_lines(found)))


def test_on_a_cpu_the_model_is_in_float32_and_sources_take_half_of_the_free_memory(
    seven: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_memory_bytes", lambda: 64 * GIB)
    found = preflight.preflight_search(load_config(seven).resolved(relative_to=None)).memory
    assert found is not None
    assert (found.model_bytes, found.kept_bytes, found.kept_in) == (2 * SEVEN_BYTES, 32 * GIB, "memory")
    assert found.processes_bytes > 2 * SEVEN_BYTES + 32 * GIB


def test_vllm_takes_its_share_of_the_gpu_and_candidates_are_merged_on_the_cpu(
    seven: Path, gpu_of: pytest.MonkeyPatch
) -> None:
    gpu_of.setattr(memory, "available_memory_bytes", lambda: 64 * GIB)
    gpu_of.setattr(
        preflight, "engine_of", lambda _: EngineChoice(engine=EngineId(name="vllm"), reason="", had_choice=False)
    )
    found = held_on(load_config(seven).resolved(relative_to=None), gpu_of, gib=24)
    assert (found.engine, found.kept_in, found.kept_bytes) == ("vllm", "memory", 32 * GIB)
    assert found.answer_bytes == 131_072 * found.answer_tokens
    assert found.answers_at_once == (int(0.85 * 24 * GIB) - SEVEN_BYTES) // found.answer_bytes
    assert "at once in vllm" in "\n".join(memory_lines(found))


def test_a_model_is_divided_over_the_gpus_that_tensor_parallel_asks_for(
    seven: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_memory_bytes", lambda: 64 * GIB)
    monkeypatch.setattr(
        preflight, "engine_of", lambda _: EngineChoice(engine=EngineId(name="vllm"), reason="", had_choice=False)
    )
    config = load_config(seven).resolved(relative_to=None)
    found = {
        parts: preflight.preflight_search(config.with_engine(None, tensor_parallel=parts), gpu_bytes=12 * 10**9)
        for parts in (1, 2, 16)
    }
    one, two, many = (each.memory for each in found.values())
    assert one is not None
    assert two is not None
    assert many is not None
    assert (two.where, two.free_bytes) == ("2 GPUs of 12.0 GB", 2 * (12 * 10**9 - 600_000_000))
    assert two.answers_at_once == (int(0.85 * 24 * 10**9) - SEVEN_BYTES) // two.answer_bytes
    assert any("of a GPU of 12.0 GB are needed" in warning for warning in found[1].warnings)
    assert not any("are needed" in warning for warning in found[2].warnings)
    # 8 heads of keys: 16 GPUs hold each of them twice.
    assert (two.answer_bytes, many.answer_bytes) == (one.answer_bytes, 2 * one.answer_bytes)
    # vLLM has a process for each GPU.
    assert two.processes_bytes - one.processes_bytes == 2 * memory.PROCESS_BYTES
    assert "2 GPUs of 12.0 GB (22.8 GB free):" in "\n".join(memory_lines(two))


def test_workers_of_ray_that_share_a_gpu_have_a_part_of_its_memory(seven: Path) -> None:
    config = load_config(seven).resolved(relative_to=None)

    def warnings(share: float) -> str:
        on_ray = config.model_copy(update={"ray": RaySection(workers=4, gpus_per_worker=share)})
        return "\n".join(preflight.preflight_search(on_ray, gpu_bytes=80 * 10**9).warnings)

    assert "14.5 GB of 0.1 of a GPU of 80.0 GB are needed, and 7.9 GB" in warnings(0.1)
    assert "are needed" not in warnings(0.5)


def test_a_dry_run_and_a_check_say_the_same(config: EvolveConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory_bytes", lambda: 64 * GIB)
    resolved = config.resolved(relative_to=None)
    tried, checked = forecast(resolved), preflight.preflight_search(resolved).memory
    assert checked is not None
    assert tried.memory == checked
    assert tried.candidate_seconds.low >= tried.merge_seconds.low
    assert checked.model_bytes == 2 * preflight.preflight_search(resolved).models[1].size_bytes


def test_base_and_every_source_are_counted(write_config: WriteConfig) -> None:
    resolved = load_config(write_config({"workers": 1})).resolved(relative_to=None)
    found = preflight.preflight_search(resolved)
    assert found.memory is not None
    assert found.memory.sources_bytes == sum(
        model.size_bytes for model in found.models if model.name == "base" or model.name.startswith("sources.")
    )
    assert found.as_json()["memory"]


@pytest.mark.parametrize("name", ["base", "vlm"])
def test_answers_take_the_memory_that_decoding_then_divides(
    models: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = language_config(read_model_config(models / name))
    backbone = Backbone.of(load_model(models / name, device="cpu"))
    each = row_bytes(config, longest=300, number_bytes=4)
    monkeypatch.setattr(slots, "device_memory", lambda _: (50 * each, None))
    assert slots.slots_at_once(backbone, longest=300) == 35
