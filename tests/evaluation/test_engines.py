"""What every engine does alike: each test of the contract runs for each row of ENGINES, on the embedded VLM.

Its vision part is given 4 heads in place of 5, so that two processes can divide them. The rows of other engines than
`builtin` need their package, and run with `make vllm`.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pytest

from evovlm.errors import ConfigError
from evovlm.evaluation.answering import PreparedSamples, open_tasks
from evovlm.evaluation.answers import TaskChoice
from evovlm.evaluation.engines.builtin import BuiltinEngine
from evovlm.evaluation.engines.engine import Engine
from evovlm.evaluation.engines.table import BUILTIN, BUILTIN_ENGINE, ENGINES, EngineId
from evovlm.evaluation.engines.work import load_of
from evovlm.evaluation.resident import ResidentModel
from evovlm.merging.writer import write_checkpoint
from evovlm.models.loading import load_model
from evovlm.models.pictures.feature_store import FeatureStore
from evovlm.models.prompt import Prompt
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.recipe import MergeTemplate, ParameterMerge
from evovlm.recipes.source_values import SourceParameters
from evovlm.tasks.task import Decoding, Split

CHOICES = [TaskChoice(name="emoji_ja", limit=6), TaskChoice(name="word_problems_ja", limit=6)]
GREEDY = Decoding(max_new_tokens=24)


FIRST, SECOND, BROKEN = (0.7, 0.6), (0.1, 0.9), (1e39, 1e39)
"""The weights of both sources in three candidates."""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> MergeTemplate:
    folder = tmp_path_factory.mktemp("models") / "vlm"
    shutil.copytree(ModelRef(text="zoo:vlm").resolve(), folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["vision_config"]["num_attention_heads"] = 4
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    vlm = ModelRef(text=str(folder))
    sources = {"ja": ModelRef(text="zoo:ja"), "vlm": vlm}
    base = ModelRef(text="zoo:base")
    return MergeTemplate(base=base, host=vlm, sources=sources, method="dare_ties", seed=42, vocabulary="host")


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A resident model in an engine, and its tasks' prompts."""

    template: MergeTemplate
    resident: ResidentModel
    tasks: Sequence[PreparedSamples]

    def recipe(self, weights: tuple[float, float]) -> ParameterMerge:
        """Return a merge of both sources with these weights."""
        names = ("ja", "vlm")
        return self.template.recipe(
            {name: SourceParameters(weight=weight, density=0.8) for name, weight in zip(names, weights, strict=True)}
        )

    def merge(self, weights: tuple[float, float]) -> bool:
        """Have the engine take a candidate."""
        return self.resident.merge(self.recipe(weights))

    def answers(self, weights: tuple[float, float], decoding: Decoding = GREEDY) -> list[tuple[str, ...]]:
        """Return the answers of a candidate to the pictures and to the problems."""
        assert self.merge(weights)
        return answers_of(self.resident.engine, self.tasks, decoding)


def answers_of(engine: Engine, tasks: Sequence[PreparedSamples], decoding: Decoding = GREEDY) -> list[tuple[str, ...]]:
    return [engine.answer(prompts_of(task), decoding=decoding).texts for task in tasks]


def prompts_of(task: PreparedSamples) -> list[Prompt]:
    return [prompt for prompt in task.prompts if isinstance(prompt, Prompt)]


def opened(template: MergeTemplate, engine: EngineId) -> Opened:
    resident = ResidentModel.open(template, device="cpu")
    store = FeatureStore()
    tasks = [task.prepare(resident.loaded, store=store) for task in open_tasks(CHOICES, Split.SEARCH)]
    resident.hand_over(engine, load_of(tasks))
    return Opened(template=template, resident=resident, tasks=tasks)  # type: ignore[arg-type]


def rows() -> list[object]:
    """Return the engines, and vLLM in two processes; what others than `builtin` raise as warnings is theirs."""
    marks = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore")]
    others = [EngineId(name=name) for name in ENGINES if name != BUILTIN] + [EngineId(name="vllm", tensor_parallel=2)]
    return [
        pytest.param(BUILTIN_ENGINE, id=BUILTIN),
        *(pytest.param(each, marks=marks, id=f"{each.name}-{each.tensor_parallel}") for each in others),
    ]


