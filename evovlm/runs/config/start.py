"""`start:` of a search: the recipe that it begins at, instead of the middle of its space.

start: {recipe: hand-made.yaml}
start: {run: runs/evollm}
start: {equal: 0.5}

A run's config holds the whole recipe (`recipe: {kind: parameter_merge, ...}`), so that it does not depend on the file
or the other run.
"""

from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from evovlm.errors import ConfigError, RunMismatch
from evovlm.foreign_json import read_json
from evovlm.merging.arithmetic.methods import METHODS
from evovlm.recipes.documents import Document, PathText, load_recipe, recipe_from_values
from evovlm.recipes.kinds import Recipe
from evovlm.recipes.problems import problems_in
from evovlm.recipes.space import Space
from evovlm.runs.folder.layout import RESULT_FILE, winner_file


class StartSection(Document):
    """`start:` one of `recipe` (a file, or the content of one), `run` (a finished run's folder) and `equal`.

    `equal` is the weight that all sources begin with; densities begin at 1, other numbers at their defaults.
    """

    recipe: PathText | dict[str, Any] | None = None
    run: PathText | None = None
    equal: float | None = None

    @field_validator("recipe", "run")
    @classmethod
    def _is_there(cls, given: str | dict[str, Any] | None, info: ValidationInfo) -> str | dict[str, Any] | None:
        folder: Path | None = (info.context or {}).get("folder")
        if isinstance(given, str) and folder is not None and not (folder / given).exists():
            raise PydanticCustomError("start", "no such file or folder")
        return given

    @field_validator("recipe")
    @classmethod
    def _is_a_recipe(cls, given: str | dict[str, Any] | None, info: ValidationInfo) -> str | dict[str, Any] | None:
        if isinstance(given, dict):
            try:
                recipe_from_values(given, relative_to=(info.context or {}).get("folder"), methods=METHODS)
            except ValidationError as error:
                reason = "; ".join(text for _, text in problems_in(error))
                raise PydanticCustomError("start", "{reason}", {"reason": reason}) from error
            except ConfigError as error:
                raise PydanticCustomError("start", "{reason}", {"reason": str(error)}) from error
        return given

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if sum(getattr(self, name) is not None for name in type(self).model_fields) != 1:
            raise PydanticCustomError("start", "should have one of recipe, run and equal")
        return self

    def recipe_in(self, space: Space) -> Recipe:
        """Return the recipe that a resolved search of `space` starts at.

        Raises ConfigError for one that cannot be read, or for equal weights in a space without weights.
        """
        return self.found(Path()) or space.equal_weights(self.equal or 0.0)

    def found(self, folder: Path) -> Recipe | None:
        """Return the recipe, with relative paths starting at `folder`; None for equal weights.

        Raises ConfigError for one that cannot be read, RunMismatch for a run without a winner.
        """
        if isinstance(self.recipe, dict):
            return recipe_from_values(self.recipe, relative_to=folder, methods=METHODS)
        if self.recipe is not None:
            return load_recipe(folder / self.recipe, methods=METHODS)
        return None if self.run is None else load_recipe(_winner_of(folder / self.run), methods=METHODS)

    def resolved(self, folder: Path) -> "StartSection":
        """Return the same with the whole recipe, its models absolute."""
        recipe = self.found(folder)
        if recipe is None:
            return self
        return StartSection.model_validate({"recipe": recipe.as_values(lambda ref: ref.identity)})


def _winner_of(run: Path) -> Path:
    """Return the file of a finished run's winner."""
    if not (run / RESULT_FILE).is_file():
        raise RunMismatch(
            f"start.run: {run} does not hold a {RESULT_FILE}, so it does not have a winner yet.\n"
            "    Name a finished run, or one of its recipes: `start: {recipe: RUN/best.yaml}`."
        )
    try:
        result = read_json(run / RESULT_FILE)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{run / RESULT_FILE}: cannot be read as JSON ({error}).") from error
    return run / winner_file(str(result.get("winner")) if isinstance(result, dict) else "")
