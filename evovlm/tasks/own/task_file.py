"""A task of the user's own, in a YAML file of a few lines.

name: festivals                         # as in tables and results
data: festivals                         # a folder, from this file's own on (the default is that), or hub:ID@REVISION
splits: {search: train.jsonl, report: test.jsonl}     # files, folders, hub splits; or split: {search: 0.5, seed: 0}
columns: {question: q, answer: a, image: photo}       # and choices, id, tags; `answer` may be a list
prompt: ja-shisa-vqa                    # a name, or a template that holds {input} (and <image>)
metric: rouge_l_ja                      # accuracy compares numbers; multiple_choice takes a letter or an index;
                                        # clip_score takes `clip_model:`; evaluate:./my_metric.py lies beside this file
gate: script
decoding: {max_new_tokens: 64}          # decoding.py has more; `chat:` and `reasoning:` are in docs/scoring.md
licence: CC BY 4.0
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from evovlm.errors import TaskError
from evovlm.recipes.documents import PathText
from evovlm.recipes.problems import did_you_mean, report_problems
from evovlm.recipes.yaml_text import read_yaml
from evovlm.tasks.decoding import Decoding, DecodingChanges
from evovlm.tasks.harness_name import is_harness_name
from evovlm.tasks.metrics.answers import EXTRACTORS
from evovlm.tasks.metrics.japanese import GATES
from evovlm.tasks.metrics.library_metric import PREFIX, metric_from
from evovlm.tasks.metrics.references import number_of
from evovlm.tasks.metrics.scoring import Scoring, clip_name_from
from evovlm.tasks.metrics.table import METRICS
from evovlm.tasks.overlap import split_samples
from evovlm.tasks.own.folder import ENDINGS, describe_folder, describe_table, describe_tables, only_table
from evovlm.tasks.own.tables import FileStates, file_states, part_of, refuse_outside
from evovlm.tasks.prompts import CHAT, PLACE, PROMPTS, SLOT, ChatSettings, template_of
from evovlm.tasks.published import Published, hub_place, is_on_hub
from evovlm.tasks.row import Row
from evovlm.tasks.sample import Sample, Split, letter_of
from evovlm.tasks.task import Task
from evovlm.thoughts import AUTO, check_reasoning, reasoning_from

HOW_TO_SPLIT = (
    "to search with a part of one table, give it to `evovlm init --task TABLE`, or name a task file of three lines: "
    "`name: ...`, `data: FOLDER`, `split: {search: 0.5, seed: 0}` (docs/own-models.md)"
)
_DECODING = Decoding(max_new_tokens=256)
_CHOICE = "multiple_choice"
_ACCURACY = "accuracy"
_MOST_CHOICES = 100
_MOST_NAMED = 10
_Columns = Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ColumnsSection(_Section):
    """`columns:` the column of each part of a sample; `image` and `tags` may name several."""

    question: str = "question"
    answer: str = "answer"
    image: _Columns = Field(default=[])
    choices: str | None = None
    id: str | None = None
    tags: _Columns = Field(default=[])


class SplitsSection(_Section):
    """`splits:` the data that a search may see, and the data that is reported."""

    search: PathText | None = None
    report: PathText | None = None

    @model_validator(mode="after")
    def _differ(self) -> "SplitsSection":
        if self.search is None and self.report is None:
            raise PydanticCustomError("splits", "should name search, report or both")
        if self.search == self.report:
            raise PydanticCustomError("splits", "search and report are the same, and a search may not see a report")
        return self


class SplitSection(_Section):
    """`split:` the share of a table's rows that a search may see, drawn with a seed; the others are reported."""

    search: float = Field(gt=0, lt=1)
    seed: int = 0


