"""Opens the workers of a search: in this process, in processes of this machine, or on Ray; measures their memory."""

import os
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from evovlm.devices import SPREAD, count_gpus, is_cpu, peak_gpu_bytes
from evovlm.errors import ConfigError, RunMismatch
from evovlm.evaluation.engines.table import AUTO, BUILTIN, BUILTIN_ENGINE, EngineChoice, EngineId, choose_engine
from evovlm.evaluation.engines.work import Work
from evovlm.evaluation.workers.jobs import EvaluatorOpening, Workers, WorkerSettings
from evovlm.evaluation.workers.local import LocalProcesses
from evovlm.evaluation.workers.supervisor import Supervisor
from evovlm.merging.in_turn import default_threads
from evovlm.runs.config.search import SearchConfig
from evovlm.runs.folder.entries import Parent


def opening_of(
    config: SearchConfig, *, parents: Mapping[str, Parent], folder: Path | None = None, allow_code: bool = False
) -> EvaluatorOpening:
    """Return what each worker of a search in `folder` opens; `parents` are the scores that constraints refer to."""
    return EvaluatorOpening(
        template=config.template(relative_to=None),
        tasks=config.task_choices(folder=folder),
        objective=config.goal(parents),
        allow_code=allow_code,
    )


def engine_of(config: SearchConfig, *, recorded: EngineId | None = None) -> EngineChoice:
    """Return what answers in a resolved search; `recorded` is what its journal names, if there is one.

    Raises RunMismatch when the run has another engine, or another version of it; ConfigError when an engine cannot do
    the work.
    """
    asked, parts = config.engine, config.tensor_parallel
    if recorded is not None:
        if asked not in (AUTO, recorded.name):
            raise RunMismatch(
                f"the run's answers come from the engine {recorded}, and engine: {asked} was asked for.\n"
                f"    A run never mixes engines: set engine to {recorded.name}, or start a new run in another folder."
            )
        if parts not in (None, recorded.tensor_parallel):
            raise RunMismatch(
                f"the run's answers come from {recorded.name} with tensor_parallel: {recorded.tensor_parallel}, and "
                f"tensor_parallel: {parts} was asked for.\n"
                "    Answers can depend on it: leave it out to resume the run, or start a new run in another folder."
            )
        asked, parts = recorded.name, recorded.tensor_parallel
    template = config.template(relative_to=None)
    configs = {getattr(each, "config_from", None) for each in (template, *config.variants())}
    work = Work(
        host=template.host_model,
        tasks=config.task_choices(),
        device=config.device,
        is_path=template.keeps_every_source,
        changes_config=len(configs) > 1,
        on_ray=config.ray is not None,
        tensor_parallel=parts or 1,
    )
    chosen = choose_engine(asked, work)
    if recorded is not None and chosen.engine != recorded:
        raise RunMismatch(
            f"the run's answers come from the engine {recorded}, and {chosen.engine} is installed.\n"
            f"    Install that version to resume the run, or start a new run in another folder."
        )
    return chosen


def open_workers(
    config: SearchConfig,
    *,
    parents: Mapping[str, Parent],
    folder: Path | None = None,
    engine: EngineId = BUILTIN_ENGINE,
    memory_bytes: int | None = None,
    allow_code: bool = False,
) -> Workers:
    """Open the workers of a search in `folder`; paths in `config` are absolute.

    On Ray, each worker asks for `memory_bytes`.

    Another engine than `builtin` gets a separate process, also with a single worker: it changes its process.

    Raises ConfigError for settings that exclude each other, more workers than GPUs, or a Ray cluster that cannot be
    reached, NotEnoughRoom for more workers than fit into a cluster, and what opening the models raises.
    """
    opening = opening_of(config, parents=parents, folder=folder, allow_code=allow_code)
    check_device(config, tensor_parallel=engine.tensor_parallel)
    if config.ray is not None:
        # Ray is an extra.
        from evovlm.evaluation.workers.ray import RayActors, RaySettings

        settings = RaySettings(
            address=config.ray.address,
            workers=config.ray.workers,
            gpus_per_worker=config.ray.gpus_per_worker,
            cpus_per_worker=config.ray.cpus_per_worker,
            memory_bytes=memory_bytes,
        )
        pool = RayActors.connect(opening, settings=settings, device=config.device)
        return Supervisor.open(pool, time_limit_s=config.time_limit_s)
    if config.workers == 1 and config.time_limit_s is None and engine.name == BUILTIN:
        return opening.open(WorkerSettings(device=config.device))
    processes = LocalProcesses(opening, settings=worker_settings(config.workers, device=config.device, engine=engine))
    return Supervisor.open(processes, time_limit_s=config.time_limit_s)


