"""Scores in the files of other projects.

hub             MODEL/.eval_results/evovlm.yaml        shown by the hub on the model's page; `evovlm push` sends it
llm-jp-eval-mm  DIR/TASK/MODEL/{manifest.json, prediction.jsonl, evaluation.jsonl}
lm-eval         DIR/MODEL/{results_DATE.json, samples_TASK_DATE.jsonl}

The formats are those of huggingface_hub 1.31 (_eval_results.py), llm-jp-eval-mm 9f450a5 (result_schema.py, runner.py)
and lm_eval 0.4.13 (loggers/evaluation_tracker.py).
"""

import json
import math
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import yaml

from evovlm.errors import ConfigError, TaskError
from evovlm.evaluation.answers import ScoredTask
from evovlm.evaluation.intervals import mean_interval
from evovlm.files import inner_folder, make_folder, new_folder, refuse_existing, write_new_file
from evovlm.recipes.checkpoint_files import CONFIG_FILE, EVAL_RESULTS_FOLDER
from evovlm.recipes.problems import did_you_mean
from evovlm.runs.scores.score_models import ScoredModel, Scores
from evovlm.tasks.catalogue import TASKS
from evovlm.tasks.sample import Split

HUB_FILE = "evovlm.yaml"
# Our names of tasks, and theirs of the same questions in the same order.
_EVAL_MM_TASKS = {
    "cvqa_ja": "cvqa",
    "heron_bench": "japanese-heron-bench",
    "ja_multi_image_vqa": "ja-multi-image-vqa",
    "ja_vg_vqa_all": "ja-vg-vqa-500",
    "ja_vlm_bench": "ja-vlm-bench-in-the-wild",
    "jdocqa": "jdocqa",
    "mecha_ja_rotated": "mecha-ja",
}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_UNSAFE = re.compile(r"[^\w.-]+", re.ASCII)

