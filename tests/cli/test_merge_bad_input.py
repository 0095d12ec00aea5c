"""Errors of a merge: exit code 2, one message, nothing half-written; the same after Ctrl-C and kill."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from evovlm.merging import writer
from evovlm.merging.before import preflight
from evovlm.merging.checkpoint import safetensors_writer
from tests.cli.conftest import Command, Outcome
from tests.pico import pico_llm

PATIENCE_S = 60.0
NORM = "model.norm.weight"
WEIGHTS = "model.safetensors"
Damage = Callable[[Path], None]


@pytest.fixture
def folder(models: Path, tmp_path: Path) -> Path:
    """A folder with models to damage, base and ja, and nothing else."""
    for name in ("base", "ja"):
        shutil.copytree(models / name, tmp_path / name)
    return tmp_path


def write_recipe(folder: Path, **changes: object) -> Path:
    """Write a recipe that merges ja into base; `changes` replace whole keys of it."""
    document: dict[str, object] = {
        "format": 1,
        "kind": "parameter_merge",
        "base": "base",
        "sources": {"ja": "ja"},
        "method": "dare_ties",
        "parameters": {"ja": {"weight": 0.7, "density": 0.5}},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**document, **changes}, sort_keys=False), encoding="utf-8")
    return path


def refused(outcome: Outcome, *parts: str) -> None:
    """Check that a command ended with one message of these parts, and no more."""
    assert outcome.code == 2, outcome
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("error: ") == 1
    assert "Traceback" not in outcome.err
    for part in parts:
        assert part in outcome.err


def everything(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def change_weights(model: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(model / WEIGHTS)
    change(weights)
    save_file(weights, model / WEIGHTS, metadata={"format": "pt"})


def with_entry(value: float) -> Damage:
    def damage(model: Path) -> None:
        change_weights(model, lambda weights: weights[NORM].__setitem__(3, value))

    return damage


def change_header(model: Path, **changes: object) -> None:
    """Change the norm's entry in the header, whose length stays as it is."""
    content = (model / WEIGHTS).read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header[NORM] |= changes
    text = json.dumps(header, separators=(",", ":")).encode()
    (model / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


def split(model: Path) -> None:
    """Save the model again, in shards."""
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(model).save_pretrained(model, max_shard_size="40KB")
    (model / WEIGHTS).unlink(missing_ok=True)


def cut_last_shard(model: Path) -> None:
    split(model)
    last = sorted(model.glob("*.safetensors"))[-1]
    last.write_bytes(last.read_bytes()[:-100])


def lose_last_shard(model: Path) -> None:
    split(model)
    sorted(model.glob("*.safetensors"))[-1].unlink()


def replace_with(**options: int) -> Damage:
    def damage(model: Path) -> None:
        shutil.rmtree(model)
        pico_llm(model, **options)

    return damage


def turn_tokens(model: Path) -> None:
    """Let two ordinary tokens change places."""
    file = model / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    rows = tokenizer["model"]["vocab"]
    rows["A"], rows["B"] = rows["B"], rows["A"]
    file.write_text(json.dumps(tokenizer), encoding="utf-8")


def reshape(model: Path) -> None:
    change_weights(model, lambda weights: weights.update({NORM: torch.ones(31)}))


def nothing(model: Path) -> None:
    """Leave the model as it is."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is done to the source, what the recipe says otherwise, and what the message must say."""

    name: str
    says: tuple[str, ...]
    damage: Damage = nothing
    recipe: Mapping[str, object] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()


def numbers(weight: object = 0.7, density: object = 0.5) -> dict[str, object]:
    return {"ja": {"weight": weight, "density": density}}


CASES = (
    Case(name="truncated shard", damage=cut_last_shard, says=("/ja/model-0", "cut off; fetch it again")),
    Case(name="missing shard", damage=lose_last_shard, says=("/ja: ", "index.json names model-0", "does not exist")),
    Case(
        name="overlapping offsets",
        damage=lambda model: change_header(model, data_offsets=[0, 128]),
        says=(f"/ja/{WEIGHTS}: ", "starts at byte", "overlaps with"),
    ),
    Case(
        name="offsets outside the file",
        damage=lambda model: change_header(model, data_offsets=[10**9, 10**9 + 128]),
        says=(f"/ja/{WEIGHTS}: {NORM} starts at byte", "leaves a hole after"),
    ),
    Case(
        name="size unlike its shape",
        damage=lambda model: change_header(model, shape=[33]),
        says=(f"/ja/{WEIGHTS}: ", NORM, "128 bytes", "132 bytes for F32 of shape [33]"),
    ),
    Case(
        name="unknown dtype",
        damage=lambda model: change_header(model, dtype="F12"),
        says=(f"/ja/{WEIGHTS}: ", NORM, "'F12'"),
    ),
    Case(
        name="NaN",
        damage=with_entry(float("nan")),
        says=(f"/ja: {NORM} holds numbers that are not finite", "--allow-non-finite"),
    ),
    Case(name="infinity", damage=with_entry(float("-inf")), says=(f"/ja: {NORM} holds numbers that are not finite",)),
    Case(
        name="missing tensor",
        damage=lambda model: change_weights(model, lambda weights: weights.pop(NORM)),
        says=("sources.ja ('ja')", f"lacks {NORM}", "base"),
    ),
    Case(name="other shape", damage=reshape, says=(NORM, "[32] in base", "[31] in sources.ja")),
    Case(
        name="other number of blocks",
        damage=replace_with(n_blocks=3),
        says=("sources.ja ('ja') has 3 blocks", "has 2"),
    ),
    Case(
        name="other vocabulary",
        damage=turn_tokens,
        says=("sources.ja", "other rows", "vocabulary: host"),
    ),
    Case(
        name="density above 1",
        recipe={"parameters": numbers(density=1.5)},
        says=("recipe.yaml:", "parameters.ja", "1.5", "[0, 1]"),
    ),
    Case(
        name="density below 0",
        recipe={"parameters": numbers(density=[0.5, -0.1, 0.5, 0.5])},
        says=("recipe.yaml:", "parameters.ja.density", "[0, 1]"),
    ),
    Case(name="NaN as weight", recipe={"parameters": numbers(weight=float("nan"))}, says=("parameters.ja.weight",)),
    Case(
        name="list of a wrong length",
        recipe={"parameters": numbers(weight=[0.1, 0.2, 0.3])},
        says=("a list of 3 numbers", "4 are needed for 2 blocks"),
    ),
    Case(name="unknown method", recipe={"method": "dare_tie"}, says=("recipe.yaml:", "did you mean 'dare_ties'?")),
    Case(name="unknown key", recipe={"sedd": 3}, says=("recipe.yaml:", "sedd: unknown key; did you mean 'seed'?")),
    Case(
        name="all weights 0",
        recipe={"method": "linear", "base": None, "host": "base", "parameters": numbers(weight=0, density=1.0)},
        says=("weight is 0",),
    ),
    Case(
        name="weights that cancel",
        recipe={
            "method": "linear",
            "base": None,
            "host": "base",
            "sources": {"ja": "ja", "other": "base"},
            "parameters": {"ja": {"weight": 1}, "other": {"weight": -1}},
        },
        says=("weights 1, -1 sum to 0", "linear divides", "normalize: false"),
    ),
    Case(name="no such model", recipe={"sources": {"ja": "./ka"}}, says=("./ka", "there is no folder")),
    Case(name="no size", arguments=("--max-shard-size", "5 apples"), says=("--max-shard-size", "'5 apples'", "5GB")),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_is_refused_and_nothing_written(evovlm: Command, folder: Path, case: Case) -> None:
    case.damage(folder / "ja")
    recipe = write_recipe(folder, **case.recipe)
    before = everything(folder)
    refused(evovlm("merge", recipe, "--out", folder / "deep" / "out", *case.arguments), *case.says)
    assert everything(folder) == before


def test_numbers_that_are_not_finite_are_merged_on_request(evovlm: Command, folder: Path) -> None:
    with_entry(float("nan"))(folder / "ja")
    recipe = write_recipe(folder, parameters=numbers(density=1.0))
    merged = evovlm("merge", recipe, "--out", folder / "out", "--allow-non-finite", "--json")
    assert merged.code == 0, merged
    tensor = load_file(folder / "out" / WEIGHTS)[NORM]
    assert tensor.isnan().tolist() == [index == 3 for index in range(32)]


def test_an_existing_folder_is_refused_and_replaced_on_request(evovlm: Command, folder: Path) -> None:
    recipe = write_recipe(folder)
    assert evovlm("merge", recipe, "--out", folder / "out").code == 0
    (folder / "out" / "config.json").write_text("{}")
    refused(evovlm("merge", recipe, "--out", folder / "out"), "out exists already", "--overwrite")
    assert (folder / "out" / "config.json").read_text() == "{}"
    assert evovlm("merge", recipe, "--out", folder / "out", "--overwrite").code == 0
    assert (folder / "out" / "config.json").read_bytes() == (folder / "base" / "config.json").read_bytes()
    again = evovlm("merge", folder / "out" / "recipe.yaml", "--out", folder / "out", "--overwrite")
    assert again.code == 0, again
    assert sorted(path.name for path in folder.iterdir()) == ["base", "ja", "out", "recipe.yaml"]


def test_a_models_own_folder_is_never_replaced(evovlm: Command, folder: Path) -> None:
    recipe = write_recipe(folder)
    for name in ("base", "ja"):
        (folder / name / "config.json").touch()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    refused(evovlm("merge", recipe, "--out", folder / "ja", "--overwrite"), "ja contains 'ja'", "Name another folder")
    nested = shutil.copytree(folder / "base", folder / "base" / "inner")
    inner = write_recipe(folder, base="base/inner", host="base/inner")
    refused(evovlm("merge", inner, "--out", folder / "base", "--overwrite"), "contains 'base/inner'")
    shutil.rmtree(nested)
    write_recipe(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_what_is_not_a_model_is_never_replaced(evovlm: Command, folder: Path) -> None:
    (folder / "photos").mkdir()
    (folder / "photos" / "cat.png").write_bytes(b"cat")
    recipe = write_recipe(folder)
    refused(evovlm("merge", recipe, "--out", folder / "photos", "--overwrite"), "photos is not a model folder")
    assert (folder / "photos" / "cat.png").read_bytes() == b"cat"


def test_a_target_under_a_file_or_without_the_right_to_write_is_refused(evovlm: Command, folder: Path) -> None:
    recipe = write_recipe(folder)
    refused(evovlm("merge", recipe, "--out", recipe / "out"), "recipe.yaml/out: ", "is not a folder")
    # Not even root may make a folder there.
    refused(evovlm("merge", recipe, "--out", "/sys/evovlm-out"), "/sys/evovlm-out: cannot be written")


def test_files_are_as_small_as_asked(evovlm: Command, folder: Path) -> None:
    merged = evovlm("merge", write_recipe(folder), "--out", folder / "out", "--max-shard-size", "40 KB")
    assert merged.code == 0, merged
    theirs = folder / "ja"
    split(theirs)
    ours, reference = (
        json.loads((model / "model.safetensors.index.json").read_text()) for model in (folder / "out", theirs)
    )
    assert ours["metadata"] == reference["metadata"]
    assert ours["weight_map"].keys() == reference["weight_map"].keys()
    assert max(path.stat().st_size for path in (folder / "out").glob("*.safetensors")) < 100_000


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite", "fsync"])
def test_a_disk_that_is_full_or_fails_is_reported(
    evovlm: Command, folder: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    recipe = write_recipe(folder)
    before = everything(folder)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(safetensors_writer.os, call, refuse)
    refused(evovlm("merge", recipe, "--out", folder / "out"), "out: the disk is full", "Free some space")
    assert everything(folder) == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 KiB, where this may be mounted."""
    mount, unmount = shutil.which("mount"), shutil.which("umount")
    disk = tmp_path / "disk"
    disk.mkdir()
    if mount is None or unmount is None:
        pytest.skip("no mount here")
    if subprocess.run([mount, "-t", "tmpfs", "-o", "size=128k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no right to mount here")
    yield disk
    subprocess.run([unmount, disk], check=True)


@pytest.mark.parametrize("foreseen", [True, False])
def test_a_small_disk_is_found_before_and_while_writing(
    evovlm: Command, folder: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch, foreseen: bool
) -> None:
    recipe = write_recipe(folder)
    if not foreseen:
        monkeypatch.setattr(writer, "check_space", lambda *_, **__: None)
        monkeypatch.setattr(preflight, "room_problems", lambda *_, **__: [])
    says = ("the result takes", "are free", "Free space") if foreseen else ("the disk is full", "Free some space")
    refused(evovlm("merge", recipe, "--out", small_disk / "out"), *says)
    assert list(small_disk.iterdir()) == []


def test_a_source_cut_off_meanwhile_is_named(evovlm: Command, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = write_recipe(folder)
    before = everything(folder)

    def cut(*_: object, **__: object) -> None:
        (folder / "ja" / WEIGHTS).write_bytes((folder / "ja" / WEIGHTS).read_bytes()[:9000])

    monkeypatch.setattr(writer, "check_space", cut)
    refused(evovlm("merge", recipe, "--out", folder / "out"), f"/ja/{WEIGHTS}: ends at byte", "cut off meanwhile")
    assert everything(folder) == before


def test_ctrl_c_ends_with_130_and_one_line(evovlm: Command, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = write_recipe(folder)
    before = everything(folder)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writer, "check_kept", interrupt)
    stopped = evovlm("merge", recipe, "--out", folder / "out")
    assert (stopped.code, stopped.out) == (130, "")
    assert stopped.err == f"stopped; nothing was written to {folder / 'out'}.\n"
    assert everything(folder) == before


# The real command, but for a pause before each piece that it writes.
SLOW_MERGE = """
import os, time
from evovlm.cli.app import main
from evovlm.merging.checkpoint.shards import ShardedWriter
write = ShardedWriter.write
def slow(*arguments):
    while not os.path.exists("signal-is-sent"):
        time.sleep(0.01)
    time.sleep(0.2)
    write(*arguments)
ShardedWriter.write = slow
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_a_real_process_is_stopped_and_leaves_no_model(
    evovlm: Command, folder: Path, tmp_path_factory: pytest.TempPathFactory, sent: signal.Signals
) -> None:
    recipe, out, beside_it = write_recipe(folder), folder / "out", tmp_path_factory.mktemp("beside")
    before = everything(folder)
    command = [sys.executable, "-c", SLOW_MERGE, "merge", str(recipe), "--out", str(out)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=beside_it
    )
    try:
        until = time.monotonic() + PATIENCE_S
        while not (folder / ".out.partial" / WEIGHTS).exists() and process.poll() is None:
            assert time.monotonic() < until, "the merge does not get on"
            time.sleep(0.01)
        beside = evovlm("merge", recipe, "--out", out)
        refused(beside, "out: another process is writing there now")
        process.send_signal(sent)
        (beside_it / "signal-is-sent").touch()
        printed, err = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert printed == ""
    if sent == signal.SIGINT:
        assert process.returncode == 130
        assert "Traceback" not in err
        assert err.endswith(f"stopped; nothing was written to {out}.\n")
        assert everything(folder) == before
    else:
        assert process.returncode == -signal.SIGKILL
        assert sorted(set(everything(folder)) - set(before))[0] == ".out.partial"
        assert not out.exists()
    assert evovlm("merge", recipe, "--out", out).code == 0
    assert sorted(path.name for path in folder.iterdir()) == ["base", "ja", "out", "recipe.yaml"]
