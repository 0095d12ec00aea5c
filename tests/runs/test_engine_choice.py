"""Which engine answers in a run: asked for, chosen, recorded in the journal, kept on resume."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from evovlm.errors import ConfigError, RunMismatch
from evovlm.evaluation.answers import TaskChoice
from evovlm.evaluation.engines import table, vllm_support
from evovlm.evaluation.engines.table import BUILTIN, BUILTIN_ENGINE, EngineId, choose_engine
from evovlm.evaluation.engines.work import Work
from evovlm.evaluation.workers.jobs import WorkerSettings
from evovlm.evaluation.workers.local import _device_inside, _environment
from evovlm.recipes.model_ref import ModelRef
from evovlm.runs.before.preflight import preflight_search
from evovlm.runs.config.hybrid import load_search
from evovlm.runs.config.kinds import load_config
from evovlm.runs.folder.journal import Journal, read_journal
from evovlm.runs.run import Run
from evovlm.runs.searching.evolve import RunResult, engine_notes, evolve
from evovlm.runs.workers import engine_of
from evovlm.tasks.decoding import DecodingChanges
from tests.runs.conftest import WriteConfig

WORK = Work(host=ModelRef(text="zoo:base"), tasks=(TaskChoice(name="word_problems_ja"),), device="auto")
SOME = EngineId(name="vllm", version="9.8.7")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Say that vLLM is installed, and how many GPUs there are; the model is one that vLLM knows."""

    def say(*, gpus: int = 1, knows: frozenset[str] = frozenset({"MistralForCausalLM"})) -> None:
        row = replace(table.ENGINES["vllm"], version=lambda: SOME.version)
        monkeypatch.setattr(table, "ENGINES", {**table.ENGINES, "vllm": row})
        monkeypatch.setattr(vllm_support, "version", lambda: SOME.version)
        monkeypatch.setattr(vllm_support, "_architectures", lambda: knows)
        monkeypatch.setattr(table, "count_gpus", lambda: gpus)

    return say


def test_without_another_engine_builtin_answers_and_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    row = replace(table.ENGINES["vllm"], version=lambda: None)
    monkeypatch.setattr(table, "ENGINES", {**table.ENGINES, "vllm": row})
    found = choose_engine("auto", WORK)
    assert found.engine == BUILTIN_ENGINE
    assert not found.had_choice


def test_vllm_answers_where_it_is_installed_and_there_is_a_gpu(installed: Callable[..., None]) -> None:
    installed()
    found = choose_engine("auto", WORK)
    assert found.engine == SOME
    assert found.note.startswith("engine: vllm 9.8.7 answers, because it is installed, a GPU is used")


@pytest.mark.parametrize(
    ("changes", "gpus", "reason"),
    [
        ({}, 0, "vllm is for GPUs, and no GPU is used"),
        ({"device": "cpu"}, 1, "vllm is for GPUs, and no GPU is used"),
        ({"device": "mps"}, 1, "does not run on device: mps"),
        ({"device": "auto-map"}, 1, "does not run on device: auto-map"),
        ({"is_path": True}, 1, "cannot hold a path through layers"),
        ({"changes_config": True}, 1, "config_from"),
        ({"on_ray": True}, 1, "Ray"),
        ({"tasks": (TaskChoice(name="lm_eval:gsm8k"),)}, 1, "lm_eval:gsm8k asks for likelihoods"),
        ({"tasks": (TaskChoice(name="word_problems_ja", decoding=DecodingChanges(beams=3)),)}, 1, "beam search"),
        ({"tasks": (TaskChoice(name="word_problems_ja", decoding=DecodingChanges(temperature=0.7)),)}, 1, "draws"),
        ({"host": ModelRef(text="zoo:vlm")}, 1, "does not know the architecture LlavaForConditionalGeneration"),
    ],
)
def test_builtin_answers_what_vllm_cannot(
    installed: Callable[..., None], changes: Mapping[str, object], gpus: int, reason: str
) -> None:
    installed(gpus=gpus)
    found = choose_engine("auto", replace(WORK, **changes))  # type: ignore[arg-type]
    assert found.engine == BUILTIN_ENGINE
    assert found.had_choice
    assert reason in found.note


def test_pictures_go_to_vllm_only_for_families_that_it_takes_as_features(installed: Callable[..., None]) -> None:
    installed(knows=frozenset({"LlavaForConditionalGeneration"}))
    pictures = replace(WORK, host=ModelRef(text="zoo:vlm"), tasks=(TaskChoice(name="emoji_ja"),))
    assert choose_engine("auto", pictures).engine == SOME
    with pytest.raises(ConfigError, match="shows pictures to the model type mistral"):
        choose_engine("vllm", replace(pictures, host=ModelRef(text="zoo:base")))


def test_an_engine_that_is_asked_for_and_cannot_answer_is_refused(installed: Callable[..., None]) -> None:
    with pytest.raises(ConfigError, match=r"engine: 'sglang' is not known\. Name one of auto, builtin, vllm"):
        choose_engine("sglang", WORK)
    installed(gpus=0)
    with pytest.raises(ConfigError, match="engine: vllm cannot answer: it cannot hold a path"):
        choose_engine("vllm", replace(WORK, is_path=True))
    # On a CPU it runs where it is asked for.
    assert choose_engine("vllm", WORK).engine == SOME


