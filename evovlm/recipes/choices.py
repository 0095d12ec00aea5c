"""What a result takes beside its weights, by the names of the models that give it; or, of a chat template, its text."""

from collections.abc import Iterable, Sequence

from evovlm.errors import ConfigError
from evovlm.recipes.families import BackbonePrefixes

HOST, AUTO = "host", "auto"
"""What `config_from`, `chat_template` and `generation` may name beside a model of the merge."""


def given_choices(recipe: object, names: Iterable[str]) -> dict[str, object]:
    """Return the fields of a recipe among `names` that are given, as the plain values of its file."""
    found = {name: getattr(recipe, name) for name in names}
    return {
        name: value.as_values() if isinstance(value, BackbonePrefixes) else value
        for name, value in found.items()
        if value is not None
    }


def is_template_text(choice: str | None) -> bool:
    """Return whether `chat_template` is the text of a template, and not the name of a model."""
    return choice is not None and "{" in choice


def check_choice(name: str, choice: str | None, *, known: Sequence[str]) -> None:
    """Raise ConfigError for a choice that is not one of the models `known` by their names in the recipe."""
    if choice is not None and choice not in known:
        raise ConfigError(f"{name}: '{choice[:80]}' is not one of {', '.join(known)}.")


def chat_choices(chat_template: str | None, generation: str | None, *, known: Sequence[str]) -> dict[str, str | None]:
    """Return `chat_template` and `generation`, None where they say what is so without them; `known` are the models.

    Raises ConfigError for a model that is not known.
    """
    if not is_template_text(chat_template):
        check_choice("chat_template", chat_template, known=[AUTO, HOST, *known])
    check_choice("generation", generation, known=[AUTO, HOST, *known])
    template = None if chat_template == HOST else chat_template
    usual = HOST if template is None or is_template_text(template) else template
    return {"chat_template": template, "generation": None if generation == usual else generation}