class OwnTask(_Section):
    """A whole file."""

    name: str = Field(pattern=r"^[\w-]+$")
    data: PathText = "."
    config: str | None = None
    splits: SplitsSection | None = None
    split: SplitSection | None = None
    table: PathText | None = None
    columns: ColumnsSection = ColumnsSection()
    prompt: str = CHAT
    metric: PathText
    clip_model: PathText | None = None
    extractor: str = "robust"
    gate: str | None = None
    reasoning: str | list[str] = AUTO
    chat: ChatSettings | None = None
    decoding: DecodingChanges = DecodingChanges()
    licence: str | None = None
    description: str = "a task of your own"

    @field_validator("name")
    @classmethod
    def _is_new(cls, name: str, info: ValidationInfo) -> str:
        if name in (info.context or {}).get("taken", ()):
            raise PydanticCustomError("name", "there is a task of this name already; choose another")
        return name

    @field_validator("metric")
    @classmethod
    def _is_metric(cls, metric: str, info: ValidationInfo) -> str:
        if not metric.startswith(PREFIX):
            return _row_of(metric, METRICS, "metric")
        try:
            metric_from((info.context or {})["folder"], metric)
        except TaskError as error:
            raise PydanticCustomError("metric", "{reason}", {"reason": str(error)}) from error
        return metric

    @field_validator("extractor")
    @classmethod
    def _is_extractor(cls, extractor: str) -> str:
        return _row_of(extractor, EXTRACTORS, "extractor")

    @field_validator("gate")
    @classmethod
    def _is_gate(cls, gate: str | None) -> str | None:
        return gate if gate is None else _row_of(gate, GATES, "gate")

    @field_validator("prompt")
    @classmethod
    def _is_prompt(cls, prompt: str) -> str:
        known = prompt == CHAT or prompt in PROMPTS or SLOT in prompt
        return prompt if known else _row_of(prompt, [CHAT, *PROMPTS], "prompt without {input}")

    @field_validator("data")
    @classmethod
    def _is_there(cls, data: str, info: ValidationInfo) -> str:
        folder = (info.context or {})["folder"] / data
        if not is_on_hub(data) and not folder.is_dir():
            raise PydanticCustomError("data", "no such folder; name one, or hub:ID@REVISION")
        return data

    @field_validator("reasoning")
    @classmethod
    def _marks_thoughts(cls, reasoning: str | list[str]) -> str | list[str]:
        try:
            check_reasoning(reasoning_from(reasoning))
        except TaskError as error:
            raise PydanticCustomError("reasoning", "{reason}", {"reason": str(error)}) from error
        return reasoning

    @field_validator("decoding")
    @classmethod
    def _can_be_decoded(cls, decoding: DecodingChanges) -> DecodingChanges:
        if decoding.like is not None:
            raise PydanticCustomError("like", "should hold keys and their values, as in `max_new_tokens: 64`")
        try:
            decoding.applied(_DECODING)
        except TaskError as error:
            raise PydanticCustomError("decoding", "{reason}", {"reason": str(error)}) from error
        return decoding

    @model_validator(mode="after")
    def _fits_together(self, info: ValidationInfo) -> "OwnTask":
        if self.splits is None and self.split is None:
            raise PydanticCustomError("splits", "splits: missing; name the data of search, report or both, or `split:`")
        if self.splits is not None and self.split is not None:
            raise PydanticCustomError(
                "split", "split: `splits` says already which data is whose; leave one of them out"
            )
        if self.columns.image and self.prompt != CHAT and PLACE not in template_of(self.prompt):
            raise PydanticCustomError("prompt", "prompt: has no place for the pictures ({place})", {"place": PLACE})
        if self.chat is not None and self.prompt != CHAT:
            raise PydanticCustomError(
                "chat", "chat: fills the model's chat template, and `prompt` names another prompt"
            )
        if self.metric == _CHOICE and self.columns.choices is None:
            raise PydanticCustomError("choices", "columns.choices: missing, and the metric is about choices")
        self._check_clip_model()
        folder: Path = (info.context or {})["folder"] / self.data
        for split, part in self.parts.items():
            if not is_on_hub(self.data) and _place(folder, part) == folder:
                key = f"splits.{split.value}" if self.splits is not None else "table"
                found = {"key": key, "part": part, "folder": str(folder)}
                raise PydanticCustomError("part", "{key}: there is no '{part}' in {folder}", found)
        return self

    @property
    def parts(self) -> Mapping[Split, str]:
        """The data of each split: a file or folder, the same table where it is split by shares."""
        if self.splits is not None:
            return {Split(name): part for name, part in self.splits.model_dump(exclude_none=True).items()}
        return dict.fromkeys(Split, self.table or "")

    def _check_clip_model(self) -> None:
        takes_a_model = self.metric in METRICS and METRICS[self.metric].takes_clip
        if self.clip_model is not None and not takes_a_model:
            raise PydanticCustomError("clip_model", "clip_model: {metric} takes no model", {"metric": self.metric})
        if takes_a_model and self.clip_model is None:
            raise PydanticCustomError(
                "clip_model",
                "clip_model: missing, and {metric} takes an open_clip model, such as ViT-B-32:laion2b_s34b_b79k",
                {"metric": self.metric},
            )
        if takes_a_model and not self.columns.image:
            raise PydanticCustomError(
                "image", "columns.image: missing, and {metric} is about pictures", {"metric": self.metric}
            )

    def scoring(self, folder: Path) -> Scoring:
        """Return how answers are scored; paths in it start at `folder`."""
        return Scoring(
            metric=metric_from(folder, self.metric) if self.metric.startswith(PREFIX) else self.metric,
            extractor=self.extractor,
            gate=self.gate,
            clip_model=clip_name_from(folder, self.clip_model) if self.clip_model is not None else None,
            reasoning=reasoning_from(self.reasoning),
        )

    def task(self, folder: Path, *, decided: bool) -> Task:
        """Return the task; paths of its data are relative to `folder`. With `decided`, its metric was not written."""
        splits = self.parts
        hub_id, revision = hub_place(self.data) if is_on_hub(self.data) else (None, None)
        published = Published(hub_id=hub_id, revision=revision, splits=splits, configs=(self.config,))
        loader = _Loader(self, published, folder / self.data, decided=decided)
        return Task(
            name=self.name,
            description=self.description,
            prompt=self.prompt,
            scoring=self.scoring(folder),
            chat=self.chat,
            decoding=self.decoding.applied(_DECODING),
            load=loader.load,
            notes=loader.notes,
            needs_images=bool(self.columns.image),
            splits=frozenset(splits),
            hub_id=hub_id,
            is_local=hub_id is None,
            licence=self.licence,
        )


