"""A model that vLLM divides over two processes: they take candidates from shared memory, and end with the engine."""

import multiprocessing
import os
import signal
from collections.abc import Iterator

import pytest
import torch

from evovlm.evaluation.answering import PreparedSamples, open_tasks
from evovlm.evaluation.answers import TaskChoice
from evovlm.evaluation.engines.shared_tensors import sharing
from evovlm.evaluation.engines.table import ENGINES, EngineId
from evovlm.evaluation.engines.work import load_of
from evovlm.evaluation.resident import ResidentModel
from evovlm.models.prompt import Prompt
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.recipe import MergeTemplate
from evovlm.recipes.source_values import SourceParameters
from evovlm.tasks.task import Decoding, Split

GREEDY = Decoding(max_new_tokens=24)
NAMES = ("base", "ja")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool])
def test_shared_tensors_are_read_as_they_were(dtype: torch.dtype) -> None:
    tensors = {
        "a": torch.arange(6).view(2, 3).to(dtype),
        "one": torch.tensor(1).to(dtype),
        "turned": torch.arange(12).view(3, 4).t().to(dtype),
    }
    with sharing(tensors) as shared:
        found = shared.read()
    # The file is closed, and what was read is still there.
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == dtype
        assert found[name].shape == tensor.shape
        assert torch.equal(found[name], tensor)


def test_another_process_reads_shared_tensors_and_cannot_change_them() -> None:
    context = multiprocessing.get_context("spawn")
    tensor = torch.arange(1000, dtype=torch.float32)
    with sharing({"numbers": tensor}) as shared, context.Pool(1) as pool:
        (total,) = pool.map(_read_and_write, [shared])
        assert total == float(tensor.sum())
        assert torch.equal(shared.read()["numbers"], tensor)


def _read_and_write(shared: object) -> float:
    numbers = shared.read()["numbers"]  # type: ignore[attr-defined]
    total = float(numbers.sum())
    numbers.zero_()
    return total


class Asked:
    """zoo:base and zoo:ja as candidates, in one engine, with the prompts of a task."""

    def __init__(self, engine: EngineId) -> None:
        sources = {name: ModelRef(text=f"zoo:{name}") for name in NAMES}
        self.template = MergeTemplate(host=sources["base"], base=None, sources=sources, method="linear", seed=0)
        self.resident = ResidentModel.open(self.template, device="cpu")
        choice = TaskChoice(name="word_problems_ja", limit=8)
        (task,) = (each.prepare(self.resident.loaded) for each in open_tasks([choice], Split.SEARCH))
        assert isinstance(task, PreparedSamples)
        self.prompts = [each for each in task.prompts if isinstance(each, Prompt)]
        self.resident.hand_over(engine, load_of([task]))

    def answers(self, name: str) -> tuple[str, ...]:
        weights = {each: SourceParameters(weight=float(each == name)) for each in NAMES}
        assert self.resident.merge(self.template.recipe(weights))
        return self.resident.engine.answer(self.prompts, decoding=GREEDY).texts


@pytest.fixture(scope="module")
def divided() -> Iterator[Asked]:
    if ENGINES["vllm"].version() is None:
        pytest.skip("vLLM is not installed")
    asked = Asked(EngineId(name="vllm", tensor_parallel=2))
    yield asked
    asked.resident.engine.close()


@pytest.mark.vllm
@pytest.mark.filterwarnings("ignore")
def test_two_processes_answer_as_one(divided: Asked) -> None:
    one = Asked(EngineId(name="vllm"))
    expected = [one.answers(name) for name in (*NAMES, *NAMES)]
    one.resident.engine.close()
    assert [divided.answers(name) for name in (*NAMES, *NAMES)] == expected
    assert expected[0] != expected[1]
    assert len(multiprocessing.active_children()) == 2


@pytest.mark.vllm
@pytest.mark.filterwarnings("ignore")
def test_a_model_that_lost_a_process_is_opened_anew_for_the_next_candidate(divided: Asked) -> None:
    first = divided.answers("ja")
    lost = multiprocessing.active_children()[1]
    assert lost.pid is not None
    os.kill(lost.pid, signal.SIGKILL)
    lost.join()
    with pytest.raises(RuntimeError):
        divided.answers("base")
    assert divided.answers("ja") == first
    assert len(multiprocessing.active_children()) == 2


@pytest.mark.vllm
@pytest.mark.filterwarnings("ignore")
def test_closing_ends_the_processes(divided: Asked) -> None:
    assert divided.answers("ja")
    running = multiprocessing.active_children()
    assert len(running) == 2
    divided.resident.engine.close()
    assert not any(each.is_alive() for each in running)
