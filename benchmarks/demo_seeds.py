"""The demo over several search seeds: does evolution beat every source, the equal-weights merge and random search?

    python benchmarks/demo_seeds.py [--seeds 3] [--quick]

Prints the table of benchmarks/LOG.md: means over the seeds on the report splits, scores x 100.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def run_demo(seed: int, *, folder: Path, quick: bool) -> dict[str, dict]:
    command = [sys.executable, "-m", "evovlm", "demo", "--seed", str(seed), "--out", str(folder), "--json"]
    done = subprocess.run([*command, *(["--quick"] if quick else [])], check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def rows_of(pipeline: dict) -> dict[str, dict]:
    return {
        **pipeline["sources"],
        "equal weights": pipeline["uniform"],
        "random search": pipeline["random"],
        "evolved": pipeline["evolved"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    results = []
    for seed in range(arguments.seeds):
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            results.append(run_demo(seed, folder=Path(folder) / "demo", quick=arguments.quick))
        print(f"seed {seed}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    for name in results[0]:
        tables = [rows_of(result[name]) for result in results]
        print(f"\n{name}\n\n| model | mean | seeds | ungated | Japanese |\n|---|---|---|---|---|")
        for row in tables[0]:
            scores = [100 * table[row]["score"] for table in tables]
            ungated = 100 * sum(table[row]["ungated"] for table in tables) / len(tables)
            japanese = 100 * sum(table[row]["japanese"] for table in tables) / len(tables)
            seeds = ", ".join(f"{score:.1f}" for score in scores)
            print(f"| {row} | {sum(scores) / len(scores):.1f} | {seeds} | {ungated:.1f} | {japanese:.0f} % |")


if __name__ == "__main__":
    main()
