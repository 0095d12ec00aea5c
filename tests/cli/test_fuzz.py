"""Valid files, mutated at random: every command ends with exit code 0 or 2, soon, and never with a traceback."""

import copy
import json
import math
import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evovlm.api import score
from evovlm.recipes.documents import load_recipe
from evovlm.recipes.writing import recipe_to_yaml
from tests.cli.conftest import TASK as TASK_NAME
from tests.cli.conftest import Command, write_config

pytestmark = pytest.mark.slow

LONGEST_S = 20.0
"""Of processor time: a busy machine may take longer."""
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2, 3.5, 10**9, 10**18, 10**30, -0.5, 1e308, math.inf, math.nan),
    *("", "x", "x" * 5000, "~nobody/x", "a\0b", "../..", "/dev/zero", "zoo:x", "org/name", "日本語"),
    *([], [1], [[]], {}, {"a": 1}, {"": None}, [None] * 3),
)
"""What a value is replaced by: other types, sizes, names."""
SNIPPETS = (
    *(b"", b"\0", b"\xff", b"\t", b"\r", b"\n", b"\xe2\x80\xa8", b"{", b"}", b"[", b"]" * 3, b"-", b",", b":"),
    *(b'"', b"'", b"&a *a", b"\n\n---\n", b"<<: {}", b"!!int x", b"!!python/name:os.system", b"[" * 3000),
    *(b"- " * 500, b"9" * 5000, b"1e999", b"NaN", b"\\ud800", b"null", b"true"),
)
"""What a part of a file is replaced by."""

SEEDS = st.integers(0, 2**32 - 1)


def seeded(seed: int) -> random.Random:
    """Return what draws a case; a seed is reported for one that fails."""
    return random.Random(seed)  # noqa: S311


def many(count: int) -> Callable[[Any], Any]:
    """Return the settings of a test with that many cases, the same ones each time."""
    return settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of keys to every value inside."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*above, key)
        yield from places(inner, (*above, key))


def changed_document(document: Any, draw: random.Random) -> Any:
    """Return the document with one or two values replaced, removed, or moved to another key."""
    found = copy.deepcopy(document)
    for _ in range(draw.choice((1, 1, 2))):
        *above, key = draw.choice(list(places(found)) or [("x",)])
        inner = found
        for each in above:
            inner = inner[each]
        action = draw.random()
        if action < 0.7 or not isinstance(inner, dict):
            inner[key] = copy.deepcopy(draw.choice(VALUES))
        elif action < 0.85:
            del inner[key]
        else:
            inner[str(draw.choice(("x", key, "<<", "kind", "1")))] = inner.pop(key)
        if not found:
            return found
    return found


def changed_bytes(content: bytes, draw: random.Random) -> bytes:
    """Return the content with a few parts replaced."""
    for _ in range(draw.choice((1, 1, 2, 4))):
        at = draw.randrange(len(content) + 1)
        content = content[:at] + draw.choice(SNIPPETS) + content[at + draw.choice((0, 0, 1, 5, 40)) :]
    return content


def as_yaml(document: Any, draw: random.Random) -> bytes:
    """Return a mutated document as YAML, mutated as values or as text."""
    if draw.random() < 0.75:
        return yaml.safe_dump(changed_document(document, draw), sort_keys=False, allow_unicode=True).encode()
    return changed_bytes(yaml.safe_dump(document, sort_keys=False, allow_unicode=True).encode(), draw)


def as_json_lines(rows: list[Any], draw: random.Random) -> bytes:
    """Return rows as lines of JSON, one of them mutated as values, or all of them as text."""
    lines = [json.dumps(row, ensure_ascii=False).encode() for row in rows]
    if draw.random() < 0.75:
        number = draw.randrange(len(rows))
        lines[number] = json.dumps(changed_document(rows[number], draw)).encode()
    elif draw.random() < 0.5:
        draw.shuffle(lines)
        lines = [*lines[: draw.randrange(len(lines) + 1)], draw.choice(lines)]
    content = b"".join(line + b"\n" for line in lines)
    return content if draw.random() < 0.75 else changed_bytes(content, draw)


class Bounded:
    """Runs commands, and checks how each ends."""

    def __init__(self, evovlm: Command) -> None:
        self._evovlm = evovlm

    def __call__(self, *arguments: str | Path) -> None:
        begun = time.process_time()
        outcome = self._evovlm(*arguments)
        assert outcome.code in (0, 2), outcome
        assert "Traceback" not in outcome.err
        assert time.process_time() - begun < LONGEST_S