def is_own_task(name: str) -> bool:
    """Return whether a task's name is the path of a task file, a table or a folder with a slash, not the harness's."""
    return (name.endswith((".yaml", ".yml", *ENDINGS)) or "/" in name) and not is_harness_name(name)


def load_own_task(path: Path, *, taken: Mapping[str, object]) -> Task:
    """Return the task of a YAML file, a folder or a table; its name must not be one of those `taken`.

    An unchanged file or folder is not read again. Raises ConfigError with every problem of the file, TaskError for a
    folder or table whose content is not clear.
    """
    if "\0" in str(path):
        raise TaskError(f"{str(path)!r}: not found, as no path contains a zero character.")
    return _load_task(path, frozenset(taken), file_states(path))


@lru_cache(maxsize=32)
def _load_task(path: Path, taken: frozenset[str], _states: FileStates) -> Task:
    try:
        return _read_task(path, taken)
    except OSError as error:
        # A name that is too long, or a folder that may not be read.
        raise TaskError(f"{path}: its data cannot be read ({error}). Check names and permissions.") from error


def _read_task(path: Path, taken: frozenset[str]) -> Task:
    is_folder = path.is_dir()
    is_table = path.suffix.lower() in ENDINGS
    folder = path if is_folder else path.parent
    describe = describe_folder if is_folder else describe_table
    document = describe(path, taken=taken) if is_folder or is_table else read_yaml(path)
    is_split = isinstance(document, Mapping) and document.get("split") is not None
    if isinstance(document, Mapping) and is_split:
        document = _described(document, folder)
    try:
        own = OwnTask.model_validate(document, context={"folder": folder, "taken": taken})
    except ValidationError as error:
        raise report_problems(path, error, model=OwnTask) from error
    return own.task(folder, decided=is_folder or is_table or is_split)


