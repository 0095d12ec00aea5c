"""The same search on Ray: one node and two, with one that is lost in the middle; clusters that are not there.

All searches run on one small cluster, which is started once. Slow: a Ray node takes seconds to come up.
"""

import os
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from evovlm.errors import ConfigError, ModelNotFound, NotEnoughRoom
from evovlm.runs.config.parameters import EvolveConfig
from evovlm.runs.folder.entries import Entry
from evovlm.runs.searching.evolve import RunResult, evolve
from evovlm.runs.workers import open_workers
from evovlm.search.loop import Generation
from tests.runs.conftest import journal_rows

pytestmark = pytest.mark.slow

_CPUS = 4


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of two nodes of 4 CPUs each (as Ray counts them), which this process is connected to."""
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": _CPUS, "include_dashboard": False})
    nodes.add_node(num_cpus=_CPUS)
    ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
    yield nodes
    ray.shutdown()
    nodes.shutdown()


def on_ray(config: EvolveConfig, **settings: object) -> EvolveConfig:
    """Return the search with these settings of `ray:`."""
    document = {**config.model_dump(mode="json", by_alias=True), "ray": {"cpus_per_worker": 0.5, **settings}}
    return EvolveConfig.model_validate(document)


class LosesANode:
    """Kills a node once a candidate has its outcome."""

    def __init__(self, cluster: Any) -> None:
        self.cluster = cluster

    def started(self, *, candidates: int, generations: int, done: int, warnings: tuple[str, ...]) -> None:
        """Nothing yet."""

    def evaluated(self, entry: Entry) -> None:
        """Lose the second node in the middle of the second generation."""
        if entry.index == 5:
            self.cluster.remove_node(self.cluster.list_all_nodes()[-1], allow_graceful=False)

    def generation_ended(self, generation: Generation) -> None:
        """Nothing then."""


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_search_on_ray_has_the_journal_of_one_in_this_process(
    workers: int, whole_run: RunResult, config: EvolveConfig, cluster: Any, tmp_path: Path
) -> None:
    result = evolve(on_ray(config, workers=workers), out=tmp_path / "run")
    assert journal_rows(tmp_path / "run") == journal_rows(whole_run.folder)
    assert result.fitness == whole_run.fitness


def test_a_node_lost_in_the_middle_of_a_generation_changes_nothing(
    whole_run: RunResult, config: EvolveConfig, cluster: Any, tmp_path: Path
) -> None:
    # One worker fills a node, so that the other is on the node that is lost, and finds no place for a while.
    loses = LosesANode(cluster)
    try:
        evolve(on_ray(config, workers=2, cpus_per_worker=_CPUS), out=tmp_path / "run", observer=loses)
    finally:
        cluster.add_node(num_cpus=_CPUS)
    assert journal_rows(tmp_path / "run") == journal_rows(whole_run.folder)


def test_a_model_that_a_node_does_not_have_is_reported_with_node_and_path(
    config: EvolveConfig, models: Path, cluster: Any, tmp_path: Path
) -> None:
    # Gone once the driver has looked at it, as for a node that never had it.
    shutil.copytree(models / "math", tmp_path / "gone")
    merge = config.merge.model_copy(update={"sources": {**config.merge.sources, "math": str(tmp_path / "gone")}})
    searched = on_ray(config.model_copy(update={"merge": merge}), workers=1).resolved(relative_to=None)
    shutil.rmtree(tmp_path / "gone")
    with pytest.raises(ModelNotFound, match=r"(?s)on the Ray node \d+\.\d+\.\d+\.\d+: .*gone.*on every node"):
        open_workers(searched, parents={})


def test_more_workers_than_the_cluster_has_room_for_are_refused_with_how_many_fit(
    config: EvolveConfig, cluster: Any, tmp_path: Path
) -> None:
    # Four, or six while the cluster still counts a node that another test has killed.
    fit = r"9 workers with 2 CPUs and .* each do not .* \(.*CPUs.*\); ([46]) fit.\n    Set workers to \1 or fewer"
    with pytest.raises(NotEnoughRoom, match=fit):
        evolve(on_ray(config, workers=9, cpus_per_worker=2.0), out=tmp_path / "run")
    with pytest.raises(NotEnoughRoom, match=r"1 workers with 0.5 CPUs and 1 GPUs each do not fit .* 0 fit"):
        evolve(on_ray(config, workers=1, gpus_per_worker=1.0), out=tmp_path / "run")
    assert not (tmp_path / "run/journal.jsonl").exists()


def test_workers_without_a_gpu_have_to_fit_in_the_memory_of_the_nodes(config: EvolveConfig, cluster: Any) -> None:
    searched = on_ray(config, workers=2).resolved(relative_to=None)
    with pytest.raises(NotEnoughRoom, match=r"2 workers with 0.5 CPUs and 1000000.0 GB of memory each do not .* 0 fit"):
        open_workers(searched, parents={}, memory_bytes=10**15)
    # With GPUs, models are in theirs.
    with pytest.raises(NotEnoughRoom, match=r"2 workers with 0.5 CPUs and 1 GPUs each do not fit"):
        open_workers(
            on_ray(config, workers=2, gpus_per_worker=1.0).resolved(relative_to=None),
            parents={},
            memory_bytes=10**15,
        )


def unreachable(config: EvolveConfig, settings: Mapping[str, object]) -> str:
    """Return what is said of a cluster that is not there."""
    searched = on_ray(config, workers=2, **settings).resolved(relative_to=None)
    with pytest.raises(ConfigError) as caught:
        open_workers(searched, parents={})
    return str(caught.value)


def test_a_cluster_that_is_not_there_is_reported_with_how_to_start_one(
    config: EvolveConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    # As if this process were in no cluster yet, whatever other tests have started.
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        said = unreachable(config, {"address": address})
    assert address in said
    assert "ray start --head" in said
    assert "ray start --head" in unreachable(config, {"address": "nowhere"})
    assert "Run evovlm on a node of the cluster" in unreachable(config, {"address": "ray://head:10001"})


def test_without_ray_the_extra_is_named(config: EvolveConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install 'evovlm[ray]'" in unreachable(config, {})
