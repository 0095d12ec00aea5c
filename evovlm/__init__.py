"""Evolve model-merge recipes: Japanese math LLMs and Japanese VLMs from published models.

    import evovlm

    evovlm.evolve("search.yaml", out="runs/mine")          # search for the best recipe
    run = evovlm.load_run("runs/mine")                     # its config, candidates and winner
    evovlm.merge(run.winner, out="models/mine")            # write a recipe's model
    evovlm.score("models/mine", tasks="word_problems_ja")  # how good it is

The functions do what the commands of the same names do; `evovlm.Recipe` is the type of a recipe. Everything that a user
can fix is raised as an `evovlm.errors.EvovlmError`. No heavy package is loaded before one of them is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evovlm.api import Recipe, evolve, load_run, merge, score

__version__ = "0.1.0"

__all__ = ["Recipe", "__version__", "evolve", "load_run", "merge", "score"]


def __getattr__(name: str) -> Any:
    """Return one of the public names, loading what is behind it."""
    if name in __all__:
        return getattr(importlib.import_module("evovlm.api"), name)
    raise AttributeError(f"module 'evovlm' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
