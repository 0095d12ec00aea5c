"""Makes a first config of a search that runs: what there is to choose from, and the check of what was chosen."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from evovlm.errors import ConfigError, EvovlmError, NotEnoughRoom, TaskError
from evovlm.files import explained, leads_outside, new_file
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.merging.models.chat_files import ChatFiles
from evovlm.merging.models.compatibility import NamedCheckpoint, tensor_problems
from evovlm.models.asked_before import check_asked
from evovlm.recipes.checkpoint_files import CONFIG_FILE
from evovlm.recipes.language_config import has_vision, language_config
from evovlm.recipes.model_ref import config_in, parse_model_ref
from evovlm.runs.before.new_task import split_file, table_to_split
from evovlm.runs.before.preflight import preflight_search
from evovlm.runs.config.hybrid import load_search
from evovlm.runs.config.new import Kind, NewSearch, search_text
from evovlm.runs.config.search import SearchConfig
from evovlm.tasks.catalogue import TASKS, get_task
from evovlm.tasks.own.folder import tables_in
from evovlm.tasks.own.task_file import HOW_TO_SPLIT, is_own_task
from evovlm.tasks.prompts import CHAT
from evovlm.tasks.task import Split, Task
from evovlm.texts.languages import Say, speaker

WRITTEN_PROMPTS: Mapping[Kind, str] = {"llm": "質問: {input}\n答え:", "vlm": "<image>\n質問: {input}\n答え:"}
"""The prompts proposed for a host that cannot chat."""

_MOST_LOOKED_AT = 500
_SHEETS = (".csv", ".tsv", ".xlsx")
_MOST_BYTES = 50_000_000
"""Of a spreadsheet nearby; larger ones are not opened unless they are named."""


def nearby_models(folder: Path, *, sees: bool) -> Iterator[str]:
    """Yield the model folders in `folder` and in its folders, text models or models that see pictures."""
    for inside in _folders(folder):
        config = config_in(inside)
        if config is not None and any(inside.glob("*.safetensors")) and has_vision(config) == sees:
            yield f"./{inside.relative_to(folder).as_posix()}"


def nearby_tasks(folder: Path, *, kind: Kind) -> list[str]:
    """Return the task files, folders of task data and tables in `folder` and in its folders that can be searched.

    Those that are one table can be searched once `split_table` has split them. For a VLM, pictures are first.
    """
    found: list[tuple[str, bool]] = []
    for inside in [*_folders(folder), folder]:
        for place in _places_of_tasks(inside, is_current=inside == folder):
            task = _searchable(place)
            if task is not None and (kind == "vlm" or not task.needs_images):
                found.append((f"./{place.relative_to(folder).as_posix()}", task.needs_images))
    return [name for name, _ in sorted(found, key=lambda each: each[1] != (kind == "vlm"))]


def _places_of_tasks(inside: Path, *, is_current: bool) -> list[Path]:
    """Return what may be tasks in a folder: its task files, and itself or its spreadsheets that are not yet split."""
    try:
        if (inside / CONFIG_FILE).exists():
            return []
        named = [file for file in sorted(inside.iterdir()) if file.suffix.lower() in (".yaml", ".yml")]
        tables = tables_in(inside)
        if tables and not is_current and _searchable(inside) is not None:
            return [*named, inside]
        sheets = [table for table in tables if table.suffix.lower() in _SHEETS and split_file(table) not in named]
        return [*named, *(sheet for sheet in sheets if sheet.stat().st_size <= _MOST_BYTES)]
    except OSError:
        return []


def _folders(folder: Path) -> list[Path]:
    try:
        near = [path for pattern in ("*", "*/*") for path in folder.glob(pattern)][:_MOST_LOOKED_AT]
        inside = [path for path in near if path.is_dir() and "/." not in f"/{path.relative_to(folder).as_posix()}"]
        return sorted(path for path in inside if not leads_outside(path, folder))
    except OSError:
        return []


def _searchable(place: Path) -> Task | None:
    """Return the task at a place if a search can see it, or a part of it once it is split."""
    # A path without a slash could be the name of a task.
    name = str(place.absolute())
    try:
        task = get_task(name)
        return task if Split.SEARCH in task.splits or table_to_split(name) is not None else None
    except EvovlmError:
        return None


def catalogue_tasks(kind: Kind) -> list[Task]:
    """Return the tasks of the catalogue that a search of this kind may see, those with data on this machine first."""
    found = [task for task in TASKS.values() if Split.SEARCH in task.splits and task.needs_images == (kind == "vlm")]
    return sorted(found, key=lambda task: not task.is_local)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A model as it was named, whose headers and files were read."""

    text: str
    checkpoint: Checkpoint

    def brings(self, say: Say) -> str:
        """Return what the model brings as a host: its chat template, its stop tokens, its context."""
        chat = ChatFiles.read(self.checkpoint.folder, self.checkpoint.config)
        longest = language_config(self.checkpoint.config).get("max_position_embeddings")
        stops = " ".join(sorted(chat.stops))
        return say("comma").join(
            [
                say("brings_template" if chat.template else "brings_no_template"),
                say("brings_stops", stops=stops) if stops else say("brings_no_stops"),
                *([say("brings_tokens", n=longest)] if longest else []),
            ]
        )

    @property
    def has_template(self) -> bool:
        """Whether it has a chat template."""
        return ChatFiles.read(self.checkpoint.folder, self.checkpoint.config).template is not None


