"""Run mergekit on every YAML file of a folder; by hand, in mergekit's own environment (see make_mergekit.py).

    python tests/golden/run_mergekit_yaml.py CASES_DIR OUT_DIR [mergekit-yaml options, say --random-seed 7]

Relative model folders in a YAML count from the folder in which the file lies. For CASES_DIR/x.yaml the merged model is
written to OUT_DIR/x, and OUT_DIR/results.json tells for every file whether it ran, the last lines of what it said if
not, and dtype, shape and sha256 of every tensor. Exits with 1 when a file did not run.
"""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

TOOL = Path(sys.executable).with_name("mergekit-yaml")


def run(config: Path, out: Path, options: list[str]) -> dict[str, Any]:
    """Run mergekit-yaml on one file; return what came of it."""
    command = [str(TOOL), config.name, str(out), "--no-write-model-card", "--quiet", *options]
    done = subprocess.run(command, cwd=config.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"ran": False, "message": done.stderr.strip().splitlines()[-5:]}
    return {"ran": True, "tensors": tensors(out)}


def tensors(folder: Path) -> dict[str, dict[str, Any]]:
    """Describe every tensor of a checkpoint."""
    found = {}
    for shard in sorted(folder.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                tensor = opened.get_tensor(name)
                values = tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
                found[name] = {
                    "dtype": str(tensor.dtype).removeprefix("torch."),
                    "shape": list(tensor.shape),
                    "sha256": hashlib.sha256(values).hexdigest(),
                }
    return dict(sorted(found.items()))


def main() -> int:
    """Run all files and write the results."""
    if len(sys.argv) < 3:
        print(__doc__)
        return 2
    cases, out, options = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), sys.argv[3:]
    out.mkdir(parents=True, exist_ok=True)
    files = sorted(path for path in cases.iterdir() if path.suffix in {".yaml", ".yml"})
    results = {}
    for file in files:
        results[file.name] = run(file, out / file.stem, options)
        print("ran   " if results[file.name]["ran"] else "FAILED", file.name)
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0 if results and all(result["ran"] for result in results.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