def check_device(config: SearchConfig, *, tensor_parallel: int = 1) -> None:
    """Raise ConfigError when workers of this machine would share a GPU, or a model cannot be spread over all GPUs.

    Each worker divides its model over `tensor_parallel` GPUs.
    """
    if config.device != SPREAD:
        if config.ray is None:
            check_gpus(config.workers, device=config.device, each=tensor_parallel)
        return
    if config.template(relative_to=None).keeps_every_source:
        raise ConfigError(
            f"device: {SPREAD} cannot spread a path, whose blocks come from several models. Set device to auto."
        )
    if config.ray is None and config.workers > 1:
        raise ConfigError(
            f"device: {SPREAD} spreads one model over all devices of this machine, and workers: {config.workers} asks "
            "for more models.\n    Set workers to 1, or device to auto; on Ray, each worker has its own devices."
        )


def check_gpus(n_workers: int, *, device: str, each: int) -> None:
    """Raise ConfigError for more workers than GPUs: one model and its answers fill a GPU, or `each` of them."""
    names_one = device not in ("auto", "cuda", "xpu")
    n_gpus = 0 if is_cpu(device) else 1 if names_one else _gpus_of(device)
    if not n_gpus or n_workers * each <= n_gpus:
        return
    others = f", device to {device.partition(':')[0]} for all its GPUs," if ":" in device else ""
    if each == 1:
        raise ConfigError(
            f"workers: {n_workers} models need a GPU each, and device: {device} gives them {n_gpus} on this machine.\n"
            f"    Set workers to {n_gpus}{others} or device to cpu."
        )
    of_workers = "" if n_workers == 1 else f" for {n_workers} workers"
    fewer = f"workers to {n_gpus // each}" if n_gpus >= each else f"tensor_parallel to {n_gpus}"
    raise ConfigError(
        f"tensor_parallel: {each} needs {n_workers * each} GPUs{of_workers}, and device: {device} gives {n_gpus} on "
        f"this machine.\n    Set {fewer}{others} or device to cpu."
    )


def worker_settings(n_workers: int, *, device: str, engine: EngineId = BUILTIN_ENGINE) -> Sequence[WorkerSettings]:
    """Return the settings of each worker on this machine: GPUs of its own, if there are any, and a share of the cores.

    If OMP_NUM_THREADS is set, it is the number of threads of each.
    """
    threads = default_threads() if os.environ.get("OMP_NUM_THREADS") else max(1, default_threads() // n_workers)
    return [
        WorkerSettings(
            device=device_of(worker * engine.tensor_parallel, device=device),
            engine=engine,
            threads=threads,
            n_sharing=n_workers,
        )
        for worker in range(n_workers)
    ]


def device_of(number: int, *, device: str) -> str:
    """Return the device with a number, counted from 0, among those of this machine that workers share."""
    return f"{_gpu_kind(device)}:{number}" if _gpus_of(device) else device


def _gpus_of(device: str) -> int:
    """Return the number of GPUs of this machine among which a device's workers are divided; 0 for a single device."""
    kind = _gpu_kind(device)
    return count_gpus(kind) if kind in ("cuda", "xpu") else 0


def _gpu_kind(device: str) -> str:
    return "cuda" if device == "auto" else device


def peak_memory() -> Mapping[str, int]:
    """Return the most bytes that were held by this `process`, by the largest `worker` that has ended (if any), and by
    torch on the fullest `gpu` (if it used one); what workers hold on a GPU is not known.
    """
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    found = {
        "process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "worker": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit,
    }
    # A process that only keeps workers busy does not import torch.
    if "torch" in sys.modules:
        found["gpu"] = peak_gpu_bytes()
    return {place: value for place, value in found.items() if value}
