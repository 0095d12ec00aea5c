"""The check of a search before its models are fetched: the merge, the device, the budget."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path

from evovlm.devices import BFLOAT16_CPU, SPREAD, count_gpus, device_name, is_cpu, memory_elsewhere
from evovlm.errors import ConfigError, EvovlmError, NoChatTemplate, NotEnoughRoom
from evovlm.evaluation.engines.table import BUILTIN
from evovlm.evaluation.scorer import check_scorer
from evovlm.merging.before.findings import ModelReport, Preflight, SearchSize
from evovlm.merging.before.needs import ModelMemory, gigabytes, room_problems
from evovlm.merging.before.preflight import Gathered, check_out, preflight_recipe
from evovlm.merging.checkpoint.safetensors_file import ITEM_BITS
from evovlm.merging.models.chat_change import ChatChange
from evovlm.merging.models.chat_files import ChatFiles
from evovlm.models.asked_before import check_asked
from evovlm.recipes.kinds import Template
from evovlm.recipes.model_ref import ModelRef, config_in
from evovlm.recipes.space import Space
from evovlm.resources import available_memory_bytes, free_disk_bytes
from evovlm.runs.before.leaks import absence_warnings, data_notes, leak_warnings
from evovlm.runs.before.memory import CONTEXT_BYTES, MACHINE, PROCESS_BYTES, answer_warnings, search_memory
from evovlm.runs.config.hybrid import HybridConfig
from evovlm.runs.config.search import SearchConfig
from evovlm.runs.samples import SampleParts
from evovlm.runs.workers import check_device, engine_of
from evovlm.tasks.catalogue import get_task
from evovlm.tasks.harness_name import is_harness_name
from evovlm.tasks.metrics.judges import JUDGES
from evovlm.tasks.task import Split

_FLOAT32_BYTES, _BFLOAT16_BYTES = 4, 2


def preflight_search(
    config: SearchConfig | HybridConfig, *, out: Path | None = None, gpu_bytes: int | None = None
) -> Preflight:
    """Check a resolved search without fetching weights; `out` is where its winner is to be written.

    With `gpu_bytes`, memory is counted for a GPU of that size in place of this machine's device.

    Both stages of a hybrid are checked; the second one's models are all of its models. The warnings also say which
    report samples the search would see. Raises nothing that the user can fix: it is among the problems.
    """
    *before, last = config.stages.values()
    stages = [(stage, None) for stage in before] + [(last, out)]
    found = [_preflight_stage(stage, out=target, gpu_bytes=gpu_bytes) for stage, target in stages]
    return reduce(_together, found)


def _together(before: Preflight, last: Preflight) -> Preflight:
    needs = last.needs
    if needs is not None and before.needs is not None:
        needs = replace(needs, memory_bytes=max(needs.memory_bytes, before.needs.memory_bytes))
    problems = {str(problem): problem for problem in (*before.problems, *last.problems)}
    warnings = dict.fromkeys((*before.warnings, *last.warnings))
    held = [each.memory for each in (before, last) if each.memory is not None]
    memory = max(held, key=lambda each: each.model_bytes + each.kept_bytes, default=None)
    return replace(last, problems=tuple(problems.values()), warnings=tuple(warnings), needs=needs, memory=memory)


def _preflight_stage(config: SearchConfig, *, out: Path | None, gpu_bytes: int | None) -> Preflight:
    template = config.template(relative_to=None)
    problems: list[EvovlmError] = []
    resident: ModelMemory | None = None
    parts = config.tensor_parallel or 1
    try:
        check_device(config, tensor_parallel=parts if gpu_bytes is None else 1)
        resident = _resident(config.device, parts) if gpu_bytes is None else _assumed(gpu_bytes, parts)
    except ConfigError as error:
        problems.append(error)
    if resident is not None and config.ray is not None and 0 < (config.ray.gpus_per_worker or 1) < 1:
        share = config.ray.gpus_per_worker or 1
        resident = _times(resident, share, where=f"{share:g} of {resident.where}")
    found = _preflight_merge(config, template, out=out, resident=resident)
    if resident is not None:
        problems += worker_room_problems(config, found, resident=resident)
    problems += (
        problem for variant in config.variants() for problem in preflight_recipe(variant.first_recipe()).problems
    )
    size, notes = _sized(config, _blocks(template, found), problems)
    problems += _metric_problems(config)
    leaks: tuple[str, ...] = ()
    decided: tuple[str, ...] = ()
    engine = BUILTIN
    try:
        chosen = engine_of(config)
        engine, decided = chosen.engine.name, (chosen.note,) if chosen.had_choice else ()
    except EvovlmError as error:
        problems.append(error)
    try:
        decided = (*decided, *data_notes(config))
        leaks = (*absence_warnings(config), *leak_warnings(config))
        _check_sizes(config)
    except EvovlmError as error:
        problems.append(error)
    asked, refused = _asked(config, template, chat=found.chat)
    if resident is not None:
        host_config = config_in(_host_folder(template)) or {}
        memory = search_memory(config, found, host_config=host_config, resident=resident, engine=engine)
        found = replace(found, memory=memory)
        notes = (*notes, *(answer_warnings(memory) if memory is not None else ()))
    warnings = (*found.warnings, *notes, *leaks, *asked)
    every = {str(problem): problem for problem in (*found.problems, *problems, *refused)}
    return replace(found, problems=tuple(every.values()), warnings=warnings, search=size, notes=decided)


def _asked(
    config: SearchConfig, template: Template, *, chat: ChatChange | None
) -> tuple[Sequence[str], Sequence[EvovlmError]]:
    """Return warnings and problems of asking the host the tasks' questions: their prompts, pictures and lengths."""
    host = _host_folder(template)
    warnings: list[str] = []
    problems: list[EvovlmError] = []
    for section in config.tasks:
        if host is None or is_harness_name(section.name):
            continue
        try:
            task = get_task(section.name).asked(**section.settings)
            data = Path(section.data) if section.data is not None else None
            samples = task.samples(Split.SEARCH, limit=section.limit, data=data)
            warnings += check_asked(
                host,
                [task.ask(sample) for sample in samples],
                task=task.name,
                chat_template=None if chat is None else chat.template,
            )
        except NoChatTemplate as error:
            problems.append(_with_templates(error, template))
        except EvovlmError as error:
            problems.append(error)
    return warnings, problems


