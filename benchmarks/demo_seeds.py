"""The demo over several search seeds: does evolution beat every source, the equal-weights merge and random search?

    python benchmarks/demo_seeds.py [--seeds 3] [--first-seed 0] [--full | --quick] [--out runs/demo-seeds]

Prints the table of benchmarks/LOG.md: means over the seeds on the report splits, scores x 100; and the seconds of each
seed, by the clock and of the processor. Searches that are in --out are not repeated.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def run_demo(seed: int, *, folder: Path, flags: list[str]) -> dict[str, dict]:
    command = [sys.executable, "-m", "evovlm", "demo", "--seed", str(seed), "--out", str(folder), "--json", *flags]
    began, before = time.monotonic(), processor_s()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    taken = f"{time.monotonic() - began:.0f} s, {processor_s() - before:.0f} s of the processor"
    print(f"seed {seed}: {taken}", file=sys.stderr, flush=True)
    return json.loads(done.stdout)


def processor_s() -> float:
    """Return the processor time of all processes that have ended."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def rows_of(pipeline: dict) -> dict[str, dict]:
    return {
        **pipeline["sources"],
        "equal weights": pipeline["uniform"],
        "random search": pipeline["random"],
        "evolved": pipeline["evolved"],
    }


def show(name: str, tables: list[dict[str, dict]]) -> None:
    print(f"\n{name}\n\n| model | mean | seeds | ungated | Japanese |\n|---|---|---|---|---|")
    for row in tables[0]:
        scores = [100 * table[row]["score"] for table in tables]
        ungated = 100 * sum(table[row]["ungated"] for table in tables) / len(tables)
        japanese = 100 * sum(table[row]["japanese"] for table in tables) / len(tables)
        seeds = ", ".join(f"{score:.1f}" for score in scores)
        print(f"| {row} | {sum(scores) / len(scores):.1f} | {seeds} | {ungated:.1f} | {japanese:.0f} % |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--full", dest="flags", action="append_const", const="--full", default=[])
    parser.add_argument("--quick", dest="flags", action="append_const", const="--quick")
    parser.add_argument("--out", type=Path, default=None, help="folder for the runs; existing runs are reused")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        out = arguments.out or Path(scratch)
        out.mkdir(parents=True, exist_ok=True)
        seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
        results = [run_demo(seed, folder=out / str(seed), flags=arguments.flags) for seed in seeds]
    for name in results[0]:
        show(name, [rows_of(result[name]) for result in results])


if __name__ == "__main__":
    main()
