"""`evovlm push`: a merged model goes to a hub of this test's own, whole and with its card, or not at all."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from evovlm.api import merge
from evovlm.recipes import hub_client
from tests.cli.conftest import Command, Outcome
from tests.upload_hub import UploadHub

# Raised inside huggingface_hub, on behalf of the HTTP library below it.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

TOKEN = "hf_neverToBeSeen0123456789"  # noqa: S105 - nobody's
REPO = "me/merged"


@pytest.fixture(scope="module")
def merged_once(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A merged model of sources whose licences are known; only read."""
    folder = tmp_path_factory.mktemp("merged")
    for name, licence in (("base", "apache-2.0"), ("ja", "cc-by-nc-4.0")):
        shutil.copytree(models / name, folder / name)
        (folder / name / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        "format: 1\nkind: parameter_merge\nbase: base\nsources: {ja: ja}\nmethod: ties\nparameters: {ja: {weight: 1}}\n"
    )
    merge(recipe, out=folder / "model")
    return folder / "model"


@pytest.fixture
def merged(merged_once: Path, tmp_path: Path) -> Path:
    """The merged model, in a copy to change as one likes."""
    return shutil.copytree(merged_once, tmp_path / "model")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[UploadHub]:
    """The hub of this test, with its token in the environment."""
    with UploadHub(token=TOKEN) as opened:
        hub_client.forget_hosts()
        monkeypatch.setattr(constants, "ENDPOINT", opened.url)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        yield opened


def silent_on_the_token(outcome: Outcome) -> Outcome:
    assert TOKEN not in outcome.out + outcome.err
    return outcome


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("private", [True, False])
def test_a_model_is_published_whole_with_its_card_last(
    evovlm: Command, merged: Path, hub: UploadHub, private: bool
) -> None:
    (merged / "notes.log").write_text("mine")
    flags = ["--private"] if private else []
    pushed = silent_on_the_token(evovlm("push", merged, REPO, "--yes", "--json", *flags))
    assert pushed.code == 0, pushed
    told = json.loads(pushed.out)
    assert (told["url"], told["published"], told["left_out"]) == (f"{hub.url}/{REPO}", True, ["notes.log"])
    (merged / "notes.log").unlink()
    sent = {name: content for name, content in hub.files[REPO].items() if name != ".gitattributes"}
    assert sent == files_of(merged)
    assert hub.commits[-1] == ("README.md",)
    assert hub.private[REPO] == private
    for name, size in told["files"].items():
        assert (name in pushed.err, len(sent[name]) == size) == (True, True)


def test_the_licence_of_the_sources_is_warned_of_first(evovlm: Command, merged: Path) -> None:
    shown = evovlm("push", merged, REPO, "--dry-run")
    assert (shown.code, shown.out) == (0, "nothing was sent (--dry-run).\n")
    assert "licence: cc-by-nc-4.0" in shown.err
    assert "warning: the card's licence is cc-by-nc-4.0: non-commercial" in shown.err
    assert "non-commercial; the merge inherits it" in shown.err
    card = merged / "README.md"
    card.write_text(card.read_text().replace("license: cc-by-nc-4.0", "license: unknown"))
    assert "warning: the card does not name a certain licence" in evovlm("push", merged, REPO, "--dry-run").err
    card.write_text(card.read_text().replace("license: unknown", "license: my-own"))
    assert "'my-own', which evovlm does not know" in evovlm("push", merged, REPO, "--dry-run").err


def test_a_dry_run_refuses_what_is_not_a_repository_id(evovlm: Command, merged: Path) -> None:
    found = evovlm("push", merged, "my-merge", "--dry-run")
    assert found.code == 2
    assert "'my-merge' is not a repository id. Write OWNER/NAME" in found.err
    assert found.out == ""


