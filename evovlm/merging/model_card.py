"""The README.md of a merged model."""

from collections.abc import Sequence

from evovlm import __version__
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.recipe import ParameterMerge


def model_card(recipe: ParameterMerge, *, recipe_text: str, warnings: Sequence[str]) -> str:
    """Return a model card in the hub's form: front matter, what was merged and how, and the recipe's YAML."""
    models = {ref.text: ref for ref in (recipe.host, *([recipe.base] if recipe.base else []), *recipe.sources.values())}
    on_hub = [ref.text.split("@")[0] for ref in models.values() if _is_on_hub(ref)]
    front = ["---", "library_name: transformers", "tags:", "- merge", "- evovlm"]
    if on_hub:
        front += ["base_model:", *(f"- {name}" for name in on_hub)]
    front.append("---")
    role = [f"| host (config, tokenizer, unmerged tensors) | `{recipe.host.text}` |"]
    if recipe.base is not None:
        role.append(f"| base | `{recipe.base.text}` |")
    role += [f"| source `{name}` | `{ref.text}` |" for name, ref in recipe.sources.items()]
    noted = ["", "Noted while merging:", "", *(f"- {warning}" for warning in warnings)] if warnings else []
    return "\n".join(
        [
            *front,
            "# A merged model",
            "",
            f"Merged with evovlm {__version__} by the method `{recipe.method}`; recipe `{recipe.recipe_id}`.",
            "The licences of the models below hold for this one.",
            "",
            "| part | model |",
            "| --- | --- |",
            *role,
            *noted,
            "",
            "`evovlm merge recipe.yaml --out DIR` makes the same bytes again:",
            "",
            "```yaml",
            recipe_text.rstrip(),
            "```",
            "",
        ]
    )


def _is_on_hub(ref: ModelRef) -> bool:
    return ref.local_folder() is None and not ref.text.startswith("zoo:")
