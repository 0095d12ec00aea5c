"""Workers as actors of a Ray cluster, one resident model each; Ray chooses the node and the GPUs.

Needs the optional extra `ray`. Only jobs and outcomes are sent over the network, not models: each node reads them from
a shared folder or its own copy of the hub's files, and the workers of one node share the pages of those files.
"""

import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, chdir
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import evovlm
from evovlm.devices import share_gpu
from evovlm.errors import ConfigError, EvovlmError, NotEnoughRoom, first_line
from evovlm.evaluation.workers.jobs import Job, Opening, Workers, WorkerSettings
from evovlm.evaluation.workers.supervisor import Lost, Refused, Report, Welcome
from evovlm.recipes.candidate import Outcome

AUTO = "auto"
LOCAL = "local"
_CONNECT_S = 10.0
_HOW_TO_START = (
    "Start one: `ray start --head` on this machine, and `ray start --address=THIS-MACHINE:6379` on each other; or set "
    "`address: local` for a cluster that lasts as long as the run."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RaySettings:
    """The cluster, and what each worker needs. `gpus_per_worker` None means 1 if the cluster has GPUs.

    `memory_bytes`, if known, counts for workers without a GPU, whose models are in the node's memory.
    """

    address: str
    workers: int
    gpus_per_worker: float | None
    cpus_per_worker: float
    memory_bytes: int | None = None

    @property
    def needed(self) -> Mapping[str, float]:
        """What a worker needs, by Ray's names of resources."""
        memory = 0 if self.gpus_per_worker else self.memory_bytes or 0
        return {"CPU": self.cpus_per_worker, "GPU": self.gpus_per_worker or 0.0, "memory": memory}


class RayWorker:
    """A worker as an actor."""

    def __init__(self) -> None:
        self._workers: Workers | None = None

    def open(self, opening: Opening, settings: WorkerSettings) -> Welcome | Refused:
        """Open the worker on this node."""
        if settings.threads is not None:
            # The merger reads the variable; torch has its own setting.
            os.environ["OMP_NUM_THREADS"] = str(settings.threads)
            torch.set_num_threads(settings.threads)
        if settings.gpu_share < 1:
            share_gpu(settings.gpu_share)
        try:
            self._workers = opening.open(settings)
        except EvovlmError as error:
            return Refused(error=_of_node(error))
        return Welcome.of(self._workers)

    def outcome(self, job: Job) -> Outcome:
        """Do a job; the worker must be open."""
        if self._workers is None:
            raise RuntimeError("a worker must be opened before it gets a job")
        return next(iter(self._workers.outcomes([job])))


class RayActors:
    """A pool of actors; create it with `connect`."""

    def __init__(
        self, opening: Opening, *, ray: Any, settings: RaySettings, worker_settings: WorkerSettings, owns_ray: bool
    ) -> None:
        self._opening = opening
        self._ray = ray
        self._n_seats = settings.workers
        self._worker_settings = worker_settings
        self._owns_ray = owns_ray
        self._actor = ray.remote(RayWorker).options(
            num_cpus=settings.cpus_per_worker,
            num_gpus=settings.gpus_per_worker,
            memory=settings.needed["memory"] or None,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        )
        self._actors: dict[int, Any] = {}
        self._promises: dict[Any, int] = {}

    @classmethod
    def connect(cls, opening: Opening, *, settings: RaySettings, device: str) -> "RayActors":
        """Join the cluster, or start one here for `address: local`.

        Raises ConfigError when Ray is not installed or no cluster answers, NotEnoughRoom when the cluster does not have
        the CPUs, GPUs or memory for all workers.
        """
        ray = _import_ray()
        owns_ray = not ray.is_initialized()
        with ExitStack() as if_refused:
            if owns_ray:
                _join(ray, settings.address)
                if_refused.callback(ray.shutdown)
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            gpus = settings.gpus_per_worker
            if gpus is None:
                gpus = 1.0 if any(node.get("GPU", 0) for node in nodes) else 0.0
            settings = replace(settings, gpus_per_worker=gpus)
            _check_room(settings, nodes)
            if_refused.pop_all()
        worker_settings = WorkerSettings(
            # A worker without a GPU must not take one that Ray gave to another worker.
            device="cpu" if device == "auto" and not gpus else device,
            threads=max(1, int(settings.cpus_per_worker)),
            n_sharing=-(-settings.workers // max(1, len(nodes))),
            gpu_share=min(1.0, gpus or 1.0),
        )
        return cls(opening, ray=ray, settings=settings, worker_settings=worker_settings, owns_ray=owns_ray)

    @property
    def n_slots(self) -> int:
        """The number of workers there can be."""
        return self._n_seats

    def start(self, slot: int) -> None:
        """See WorkerPool. The worker opens as soon as the cluster has free resources for it."""
        actor = self._actors[slot] = self._actor.remote()
        self._promises[actor.open.remote(self._opening, self._worker_settings)] = slot

    def give(self, slot: int, job: Job) -> None:
        """See WorkerPool."""
        self._promises[self._actors[slot].outcome.remote(job)] = slot

    def wait(self, timeout_s: float | None) -> Sequence[tuple[int, Report]]:
        """See WorkerPool."""
        ready, _ = self._ray.wait(list(self._promises), num_returns=1, timeout=timeout_s)
        return [(self._promises.pop(promise), self._report(promise)) for promise in ready]

    def stop(self, slot: int) -> None:
        """See WorkerPool."""
        self._promises = {promise: whose for promise, whose in self._promises.items() if whose != slot}
        actor = self._actors.pop(slot, None)
        if actor is not None:
            self._ray.kill(actor, no_restart=True)

    def close(self) -> None:
        """See WorkerPool. A cluster that was running before keeps running."""
        if not self._ray.is_initialized():
            return
        for slot in tuple(self._actors):
            self.stop(slot)
        if self._owns_ray:
            self._ray.shutdown()

    def _report(self, promise: Any) -> Report:
        try:
            report: Report = self._ray.get(promise)
        except self._ray.exceptions.RayError as error:
            # The error may have left the actor broken (its GPU context, for example), so a new one replaces it.
            lines = str(error).strip().splitlines() or [type(error).__name__]
            return Lost(how=f"{type(error).__name__}: {lines[-1].strip()}")
        return report


def _import_ray() -> Any:
    try:
        # An extra, and slow to import.
        import ray
    except ImportError as error:
        raise ConfigError("ray: the package is not installed. Install the extra: pip install 'evovlm[ray]'.") from error
    return ray


def _join(ray: Any, address: str) -> None:
    if address.startswith("ray://"):
        raise ConfigError(
            f"ray.address: {address} is the address of a Ray client. Run evovlm on a node of the cluster, and "
            "set `address: auto` there."
        )
    host, _, port = address.rpartition(":")
    if address not in (AUTO, LOCAL):
        # Ray itself waits long for an address that does not answer, and may then end the process.
        try:
            socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
        except (OSError, ValueError, OverflowError) as error:
            raise ConfigError(
                f"ray.address: no cluster answers at {address} ({error}).\n    {_HOW_TO_START}"
            ) from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # As in the next version of Ray; the device says that a worker has no GPU.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    started = {"include_dashboard": False} if address == LOCAL else {}
    try:
        # Ray's workers look for modules first in the folder that is current here, which may be anybody's.
        with chdir(Path(evovlm.__file__).parents[1]):
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", **started)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"ray.address: no cluster answers at {address} ({first_line(error)}).\n    {_HOW_TO_START}"
        ) from error


def _check_room(settings: RaySettings, nodes: Sequence[Mapping[str, float]]) -> None:
    needed = settings.needed
    fit = sum(
        int(min(node.get(name, 0.0) / amount + 1e-9 for name, amount in needed.items() if amount)) for node in nodes
    )
    if fit < settings.workers:
        of_nodes = "; ".join(dict.fromkeys(_amounts(node) for node in nodes))
        raise NotEnoughRoom(
            f"ray.workers: {settings.workers} workers with {_amounts(needed)} each do not fit in the cluster's "
            f"{len(nodes)} nodes ({of_nodes}); {fit} fit.\n    Set workers to {max(fit, 1)} or "
            "fewer, give each less (cpus_per_worker, gpus_per_worker), or add nodes."
        )


def _amounts(resources: Mapping[str, float]) -> str:
    found = [f"{resources[name]:g} {name}s" for name in ("CPU", "GPU") if resources.get(name)]
    if resources.get("memory"):
        found.append(f"{resources['memory'] / 1e9:.1f} GB of memory")
    return " and ".join(found)


def _of_node(error: EvovlmError) -> EvovlmError:
    """Return the same error with the node on which it was raised."""
    ray: Any = _import_ray()
    where = ray.util.get_node_ip_address()
    return type(error)(
        f"on the Ray node {where}: {error}\n    Each node opens models and data itself: they must be at that path on "
        "every node (a shared disk), or be hub ids."
    )