@pytest.fixture
def bounded(evovlm: Command) -> Bounded:
    return Bounded(evovlm)


def recipes(models: Path) -> Mapping[str, Any]:
    """Return a recipe of each kind, and mergekit's."""
    names = {name: str(models / name) for name in ("base", "math", "ja")}
    merge = {
        "kind": "parameter_merge",
        "base": names["base"],
        "sources": {"math": names["math"], "ja": names["ja"]},
        "method": "dare_ties",
        "settings": {"normalize": True, "lambda": 1.0},
        "seed": 3,
        "parameters": {
            "math": {"weight": 0.7, "density": [0.5, 0.5, 0.5, 0.5]},
            "ja": {"weight": {"attention": 0.1, "mlp": 0.2, "norms": 0.3, "rest": 0.4}},
        },
    }
    path = {
        "kind": "layer_path",
        "host": names["math"],
        "sources": {"math": names["math"], "ja": names["ja"]},
        "scale_target": "pending",
        "path": [["math", 0, 1.0], ["ja", 1, 0.9], ["math", 1, 1.0]],
    }
    inner = {key: value for key, value in path.items() if key != "host"}
    stages = {"ps": merge, "path": {**inner, "path": [["ps", 0, 1.0], ["ja", 1, 0.9], ["ps", 1, 1.0]]}}
    mergekit = {
        "merge_method": "dare_ties",
        "base_model": names["base"],
        "models": [{"model": names["math"], "parameters": {"weight": 0.5, "density": [0.1, 1.0]}}],
        "parameters": {"normalize": True},
        "dtype": "float32",
    }
    return {
        "merge": {"format": 1, **merge},
        "path": {"format": 1, **path},
        "hybrid": {"format": 1, "kind": "hybrid", "stages": stages},
        "mergekit": mergekit,
    }


@many(800)
@given(seed=SEEDS)
def test_recipes(seed: int, bounded: Bounded, models: Path, tmp_path: Path) -> None:
    draw = seeded(seed)
    path = tmp_path / "recipe.yaml"
    path.write_bytes(as_yaml(draw.choice(list(recipes(models).values())), draw))
    bounded("show" if draw.random() < 0.5 else "check", path)
    if draw.random() < 0.1:
        shutil.rmtree(tmp_path / "merged", ignore_errors=True)
        bounded("merge", path, "--out", tmp_path / "merged")


def searches(models: Path, problems: Path, folder: Path) -> Mapping[str, Any]:
    """Return a config of each kind."""
    base = yaml.safe_load(write_config(folder / "search.yaml", models=models, problems=problems).read_text())
    sources = {"math": str(models / "math"), "ja": str(models / "ja")}
    path = {
        **base,
        "merge": {"kind": "layer_path", "host": sources["math"], "sources": sources, "scale_target": "pending"},
        "space": {"kind": "path", "repetitions": 2, "scales": "per_position", "scale": [0.5, 1.5]},
        "optimizer": {"kind": "cma_margin", "sigma": 0.1, "population": 4},
        "batch": 2,
        "validation": 1,
        "winner": "snapshot",
    }
    rich = {
        **base,
        "space": {"kind": "component x interpolated", "knots": 2, "weight": [0, 1], "fixed": {"ja.density": 1.0}},
        "workers": 1,
        "time_limit_s": 60,
        "rescore": 2,
        "racing": {"first": 2, "growth": 2.0, "limit": 1.0, "order": "shuffled"},
        "objective": {"combine": "mean", "constraints": [{**_constraint(problems), "at_least": 0.1}]},
        "start": {"equal": 0.5},
        "log": {"tensorboard": False},
    }
    return {"parameters": base, "path": path, "rich": rich}


def _constraint(problems: Path) -> dict[str, str]:
    return {"task": str(problems.with_name("short_problems.yaml")), "measure": "japanese"}


@many(600)
@given(seed=SEEDS)
def test_configs(seed: int, bounded: Bounded, models: Path, problems: Path, tmp_path: Path) -> None:
    draw = seeded(seed)
    document = draw.choice(list(searches(models, problems, tmp_path).values()))
    path = tmp_path / "search.yaml"
    path.write_bytes(as_yaml(document, draw))
    bounded("check", path)