def _host_folder(template: Template) -> Path | None:
    """Return the folder of the host, of which the config and the tokenizer are there; None where they are not."""
    try:
        return template.host_model.folder_at_hand()
    except EvovlmError:
        # The check of the merge reports it.
        return None


def _with_templates(problem: NoChatTemplate, template: Template) -> NoChatTemplate:
    """Return the problem with the sources that have the chat template which the host lacks."""
    first = template.ps if template.keeps_every_source else None
    if first is not None and template.host_model is not first.host:
        return problem
    having = [name for name, ref in (first or template).sources.items() if _has_template(ref)]
    if not having:
        return problem
    where = "`merge:`" if first is None else "`merge:` of the first stage"
    return NoChatTemplate(
        f"{problem}\n    Sources that have one: {', '.join(having)}. `chat_template: {having[0]}` under {where} takes "
        "it, with its stop tokens."
    )


def _has_template(ref: ModelRef) -> bool:
    folder = ref.folder_at_hand()
    config = config_in(folder)
    return folder is not None and config is not None and ChatFiles.read(folder, config).template is not None


def _sized(
    config: SearchConfig, blocks: Mapping[str, int] | None, problems: list[EvovlmError]
) -> tuple[SearchSize | None, tuple[str, ...]]:
    """Return the size of the search and notes about its space, None without blocks; note a problem of the space."""
    size: SearchSize | None = None
    notes: tuple[str, ...] = ()
    try:
        if blocks is not None:
            space = config.space_for(blocks)
            size = _size_of(config, space)
            notes = config.notes_for(space)
            # It may need a package that is not installed.
            config.new_optimizer(space)
    except ConfigError as error:
        problems.append(error)
    return size, notes