def test_vllm_that_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_support, "version", lambda: None)
    with pytest.raises(ConfigError, match=r"vLLM is not installed \(pip install 'evovlm\[vllm\]'\)"):
        choose_engine("vllm", WORK)


def test_the_engine_of_a_config_is_not_in_its_journal_or_its_folder(write_config: WriteConfig) -> None:
    plain, asked = load_config(write_config()), load_config(write_config({"engine": BUILTIN}, name="other.yaml"))
    assert asked.engine == BUILTIN
    assert plain.as_mapping() == asked.as_mapping()
    assert not {"engine"} & yaml.safe_load(plain.to_yaml()).keys()


def test_an_unknown_engine_in_a_config_names_the_nearest(write_config: WriteConfig) -> None:
    with pytest.raises(ConfigError, match=r"engine.*did you mean 'vllm'"):
        load_config(write_config({"engine": "vlm"}))


def test_builtin_is_not_named_in_the_header_and_another_engine_is(tmp_path: Path) -> None:
    for name, engine in (("plain", BUILTIN_ENGINE), ("other", SOME)):
        Journal.create(tmp_path / name, config={"a": 1}, blocks={"math": 2}, engine=engine)
        assert read_journal(tmp_path / name).engine == engine
    header = json.loads((tmp_path / "plain").read_text())
    assert list(header) == ["kind", "format", "config_hash", "config", "blocks"]
    assert json.loads((tmp_path / "other").read_text()) == {**header, "engine": {"name": "vllm", "version": "9.8.7"}}


def test_a_run_keeps_its_engine(write_config: WriteConfig, installed: Callable[..., None]) -> None:
    installed(gpus=0)
    path = write_config()
    config = load_config(path).resolved(relative_to=path.parent)
    assert engine_of(config, recorded=SOME).engine == SOME
    assert engine_of(config, recorded=BUILTIN_ENGINE).engine == BUILTIN_ENGINE
    with pytest.raises(RunMismatch, match=r"come from the engine vllm 9.8.7, and engine: builtin was asked for"):
        engine_of(config.with_engine(BUILTIN), recorded=SOME)
    with pytest.raises(RunMismatch, match="come from the engine builtin, and engine: vllm was asked for"):
        engine_of(config.with_engine("vllm"), recorded=BUILTIN_ENGINE)
    with pytest.raises(RunMismatch, match=r"come from the engine vllm 1.2, and vllm 9.8.7 is installed"):
        engine_of(config, recorded=replace(SOME, version="1.2"))


def test_a_run_is_not_resumed_with_another_engine(
    whole_run: RunResult, write_config: WriteConfig, tmp_path: Path, installed: Callable[..., None]
) -> None:
    installed(gpus=0)
    lines = (whole_run.folder / "journal.jsonl").read_text().splitlines()
    header = {**json.loads(lines[0]), "engine": {"name": "vllm", "version": "9.8.7"}}
    (tmp_path / "run").mkdir()
    journal = tmp_path / "run" / "journal.jsonl"
    journal.write_text("\n".join([json.dumps(header, ensure_ascii=False), *lines[1:4], ""]), encoding="utf-8")
    (tmp_path / "run" / "config.yaml").write_bytes((whole_run.folder / "config.yaml").read_bytes())
    before = journal.read_bytes()
    config = load_config(tmp_path / "run" / "config.yaml").with_engine(BUILTIN)
    with pytest.raises(RunMismatch, match="A run never mixes engines"):
        evolve(config, out=tmp_path / "run", resume=True)
    assert journal.read_bytes() == before
    assert Run.open(tmp_path / "run").journal.engine == SOME


def test_the_path_of_a_hybrid_runs_on_builtin_and_the_note_names_both(
    tmp_path: Path, installed: Callable[..., None]
) -> None:
    installed(gpus=0)
    hybrid = load_search(Path("configs/demo-hybrid.yaml")).with_engine("vllm")
    assert [stage.engine for stage in hybrid.stages.values()] == ["vllm", "auto"]
    notes = engine_notes(hybrid.resolved(relative_to=Path("configs")), out=tmp_path)
    assert notes[0].startswith("stage ps: engine: vllm 9.8.7 answers")
    assert notes[1].startswith("stage path: engine: builtin answers")


def test_check_says_which_engine_answers_or_why_it_cannot(
    write_config: WriteConfig, installed: Callable[..., None]
) -> None:
    path = write_config({"engine": "vllm"})
    config = load_config(path).resolved(relative_to=path.parent)
    assert any("engine: vllm cannot answer" in str(problem) for problem in preflight_search(config).problems) or (
        vllm_support.version() is not None
    )
    installed(gpus=0)
    assert preflight_search(config).notes[0].startswith("engine: vllm 9.8.7 answers")


def test_a_worker_of_vllm_sees_only_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    ours = WorkerSettings(device="cuda:1")
    theirs = replace(ours, engine=SOME)
    assert (_device_inside(ours), _device_inside(theirs)) == ("cuda:1", "cuda")
    assert "CUDA_VISIBLE_DEVICES" not in _environment(ours)
    assert _environment(theirs)["CUDA_VISIBLE_DEVICES"] == "1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert _environment(theirs)["CUDA_VISIBLE_DEVICES"] == "6"
