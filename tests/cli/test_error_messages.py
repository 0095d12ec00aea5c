"""Every kind of error, raised by a real command: what a newcomer reads, and that it says what to do."""

import fcntl
import json
import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file

from evovlm.cli.app import app
from evovlm.errors import (
    AllCandidatesFailed,
    BrokenCheckpoint,
    CodeNotAllowed,
    ConfigError,
    EvovlmError,
    IncompatibleModels,
    JudgeStopped,
    ModelError,
    ModelNotFound,
    NoChatTemplate,
    NotEnoughRoom,
    OutputError,
    OutputExists,
    PickledWeights,
    PluginError,
    RunError,
    RunMismatch,
    TaskError,
    UnknownArchitecture,
)
from evovlm.evaluation import judging
from evovlm.merging.before import needs
from tests.cli.conftest import Command, write_config
from tests.cli.test_merge_bad_input import change_weights, everything, folder, replace_with, write_recipe

__all__ = ["folder"]

Prepare = Callable[[Path, pytest.MonkeyPatch], list[str]]


def merging(damage: Callable[[Path], object], **recipe: object) -> Prepare:
    def prepare(folder: Path, _patch: pytest.MonkeyPatch) -> list[str]:
        damage(folder)
        return ["merge", str(write_recipe(folder, **recipe)), "--out", str(folder / "out")]

    return prepare


def searching(damage: Callable[[Path, pytest.MonkeyPatch], object], *flags: str) -> Prepare:
    def prepare(folder: Path, patch: pytest.MonkeyPatch) -> list[str]:
        rows = [json.dumps({"id": f"p{n}", "question": f"{n}と2で?", "number": n + 2, "tags": []}) for n in range(3)]
        (folder / "problems.jsonl").write_text("\n".join(rows), encoding="utf-8")
        (folder / "ja").rename(folder / "math")
        config = write_config(folder / "search.yaml", models=folder, problems=folder / "problems.jsonl")
        document = yaml.safe_load(config.read_text())
        document["merge"]["sources"].pop("ja")
        document["tasks"] = [{"name": "word_problems_ja", "data": str(folder / "problems.jsonl")}]
        config.write_text(yaml.safe_dump(document))
        damage(folder, patch)
        return ["evolve", str(config), "--out", str(folder / "run"), *flags]

    return prepare


def scoring_with_code(folder: Path, _patch: pytest.MonkeyPatch) -> list[str]:
    (folder / "metric.py").write_text("")
    (folder / "rows.jsonl").write_text('{"question": "1と2で?", "answer": "3"}\n', encoding="utf-8")
    task = "name: own\nsplits: {report: rows.jsonl}\nmetric: evaluate:./metric.py\nprompt: zoo-problem-ja\n"
    (folder / "own.yaml").write_text(task)
    return ["score", str(folder / "ja"), "--task", str(folder / "own.yaml")]


def pickle_it(folder: Path) -> None:
    (folder / "ja" / "model.safetensors").rename(folder / "ja" / "pytorch_model.bin")


def other_architecture(folder: Path) -> None:
    file = folder / "ja" / "model.safetensors"
    weights = {name: tensor for name, tensor in load_file(file).items() if "layers" not in name}
    save_file(weights, file)


