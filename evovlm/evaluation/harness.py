"""Tasks of EleutherAI's lm-evaluation-harness (the extra `lm-eval`), asked of our loaded models.

    lm_eval:gsm8k                                   a task that the harness ships, its first metric, its usual filter
    lm_eval:gsm8k#exact_match,flexible-extract      with this metric and filter
    lm_eval:my-task.yaml#acc                        a task file of the harness

Prompts, examples, filters and metrics are the harness's own; only the model is ours. As in its command line, prompts
can go through the model's chat template, with a system message, and a thought can be cut off. A task file is a program:
its templates and functions run, and only where the user allowed it (foreign_code.py). The tasks that the harness ships
are code that the user installed.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evovlm.errors import ConfigError, TaskError
from evovlm.evaluation.answers import ScoredTask, TaskChoice
from evovlm.evaluation.batches import Batches
from evovlm.foreign_code import ForeignCode, require_allowed
from evovlm.recipes.yaml_text import read_yaml
from evovlm.tasks.decoding import DecodingChanges
from evovlm.tasks.harness_name import HARNESS, HarnessName
from evovlm.tasks.metrics.japanese import GATES
from evovlm.tasks.metrics.scoring import Answer
from evovlm.tasks.prompts import CHAT, ChatSettings
from evovlm.tasks.sample import Sample, Split

if TYPE_CHECKING:
    from evovlm.evaluation.engines.engine import Engine
    from evovlm.models.loading import LoadedModel
    from evovlm.models.pictures.feature_store import FeatureStore

_INSTALL = 'pip install "evovlm[lm-eval]"'
# The harness's own seed of the examples in a prompt.
_EXAMPLES_SEED = 1234


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HarnessTask:
    """A task of the harness with its requests built from one split; `metric` and `filter_name` select its score.

    With `chat`, prompts go through the model's chat template. `decoding` changes the task's own. What is before the
    last `think_end` in a text is not scored.
    """

    name: str
    metric: str
    filter_name: str
    limit: int | None
    task: Any
    chat: ChatSettings | None = None
    decoding: DecodingChanges | None = None
    think_end: str | None = None
    allow_code: bool = False

    @classmethod
    def open(cls, choice: TaskChoice, split: Split, *, allow_code: bool = False) -> HarnessTask:
        """Load the task and its documents.

        Raises CodeNotAllowed for a task file, or a task that loads a metric's script, without `allow_code`; TaskError
        for a task that runs what models write, or when the task, split, metric or filter does not exist.

        The report split is what the harness itself scores: the test documents, or the validation documents if there are
        no test documents. The search split is another one: the validation documents, else the training documents; none
        of them is reported.
        """
        _check_choice(choice)
        wanted = HarnessName.parse(choice.name)
        with _refused_scripts(choice.name, allow_code=allow_code):
            task = _load_task(wanted, allow_code=allow_code)
            if split is Split.SEARCH:
                _keep_from_the_report(task, name=choice.name)
            opened = cls(
                name=choice.name,
                metric=_chosen_metric(task, wanted.metric, name=choice.name),
                filter_name=_chosen_filter(task, wanted.filter_name, name=choice.name),
                limit=choice.limit,
                task=task,
                chat=ChatSettings() if choice.chat is None and choice.prompt == CHAT else choice.chat,
                decoding=choice.decoding,
                think_end=_think_end(choice),
                allow_code=allow_code,
            )
            opened.build_requests()
        return opened

    @property
    def measured(self) -> str:
        """The metric and filter."""
        return f"{self.metric}, filter {self.filter_name}"

    @property
    def fingerprint(self) -> str:
        """A hash of every request, and of how the task is scored."""
        parts = [self.measured, str(self.task.VERSION), [repr(each.args) for each in self.task.instances]]
        asked = (self.chat, self.decoding, self.think_end)
        parts += [[repr(each) for each in asked]] if any(each is not None for each in asked) else []
        return hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).hexdigest()

    def prepare(self, loaded: LoadedModel, *, store: FeatureStore | None = None) -> PreparedHarnessTask:  # noqa: ARG002
        """Return the task for a model. Raises TaskError for one whose documents hold pictures or sounds."""
        if getattr(self.task, "MULTIMODAL", False):
            raise TaskError(f"{self.name}: its documents contain pictures or sounds. Name a harness task of text only.")
        from evovlm.evaluation.harness_model import Encoder, chat_text

        if self.chat is not None:
            # The harness's command line, too, makes each example a turn of its own.
            self.build_requests(
                apply_chat_template=True,
                fewshot_as_multiturn=True,
                chat_template=partial(chat_text, loaded, self.chat),
                system_instruction=self.chat.system,
            )
        return PreparedHarnessTask(opened=self, encoder=Encoder.of(loaded))

    def build_requests(self, **chat: object) -> None:
        """Build the requests as the harness does, but only once: the same ones for all candidates of a search."""
        if self.task.get_config("num_fewshot") is None:
            self.task.set_config(key="num_fewshot", value=0)
        self.task.set_fewshot_seed(seed=_EXAMPLES_SEED)
        # The progress bar of this step cannot be switched off.
        with redirect_stderr(io.StringIO()):
            type(self.task).build_all_requests(self.task, limit=self.limit, rank=0, world_size=1, **chat)

        def forget_answers(**_: object) -> None:
            for instance in self.task.instances:
                instance.resps, instance.filtered_resps = [], {}

        self.task.build_all_requests = forget_answers


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PreparedHarnessTask:
    """A harness task for one model, which keeps the token ids of its requests."""

    opened: HarnessTask
    encoder: Any

    @property
    def name(self) -> str:
        """The name that the task was chosen by."""
        return self.opened.name

    @property
    def n_samples(self) -> int:
        """The number of documents."""
        count = len(self.opened.task.eval_docs)
        return count if self.opened.limit is None else min(count, self.opened.limit)

    def part(self, rows: Sequence[int]) -> PreparedHarnessTask:  # noqa: ARG002 - rows are not supported
        """Raise TaskError: the harness asks a task as a whole."""
        raise TaskError(
            f"{self.name}: the harness asks a task only as a whole, so a search cannot use batches of it.\n"
            "    Leave out `batch` and `validation`, and give the task a `limit`."
        )

    @property
    def longest(self) -> int:
        """0: the harness makes its prompts while it asks."""
        return 0

    def explained(self, scored: ScoredTask, loaded: LoadedModel) -> ScoredTask:  # noqa: ARG002 - as other tasks
        """Return the answers as they are: the harness makes its own prompts."""
        return scored

    def answer(self, engine: Engine, *, batches: Batches | None = None) -> ScoredTask:
        """Have the harness evaluate the model. Raises FloatingPointError when the logits are not finite."""
        from lm_eval.evaluator import evaluate

        from evovlm.evaluation.harness_model import HarnessModel

        loaded = engine.loaded
        batches = batches or Batches(device=loaded.device)
        model = HarnessModel(
            loaded,
            encoder=self.encoder,
            batches=batches,
            changes=self.opened.decoding,
            think_end=self.opened.think_end,
        )
        task = self.opened.task
        with _refused_scripts(self.name, allow_code=self.opened.allow_code):
            found = evaluate(
                lm=model, task_dict={"tasks": {task.task_name: task}}, limit=self.opened.limit, bootstrap_iters=0
            )
        rows = [row for row in found["samples"][task.task_name] if row["filter"] == self.opened.filter_name]
        answers = tuple(self._answer(row) for row in sorted(rows, key=lambda row: int(row["doc_id"])))
        return ScoredTask(
            name=self.name,
            metric=self.opened.metric,
            measured=self.opened.measured,
            gate=None,
            answers=answers,
            tokens=batches.tokens,
            seconds={"generate": batches.seconds, "score": 0.0},
        )

    def _answer(self, row: Mapping[str, Any]) -> Answer:
        text = _said(row)
        value = self._value(row)
        filtered = row["filtered_resps"][0]
        question = str(row["arguments"][0][0])
        return Answer(
            sample=Sample(id=str(row["doc_id"]), question=question, references=(str(row["target"]),)),
            text=text,
            score=value,
            ungated=value,
            japanese=GATES["script"].passes(text),
            extracted=filtered if isinstance(filtered, str) else None,
        )

    def _value(self, row: Mapping[str, Any]) -> float:
        value = row.get(self.opened.metric)
        if isinstance(value, (int, float)) and 0 <= value <= 1:
            return float(value)
        raise TaskError(
            f"{self.name}: document {row['doc_id']} has {value!r} for {self.opened.metric}, but a score is a number "
            "from 0 to 1.\n    Choose another metric: lm_eval:NAME#METRIC."
        )


@contextmanager
def _refused_scripts(name: str, *, allow_code: bool) -> Iterator[None]:
    """Refuse the metric scripts that a task of the harness has `evaluate` load, without `allow_code`.

    A task names such a metric by a word, which is a folder of the current one if there is one, else a script of the
    hub.
    """
    if allow_code:
        yield
        return
    from evaluate import loading

    refused: list[ForeignCode] = []

    def refuse(path: str, *_: object, **__: object) -> None:
        found = str(Path(path).absolute()) if Path(path).exists() else f"hub:{path}"
        refused.append(ForeignCode(file=found, used_for=f"loaded by {name}"))
        require_allowed(refused, allow_code=False)

    library: Any = loading
    before = library.evaluation_module_factory
    library.evaluation_module_factory = refuse
    try:
        yield
    finally:
        library.evaluation_module_factory = before
        # The task may have caught the refusal and raised something else.
        require_allowed(refused, allow_code=False)


def _check_choice(choice: TaskChoice) -> None:
    """Raise TaskError for a choice of what a task of the harness says itself."""
    prompt = None if choice.prompt == CHAT else choice.prompt
    own = (choice.data, choice.metric, choice.extractor, choice.gate, prompt)
    if any(each is not None for each in own):
        raise TaskError(
            f"{choice.name}: a harness task has its own data, prompt and scoring; leave yours out. "
            f"The only prompt to choose is `{CHAT}`."
        )
    changes = choice.decoding
    if changes is not None and (changes.like is not None or changes.repeats is not None):
        raise TaskError(
            f"{choice.name}: a harness task has its own decoding and repeats. Name the keys to change, for example "
            "max_new_tokens."
        )


def _think_end(choice: TaskChoice) -> str | None:
    """Return the text or the token's number that ends a thought. Raises TaskError for a setting without one."""
    match choice.reasoning:
        case None | "auto" | "none":
            return None
        case "think":
            return "</think>"
        case (_, end):
            return end
        case other:
            raise TaskError(
                f"{choice.name}: the harness needs the text that ends a thought, and reasoning is '{other}'. Name it: "
                "--think-end-token, or a pair in `reasoning`."
            )


