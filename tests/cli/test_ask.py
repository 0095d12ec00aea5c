"""`evovlm ask` on pico models: one answer, pictures from files and the web, questions from the standard input."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image
from transformers import AutoModelForCausalLM, AutoTokenizer

from evovlm.cli.rendering import without_controls
from evovlm.errors import TaskError
from evovlm.evaluation import asking
from evovlm.evaluation.asking import Manner, fetch_picture, usual_prompt
from evovlm.models.loading import load_model
from tests.cli.conftest import Command
from tests.pico import pico_llm

QUESTION = "あめが3個あります。2個もらいました。何個ですか。"
SHORT = ("--max-new-tokens", "12", "--device", "cpu")


def generated(folder: Path, prompt: str, **settings: object) -> str:
    """Return what stock transformers answers."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
    found = model.generate(**inputs, max_new_tokens=12, do_sample=False, pad_token_id=3, **settings)
    return str(tokenizer.decode(found[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)).strip()


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ((), {}),
        (("--beams", "3"), {"num_beams": 3}),
        (("--repetition-penalty", "1.8"), {"repetition_penalty": 1.8}),
    ],
)
def test_the_answer_is_the_one_of_stock_transformers(
    evovlm: Command, models: Path, options: tuple[str, ...], settings: dict[str, object]
) -> None:
    told = evovlm("ask", models / "math", QUESTION, "--prompt", "zoo-problem-ja", *SHORT, *options)
    assert told.code == 0, told.err
    expected = generated(models / "math", f"問題: {QUESTION}\n答え:", **settings)
    # The pico models' answers are full of control characters.
    assert told.out.rstrip("\n") == without_controls(expected).strip()
    row = evovlm("ask", models / "math", QUESTION, "--prompt", "zoo-problem-ja", *SHORT, *options, "--json").out
    assert json.loads(row)["answer"] == expected
    assert set(json.loads(row)) == {"question", "answer", "tokens", "seconds"}


def test_a_model_without_a_template_is_asked_plainly_and_that_is_said(evovlm: Command, models: Path) -> None:
    told = evovlm("ask", models / "math", QUESTION, *SHORT)
    assert told.code == 0, told.err
    assert told.out.rstrip("\n") == without_controls(generated(models / "math", QUESTION)).strip()
    assert told.err.startswith("prompt: plain")


def test_the_usual_prompt_is_the_models_own(models: Path, tmp_path: Path) -> None:
    talking = pico_llm(tmp_path / "talking")
    (talking / "chat_template.jinja").write_text("{{ messages[0].content }}>")
    loaded, plain = load_model(talking, device="cpu"), load_model(models / "base", device="cpu")
    assert usual_prompt(loaded, model=str(talking), pictures=False) == "chat"
    assert usual_prompt(plain, model=str(models / "base"), pictures=False) == "plain"
    assert usual_prompt(plain, model="zoo:ja", pictures=False) == "zoo-problem-ja"
    assert usual_prompt(plain, model="zoo:vlm", pictures=True) == "zoo-picture-ja"
    asked = Manner(prompt="chat", system="簡潔に。").question(QUESTION)
    assert (asked.chat, asked.system, asked.text) == (True, "簡潔に。", QUESTION)


def test_each_line_of_the_standard_input_is_a_question(
    evovlm: Command, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("一?\n\n 二? \n"))
    told = evovlm("ask", models / "math", "--json", *SHORT)
    assert told.code == 0, told.err
    assert [json.loads(line)["question"] for line in told.out.splitlines()] == ["一?", "二?"]


def test_a_terminal_without_a_question_is_asked_for_one(
    evovlm: Command, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    told = evovlm("ask", models / "math")
    assert (told.code, "no question" in told.err) == (2, True)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    Image.new("RGB", (20, 20), (200, 30, 20)).save(path)
    return path


def test_a_picture_changes_the_answer(evovlm: Command, models: Path, picture: Path, tmp_path: Path) -> None:
    other = tmp_path / "noise.png"
    Image.effect_noise((20, 20), 99).convert("RGB").save(other)
    asked = ("ask", models / "vlm", "何の絵ですか?", "--prompt", "zoo-picture-ja", *SHORT, "--image")
    red, noise = evovlm(*asked, picture), evovlm(*asked, other)
    assert red.code == noise.code == 0, red.err
    assert red.out != noise.out
    assert evovlm(*asked, picture).out == red.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--image", "RED"), "takes no pictures"),
        (("--image", "nowhere.png"), "nowhere.png"),
        (("--prompt", "ja-alpaka"), "Unknown prompt 'ja-alpaka'"),
        (("--prompt", "chat"), "no chat template"),
        (("--system", "簡潔に。"), "--system"),
    ],
)
def test_what_cannot_be_asked_is_reported(
    evovlm: Command, models: Path, picture: Path, options: tuple[str, ...], message: str
) -> None:
    told = evovlm("ask", models / "math", "?", *SHORT, *(str(picture) if part == "RED" else part for part in options))
    assert (told.code, told.out) == (2, "")
    assert message in told.err


class _Web(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd")
            self.end_headers()
            return
        self.send_response(200 if self.path != "/missing" else 404)
        self.end_headers()
        picture: bytes = self.server.picture  # type: ignore[attr-defined]
        if self.path == "/slow":
            for place in range(40):
                time.sleep(0.05)
                try:
                    self.wfile.write(picture[place : place + 1])
                except OSError:
                    return
            self.wfile.write(picture[40:])
            return
        self.wfile.write(picture if self.path == "/red.png" else b"x" * 5000)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def web(picture: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Web)
    server.picture = picture.read_bytes()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_picture_comes_from_the_web_as_from_a_file(evovlm: Command, models: Path, picture: Path, web: str) -> None:
    asked = ("ask", models / "vlm", "何の絵ですか?", "--prompt", "zoo-picture-ja", *SHORT, "--image")
    assert evovlm(*asked, f"{web}/red.png").out == evovlm(*asked, picture).out


@pytest.mark.parametrize("path", ["/missing", "/away", "/text", "/slow", "/large"])
def test_a_picture_that_the_web_does_not_give_is_reported(web: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if path == "/large":
        monkeypatch.setattr(asking, "MOST_BYTES", 4000)
    # Given the two seconds that it takes, the slow picture would be there.
    with pytest.raises(TaskError, match=path):
        fetch_picture(web + path, timeout_s=0.5)
    with pytest.raises(TaskError, match="fetched"):
        fetch_picture("http://127.0.0.1:9/nobody")


@pytest.mark.slow
def test_ctrl_c_ends_an_answer_cleanly(models: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "evovlm", "ask", str(models / "math"), "?", "--max-new-tokens", "100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.read(1), "nothing is streamed"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert b"Traceback" not in err
