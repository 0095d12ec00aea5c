"""No token or key of the environment or of the hub's token file is ever printed or written."""

import itertools
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from evovlm.errors import EvovlmError, ModelNotFound
from evovlm.masking import masked
from tests.cli.conftest import Command, config, evovlm, models, problems, write_config
from tests.hub_fixtures import OpenHub, open_hub

__all__ = ["config", "evovlm", "models", "open_hub", "problems"]

SECRET = "neverToBeSeen0123456789"  # noqa: S105 - nobody's
NAMES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OPENAI_API_KEY", "WANDB_API_KEY", "AWS_SECRET_KEY", "MY_PASSWORD")


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A recognisable value in every variable of this kind, and in the token file."""
    for number, name in enumerate(NAMES):
        monkeypatch.setenv(name, f"{number}_{SECRET}")
    (tmp_path / "token").write_text(f"hf_{SECRET}\n", encoding="utf-8")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))


@pytest.mark.usefixtures("secrets")
def test_a_message_quotes_no_secret(tmp_path: Path) -> None:
    for secret in [*(f"{number}_{SECRET}" for number in range(len(NAMES))), f"hf_{SECRET}"]:
        assert masked(f"Illegal header value b'Bearer {secret}'") == "Illegal header value b'Bearer ***'"
    assert str(ModelNotFound(f"{tmp_path}: hf_{SECRET}")) == f"{tmp_path}: ***"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pw@hub.example/x", "https://***@hub.example/x"),
        ("https://token@hub.example/x", "https://***@hub.example/x"),
        ("(https://cdn.example/a?X-Amz-Signature=abc&part=1)", "(https://cdn.example/a?X-Amz-Signature=***&part=1)"),
        ("https://x.example/a?token=abc def", "https://x.example/a?token=*** def"),
        ("https://x.example/a@b?page=2", "https://x.example/a@b?page=2"),
        ("me@x.example, org/name@main", "me@x.example, org/name@main"),
    ],
)
def test_addresses_are_shown_without_passwords_and_signatures(text: str, shown: str) -> None:
    assert masked(text) == shown
    assert str(EvovlmError(text)) == shown


def test_settings_that_are_no_secrets_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "somewhere")
    monkeypatch.setenv("HF_TOKEN_PATH", "/home/me/token")
    monkeypatch.setenv("MY_KEY", "1")
    assert masked("1 somewhere /home/me/token") == "1 somewhere /home/me/token"


@pytest.mark.usefixtures("secrets")
@pytest.mark.parametrize("token", ["hf_{}", " hf_{}", "hf_{}\x7f", "hf_{}\u3042", "hf {}", None])
def test_errors_of_the_hub_show_no_token(
    evovlm: Command,
    models: Path,
    open_hub: OpenHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    token: str | None,
) -> None:
    hub = open_hub({f"org/{name}": models / name for name in ("base", "math", "ja")})
    hub.gated.add("org/math")
    hub.private.add("org/ja")
    if token is None:
        # The other place of a token: its file.
        Path(constants.HF_TOKEN_PATH).write_text(f"hf_{SECRET}")
    else:
        monkeypatch.setenv("HF_TOKEN", token.format(SECRET))
    for name in ("math", "ja", "none", "base@nowhere"):
        for words in (["ask", f"org/{name}", "x"], ["convert", f"org/{name}", "--out", str(tmp_path / "new")]):
            done = evovlm(*words)
            assert done.code == 2
            assert SECRET not in done.out + done.err
    assert hub.requests or (token and not token.isascii())


@pytest.mark.slow
@pytest.mark.usefixtures("secrets")
def test_a_search_and_its_report_hold_no_secret(
    evovlm: Command, models: Path, problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = {"tensorboard": True, "wandb": {"mode": "offline"}}
    search = write_config(tmp_path / "search.yaml", models=models, problems=problems, log=log)
    run = tmp_path / "run"
    printed = [
        evovlm("evolve", search, "--out", run, "--workers", "2"),
        evovlm("report", run, "--score"),
        evovlm("show", run),
        evovlm("export", run, "--format", "optuna", "--out", tmp_path / "study.log"),
        evovlm("merge", run / "best.yaml", "--out", tmp_path / "model"),
        evovlm("doctor"),
    ]
    assert [done.code for done in printed] == [0] * len(printed), printed
    assert not any(SECRET in done.out + done.err for done in printed)
    written = [path for path in _written(run, tmp_path / "model", tmp_path / "study.log") if path.is_file()]
    assert len(written) > 20
    assert [path for path in written if SECRET.encode() in path.read_bytes()] == []


def _written(*places: Path) -> Iterator[Path]:
    return itertools.chain.from_iterable([place, *place.rglob("*")] for place in places)


@pytest.mark.usefixtures("secrets")
@pytest.mark.parametrize(
    "error",
    [
        ValueError(f"Illegal header value b'Bearer hf_{SECRET}'"),
        OSError(5, f"hf_{SECRET}", f"https://me:{SECRET}@hub.example/x"),
        UnicodeEncodeError("ascii", f"Bearer hf_{SECRET}\u3042", 0, 99, "ordinal not in range"),
        SyntaxError(f"hf_{SECRET}"),
    ],
)
def test_the_traceback_of_an_error_shows_no_secret_of_its_causes(error: Exception) -> None:
    def ask() -> None:
        try:
            raise error
        except type(error) as first:
            raise RuntimeError(f"while asking with hf_{SECRET}") from first

    def explain() -> None:
        try:
            ask()
        except RuntimeError as second:
            raise ModelNotFound("the hub refused") from second

    with pytest.raises(ModelNotFound) as raised:
        explain()
    shown = "".join(traceback.format_exception(raised.value))
    assert "while asking with ***" in shown
    assert type(error).__name__ in shown
    assert SECRET not in shown