def _size_of(config: SearchConfig, space: Space) -> SearchSize:
    population, same = config.population(dim=space.dim), config.optimizer.keeps_population
    return SearchSize(
        genes=space.dim,
        categorical=int((space.levels > 0).sum()),
        population=population,
        generations=config.budget.generations(population=population) if same else None,
    )


def _metric_problems(config: SearchConfig) -> Iterator[EvovlmError]:
    judge = None if config.judge is None else config.judge.choice(budget=config.judge_calls)
    for section in config.tasks:
        if is_harness_name(section.name):
            continue
        scoring = get_task(section.name).scoring
        if scoring.metric in JUDGES and config.judge_calls is None:
            yield ConfigError(
                f"judge_calls: missing, and a judge scores the task {section.name}. Each candidate costs calls: write "
                "the most that the search may make."
            )
        try:
            check_scorer(scoring, judge=judge)
        except EvovlmError as error:
            yield error


def _resident(device: str, parts: int) -> ModelMemory:
    """Return the memory of the device that holds a model, or of the `parts` GPUs over which the model is divided."""
    name = device_name("auto" if device == SPREAD else device)
    if is_cpu(name):
        # Whatever dtype the model is stored in.
        bytes_per_number = _BFLOAT16_BYTES if name == BFLOAT16_CPU else _FLOAT32_BYTES
        return ModelMemory(bytes_per_number=bytes_per_number, where=MACHINE, available_bytes=None)
    if device == SPREAD:
        each = [memory_elsewhere(f"cuda:{number}")[0] for number in range(count_gpus())]
        free = None if None in each else sum(number for number in each if number is not None)
        return ModelMemory(bytes_per_number=None, where="all GPUs' memory", available_bytes=free)
    free, total = memory_elsewhere(name)
    one = ModelMemory(
        bytes_per_number=None,
        where=f"the memory of {name}",
        available_bytes=free,
        total_bytes=total,
        merges=name.startswith("cuda"),
    )
    return _times(one, parts, where=f"the memory of {parts} GPUs")


def _assumed(gpu_bytes: int, parts: int) -> ModelMemory:
    """Return the memory of a GPU that need not be there, or of `parts` of them."""
    one = ModelMemory(
        bytes_per_number=None,
        where=f"a GPU of {gigabytes(gpu_bytes)}",
        available_bytes=max(0, gpu_bytes - CONTEXT_BYTES),
        total_bytes=gpu_bytes,
        merges=True,
    )
    return _times(one, parts, where=f"{parts} GPUs of {gigabytes(gpu_bytes)}")


def _times(one: ModelMemory, factor: float, *, where: str) -> ModelMemory:
    """Return the memory of several GPUs like one, or of a part of it; the machine's memory is not multiplied."""
    if factor == 1 or one.where == MACHINE:
        return one
    free, total = (None if size is None else int(factor * size) for size in (one.available_bytes, one.total_bytes))
    return one._replace(where=where, available_bytes=free, total_bytes=total)


def _check_sizes(config: SearchConfig) -> None:
    """Raise ConfigError when a task has too few samples for a batch and the validation."""
    if config.batch is None and config.validation is None:
        return
    sizes = {
        section.name: len(
            get_task(section.name).samples(
                Split.SEARCH, limit=section.limit, data=Path(section.data) if section.data is not None else None
            )
        )
        for section in config.tasks
        if not is_harness_name(section.name)
    }
    SampleParts(sizes=sizes, seed=config.seed, batch=config.batch, validation=config.validation)


