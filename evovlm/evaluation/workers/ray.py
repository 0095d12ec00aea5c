"""Workers as actors of a Ray cluster, one resident model each; Ray says on which node and on which GPUs.

Needs the optional extra `ray`. A job and its outcome travel; models do not: each node reads them itself, from a folder
that all see or from its own copy of the hub's files, and the workers of one node share the pages of those files.
"""

import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch

from evovlm.errors import ConfigError, EvovlmError, NotEnoughRoom, first_line
from evovlm.evaluation.workers.jobs import Job, Opening, Place, Workers
from evovlm.evaluation.workers.supervisor import Lost, Refused, Report, Welcome
from evovlm.recipes.candidate import Evaluation, Failure

AUTO = "auto"
LOCAL = "local"
_CONNECT_S = 10.0
_HOW_TO_START = (
    "Start one: `ray start --head` on this machine, and `ray start --address=THIS-MACHINE:6379` on each other; or say "
    "`address: local` for one that lasts as long as the run."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RaySettings:
    """Which cluster, and what each worker takes of it. `gpus_per_worker` None: 1 where the cluster has GPUs.

    `memory_bytes`, where it is known, counts for workers without a GPU, which have their models in the node's memory.
    """

    address: str
    workers: int
    gpus_per_worker: float | None
    cpus_per_worker: float
    memory_bytes: int | None = None

    @property
    def wanted(self) -> Mapping[str, float]:
        """What a worker takes, by Ray's names of resources."""
        memory = 0 if self.gpus_per_worker else self.memory_bytes or 0
        return {"CPU": self.cpus_per_worker, "GPU": self.gpus_per_worker or 0.0, "memory": memory}


class RayWorker:
    """The actor."""

    def __init__(self) -> None:
        self._workers: Workers | None = None

    def open(self, opening: Opening, place: Place) -> Welcome | Refused:
        """Open the evaluator on this node."""
        if place.threads is not None:
            # The merger reads the one, torch the other.
            os.environ["OMP_NUM_THREADS"] = str(place.threads)
            torch.set_num_threads(place.threads)
        try:
            self._workers = opening.open(place)
        except EvovlmError as error:
            return Refused(error=_of_node(error))
        return Welcome.of(self._workers)

    def outcome(self, job: Job) -> Evaluation | Failure:
        """Do a job, once open."""
        if self._workers is None:
            raise RuntimeError("a worker has no job before it is open")
        return next(iter(self._workers.outcomes([job])))


class RayActors:
    """A crew of actors; `connect` it."""

    def __init__(self, opening: Opening, *, ray: Any, settings: RaySettings, place: Place, owns_ray: bool) -> None:
        self._opening = opening
        self._ray = ray
        self._n_seats = settings.workers
        self._place = place
        self._owns_ray = owns_ray
        self._actor = ray.remote(RayWorker).options(
            num_cpus=settings.cpus_per_worker,
            num_gpus=settings.gpus_per_worker,
            memory=settings.wanted["memory"] or None,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        )
        self._actors: dict[int, Any] = {}
        self._promises: dict[Any, int] = {}

    @classmethod
    def connect(cls, opening: Opening, *, settings: RaySettings, device: str) -> "RayActors":
        """Join the cluster, or start one here for `address: local`.

        Raises ConfigError when Ray is not installed or no cluster is there, NotEnoughRoom when it has not the CPUs, the
        GPUs or the memory for so many workers.
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
        place = Place(
            # Without a GPU of its own, a worker must not take one that Ray gave to another.
            device="cpu" if device == "auto" and not gpus else device,
            threads=max(1, int(settings.cpus_per_worker)),
            n_sharing=-(-settings.workers // max(1, len(nodes))),
        )
        return cls(opening, ray=ray, settings=settings, place=place, owns_ray=owns_ray)

    @property
    def n_seats(self) -> int:
        """How many workers there can be."""
        return self._n_seats

    def start(self, seat: int) -> None:
        """See Crew. Where the cluster has no room for it now, the worker opens when there is."""
        actor = self._actors[seat] = self._actor.remote()
        self._promises[actor.open.remote(self._opening, self._place)] = seat

    def give(self, seat: int, job: Job) -> None:
        """See Crew."""
        self._promises[self._actors[seat].outcome.remote(job)] = seat

    def wait(self, timeout_s: float | None) -> Sequence[tuple[int, Report]]:
        """See Crew."""
        ready, _ = self._ray.wait(list(self._promises), num_returns=1, timeout=timeout_s)
        return [(self._promises.pop(promise), self._report(promise)) for promise in ready]

    def stop(self, seat: int) -> None:
        """See Crew."""
        self._promises = {promise: whose for promise, whose in self._promises.items() if whose != seat}
        actor = self._actors.pop(seat, None)
        if actor is not None:
            self._ray.kill(actor, no_restart=True)

    def close(self) -> None:
        """See Crew. A cluster that was there before stays."""
        if not self._ray.is_initialized():
            return
        for seat in tuple(self._actors):
            self.stop(seat)
        if self._owns_ray:
            self._ray.shutdown()

    def _report(self, promise: Any) -> Report:
        try:
            report: Report = self._ray.get(promise)
        except self._ray.exceptions.RayError as error:
            # What went wrong in it may have left it broken (a GPU's context, say): a new one takes its place.
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
            f"ray.address: {address} is that of a Ray client. Run evovlm on a node of the cluster, and say "
            "`address: auto` there."
        )
    host, _, port = address.rpartition(":")
    if address not in (AUTO, LOCAL):
        # Ray itself waits long for what does not answer, and may end the process over it.
        try:
            socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
        except (OSError, ValueError, OverflowError) as error:
            raise ConfigError(
                f"ray.address: no cluster answers at {address} ({error}).\n    {_HOW_TO_START}"
            ) from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # So says the next version of Ray; a worker without a GPU is told so by its device.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    started = {"include_dashboard": False} if address == LOCAL else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **started)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"ray.address: no cluster answers at {address} ({first_line(error)}).\n    {_HOW_TO_START}"
        ) from error


def _check_room(settings: RaySettings, nodes: Sequence[Mapping[str, float]]) -> None:
    wanted = settings.wanted
    fit = sum(
        int(min(node.get(name, 0.0) / amount + 1e-9 for name, amount in wanted.items() if amount)) for node in nodes
    )
    if fit < settings.workers:
        of_nodes = "; ".join(dict.fromkeys(_amounts(node) for node in nodes))
        raise NotEnoughRoom(
            f"ray.workers: {settings.workers} workers of {_amounts(wanted)} do not fit in the cluster's {len(nodes)} "
            f"nodes ({of_nodes}); {fit} fit.\n    Set workers to {max(fit, 1)} or "
            "fewer, give each less (cpus_per_worker, gpus_per_worker), or add nodes."
        )


def _amounts(resources: Mapping[str, float]) -> str:
    found = [f"{resources[name]:g} {name}s" for name in ("CPU", "GPU") if resources.get(name)]
    if resources.get("memory"):
        found.append(f"{resources['memory'] / 1e9:.1f} GB of memory")
    return " and ".join(found)


def _of_node(error: EvovlmError) -> EvovlmError:
    """Return the same error with the node that it came up on."""
    ray: Any = _import_ray()
    where = ray.util.get_node_ip_address()
    return type(error)(
        f"on the Ray node {where}: {error}\n    Each node opens models and data itself: they must be at that path on "
        "every node (a shared disk), or be hub ids."
    )
