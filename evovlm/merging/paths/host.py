"""The host of a path as it chats: with the template and stop tokens that the recipe takes from sources.

Tokens that these need and the host lacks get rows, as in a merge of parameters: each is the mean of the token's rows in
the models that have it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from evovlm.merging.checkpoint.computed import ExtendedPlace
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.merging.models.chat_change import ChatChange, plan_chat
from evovlm.merging.models.compatibility import NamedCheckpoint
from evovlm.merging.models.result_layout import chatting_config
from evovlm.merging.models.structure import EMBEDDING, HEAD
from evovlm.merging.models.vocabulary import NewToken, extend_tokenizer
from evovlm.merging.models.vocabulary_policy import new_tokens, token_rows
from evovlm.recipes.language_config import language_config
from evovlm.recipes.layer_path import LayerPathMerge


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PathHost:
    """The host with the config and the rows of a path's result, which `new_tokens` are added to.

    `chat` is what replaces its files about chatting (None: nothing), `rows` are the rows of the result's tokens.
    """

    checkpoint: Checkpoint
    chat: ChatChange | None = None
    new_tokens: tuple[NewToken, ...] = ()
    rows: Mapping[str, int] = field(default_factory=dict)

    @staticmethod
    def of(recipe: LayerPathMerge, models: Mapping[str, NamedCheckpoint]) -> "PathHost":
        """Return the host among `models`, by their names in the recipe, which include its speakers.

        Raises ConfigError when there is no such template or no agreement on one, IncompatibleModels when the host
        cannot have the tokens that it needs.
        """
        host = models["host"]
        speakers = [models[f"sources.{name}"] for name in recipe.speakers]
        chat = plan_chat(recipe, base=None, host=host, sources=speakers)
        if chat is None:
            return PathHost(checkpoint=host.checkpoint)
        new = new_tokens(recipe.vocabulary, base=None, host=host, sources=speakers, wanted=chat.tokens)
        rows = token_rows(host, new)
        return PathHost(
            checkpoint=_with_rows(host.checkpoint, new, models, stops=chat.stop_ids(rows)),
            chat=chat,
            new_tokens=new,
            rows=rows,
        )

    def write_chat(self, folder: Path) -> None:
        """Change tokenizer, template and generation config in a folder that holds the host's files."""
        if self.new_tokens:
            extend_tokenizer(folder, self.new_tokens)
        if self.chat is not None:
            self.chat.write(folder, self.rows)


def _with_rows(
    host: Checkpoint, new: tuple[NewToken, ...], models: Mapping[str, NamedCheckpoint], *, stops: int | list[int] | None
) -> Checkpoint:
    """Return the host with rows for new tokens in its embedding and head, and with the config of the result."""
    places = dict(host.places)
    for name in (EMBEDDING, HEAD) if HEAD in host.backbone_names() else (EMBEDDING,):
        rows = {
            token.row: tuple((models[label].checkpoint.plain_place(name), row) for label, row in token.origins)
            for token in new
        }
        if rows:
            places[host.layout.disk_name(name)] = ExtendedPlace.of(host.plain_place(name), rows)
    n_rows = places[host.layout.disk_name(EMBEDDING)].shape[0]
    config = chatting_config(host, n_rows=n_rows, stops=stops)
    layout = replace(host.layout, text_config=language_config(config))
    return replace(host, config=config, layout=layout, places=places, has_own_config=True)