def test_the_folder_of_a_run_is_refused_with_the_command_that_writes_its_model(evovlm: Command, tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").touch()
    found = evovlm("push", tmp_path, REPO, "--dry-run")
    assert found.code == 2
    assert f"evovlm merge {tmp_path / 'best.yaml'} --out MODEL" in found.err


def test_small_files_have_a_size(evovlm: Command, merged: Path) -> None:
    shown = evovlm("push", merged, REPO, "--dry-run")
    size = (merged / "config.json").stat().st_size
    assert f"{size:,} bytes  config.json" in shown.err if size < 1000 else " kB  config.json" in shown.err


def test_a_dry_run_sends_nothing_and_needs_no_login(
    evovlm: Command, merged: Path, hub: UploadHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    shown = evovlm("push", merged, REPO, "--dry-run", "--json")
    assert (json.loads(shown.out)["published"], hub.requests) == (False, [])


def test_nothing_is_sent_without_confirmation(
    evovlm: Command, merged: Path, hub: UploadHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = evovlm("push", merged, REPO)
    assert (refused.code, hub.requests) == (2, [])
    assert "Add --yes" in refused.err
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", _answers_no)
    assert evovlm("push", merged, REPO).code == 1
    assert hub.requests == []


def _answers_no(question: str, *, abort: bool, err: bool) -> None:
    import typer

    assert (question, abort, err) == (f"publish this as {REPO}?", True, True)
    raise typer.Abort


Damage = Callable[[Path], object]


def _link(model: Path) -> None:
    (model / "config.json").rename(model.parent / "elsewhere.json")
    (model / "config.json").symlink_to(model.parent / "elsewhere.json")


def test_what_a_merge_wrote_is_published_and_a_link_that_leads_elsewhere_is_not(
    evovlm: Command, merged: Path, hub: UploadHub
) -> None:
    for name in ("USE_POLICY.md", "source.spm"):
        (merged / name).write_text(f"content of {name}")
    (merged.parent / "secret").write_text("secret")
    (merged / "notes.txt").symlink_to("../secret")
    pushed = silent_on_the_token(evovlm("push", merged, REPO, "--yes", "--json"))
    assert pushed.code == 0, pushed
    told = json.loads(pushed.out)
    assert told["left_out"] == ["notes.txt"]
    assert "notes.txt is left out: it is a link that leads out of the folder." in told["warnings"]
    sent = hub.files[REPO]
    assert (sent["USE_POLICY.md"], sent["source.spm"]) == (b"content of USE_POLICY.md", b"content of source.spm")
    assert "notes.txt" not in sent


def _cut(model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (shutil.rmtree, "does not exist"),
        (lambda model: (model / "model.safetensors").unlink(), "has neither model.safetensors nor"),
        (_cut, "cut off"),
        (lambda model: (model / "README.md").unlink(), "has no README.md"),
        (lambda model: (model / "config.json").write_text("{"), "config.json: cannot be read as JSON"),
        (lambda model: [path.unlink() for path in model.glob("tokenizer*")], "has no tokenizer"),
        (lambda model: (model / "pytorch_model.bin").write_bytes(b"\x80"), "contains pickles (pytorch_model.bin)"),
        (_link, "config.json: is a link that leads out"),
        (
            lambda model: (
                (model / "model.safetensors").unlink(),
                (model / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}'),
            ),
            "names model-1.safetensors, which does not exist",
        ),
    ],
)
def test_what_is_not_a_whole_safetensors_model_is_refused(
    evovlm: Command, merged: Path, hub: UploadHub, damage: Damage, says: str
) -> None:
    damage(merged)
    refused = evovlm("push", merged, REPO, "--yes")
    assert (refused.code, refused.out, hub.requests) == (2, "", [])
    assert says in refused.err


@pytest.mark.parametrize(
    ("refuse", "says"),
    [
        ({"/api/repos/create": 401}, "does not accept the login.\n    Run `hf auth login`"),
        ({"/api/repos/create": 403}, "does not let you write there"),
        ({"/commit/": 403}, "does not let you write there"),
        ({"/lfs/": 403}, "does not let you write there"),
        ({"/api/repos/create": 400}, "did not accept the upload"),
        ({"/api/validate-yaml": 400}, "refuses a file: Invalid metadata in README.md"),
    ],
)
def test_what_the_hub_refuses_is_explained(
    evovlm: Command, merged: Path, hub: UploadHub, refuse: dict[str, int], says: str
) -> None:
    hub.refuse.update(refuse)
    refused = silent_on_the_token(evovlm("push", merged, REPO, "--yes"))
    assert (refused.code, refused.out) == (2, "")
    assert says in refused.err
    assert "Traceback" not in refused.err


def test_another_token_is_not_accepted(
    evovlm: Command, merged: Path, hub: UploadHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN[::-1])
    refused = evovlm("push", merged, REPO, "--yes")
    assert (refused.code, "does not accept the login" in refused.err) == (2, True)
    assert TOKEN[::-1] not in refused.err


def test_a_repository_with_a_card_or_other_files_is_never_written_over(
    evovlm: Command, merged: Path, hub: UploadHub
) -> None:
    for name in ("README.md", "other.txt"):
        hub.files[REPO] = {".gitattributes": b"", name: b"mine"}
        refused = evovlm("push", merged, REPO, "--yes")
        assert (refused.code, hub.files[REPO][name], hub.commits) == (2, b"mine", [])
        assert f"exists already on the hub and contains {name}" in refused.err


def test_an_interrupted_publication_resumes(evovlm: Command, merged: Path, hub: UploadHub) -> None:
    hub.refuse["/commit/"] = 400
    assert evovlm("push", merged, REPO, "--yes").code == 2
    assert hub.files[REPO].keys() == {".gitattributes"}
    hub.refuse.clear()
    assert evovlm("push", merged, REPO, "--yes").code == 0
    assert hub.files[REPO].keys() - {".gitattributes"} == files_of(merged).keys()


def test_a_missing_login_network_or_id_is_reported(
    evovlm: Command, merged: Path, hub: UploadHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "is not a repository id" in evovlm("push", merged, "merged", "--yes").err
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "offline mode is on" in evovlm("push", merged, REPO, "--yes").err
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.stop()
    unreachable = silent_on_the_token(evovlm("push", merged, REPO, "--yes"))
    assert (unreachable.code, "Check the connection" in unreachable.err) == (2, True)
    monkeypatch.delenv("HF_TOKEN")
    assert "not logged in to the hub" in evovlm("push", merged, REPO, "--yes").err


def test_scores_in_the_hub_s_form_are_sent_and_broken_ones_refused(
    evovlm: Command, merged: Path, hub: UploadHub
) -> None:
    scores = merged / ".eval_results" / "evovlm.yaml"
    scores.parent.mkdir()
    scores.write_text("- dataset: {id: juletxara/mgsm}\n  value: 52\n")
    refused = evovlm("push", merged, REPO, "--yes")
    assert refused.code == 2
    assert "does not hold scores in the hub's form" in refused.err
    scores.write_text("- dataset: {id: juletxara/mgsm, task_id: mgsm_ja}\n  value: 52\n")
    (scores.parent / "secret.txt").write_text("not sent")
    pushed = evovlm("push", merged, REPO, "--yes", "--json")
    assert pushed.code == 0, pushed
    assert json.loads(pushed.out)["left_out"] == [".eval_results/secret.txt"]
    assert hub.files[REPO][".eval_results/evovlm.yaml"] == scores.read_bytes()


@pytest.mark.parametrize("xet", ["http://127.0.0.1:9", None])
def test_without_xet_storage_a_model_is_sent_over_http(
    evovlm: Command, merged: Path, hub: UploadHub, monkeypatch: pytest.MonkeyPatch, xet: str | None
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    hub.xet = xet
    pushed = silent_on_the_token(evovlm("push", merged, REPO, "--yes"))
    assert pushed.code == 0, pushed
    assert "Xet storage cannot be used" in pushed.err
    assert hub.files[REPO].keys() - {".gitattributes"} == files_of(merged).keys()


def test_a_limit_of_the_hub_is_waited_for(
    evovlm: Command, merged: Path, hub: UploadHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(hub_client._stopped, "wait", waited.append)
    hub.limited = 3
    assert evovlm("push", merged, REPO, "--yes").code == 0
    assert waited == [1, 1, 1]
    hub_client.forget_hosts()
