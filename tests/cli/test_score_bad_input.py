"""Messages of `evovlm score` and `evovlm ask` about wrong data of a task and broken models."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.cli.conftest import Command
from tests.pico import pico_llm

GOOD = {"question": "1と2で?", "answer": "3"}
TEXTS = "name: mine\nsplits: {report: rows.jsonl}\nprompt: zoo-problem-ja\nmetric: accuracy\n"
PICTURES = (
    "name: mine\nsplits: {report: rows.jsonl}\ncolumns: {image: photo}\nprompt: zoo-picture-ja\nmetric: rouge_l_ja\n"
)
DECODING = "decoding: {max_new_tokens: 4}\n"


def write_task(folder: Path, text: str, *rows: Mapping[str, object] | str) -> Path:
    """Write a task of one's own and its rows; a row that is a text is written as it is."""
    folder.mkdir(exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / "rows.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    path = folder / "mine.yaml"
    path.write_text(text + DECODING, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "rows", "parts"),
    [
        (TEXTS, (GOOD, '{"question": '), ("rows.jsonl:2", "not JSON")),
        (TEXTS, (GOOD, {"q": "?", "answer": "3"}), ("rows.jsonl:2", "no 'question'", "found q, answer")),
        (TEXTS, (), ("rows.jsonl", "has no samples")),
        (TEXTS, ({**GOOD, "answer": "箱\x1b]0;owned\x07"},), ("rows.jsonl:1", "should be a number")),
        (PICTURES, ({**GOOD, "photo": "gone.png"},), ("rows.jsonl:1, photo", "does not exist", "gone.png")),
        (PICTURES, ({**GOOD, "photo": "../secret.png"},), ("rows.jsonl:1, photo", "outside")),
        (PICTURES, ({**GOOD, "photo": "link.png"},), ("rows.jsonl:1, photo", "outside")),
        (PICTURES, ({**GOOD, "photo": "red.png"},), ("takes no pictures", "a text task")),
        (TEXTS.replace("prompt: zoo-problem-ja\n", ""), (GOOD,), ("no chat template", "--prompt")),
    ],
    ids=["no JSON", "no column", "empty", "no number", "gone", "outside", "link", "text model", "no template"],
)
def test_a_problem_is_reported_with_its_place_and_nothing_is_saved(
    text: str,
    rows: tuple[Mapping[str, object] | str, ...],
    parts: tuple[str, ...],
    evovlm: Command,
    models: Path,
    tmp_path: Path,
) -> None:
    task = write_task(tmp_path / "task", text, *rows)
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "task" / "red.png")
    (tmp_path / "task" / "link.png").symlink_to(tmp_path / "secret.png")
    told = evovlm("score", models / "base", "--task", task, "--device", "cpu", "--save", tmp_path / "saved")
    assert (told.code, told.out) == (2, "")
    assert told.err.startswith("error: ")
    assert "\x1b" not in told.err
    for part in parts:
        assert part in told.err
    assert not (tmp_path / "saved").exists()


