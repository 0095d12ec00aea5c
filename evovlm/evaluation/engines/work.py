"""What an engine is chosen for, and what it will be asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evovlm.tasks.catalogue import get_task
from evovlm.tasks.harness_name import is_harness_name

if TYPE_CHECKING:
    from evovlm.evaluation.answers import PreparedTask, TaskChoice
    from evovlm.recipes.model_ref import ModelRef
    from evovlm.tasks.task import Decoding


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What an engine is chosen for, known before a model is loaded.

    `host` is the model whose config the candidates have; `is_path`: they are paths through layers; `changes_config`:
    they choose among configs; `on_ray`: workers of a Ray cluster answer. The model is divided over `tensor_parallel`
    GPUs.
    """

    host: ModelRef
    tasks: tuple[TaskChoice, ...]
    device: str
    is_path: bool = False
    changes_config: bool = False
    on_ray: bool = False
    tensor_parallel: int = 1

    def harness_tasks(self) -> Sequence[str]:
        """Return the tasks of the lm-evaluation-harness."""
        return [choice.name for choice in self.tasks if is_harness_name(choice.name)]

    def decodings(self) -> Mapping[str, Decoding]:
        """Return how other tasks are answered, by name. Raises TaskError for an unknown task or decoding."""
        own = [choice for choice in self.tasks if not is_harness_name(choice.name)]
        return {choice.name: get_task(choice.name).asked(**choice.settings).decoding for choice in own}

    def picture_tasks(self) -> Sequence[str]:
        """Return the tasks with pictures. Raises TaskError for an unknown task."""
        own = (choice for choice in self.tasks if not is_harness_name(choice.name))
        return [choice.name for choice in own if get_task(choice.name).needs_images]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What an engine will be asked: how many prompts, and the most tokens of one with its answer.

    `n_sharing` processes share the machine's memory, including this one.
    """

    n_prompts: int
    longest: int
    n_sharing: int = 1


def load_of(tasks: Sequence[PreparedTask], *, n_sharing: int = 1) -> Load:
    """Return what an engine will be asked by these tasks."""
    longest = max((task.longest for task in tasks), default=0)
    return Load(n_prompts=max((task.n_samples for task in tasks), default=0), longest=longest, n_sharing=n_sharing)