@pytest.fixture(scope="module", params=rows())
def engine(template: MergeTemplate, request: pytest.FixtureRequest) -> Iterator[Opened]:
    if request.param.name != BUILTIN and ENGINES[request.param.name].version() is None:
        pytest.skip(f"{request.param} is not installed")
    found = opened(template, request.param)
    yield found
    found.resident.engine.close()


@pytest.fixture(scope="module")
def written(template: MergeTemplate, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    """The engine `builtin` with the checkpoint that the first candidate is written as."""
    folder = tmp_path_factory.mktemp("written") / "model"
    builtin = opened(template, BUILTIN_ENGINE)
    write_checkpoint(builtin.recipe(FIRST), folder)
    loaded = load_model(folder, device="cpu")
    tasks = [task.prepare(loaded) for task in open_tasks(CHOICES, Split.SEARCH)]
    builtin.resident.engine = BuiltinEngine(loaded=loaded)
    return replace(builtin, tasks=tasks)  # type: ignore[arg-type]


def test_a_candidate_answers_as_the_checkpoint_that_it_is_written_as(engine: Opened, written: Opened) -> None:
    found = engine.answers(FIRST)
    assert found == answers_of(written.resident.engine, written.tasks)
    assert all(len(set(texts)) > 1 for texts in found)


def test_a_candidate_leaves_nothing_behind_in_the_next_one(engine: Opened) -> None:
    first = engine.answers(FIRST)
    assert engine.answers(SECOND) != first
    assert engine.answers(FIRST) == first


@pytest.mark.parametrize(
    "decoding",
    [
        replace(GREEDY, max_new_tokens=3),
        replace(GREEDY, repetition_penalty=1.3),
        replace(GREEDY, stop=("。", "=")),
        replace(GREEDY, max_new_tokens=1, stop=("は",), repetition_penalty=1.1),
    ],
    ids=["limit", "penalty", "stops", "all"],
)
def test_limits_penalty_and_stop_strings_are_those_of_the_decoding(
    engine: Opened, written: Opened, decoding: Decoding
) -> None:
    assert engine.answers(FIRST, decoding) == answers_of(written.resident.engine, written.tasks, decoding)


def test_answers_end_at_the_models_context(engine: Opened) -> None:
    assert engine.merge(FIRST)
    ids = prompts_of(engine.tasks[1])[0].ids
    longest = engine.resident.loaded.config.get_text_config().max_position_embeddings
    # Both engines give an answer at least one token, and no more than the context holds.
    limit = Decoding(max_new_tokens=8)
    near = Prompt(ids=ids.repeat(40)[: min(longest, len(ids) + 16)])
    assert engine.resident.engine.answer([near], decoding=limit).tokens <= 8


def test_a_candidate_that_is_not_finite_is_reported_and_harms_no_other(engine: Opened) -> None:
    first = engine.answers(FIRST)
    assert not engine.merge(BROKEN)
    assert engine.answers(FIRST) == first


def test_a_candidate_that_cannot_be_merged_raises_and_harms_no_other(engine: Opened) -> None:
    first = engine.answers(FIRST)
    # An average whose weights are all 0.
    nothing = dict.fromkeys(("ja", "vlm"), SourceParameters(weight=0.0))
    average = replace(engine.template, method="linear").recipe(nothing)
    with pytest.raises(ConfigError):
        engine.resident.merge(average)
    assert engine.answers(FIRST) == first


def test_no_prompts_get_no_answers(engine: Opened) -> None:
    assert engine.merge(FIRST)
    assert engine.resident.engine.answer([], decoding=GREEDY).texts == ()


def test_every_answer_is_reported(engine: Opened) -> None:
    assert engine.merge(FIRST)
    seen: list[tuple[int, int]] = []
    prompts = prompts_of(engine.tasks[1])
    found = engine.resident.engine.answer(prompts, decoding=GREEDY, on_answers=lambda *each: seen.append(each))
    assert seen[-1] == (len(prompts), found.tokens)
