"""Sets of the hub, over a hub on this machine: loaded once, then served from the caches without it.

Each load is a process of its own: `datasets` reads where the hub and its caches are, and whether it is offline, once.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from evovlm.tasks.catalogue import TASKS
from evovlm.tasks.published import hub_place, is_on_hub
from evovlm.tasks.task import Split
from tests.hub_server import Fault, HubServer, commit_of
from tests.tasks.sample_files import SETS

_LOAD = """
import json, sys
from pathlib import Path
from evovlm.errors import TaskError
from evovlm.tasks.catalogue import get_task
from evovlm.tasks.task import Split
name, split, data = sys.argv[1:]
task = get_task(name)
try:
    samples = task.samples(Split(split), data=Path(data) if data else None)
except TaskError as error:
    print(json.dumps({"error": str(error)}))
else:
    shades = [[image.load().getpixel((0, 0))[0] for image in sample.images] for sample in samples]
    at_hand = task.samples_at_hand(Split(split))
    print(json.dumps({"ids": [s.id for s in samples], "questions": [s.question for s in samples], "shades": shades,
                      "at_hand": at_hand and len(at_hand), "cached": task.is_cached}))
"""


class Hub:
    """A hub with small sets, and caches that are empty at first."""

    def __init__(self, folder: Path, *, xet: str | None = None) -> None:
        self.home = folder / "home"
        self.gsm8k = folder / "gsm8k"
        for part in ("train", "test"):
            write(self.gsm8k / "main" / f"{part}-00000-of-00001.parquet", "gsm8k")
        (self.gsm8k / "README.md").write_text(
            "---\nconfigs:\n- config_name: main\n  data_files:\n  - {split: train, path: main/train-*}\n"
            "  - {split: test, path: main/test-*}\n---\n",
            encoding="utf-8",
        )
        write(folder / "mgsm" / "ja" / "test" / "0000.parquet", "mgsm_ja")
        write(folder / "multi" / "data" / "test-00000-of-00001.parquet", "ja_multi_image_vqa", pictures=True)
        self.server = HubServer(
            {
                "openai/gsm8k": self.gsm8k,
                "juletxara/mgsm": folder / "mgsm",
                "SakanaAI/JA-Multi-Image-VQA": folder / "multi",
            },
            xet=xet,
        )
        self.server.tags["juletxara/mgsm", "refs/convert/parquet"] = folder / "mgsm"

    def load(self, name: str, split: str, data: str = "", *, offline: bool = False) -> Mapping[str, object]:
        """Load a task's samples in a process of its own."""
        environment = {
            **os.environ,
            "HF_HOME": str(self.home),
            "HF_ENDPOINT": self.server.url,
            "NO_PROXY": "127.0.0.1,localhost",
            "HF_HUB_OFFLINE": str(int(offline)),
        }
        for variable in ("HF_TOKEN", "HF_DATASETS_CACHE", "HF_HUB_CACHE", "HF_DATASETS_OFFLINE"):
            environment.pop(variable, None)
        command = [sys.executable, "-c", _LOAD, name, split, data]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
        assert done.returncode == 0, done.stderr
        found: Mapping[str, object] = json.loads(done.stdout.splitlines()[-1])
        return found


def write(path: Path, name: str, *, pictures: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not pictures:
        pq.write_table(pa.Table.from_pylist(SETS[name].encoded_rows()), path)
        return
    from tests.tasks.test_sets import saved_table

    saved_table(SETS[name]).to_parquet(str(path))


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    opened = Hub(tmp_path)
    with opened.server:
        yield opened


@pytest.mark.slow
def test_a_set_is_loaded_once_and_then_served_without_the_hub(hub: Hub) -> None:
    first = hub.load("gsm8k", "search")
    assert (first["questions"], first["at_hand"], first["cached"]) == (["3 boxes of 400?"], 1, True)
    hub.server.stop()
    for data, offline in (("", True), ("cached:", False), (f"hub:openai/gsm8k@{commit_of(hub.gsm8k)}", True)):
        assert hub.load("gsm8k", "search", data, offline=offline) == first
    other = hub.load("gsm8k", "report", f"hub:@{'0' * 40}", offline=True)
    assert f"the cache has {commit_of(hub.gsm8k)} instead" in str(other["error"])


@pytest.mark.slow
def test_a_set_that_is_a_script_is_read_from_the_hub_s_parquet_copy(hub: Hub) -> None:
    first = hub.load("mgsm_ja", "report")
    assert first["questions"] == ["3人に2個ずつ配ると何個?", "千円と二百円では?"]
    assert first["at_hand"] == 2
    hub.server.stop()
    assert hub.load("mgsm_ja", "report", offline=True) == first
    assert hub.load("mgsm_ja", "report", "cached:") == first


def test_pictures_of_a_hub_set_come_from_its_table(hub: Hub) -> None:
    assert hub.load("ja_multi_image_vqa", "report")["shades"] == [[10, 20]]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gsm8k", "mgsm_ja"])
def test_a_set_is_loaded_from_a_busy_hub_without_xet_storage(tmp_path: Path, name: str) -> None:
    hub = Hub(tmp_path, xet="http://127.0.0.1:9")
    with hub.server:
        for path in ("/api/datasets/", "/resolve/", "/repos/"):
            hub.server.faults[path] = [Fault(status=429, headers={"Retry-After": "1"}), Fault(status=503)]
        assert hub.load(name, "report")["ids"]
        assert not any(hub.server.faults.values())


@pytest.mark.slow
def test_a_set_of_a_hub_that_stays_broken_says_so(hub: Hub) -> None:
    hub.server.always["/api/datasets/openai"] = Fault(status=429, headers={"Retry-After": "3600"})
    assert "limits requests from here for another 60 min (429). Try again then." in str(hub.load("gsm8k", "report"))


@pytest.mark.slow
def test_what_cannot_be_had_says_which_set_and_how_to_go_on(hub: Hub) -> None:
    for name, split, data, reason in (
        ("gsm8k_ja", "search", "", "doesn't exist on the Hub"),
        ("gsm8k", "report", "hub:openai/gsm8k@v9", "Revision 'v9' doesn't exist"),
        ("gsm8k", "report", "cached:", "Couldn't find cache"),
        ("mgsm_en", "report", "", "there is no en/test/"),
    ):
        message = str(hub.load(name, split, data)["error"])
        assert reason in message
        assert f"The data set {TASKS[name].hub_id}" in message
        for way in ("--data TASK=PATH", "--data TASK=hub:ID@REVISION", "HF_HUB_OFFLINE=1", str(hub.home / "datasets")):
            assert way in message
    hub.server.stop()
    assert "could not be loaded from the hub" in str(hub.load("ja_vlm_bench", "report", offline=True)["error"])


def test_a_location_on_the_hub_is_distinguished_from_a_path() -> None:
    assert is_on_hub(Path("hub:org/name"))
    assert not is_on_hub("data/hub:org")
    assert hub_place(Path("hub:org/name@v1")) == ("org/name", "v1")
    assert hub_place("hub:org/name") == ("org/name", None)
    assert hub_place("hub:@v1") == ("", "v1")


def test_embedded_samples_are_always_at_hand_and_those_of_no_hub_never() -> None:
    samples = TASKS["word_problems_ja"].samples_at_hand(Split.REPORT)
    assert samples == TASKS["word_problems_ja"].samples(Split.REPORT)
    assert TASKS["mawps_ja"].samples_at_hand(Split.SEARCH) is None
