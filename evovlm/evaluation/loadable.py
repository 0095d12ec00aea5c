"""Whether stock transformers loads a checkpoint: known at once for plain models, tried without weights for others."""

from collections.abc import Iterator, Mapping

from evovlm.errors import EvovlmError, UnknownArchitecture
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.merging.models.plain_models import is_plain
from evovlm.recipes.families import TEXT_FAMILIES, VLM_FAMILIES, BackbonePrefixes
from evovlm.recipes.kinds import Recipe
from evovlm.recipes.model_config import check_generation_config
from evovlm.recipes.model_ref import ModelRef, read_config


def check_loads(checkpoint: Checkpoint) -> None:
    """Raise ModelError, with the reason, when transformers does not load the checkpoint.

    One whose model type needs its own code is not tried.
    """
    check_generation_config(checkpoint.folder)
    if is_plain(checkpoint):
        return
    # torch and transformers take seconds to import.
    from evovlm.models.loading import check_fit

    shapes = {name: place.shape for name, place in checkpoint.places.items()}
    check_fit(checkpoint.folder, shapes, config=checkpoint.config if checkpoint.has_own_config else None)


def host_problems(recipe: Recipe) -> Iterator[EvovlmError]:
    """Yield the reasons why transformers does not load the host of a recipe's stages, whose config the result takes.

    Of a host on the hub only the headers are read.
    """
    for ref, declared in _hosts(recipe).items():
        try:
            check_loads(Checkpoint.open_headers(ref, declared=declared))
        except EvovlmError as error:
            yield error


def scoring_problems(recipe: Recipe) -> Iterator[UnknownArchitecture]:
    """Yield the hosts of a recipe's stages whose model type has no class in transformers: they merge, no more."""
    for ref in _hosts(recipe):
        config = read_config(ref)
        if config is None or config.get("model_type") in (*TEXT_FAMILIES, *VLM_FAMILIES):
            continue
        from evovlm.models.loading import runs_here

        if not runs_here(config):
            yield UnknownArchitecture(
                f"host ('{ref.text}'): can be merged, cannot be scored here: transformers has no class for its "
                f"model_type '{config.get('model_type')}', and code that a model brings is not run.\n"
                "    Score the merged model in the program that runs such models."
            )


def _hosts(recipe: Recipe) -> Mapping[ModelRef, BackbonePrefixes | None]:
    """Return the host of each stage, with what the recipe says of where its language model is."""
    found: dict[ModelRef, BackbonePrefixes | None] = {}
    if recipe.path is None:
        return {recipe.host: recipe.backbone}
    if recipe.first_stage is not None:
        found[recipe.first_stage.host] = recipe.first_stage.backbone
    if recipe.host is not None:
        found.setdefault(recipe.host, None)
    return found