def open_model(text: str, *, like: Opened | None = None, sees: bool | None = None) -> Opened:
    """Return the model of that name, of which no weights are fetched, once it is sure that it can be merged.

    Raises ModelError for one that does not exist, cannot be read, or does not fit `like`; ConfigError for a text model
    where one that `sees` pictures is needed.
    """
    checkpoint = Checkpoint.open_headers(parse_model_ref(text, relative_to=None))
    if sees is not None and checkpoint.layout.is_vlm != sees:
        found = "takes pictures" if checkpoint.layout.is_vlm else "takes no pictures"
        raise ConfigError(f"{text}: {found}; a {'vision-' if sees else ''}language model is needed here.")
    if like is not None:
        ours = NamedCheckpoint(name="this model", text=text, checkpoint=checkpoint)
        for problem in tensor_problems(
            ours, NamedCheckpoint(name="the base", text=like.text, checkpoint=like.checkpoint)
        ):
            raise problem
    return Opened(text=text, checkpoint=checkpoint)


def open_task(name: str) -> Task:
    """Return the task of that name, which a search may see. Raises TaskError or ConfigError for any other."""
    task = get_task(name)
    if Split.SEARCH not in task.splits:
        hint = f"T{HOW_TO_SPLIT[1:]}." if is_own_task(name) else "Name another task."
        raise TaskError(f"{name}: has only a report split, which no search may see.\n    {hint}")
    return task


def prompt_problem(task: Task, *, host: Opened, template_of: Opened | None = None) -> TaskError | None:
    """Return why a host cannot be asked a task with its prompt, None where it can.

    The host is asked with the chat template of `template_of`, where that is given.
    """
    template = None
    if template_of is not None:
        template = ChatFiles.read(template_of.checkpoint.folder, template_of.checkpoint.config).template
    try:
        asked = [task.ask(sample) for sample in task.samples(Split.SEARCH, limit=1)]
        check_asked(host.checkpoint.folder, asked, task=task.name, chat_template=template)
    except TaskError as error:
        return error
    return None


def with_prompts(new: NewSearch, *, host: Opened, sources: Mapping[str, Opened]) -> tuple[NewSearch, tuple[str, ...]]:
    """Return the search with what its host needs to be asked its tasks, and sentences that say what was chosen.

    A host that cannot chat takes the chat template of the first source that has one, else the task gets a written
    prompt. What the search says already stays.
    """
    said: list[str] = []
    say = speaker(new.language)
    for name in new.tasks:
        task = get_task(name)
        giver = sources.get(new.chat_template or "")
        if name in new.prompts or task.prompt != CHAT or prompt_problem(task, host=host, template_of=giver) is None:
            continue
        giving = _giver(task, host=host, sources=sources) if new.chat_template is None and new.kind == "llm" else None
        if giving is not None:
            new = replace(new, chat_template=giving)
            said.append(say("init_takes_template", host=host.text, source=giving))
            continue
        prompt = WRITTEN_PROMPTS[new.kind]
        new = replace(new, prompts={**new.prompts, name: prompt})
        said.append(say("init_takes_prompt", host=host.text, task=name, prompt=repr(prompt)))
    return new, tuple(said)


def _giver(task: Task, *, host: Opened, sources: Mapping[str, Opened]) -> str | None:
    for name, source in sources.items():
        if source.has_template and prompt_problem(task, host=host, template_of=source) is None:
            return name
    return None


def population_of(new: NewSearch, scratch: Path) -> int:
    """Return the number of candidates of a generation; the config is written to the file `scratch`.

    Raises ConfigError with all problems of the search that can be found without its models.
    """
    config = _written(new, scratch, as_file=scratch, population=None)
    return _population(new, config, folder=scratch.parent)


def write_search(new: NewSearch, path: Path) -> tuple[str, ...]:
    """Write the config to the new file `path`, with paths from its folder on; return what may surprise the user.

    Raises OutputExists when the file exists, OutputError when it cannot be written, ConfigError with all problems that
    `check` finds, except too little space on this machine; nothing is written then.
    """
    with new_file(path) as beside:
        try:
            first = _written(new, beside, as_file=path, population=None)
            population = _population(new, first, folder=path.parent)
            config = _written(new, beside, as_file=path, population=population)
            found = preflight_search(config.resolved(relative_to=path.parent))
            # The search may be meant for another machine.
            room = [problem for problem in found.problems if isinstance(problem, NotEnoughRoom)]
            replace(found, problems=tuple(each for each in found.problems if each not in room)).raise_problems()
        except EvovlmError as error:
            reasons = str(error).replace(str(beside), str(path))
            raise ConfigError(f"no search can be made of this, and nothing was written. {reasons}") from error
    return (*found.warnings, *map(str, room))


def _written(new: NewSearch, file: Path, *, as_file: Path, population: int | None) -> SearchConfig:
    with explained(as_file):
        text = search_text(new, folder=as_file.parent, file=as_file, population=population)
        file.write_text(text, encoding="utf-8")
    (config,) = load_search(file).stages.values()
    return config


def _population(new: NewSearch, config: SearchConfig, *, folder: Path) -> int:
    resolved = config.resolved(relative_to=folder)
    sources = resolved.template(relative_to=None).sources
    return resolved.population(dim=resolved.whole_space(dict.fromkeys(sources, new.blocks)).dim)