def _preflight_merge(
    config: SearchConfig, template: Template, *, out: Path | None, resident: ModelMemory | None
) -> Preflight:
    if not template.keeps_every_source:
        return preflight_recipe(template.first_recipe(), out=out, resident=resident)
    least = preflight_recipe(template.first_recipe(), out=out)
    blocks = _blocks(template, least)
    try:
        largest = None if blocks is None else config.whole_space(blocks).largest
    except ConfigError:
        # The check of the budget reports what is wrong with the space.
        largest = None
    if largest is None:
        return replace(least, needs=None, result=None)
    found = preflight_recipe(largest, resident=resident)
    return _at_most(replace(found, problems=tuple(map(_of_search, found.problems))), out=out)


def _of_search(problem: EvovlmError) -> EvovlmError:
    """Return the problem of a path through every position as a problem of the search."""
    if not isinstance(problem, ConfigError):
        return problem
    return ConfigError(
        f"space.scales: such a path cannot be written as a checkpoint ({problem})\n    Take `scales: none`, or with "
        "`scale_target: pending` also pairwise or network, which leave the first scale at 1."
    )


def _at_most(largest: Preflight, *, out: Path | None) -> Preflight:
    """Return the findings for the longest path as those of a search, whose winner may be smaller."""
    found = Gathered()
    check_out(out, found, may_exist=False)
    needs, result = largest.needs, largest.result
    warnings = largest.warnings
    if needs is not None and result is not None:
        needs = replace(needs, free_bytes=free_disk_bytes(out or Path()))
        if not room_problems(needs, out=None):
            warnings += tuple(f"for the largest possible winner, {room}" for room in room_problems(needs, out=out))
        result = replace(result, at_most=True)
    problems = (*largest.problems, *found.problems)
    return replace(largest, problems=problems, warnings=warnings, needs=needs, result=result)


def _blocks(template: Template, found: Preflight) -> Mapping[str, int] | None:
    """Return how many blocks each source has, in their order; None where a model could not be read."""
    counts = {model.name: model.n_blocks for model in found.models}
    if not set(template.shaped_like.values()) <= set(counts):
        return None
    return {name: counts[part] for name, part in template.shaped_like.items()}


def worker_room_problems(config: SearchConfig, found: Preflight, *, resident: ModelMemory) -> Sequence[NotEnoughRoom]:
    """Return whether memory is too small for the workers on this machine, given what the check of the search `found`.

    The models' files are in the page cache once for all workers; memory that grows with the answers is not counted. On
    GPUs, each worker has one, and what it needs does not depend on the number of workers.
    """
    if config.ray is not None or config.workers == 1 or not found.models or resident.where != MACHINE:
        return []
    each = found.needs.memory_bytes if found.needs is not None else _loaded_bytes(found.models, resident)
    each += PROCESS_BYTES
    available = available_memory_bytes()
    if available is None:
        return []
    fit = available // each
    if config.workers <= fit:
        return []
    return [
        NotEnoughRoom(
            f"workers: {config.workers} models need about {gigabytes(each)} of {resident.where} each, and "
            f"{gigabytes(available)} are available: {fit} fit.\n"
            f"    Set workers to {max(fit, 1)}{' or fewer' if fit > 1 else ''}."
        )
    ]


def worker_bytes(found: Preflight) -> int | None:
    """Return the memory of a worker without a GPU; None where the check of the search does not know it."""
    return found.needs.memory_bytes + PROCESS_BYTES if found.needs is not None else None


def _loaded_bytes(models: Sequence[ModelReport], resident: ModelMemory) -> int:
    """Return the memory of all models of a path, each once; an upper bound where their tensors have several dtypes."""
    once = {model.text: model for model in models}.values()
    if resident.bytes_per_number is None:
        return sum(model.size_bytes for model in once)
    return sum(model.size_bytes * resident.bytes_per_number * 8 // _bits(model) for model in once)


def _bits(model: ModelReport) -> int:
    return min(ITEM_BITS[code] for code in model.dtype.split(", "))
