"""Whether stock transformers loads a checkpoint: known at once for plain models, tried without weights for others."""

from collections.abc import Iterator
from pathlib import Path

from evovlm.errors import EvovlmError
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.merging.models.plain_models import is_plain
from evovlm.recipes.kinds import Recipe
from evovlm.recipes.model_config import check_generation_config


def check_loads(folder: Path) -> None:
    """Raise ModelError, with the reason, when transformers does not load the checkpoint in `folder`."""
    _check(Checkpoint.open(folder))


def host_problems(recipe: Recipe) -> Iterator[EvovlmError]:
    """Yield the reasons why transformers does not load the host of a recipe's stages, whose config the result takes.

    Of a host on the hub only the headers are read.
    """
    stages = (recipe, *([recipe.first_stage] if recipe.first_stage is not None else []))
    for ref in dict.fromkeys(stage.host for stage in stages if stage.host is not None):
        try:
            _check(Checkpoint.open_headers(ref))
        except EvovlmError as error:
            yield error


def _check(checkpoint: Checkpoint) -> None:
    check_generation_config(checkpoint.folder)
    if is_plain(checkpoint):
        return
    # torch and transformers take seconds to import.
    from evovlm.models.loading import check_fit

    shapes = {name: place.shape for name, place in checkpoint.places.items()}
    check_fit(checkpoint.folder, shapes, config=checkpoint.config if checkpoint.has_own_config else None)