def _described(document: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """Return the document of a task whose table is split, with table, columns and metric where it does not say them."""
    data = document.get("data", ".")
    if not isinstance(data, str) or is_on_hub(data) or not (folder / data).is_dir():
        # Validation says what is wrong.
        return document
    table = document.get("table")
    name = table if isinstance(table, str) else only_table(folder / data)
    place = _place(folder / data, name)
    if place == folder / data:
        raise TaskError(f"{folder / data / name}: this table does not exist. Correct `table:`, or leave it out.")
    if {"columns", "metric"} <= document.keys():
        return {**document, "table": name}
    return {"table": name, **describe_tables([place], folder=folder / data), **document}


class _Read(NamedTuple):
    """The samples of a split, and what was decided about the data."""

    samples: tuple[Sample, ...]
    notes: tuple[str, ...]


class _Loader:
    """Reads a split's samples; those of files that have not changed since are not read again.

    With `decided`, the metric was chosen from the answers: rows that it cannot compare with are left out.
    """

    def __init__(self, own: OwnTask, published: Published, folder: Path, *, decided: bool) -> None:
        self._own, self._published, self._folder, self._decided = own, published, folder, decided
        self._read = lru_cache(maxsize=4)(self._read_anew)

    def load(self, split: Split, data: Path | None) -> tuple[Sample, ...]:
        """Return the samples of a split."""
        return self._of(split, data).samples

    def notes(self, split: Split, data: Path | None) -> tuple[str, ...]:
        """Return what was decided about the data of a split, and what was left out."""
        return self._of(split, data).notes

    def _of(self, split: Split, data: Path | None) -> _Read:
        usual = None if self._published.hub_id else _place(self._folder, self._published.splits[split])
        place = usual if data is None else data
        return self._read(split, place, () if place is None else file_states(place))

    def _read_anew(self, split: Split, place: Path | None, _states: FileStates) -> _Read:
        bad: list[TaskError] = []
        rows = list(self._published.rows(split, place, on_bad_row=bad.append))
        while rows and rows[-1].is_blank:
            # Spreadsheets end in rows that were once used.
            rows.pop()
        notes = [f"empty rows are skipped: {_lines([row for row in rows if row.is_blank])}"]
        notes = notes if any(row.is_blank for row in rows) else []
        notes += [f"a row is left out: {error}" for error in bad[:_MOST_NAMED]]
        notes += [f"further rows left out: {len(bad) - _MOST_NAMED}"] if len(bad) > _MOST_NAMED else []
        kept = [row for row in rows if not row.is_blank]
        samples = [(row, self._sample(row, number)) for number, row in enumerate(kept, start=1)]
        found = tuple(sample for _, sample in samples if sample is not None)
        notes += self._decisions(kept, [row for row, sample in samples if sample is None])
        checked = self._published.checked(iter(found), split=split, data=place)
        if self._own.split is not None:
            parts = split_samples(checked, share=self._own.split.search, seed=self._own.split.seed)
            row_of = {sample.id: row for row, sample in samples if sample is not None}
            counts = ", ".join(
                f"{each.value} {len(part)} ({_lines([row_of[sample.id] for sample in part])})"
                for each, part in parts.items()
            )
            notes.append(f"split by shares (seed {self._own.split.seed}) of {len(checked)} samples: {counts}")
            checked = parts[split]
        return _Read(samples=checked, notes=tuple(notes))

    def _sample(self, row: Row, number: int) -> Sample | None:
        """Return the sample of a row; None for one that a metric chosen from the answers cannot compare with."""
        own = self._own
        if self._decided and own.metric == _ACCURACY and not _has_numbers(row, own.columns.answer):
            _check_filled(row, own.columns.answer)
            return None
        return _sample(row, own, number)

    def _decisions(self, rows: Sequence[Row], left_out: Sequence[Row]) -> Iterator[str]:
        if rows and rows[0].encoding is not None:
            yield f"the text is read as {rows[0].encoding}"
        if not self._decided or not rows:
            return
        columns = self._own.columns
        named = {"question": columns.question, "answer": columns.answer, "image": ", ".join(columns.image)}
        renamed = [f"{what} = {column}" for what, column in named.items() if column and column != what]
        if renamed:
            yield f"columns: {', '.join(renamed)}"
        numbers = sum(_has_numbers(row, columns.answer) for row in rows)
        count = f"{numbers} of {len(rows)} answers are numbers"
        if self._own.metric == _ACCURACY:
            rest = f"; left out, as they are not: {_lines(left_out)}" if left_out else ""
            yield f"{_ACCURACY}: {count}{rest}"
        else:
            yield f"{self._own.metric}: {count}{', and its questions have pictures' if columns.image else ''}"


def _lines(rows: Sequence[Row]) -> str:
    shown = ", ".join(row.line for row in rows[:_MOST_NAMED])
    return f"rows {shown}{', ...' if len(rows) > _MOST_NAMED else ''}" if len(rows) > 1 else f"row {shown}"


def _has_numbers(row: Row, column: str) -> bool:
    value = row.get(column)
    answers = value if isinstance(value, list) else [value]
    return bool(answers) and all(each is not None and number_of(str(each)) is not None for each in answers)


def _check_filled(row: Row, column: str) -> None:
    """Raise TaskError for an empty cell of a row that is not empty."""
    value = row.value(column)
    if isinstance(value, str) and not value.strip():
        raise TaskError(f"{row.where}: '{column}' is empty. Fill it in, or delete the row.")


def _sample(row: Row, own: OwnTask, number: int) -> Sample:
    columns = own.columns
    choices = row.texts(columns.choices) if columns.choices is not None else ()
    if len(choices) > _MOST_CHOICES:
        raise TaskError(f"{row.where}: has {len(choices)} choices, and at most {_MOST_CHOICES} are read.")
    _check_filled(row, columns.question)
    if own.clip_model is None:
        _check_filled(row, columns.answer)
    return Sample(
        id=row.text(columns.id) if columns.id is not None else f"{number:04d}",
        question=row.text(columns.question),
        references=tuple(_references(row, own, choices)),
        images=row.pictures(columns.image),
        choices=choices,
        tags=frozenset(tag for column in columns.tags for tag in _tags(row, column)),
    )


def _references(row: Row, own: OwnTask, choices: Sequence[str]) -> Iterator[str]:
    column = own.columns.answer
    answers = row.texts(column) if isinstance(row.value(column), list) else (row.text(column),)
    for answer in answers:
        if own.metric == _CHOICE:
            yield _letter(answer, row, column, choices)
        elif own.metric == _ACCURACY:
            yield number_of(answer) or row.as_number(answer, column)
        else:
            yield answer


def _letter(answer: str, row: Row, column: str, choices: Sequence[str]) -> str:
    """Return the letter of a choice given by its letter, its index from 0, or its text."""
    letters = [letter_of(index) for index in range(len(choices))]
    for names in (letters, choices, [str(index) for index in range(len(choices))]):
        if answer.strip() in names:
            return letters[list(names).index(answer.strip())]
    raise TaskError(
        f"{row.where}: '{column}' should be a letter ({letters[0]} to {letters[-1]}), an index from 0, or one of the "
        f"choices ({', '.join(choices)}), and is {answer!r}. Correct it."
    )


def _tags(row: Row, column: str) -> tuple[str, ...]:
    value = row.get(column)
    if value is None:
        return ()
    return row.texts(column) if isinstance(value, list) and value else (str(value),)


def _place(folder: Path, part: str) -> Path:
    """Return the part of the data: a file or folder of that name, or a file whose name without its ending it is.

    Raises TaskError for a link that leads out of the folder; a task file may name other folders, by ".." or whole.
    """
    place = folder / part if (folder / part).exists() else part_of(folder, (part,))
    if ".." not in Path(part).parts and not Path(part).is_absolute():
        refuse_outside(place, folder)
    return place


def _row_of(name: str, table: Collection[str], what: str) -> str:
    if name not in table:
        raise PydanticCustomError("row", "unknown {what}{hint}", {"what": what, "hint": did_you_mean(name, table)})
    return name
