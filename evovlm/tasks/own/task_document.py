"""A task of the user's own, in a YAML file of a few lines.

name: festivals                         # as in tables and results
data: festivals                         # a folder, relative to this file (default: its own folder), or hub:ID@REVISION
splits: {search: train.jsonl, report: test.jsonl}     # files, folders, hub splits; or split: {search: 0.5, seed: 0}
columns: {question: q, answer: a, image: photo}       # and choices, id, tags; `answer` may be a list
prompt: ja-shisa-vqa                    # a name, or a template that holds {input} (and <image>)
metric: rouge_l_ja                      # accuracy compares numbers; multiple_choice takes a letter or an index;
                                        # clip_score takes `clip_model:`; evaluate:./my_metric.py lies beside this file
gate: script
decoding: {max_new_tokens: 64}          # decoding.py has more; `chat:` and `reasoning:` are in docs/scoring.md
licence: CC BY 4.0
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from evovlm.errors import TaskError
from evovlm.recipes.documents import PathText
from evovlm.recipes.problems import did_you_mean
from evovlm.tasks.decoding import Decoding, DecodingChanges
from evovlm.tasks.metrics.answers import EXTRACTORS
from evovlm.tasks.metrics.japanese import GATES
from evovlm.tasks.metrics.library_metric import PREFIX, metric_from
from evovlm.tasks.metrics.scoring import Scoring, clip_name_from
from evovlm.tasks.metrics.table import METRICS
from evovlm.tasks.own.tables import part_of, refuse_outside
from evovlm.tasks.prompts import CHAT, PLACE, PROMPTS, SLOT, ChatSettings, template_of
from evovlm.tasks.published import is_on_hub
from evovlm.tasks.sample import Split
from evovlm.thoughts import AUTO, check_reasoning, reasoning_from

CHOICE = "multiple_choice"
ACCURACY = "accuracy"
USUAL_DECODING = Decoding(max_new_tokens=256)
"""The decoding of a task whose file does not say one."""
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
            decoding.applied(USUAL_DECODING)
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
        if self.metric == CHOICE and self.columns.choices is None:
            raise PydanticCustomError("choices", "columns.choices: missing, and the metric is about choices")
        self._check_clip_model()
        folder: Path = (info.context or {})["folder"] / self.data
        for split, part in self.parts.items():
            if not is_on_hub(self.data) and place_in(folder, part) == folder:
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


def place_in(folder: Path, part: str) -> Path:
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
