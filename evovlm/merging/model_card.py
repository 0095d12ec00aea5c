"""The README.md of a merged model.

The models' cards (licence names, links) are texts from strangers: they go through a YAML writer into the front matter,
and escaped into the tables.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import yaml

from evovlm import __version__
from evovlm.errors import ModelError, ModelNotFound
from evovlm.merging.checkpoint.licences import UNKNOWN, Binding, Licence, licence_of, most_restrictive
from evovlm.recipes.hub import HubModel, hub_commit
from evovlm.recipes.kinds import Recipe
from evovlm.recipes.model_ref import ModelRef, all_parts

_HUB_IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9.-]*")
# Licences without an identifier on the hub: on a card they are `other` with a name.
_WITHOUT_IDENTIFIER = ("microsoft-research-license", "qwen-research")


class _CardModel(NamedTuple):
    role: str
    text: str
    hub_id: str | None
    commit: str | None
    licence: Licence


def model_card(recipe: Recipe, *, recipe_text: str, warnings: Sequence[str]) -> str:
    """Return a model card in the hub's form: front matter, what was merged under which licences, the recipe's YAML.

    Revisions and licences are read from the models' folders, or from the hub's cache; nothing is fetched.
    """
    models = _card_models(recipe)
    binding = most_restrictive({each.text: each.licence for each in models})
    rows = [
        f"| {each.role} | {_code(each.text)} | {_code(each.commit) if each.commit else '-'} "
        f"| {_line(str(each.licence))} |"
        for each in models
    ]
    noted = ["", "Noted while merging:", "", *(f"- {_line(warning)}" for warning in warnings)] if warnings else []
    return "\n".join(
        [
            "---",
            _front_matter(models, binding).rstrip(),
            "---",
            "# A merged model",
            "",
            f"Merged with evovlm {__version__} {recipe.made_by}; recipe `{recipe.recipe_id}`.",
            "",
            "| part | model | revision | licence |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
            "## Licence",
            "",
            *(f"- {_line(str(reason))}" for reason in binding.reasons),
            *noted,
            "",
            "## Recipe",
            "",
            "`evovlm merge recipe.yaml --out DIR` makes the same bytes again:",
            "",
            "```yaml",
            recipe_text.rstrip(),
            "```",
            "",
        ]
    )


def _card_models(recipe: Recipe) -> Sequence[_CardModel]:
    return [
        _card_model(role if number == 0 else f"{role}, its adapter", each)
        for part, ref in recipe.models().items()
        for role in [_role(part)]
        for number, each in enumerate(_parts(ref))
    ]


def _parts(ref: ModelRef) -> Sequence[ModelRef]:
    try:
        return all_parts(ref)
    except ModelError:
        # The model was moved after the merge: only its name is known.
        return ref.parts


def _role(part: str) -> str:
    """Return a model's part in the recipe (`stages.ps.sources.ja`) in words."""
    *stages, name = part.removeprefix("stages.").split(".")
    if name == "host":
        role = "host (config, tokenizer, unmerged tensors)"
    else:
        role = f"source `{name}`" if "sources" in stages else name
    return f"{stages[0]}: {role}" if part.startswith("stages.") else role


def _card_model(role: str, ref: ModelRef) -> _CardModel:
    try:
        found = ref.find()
        folder = ref.folder_at_hand()
    except ModelNotFound:
        return _CardModel(role, ref.text, None, None, Licence(id=UNKNOWN))
    return _CardModel(
        role=role,
        text=ref.text,
        hub_id=found.id if isinstance(found, HubModel) else None,
        commit=hub_commit(folder) if folder else None,
        licence=licence_of(folder) if folder else Licence(id=UNKNOWN),
    )


def _front_matter(models: Sequence[_CardModel], binding: Binding) -> str:
    front: dict[str, object] = {"library_name": "transformers", "tags": ["merge", "evovlm"]}
    if on_hub := list(dict.fromkeys(each.hub_id for each in models if each.hub_id)):
        front["base_model"] = on_hub
    licence = binding.licence
    if licence is None or not binding.is_certain:
        front["license"] = UNKNOWN
    elif licence.id in _WITHOUT_IDENTIFIER or not _HUB_IDENTIFIER.fullmatch(licence.id):
        front |= {"license": "other", "license_name": licence.id}
        front |= {"license_link": licence.link} if licence.link else {}
    else:
        front["license"] = licence.id
    text: str = yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=1000)
    return text


def _line(text: str) -> str:
    """Return the text as one line of markdown, with its markup escaped."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    """Return the text as code in a table cell; text with a backtick or a pipe is escaped instead."""
    plain = " ".join(text.split())
    return _line(plain) if "`" in plain or "|" in plain else f"`{plain}`"