def _said(row: Mapping[str, Any]) -> str:
    """Return what the model generated, or the choice that it finds most likely."""
    answers = [answers[0] for answers in row["resps"]]
    if isinstance(answers[0], str):
        return answers[0]
    if not isinstance(answers[0], Sequence):
        return ""
    best = max(range(len(answers)), key=lambda index: float(answers[index][0]))
    return str(row["arguments"][best][1]).strip()


def _load_task(name: HarnessName, *, allow_code: bool) -> Any:
    spec = name.spec
    require_allowed(name.code, allow_code=allow_code)
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise TaskError(
            f"{HARNESS}{spec}: the lm-evaluation-harness is not installed.\n    Install it: {_INSTALL}"
        ) from error
    from datasets.exceptions import DatasetGenerationError
    from jinja2 import TemplateError
    from yaml import YAMLError

    # It logs its defaults as warnings, once for each document.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    is_file = name.file is not None
    try:
        manager = TaskManager(include_defaults=not is_file)
        if not is_file and spec not in manager.all_tasks:
            raise TaskError(f"{HARNESS}{spec}: the harness does not have this task. `lm_eval ls tasks` lists them.")
        # A group's data would be fetched before it is refused.
        if (members := _members(name, manager.task_index.get(spec))) is not None:
            _refuse_group(spec, members)
        tasks = manager.load([spec])["tasks"]
    except (
        *(OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, IndexError, RuntimeError),
        *(YAMLError, TemplateError, DatasetGenerationError),
    ) as error:
        raise TaskError(
            f"{HARNESS}{spec}: the harness cannot load it ({type(error).__name__}: {error}).\n"
            "    Correct the file, or provide the data that it names."
        ) from error
    if len(tasks) != 1:
        _refuse_group(spec, list(map(str, tasks)))
    task = next(iter(tasks.values()))
    if getattr(task, "UNSAFE_CODE", False):
        raise TaskError(
            f"{HARNESS}{spec}: runs code that the model writes, which evovlm does not do. Name another task."
        )
    return task