def lock(folder: Path, _patch: pytest.MonkeyPatch) -> None:
    (folder / "run").mkdir()
    # The system closes it with the process; Python would warn about a file object that is not closed.
    held = os.open(folder / "run" / ".lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(held, fcntl.LOCK_EX)


def finish_with_another_seed(folder: Path, _patch: pytest.MonkeyPatch) -> None:
    config = folder / "search.yaml"
    from evovlm.api import evolve

    evolve(config, out=folder / "run")
    config.write_text(config.read_text().replace("seed: 7", "seed: 8"))


def break_numbers(folder: Path, _patch: pytest.MonkeyPatch) -> None:
    for name in ("base", "math"):
        change_weights(folder / name, lambda weights: [weight.fill_(float("nan")) for weight in weights.values()])


def no_room(folder: Path, patch: pytest.MonkeyPatch) -> list[str]:
    patch.setattr(needs, "free_disk_bytes", lambda _: 1000)
    return merging(lambda _: None)(folder, patch)


def asking_a_judge_that_is_not_there(folder: Path, patch: pytest.MonkeyPatch) -> list[str]:
    patch.setattr(judging, "_wait_s", lambda *_: 0.0)
    row = {"question": "1と2で?", "prediction": "3", "reference": "3"}
    (folder / "answers.jsonl").write_text(json.dumps(row), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    return ["grade", str(folder / "answers.jsonl"), "--metric", "judge", "--judge", "m", "--judge-url", url]


@dataclass(frozen=True, kw_only=True)
class Case:
    """How an error comes about, and what its message says beside."""

    kind: type[EvovlmError]
    prepare: Prepare
    says: tuple[str, ...]


CASES = (
    Case(
        kind=ConfigError,
        prepare=merging(lambda _: None, method="dare_tie", sedd=3),
        says=("recipe.yaml has 2 problems:", "recipe.yaml:", "did you mean 'dare_ties'?", "did you mean 'seed'?"),
    ),
    Case(
        kind=ModelNotFound,
        prepare=merging(lambda _: None, sources={"ja": "./ka"}),
        says=("Model './ka': there is no folder", "Name an existing folder, a hub id"),
    ),
    Case(
        kind=BrokenCheckpoint,
        prepare=merging(lambda folder: (folder / "ja" / "model.safetensors").unlink()),
        says=("/ja: ", "model.safetensors"),
    ),
    Case(kind=PickledWeights, prepare=merging(pickle_it), says=("/ja", "`evovlm convert")),
    Case(
        kind=UnknownArchitecture,
        prepare=merging(other_architecture),
        says=("/ja", "no numbered blocks", "`backbone: {body:"),
    ),
    Case(
        kind=IncompatibleModels,
        prepare=merging(lambda folder: replace_with(n_blocks=3)(folder / "ja")),
        says=("sources.ja ('ja') has 3 blocks", "has 2"),
    ),
    Case(
        kind=ModelError,
        prepare=merging(other_architecture, base="./none", host="base"),
        says=("2 problems:", "no numbered blocks", "./none"),
    ),
    Case(
        kind=EvovlmError,
        prepare=merging(lambda folder: (folder / "out").mkdir(), sources={"ja": "./ka"}),
        says=("2 problems:", "./ka", "out exists already"),
    ),
    Case(
        kind=TaskError,
        prepare=lambda folder, _: ["score", str(folder / "ja"), "--task", "mgsm_jp"],
        says=("Unknown task 'mgsm_jp'", "did you mean 'mgsm_ja'?", "`evovlm tasks` lists them"),
    ),
    Case(
        kind=NoChatTemplate,
        prepare=lambda folder, _: [
            *("score", str(folder / "ja"), "--task", "word_problems_ja", "--limit", "1", "--prompt", "chat")
        ],
        says=("/ja: has no chat template, which the prompt `chat` needs", "Name a written-out prompt"),
    ),
    Case(
        kind=CodeNotAllowed,
        prepare=scoring_with_code,
        says=("would run code from these files:", "metric.py", "add --allow-code"),
    ),
    Case(
        kind=JudgeStopped,
        prepare=asking_a_judge_that_is_not_there,
        says=("The judge m at http://127.0.0.1:", "cannot be asked", "Check the address", "resume"),
    ),
    Case(
        kind=OutputError,
        prepare=lambda folder, _: ["merge", str(write_recipe(folder)), "--out", str(folder / "recipe.yaml" / "out")],
        says=("recipe.yaml/out: a part of this path is not a folder", "Choose another location"),
    ),
    Case(
        kind=OutputExists,
        prepare=merging(lambda folder: (folder / "out").mkdir()),
        says=("out exists already", "Name a new folder", "--overwrite"),
    ),
    Case(kind=NotEnoughRoom, prepare=no_room, says=("out: the result takes", "are free", "Free space")),
    Case(kind=RunError, prepare=searching(lock), says=("run: another process is working in it", "Wait for it")),
    Case(
        kind=RunMismatch,
        prepare=searching(finish_with_another_seed, "--resume"),
        says=("was started with another config", "seed: 7 -> 8", "Undo the change"),
    ),
    Case(
        kind=AllCandidatesFailed,
        prepare=searching(break_numbers),
        says=("generation 0: none of its 4 candidates", "not finite", "--resume"),
    ),
)


def kinds_below(kind: type[EvovlmError]) -> set[type[EvovlmError]]:
    return {kind}.union(*(kinds_below(each) for each in kind.__subclasses__()))


def test_every_kind_of_error_is_here() -> None:
    ours = {kind for kind in kinds_below(EvovlmError) if kind.__module__.startswith("evovlm.")}
    # tests/test_plugins.py shows that of a package, which a process looks up only once.
    assert {*(case.kind for case in CASES), PluginError} == ours


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind.__name__)
def test_an_error_is_one_message_that_says_where_what_and_what_to_do(
    evovlm: Command, folder: Path, monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    arguments = case.prepare(folder, monkeypatch)
    with pytest.raises(EvovlmError) as raised:
        app(arguments, standalone_mode=False)
    assert type(raised.value) is case.kind
    flags = ["--resume"] if case.kind is AllCandidatesFailed else []
    before = everything(folder)
    shown = evovlm(*arguments, *flags)
    assert (shown.code, shown.out) == (2, "")
    message = shown.err[shown.err.index("error: ") :]
    assert message.count("error: ") == 1
    assert "Traceback" not in shown.err
    for part in case.says:
        assert part in message, message
    # What to do stands indented below, or in the last sentence.
    assert re.search(r"\n    \S|\. [A-Z][^.]*\.$|did you mean", message), message
    assert everything(folder) == before