@many(600)
@given(seed=SEEDS)
def test_journals(seed: int, bounded: Bounded, finished_once: Path, tmp_path: Path) -> None:
    draw = seeded(seed)
    run = tmp_path / "run"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(finished_once / "run", run)
    rows = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    (run / "journal.jsonl").write_bytes(as_json_lines(rows, draw))
    if draw.random() < 0.2:
        (run / "result.json").write_bytes(as_json_lines([json.loads((run / "result.json").read_bytes())], draw))
    bounded("show", run, *(["--json"] if draw.random() < 0.3 else []))
    if draw.random() < 0.2:
        bounded("report", run)
    if draw.random() < 0.1:
        bounded("export", run, "--out", run / "exported.yaml")
    if draw.random() < 0.1:
        bounded("evolve", finished_once / "search.yaml", "--out", run, "--resume")


@many(500)
@given(seed=SEEDS)
def test_predictions(seed: int, bounded: Bounded, tmp_path: Path) -> None:
    draw = seeded(seed)
    rows = [
        {"id": f"p{n}", "question": "1+2?", "references": ["3"], "choices": [], "text": "答えは3です", "tags": []}
        for n in range(3)
    ]
    path = tmp_path / draw.choice(("answers.jsonl", "answers.json", "answers.csv"))
    content = as_json_lines(rows, draw)
    if path.suffix == ".json":
        content = changed_bytes(json.dumps(rows).encode(), draw)
    elif path.suffix == ".csv":
        content = changed_bytes("id,text,references\np1,答えは3,3\np2,4,4\n".encode(), draw)
    path.write_bytes(content)
    bounded("grade", path, "--metric", draw.choice(("accuracy", "rouge_l_ja")))


TASK = {
    "name": "own",
    "data": ".",
    "splits": {"search": "rows.jsonl", "report": "more.jsonl"},
    "columns": {"question": "question", "answer": "answer", "id": "id", "choices": "choices", "tags": ["tag"]},
    "prompt": "chat",
    "metric": "accuracy",
    "extractor": "robust",
    "gate": "script",
    "decoding": {"max_new_tokens": 8, "beams": 1, "repetition_penalty": 1.0, "stop": ["\n"]},
}


@many(400)
@given(seed=SEEDS)
def test_task_files_and_tables(seed: int, bounded: Bounded, models: Path, tmp_path: Path) -> None:
    draw = seeded(seed)
    rows = [{"id": f"{n}", "question": "1+2?", "answer": "3", "choices": ["a", "b"], "tag": "t"} for n in range(3)]
    (tmp_path / "more.jsonl").write_text("".join(json.dumps({**row, "question": "2+2?"}) + "\n" for row in rows))
    task = tmp_path / "own.yaml"
    is_table = draw.random() < 0.5
    task.write_bytes(yaml.safe_dump(TASK).encode() if is_table else as_yaml(TASK, draw))
    plain = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    (tmp_path / "rows.jsonl").write_bytes(as_json_lines(rows, draw) if is_table else plain)
    config = write_config(
        tmp_path / "search.yaml", models=models, problems=tmp_path / "unused", tasks=[{"name": str(task)}]
    )
    bounded("check", config)


MODEL_FILES = {
    "math": ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"),
    "vlm": ("config.json", "processor_config.json", "tokenizer_config.json"),
}