def _members(name: HarnessName, entry: Any) -> list[str] | None:
    """Return the tasks of a group or a tag of the harness, or of a group's file; None for a single task."""
    try:
        config = read_yaml(name.file) if name.file is not None else (entry.cfg or {"group": "", "task": [*entry.tags]})
    except ConfigError:
        # It may name functions, as files of single tasks do, or is refused when it is loaded.
        return None
    listed = config.get("task") if isinstance(config, Mapping) and "group" in config else None
    if not isinstance(listed, list):
        return None
    return [str(each.get("task", each.get("group"))) if isinstance(each, Mapping) else str(each) for each in listed]


def _refuse_group(spec: str, members: Sequence[str]) -> None:
    shown = ", ".join(sorted(members)[:8]) + (", ..." if len(members) > 8 else "")
    raise TaskError(
        f"{HARNESS}{spec}: is a group of {len(members)} tasks, and a group's mean is not scored.\n"
        f"    Name its tasks: {shown}"
    )


def _keep_from_the_report(task: Any, *, name: str) -> None:
    """Let the task score documents that are not reported, and take its examples from them too.

    Raises TaskError for a task without such documents.
    """
    config = task.config
    reported_split = config.test_split or config.validation_split
    unseen = (config.validation_split, config.training_split)
    others = [split for split in unseen if split is not None and split != reported_split]
    if not others:
        raise TaskError(
            f"{name}: has only the report split '{reported_split}', which a search must not see.\n"
            "    Name a task that has another validation_split or training_split, and score the winner on this one."
        )
    reported = {_as_text(doc) for doc in task.eval_docs}
    # The harness scores test documents, and leaves a scored document out of its examples if both are of one split.
    config.test_split = others[0]
    shots = task.fewshot_cfg
    if shots.split == reported_split and config.num_fewshot:
        raise TaskError(f"{name}: its examples are report documents ('{reported_split}'), which a search must not see.")
    if shots.split is None and shots.samples is None:
        shots.split = config.training_split or config.validation_split
    if not task.has_test_docs() or any(_as_text(doc) in reported for doc in task.eval_docs):
        raise TaskError(f"{name}: its split '{others[0]}' contains documents of the report split '{reported_split}'.")