Files = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A form of result files: `files` returns their contents by their paths inside the folder that is written.

    With `into_model`, the files are added to an existing model folder, instead of making a new folder.
    """

    files: Callable[[Scores, Split, datetime], Files]
    into_model: bool = False


def parse_targets(texts: Sequence[str]) -> dict[str, Path]:
    """Return the folders by the names of their forms, of texts `FORM=DIR`; nothing is written.

    Raises ConfigError for another text, OutputExists or OutputError for a folder that cannot be written so.
    """
    found: dict[str, Path] = {}
    for text in texts:
        form, sign, folder = text.partition("=")
        if not sign or not folder or form not in FORMS:
            hint = f", such as {form}=results." if form in FORMS else did_you_mean(form, FORMS)
            raise ConfigError(f"--write {text}: write FORM=DIR{hint}")
        if form in found:
            raise ConfigError(f"--write {text}: the form {form} is named twice. Name it once.")
        found[form] = Path(folder)
        _check_target(form, Path(folder))
    return found


def write_form(scores: Scores, *, form: str, folder: Path, split: Split) -> list[Path]:
    """Write the scores into a folder in a form, and return the files.

    Raises TaskError for scores that the form cannot hold, OutputExists or OutputError when it cannot be written.
    """
    row = FORMS[form]
    files = row.files(scores, split, datetime.now().astimezone())
    if not row.into_model:
        with new_folder(folder) as partial:
            for name, content in files.items():
                make_folder((partial / name).parent)
                write_new_file(partial / name, content)
    else:
        _check_target(form, folder)
        make_folder(inner_folder(folder, EVAL_RESULTS_FOLDER))
        for name, content in files.items():
            write_new_file(folder / name, content)
    return [folder / name for name in files]


def _check_target(form: str, folder: Path) -> None:
    if not FORMS[form].into_model:
        refuse_existing(folder)
        return
    if not (folder / CONFIG_FILE).is_file():
        raise ConfigError(f"--write {form}={folder}: has no {CONFIG_FILE}. Name the folder of the model.")
    refuse_existing(inner_folder(folder, EVAL_RESULTS_FOLDER) / HUB_FILE)


def _hub(scores: Scores, split: Split, date: datetime) -> Files:
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    if len(scores.models) > 1:
        raise ConfigError(
            f"--write hub=DIR: the file belongs to one model, and {len(scores.models)} were scored. Score it alone."
        )
    entries = []
    for task in scores.models[0].tasks:
        hub_id = TASKS[task.name].hub_id if task.name in TASKS else None
        if hub_id is None:
            raise TaskError(f"--write hub=DIR: the task {task.name} is not a data set of the hub. Leave it out.")
        low, high = (100 * end for end in mean_interval(task.score.per_sample))
        entries.append(
            EvalResultEntry(
                dataset_id=hub_id,
                task_id=task.name,
                value=round(100 * task.score.score, 2),
                date=date.isoformat(timespec="seconds"),
                notes=f"{task.measured}; {task.score.n} samples of evovlm's {split} split; 95 % interval {low:.1f} to "
                f"{high:.1f}; evovlm {version('evovlm')}",
            )
        )
    return {f"{EVAL_RESULTS_FOLDER}/{HUB_FILE}": yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)}


def _eval_mm(scores: Scores, _split: Split, date: datetime) -> Files:
    files: dict[str, str] = {}
    for model, name in _model_names(scores.models):
        for task in model.tasks:
            task_id = _EVAL_MM_TASKS.get(task.name, task.name)
            metric, values = _eval_mm_scores(task)
            folder = f"{_UNSAFE.sub('-', task_id)}/{name}"
            manifest = {
                "schema_version": "1.0",
                "model_id": name,
                "task_id": task_id,
                "metrics": [metric],
                "created_at": date.isoformat(),
                "result_dir": folder,
            }
            mean = sum(values) / len(values)
            # How it was scored, for readers: their tools take the overall score.
            about = {metric: mean, "n": len(values), "measured": task.measured, "evovlm": version("evovlm")}
            files[f"{folder}/manifest.json"] = json.dumps(manifest, ensure_ascii=False, indent=2)
            files[f"{folder}/prediction.jsonl"] = _lines(
                {
                    "question_id": answer.sample.id,
                    "text": answer.text,
                    "answer": _one_or_all(answer.sample.references),
                    "input_text": answer.sample.question,
                    metric: value,
                }
                for answer, value in zip(task.answers, values, strict=True)
            )
            files[f"{folder}/evaluation.jsonl"] = _lines([{metric: {"overall_score": mean, "details": about}}])
    return files


def _eval_mm_scores(task: ScoredTask) -> tuple[str, list[float]]:
    """Return their name of the metric, with scores on their scale; ours where they compute it differently."""
    if task.metric == "rouge_l_ja":
        # Theirs has no language gate.
        return "rougel", [100 * answer.ungated for answer in task.answers]
    return task.metric, [answer.score for answer in task.answers]


def _lm_eval(scores: Scores, _split: Split, date: datetime) -> Files:
    day = date.replace(tzinfo=None).isoformat().replace(":", "-")
    files: dict[str, str] = {}
    for model, name in _model_names(scores.models):
        folder = name.replace("/", "__")
        document = _lm_eval_results(model, folder, date)
        files[f"{folder}/results_{day}.json"] = json.dumps(document, ensure_ascii=False, indent=2) + "\n"
        for task in model.tasks:
            files[f"{folder}/samples_{_UNSAFE.sub('-', task.name)}_{day}.jsonl"] = _lines(
                {
                    "doc_id": number,
                    "doc": {"id": answer.sample.id, "question": answer.sample.question},
                    "target": _one_or_all(answer.sample.references),
                    "resps": [[answer.text]],
                    "filtered_resps": [answer.extracted if answer.extracted is not None else answer.text],
                    "filter": "none",
                    "metrics": [task.metric],
                    task.metric: answer.score,
                }
                for number, answer in enumerate(task.answers)
            )
    return files


def _lm_eval_results(model: ScoredModel, folder: str, date: datetime) -> Mapping[str, object]:
    """Return the content of the harness's results file of a model."""
    names = {task.name: _UNSAFE.sub("-", task.name) for task in model.tasks}
    results = {
        names[task.name]: {
            "alias": task.name,
            f"{task.metric},none": task.score.score,
            f"{task.metric}_stderr,none": _standard_error(task.score.per_sample),
        }
        for task in model.tasks
    }
    return {
        "results": results,
        "group_subtasks": {each: [] for each in results},
        "configs": {
            names[task.name]: {"task": task.name, "metadata": {"measured": task.measured}} for task in model.tasks
        },
        "versions": dict.fromkeys(results, version("evovlm")),
        "n-shot": dict.fromkeys(results, 0),
        "higher_is_better": {names[task.name]: {task.metric: True} for task in model.tasks},
        "n-samples": {names[task.name]: {"original": task.score.n, "effective": task.score.n} for task in model.tasks},
        "config": {"model": "evovlm", "model_args": {"pretrained": model.model}},
        "model_source": "evovlm",
        "model_name": model.model,
        "model_name_sanitized": folder,
        "date": date.timestamp(),
    }


def _standard_error(values: Sequence[float]) -> float | str:
    """Return the standard error of a mean as the harness does, "N/A" for one value."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else "N/A"


def _model_names(models: Sequence[ScoredModel]) -> list[tuple[ScoredModel, str]]:
    """Return the models with different names that are safe as paths: OWNER/NAME of the hub, else their last part."""
    found: dict[str, ScoredModel] = {}
    for number, model in enumerate(models, start=1):
        is_hub_id = _HUB_ID.fullmatch(model.model) is not None and not Path(model.model).exists()
        ending = model.model.rstrip("/").rpartition("/")[2].removesuffix(".yaml")
        name = model.model if is_hub_id else _UNSAFE.sub("-", ending).strip("-.") or "model"
        safe = not any(part.startswith(".") for part in name.split("/"))
        found[name if safe and name not in found else f"{_UNSAFE.sub('-', name).lstrip('.')}-{number}"] = model
    return [(model, name) for name, model in found.items()]


def _one_or_all(references: Sequence[str]) -> str | list[str]:
    return references[0] if len(references) == 1 else list(references)


def _lines(rows: Iterable[Mapping[str, object]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


FORMS: Mapping[str, Form] = {
    "hub": Form(files=_hub, into_model=True),
    "llm-jp-eval-mm": Form(files=_eval_mm),
    "lm-eval": Form(files=_lm_eval),
}