def test_pictures_that_cannot_be_read_are_unscored_and_named(evovlm: Command, models: Path, tmp_path: Path) -> None:
    names = ("cut.png", "bomb.png", "cmyk.jpg", "grey16.png", "moving.gif", "clear.png", "turned.jpg")
    task = write_task(tmp_path / "task", PICTURES, *({**GOOD, "photo": name} for name in names))
    folder = tmp_path / "task"
    noise = Image.effect_noise((40, 20), 90)
    noise.save(folder / "whole.png")
    content = (folder / "whole.png").read_bytes()
    (folder / "cut.png").write_bytes(content[: len(content) // 2])
    Image.new("1", (15_000, 10_000)).save(folder / "bomb.png")
    noise.convert("CMYK").save(folder / "cmyk.jpg")
    noise.convert("I;16").save(folder / "grey16.png")
    noise.save(folder / "moving.gif", save_all=True, append_images=[noise.rotate(90)])
    noise.convert("LA").save(folder / "clear.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    noise.save(folder / "turned.jpg", exif=exif)
    told = evovlm("score", models / "vlm", "--task", task, "--device", "cpu", "--json")
    assert told.code == 0, told.err
    scored = json.loads(told.out)["mine"]
    cut, bomb = sorted(scored["reasons"], key=lambda reason: "pixels" in reason)
    assert (scored["n"], scored["unscored"]) == (7, 2)
    assert "cut.png: is not a readable picture" in cut
    assert "bomb.png: the picture has 15000 x 10000 pixels" in bomb


def test_a_prompt_beyond_the_context_is_unscored_and_named(evovlm: Command, models: Path, tmp_path: Path) -> None:
    long = {"id": "page-7", "question": "あ" * 9000, "answer": "3"}
    task = write_task(tmp_path / "task", TEXTS + "columns: {id: id}\n", {**GOOD, "id": "a"}, long)
    told = evovlm("score", models / "base", "--task", task, "--device", "cpu")
    assert told.code == 0, told.err
    (line,) = (line for line in told.out.splitlines() if "(page-7)" in line)
    assert "1 of 2 unscored: the prompt has 9" in line


def test_logits_that_are_not_numbers_are_reported_by_score_and_ask(evovlm: Command, tmp_path: Path) -> None:
    broken = pico_llm(tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    for tensor in tensors.values():
        tensor.fill_(float("nan"))
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    task = write_task(tmp_path / "task", TEXTS, GOOD)
    for command in (("score", broken, "--task", task), ("ask", broken, "1と2で?")):
        told = evovlm(*command, "--device", "cpu")
        assert (told.code, told.out) == (2, "")
        assert f"error: {broken}: on " in told.err
        assert "logits are not finite" in told.err


def test_choices_of_a_table_are_json(evovlm: Command, models: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('q,a,c\n1+1は,B,"[""1"", ""2""]"\n', encoding="utf-8")
    task = tmp_path / "mine.yaml"
    columns = "columns: {question: q, answer: a, choices: c}\n"
    text = "name: mine\nsplits: {report: rows.csv}\nprompt: zoo-problem-ja\nmetric: multiple_choice\n"
    task.write_text(text + columns + DECODING, encoding="utf-8")
    told = evovlm("score", models / "base", "--task", task, "--device", "cpu", "--json")
    assert told.code == 0, told.err
    (tmp_path / "rows.csv").write_text('q,a,c\n1+1は,B,"1, 2"\n', encoding="utf-8")
    assert "In a table, write it as JSON" in evovlm("score", models / "base", "--task", task).err


def test_a_wrong_name_is_reported_before_torch_is_loaded() -> None:
    wrong = (
        ("score", "zoo:base", "--task", "word_problem_ja"),
        ("score", "zoo:base", "--task", "gsm8k_ja"),
        ("score", "zoo:base", "--task", "mgsm_ja", "--decoding", "serch"),
        ("score", "zoo:base", "--task", ""),
        ("score", "zoo:base", "--task", "mgsm_ja", "--split", "test"),
        ("ask", "zoo:base", "?", "--prompt", "ja-alpaka"),
        ("ask", "zoo:base", " "),
    )
    code = (
        "import json, sys; from evovlm.cli.app import main\n"
        "for arguments in json.loads(sys.argv[1]):\n"
        "    sys.argv = ['evovlm', *arguments]\n"
        "    try: main()\n"
        "    except SystemExit as ended: assert ended.code == 2\n"
        "    assert not {'torch', 'transformers', 'datasets'} & set(sys.modules), arguments"
    )
    done = subprocess.run([sys.executable, "-c", code, json.dumps(wrong)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    messages = done.stderr.splitlines()
    assert len(messages) == len(wrong)
    assert all(message.startswith("error: ") for message in messages)


def test_a_missing_question_is_reported(evovlm: Command, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", (Path(models) / "base" / "config.json").open())
    sys.stdin.read()
    told = evovlm("ask", models / "base", "--device", "cpu")
    sys.stdin.close()
    assert (told.code, told.out) == (2, "")
    assert "no question" in told.err