def _as_text(doc: object) -> str:
    return json.dumps(doc, sort_keys=True, default=repr)


def _chosen_metric(task: Any, wanted: str, *, name: str) -> str:
    """Return the metric of that name, or the task's first. Raises TaskError unless it is a mean over documents."""
    from lm_eval.api.metrics import mean

    known, higher = task.aggregation(), task.higher_is_better()
    metric = _chosen(wanted, list(known), what="metric", name=name)
    scores = [each for each in known if known[each] is mean and higher.get(each, True)]
    if metric not in scores:
        others = f"Choose another: lm_eval:NAME#METRIC with one of {', '.join(scores)}."
        raise TaskError(
            f"{name}: {metric} is not a mean over documents for which higher is better, as a score must be.\n"
            f"    {others if scores else 'It has no metric that is; name another task.'}"
        )
    return metric


_LENIENT = "flexible-extract"


def _chosen_filter(task: Any, wanted: str, *, name: str) -> str:
    """Return the filter of that name, or the usual one: the lenient of those that read an answer, else the first.

    A strict filter scores only answers in the form of the few-shot examples.
    """
    known = [each.name for each in task._filters]
    return _chosen(wanted or (_LENIENT if _LENIENT in known else ""), known, what="filter", name=name)


def _chosen(wanted: str, known: Sequence[str], *, what: str, name: str) -> str:
    if not known:
        raise TaskError(f"{name}: the task has no {what}.")
    if wanted and wanted not in known:
        raise TaskError(f"{name}: the task has no {what} '{wanted}', only: {', '.join(known)}.")
    return wanted or known[0]
