"""The route of a token through the blocks of several models, and the merge in data-flow space that it makes.

arXiv 2403.13187, section 3.2: blocks of all sources in any order, each any number of times, and a factor before each.
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from evovlm.errors import ConfigError
from evovlm.recipes.choices import AUTO, chat_choices, given_choices, is_template_text
from evovlm.recipes.families import BackbonePrefixes
from evovlm.recipes.model_config import MOST_BLOCKS
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.problems import did_you_mean
from evovlm.recipes.recipe import Dtype, check_source_names, recipe_digest

PATH_CHOICES = ("dtype", "chat_template", "generation", "backbone")
"""Fields of a path that count only where they are given."""

ScaleTarget = Literal["pending", "stream"]
"""What a step's scale multiplies before the block reads it.

`stream`: the whole residual stream, as the paper's text says. `pending`: only what the block before has not yet added
to it, its MLP's output (before the first block: the embedding), as the released EvoLLM-JP-v1-10B does.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerStep:
    """One hop of a path: block number `layer` (from 0) of `source`, and the scale in front of it.

    Raises ConfigError for a negative number or a scale that is not finite.
    """

    source: str
    layer: int
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.layer < 0:
            raise ConfigError(f"path: block {self.layer} of '{self.source}'; blocks are numbered from 0.")
        if not math.isfinite(self.scale):
            raise ConfigError(f"path: the scale {self.scale} is not a finite number.")
        object.__setattr__(self, "scale", float(self.scale) + 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPath:
    """The hops of a path, in order; raises ConfigError for none, and for more than 2,000."""

    steps: tuple[LayerStep, ...]

    def __post_init__(self) -> None:
        if not self.steps:
            raise ConfigError("path: empty; a model needs at least one block.")
        if len(self.steps) > MOST_BLOCKS:
            raise ConfigError(f"path: {len(self.steps)} hops; a model has at most {MOST_BLOCKS} blocks.")
        object.__setattr__(self, "steps", tuple(self.steps))

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources on the path, in the order of their first hop."""
        return tuple(dict.fromkeys(step.source for step in self.steps))

    @property
    def blocks(self) -> tuple[tuple[str, int], ...]:
        """The blocks on the path, as (source, layer), each once, in the order of their first hop."""
        return tuple(dict.fromkeys((step.source, step.layer) for step in self.steps))

    def check_sources(self, known: Collection[str]) -> None:
        """Raise ConfigError when the path leads through a source that is not among the `known`."""
        for number, step in enumerate(self.steps):
            if step.source not in known:
                raise ConfigError(
                    f"path[{number}]: '{step.source}' is not among the sources{did_you_mean(step.source, known)}"
                )

    def canonical(self) -> list[list[object]]:
        """Return the steps as plain values."""
        return [[step.source, step.layer, step.scale] for step in self.steps]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPathMerge:
    """A complete statement of one merge in data-flow space.

    `host` gives config, tokenizer, processor, embedding, final norm, head and everything outside the language model;
    the blocks are those of `path`, whose names are keys of `sources`. `dtype`, `chat_template`, `generation` and
    `backbone` are those of a MergeTemplate. Raises ConfigError for a path through an unknown source, and for a chat of
    one.
    """

    host: ModelRef
    sources: Mapping[str, ModelRef]
    path: LayerPath
    scale_target: ScaleTarget
    dtype: Dtype | None = None
    chat_template: str | None = None
    generation: str | None = None
    backbone: BackbonePrefixes | None = None

    first_stage: ClassVar[None] = None
    """The merge whose result is a source of the path: all sources are given models."""

    def __post_init__(self) -> None:
        check_source_names(self.sources)
        self.path.check_sources(self.sources)
        for name, choice in chat_choices(self.chat_template, self.generation, known=sorted(self.sources)).items():
            object.__setattr__(self, name, choice)
        object.__setattr__(self, "sources", dict(self.sources))

    @property
    def vocabulary(self) -> None:
        """What differing vocabularies mean: nothing, as embedding and head are the host's."""
        return

    @property
    def speakers(self) -> tuple[str, ...]:
        """The sources whose chat template or stop tokens the result may take, in order."""
        named = {self.chat_template, self.generation}
        # Tokens in the text of a template may be those of any source.
        every = AUTO in named or is_template_text(self.chat_template)
        return tuple(name for name in self.sources if every or name in named)

    @property
    def recipe_id(self) -> str:
        """The hash of everything that the recipe says: 12 hexadecimal digits.

        It does not depend on the order of the sources or on the way in which a local folder is written.
        """
        return recipe_digest(
            {
                "kind": "layer_path",
                "host": self.host.identity,
                "sources": {name: ref.identity for name, ref in self.sources.items()},
                "path": self.path.canonical(),
                "scale_target": self.scale_target,
                **given_choices(self, PATH_CHOICES),
            }
        )

    @property
    def made_by(self) -> str:
        """How the result is made, as the end of the sentence "made ..."."""
        return f"as a path of {len(self.path)} blocks"

    def models(self) -> Mapping[str, ModelRef]:
        """Return every model that the result takes something from, by its part in the recipe (`host`, `sources.ja`)."""
        used = dict.fromkeys((*self.path.sources, *self.speakers))
        return {"host": self.host, **{f"sources.{name}": self.sources[name] for name in used}}

    def as_values(self, text: Callable[[ModelRef], str] = lambda ref: ref.text) -> dict[str, Any]:
        """Return the recipe as the plain values of its file; `text` says how a model is written."""
        return {
            "format": 1,
            "kind": "layer_path",
            "host": text(self.host),
            "sources": {name: text(ref) for name, ref in self.sources.items()},
            "scale_target": self.scale_target,
            **given_choices(self, PATH_CHOICES),
            "path": self.path.canonical(),
        }