def damaged_model(model: Path, to: Path, draw: random.Random) -> Path:
    """Copy a model and mutate one of its files; of its weights, the header."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(model, to)
    file = to / draw.choice((*MODEL_FILES[model.name], "model.safetensors"))
    if file.suffix == ".safetensors":
        content = file.read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        header = as_json_lines([json.loads(content[8:end])], draw).strip()
        length = len(header) if draw.random() < 0.8 else draw.choice((0, 1, 2**31, 2**63))
        file.write_bytes(length.to_bytes(8, "little") + header + content[end:])
    elif file.suffix == ".jinja":
        file.write_bytes(changed_bytes(b"{% for m in messages %}{{ m['content'] }}{{ bos_token }}{% endfor %}", draw))
    else:
        document = json.loads(file.read_bytes()) if file.is_file() else {"max_length": 20, "eos_token_id": 2}
        file.write_bytes(as_json_lines([document], draw))
    return to


def search_of(model: Path, models: Path, problems: Path, folder: Path) -> Path:
    """Write the config of a search with one source and one generation."""
    merge = {"base": str(models / "base"), "sources": {"math": str(model)}, "method": "dare_ties"}
    budget = {"candidates": 4}
    return write_config(folder / "search.yaml", models=models, problems=problems, merge=merge, budget=budget)


@many(240)
@given(seed=SEEDS)
def test_model_folders(seed: int, bounded: Bounded, models: Path, problems: Path, tmp_path: Path) -> None:
    draw = seeded(seed)
    kind = draw.choice(("math", "math", "vlm"))
    folder = damaged_model(models / kind, tmp_path / "model", draw)
    document = dict(recipes(models)["merge"], host=str(folder))
    if kind == "math" and draw.random() < 0.5:
        document = dict(document, host=str(models / "base"), sources={"math": str(folder), "ja": str(models / "ja")})
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(document))
    bounded("check", recipe)
    action = draw.choice(("", "", "", "show", "merge", "ask", "score", "evolve"))
    if action == "show":
        bounded("show", recipe)
    elif action == "merge":
        shutil.rmtree(tmp_path / "merged", ignore_errors=True)
        bounded("merge", recipe, "--out", tmp_path / "merged")
    elif action == "ask":
        bounded("ask", folder, "hi", "--max-new-tokens", "2", "--device", "cpu")
    elif action == "score":
        task = problems.with_name(f"{TASK_NAME}.yaml")
        bounded("score", folder, "--task", task, "--limit", "1", "--device", "cpu")
    elif action == "evolve":
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        bounded("evolve", search_of(folder, models, problems, tmp_path), "--out", tmp_path / "run")
        if (tmp_path / "run").is_dir():
            bounded("show", tmp_path / "run")


@pytest.fixture(scope="module")
def saved_once(models: Path, problems: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a scoring of two models, of which one is finished and one is not."""
    folder = tmp_path_factory.mktemp("saved") / "scores"
    task = str(problems.with_name(f"{TASK_NAME}.yaml"))
    score([models / "math", models / "ja"], tasks=task, device="cpu", save=folder)
    summary = json.loads((folder / "summary.json").read_text())
    unfinished = next(name for name in summary["finished"] if name.startswith("2-"))
    del summary["finished"][unfinished]
    (folder / "summary.json").write_text(json.dumps(summary | {"scores": None}))
    (folder / unfinished).unlink()
    batch = {"rows": [0, 1, 2], "answers": ["3", "5", "x"], "tokens": 3, "seconds": 0.1}
    (folder / unfinished).with_suffix(".batches.jsonl").write_text(json.dumps(batch) + "\n")
    return folder


@many(50)
@given(seed=SEEDS)
def test_saved_answers(
    seed: int, bounded: Bounded, saved_once: Path, models: Path, problems: Path, tmp_path: Path
) -> None:
    draw = seeded(seed)
    folder = tmp_path / "scores"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(saved_once, folder)
    file = draw.choice([path for path in sorted(folder.iterdir()) if path.suffix in (".json", ".jsonl")])
    lines = [file.read_text()] if file.suffix == ".json" else file.read_text().splitlines()
    file.write_bytes(as_json_lines([json.loads(line) for line in lines], draw))
    if file.suffix == ".jsonl" and draw.random() < 0.5:
        bounded("grade", file, "--metric", "accuracy")
    task = problems.with_name(f"{TASK_NAME}.yaml")
    bounded(
        *("score", models / "math", models / "ja", "--task", task),
        *("--device", "cpu", "--save", folder, "--resume"),
    )


def test_the_files_that_are_mutated_are_valid(
    evovlm: Command, models: Path, problems: Path, finished_once: Path, saved_once: Path, tmp_path: Path
) -> None:
    saved = shutil.copytree(saved_once, tmp_path / "scores")
    task = problems.with_name(f"{TASK_NAME}.yaml")
    words = ("score", models / "math", models / "ja", "--task", task, "--device", "cpu", "--save", saved, "--resume")
    assert evovlm(*words).code == 0
    search = search_of(models / "math", models, problems, tmp_path)
    assert evovlm("evolve", search, "--out", tmp_path / "run").code == 0
    recipe = dict(recipes(models)["merge"], host=str(models / "vlm"))
    (tmp_path / "vlm.yaml").write_text(yaml.safe_dump(recipe))
    assert evovlm("check", tmp_path / "vlm.yaml").code == 0
    for name, document in recipes(models).items():
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(document))
        assert evovlm("check", path).code == 0, name
        assert recipe_to_yaml(load_recipe(path))
    for name, document in searches(models, problems, tmp_path).items():
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(document))
        outcome = evovlm("check", path)
        assert outcome.code == 0, (name, outcome.err)
    assert evovlm("show", finished_once / "run").code == 0
