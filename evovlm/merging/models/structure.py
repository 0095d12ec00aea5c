"""Finds the language model among the tensors of a checkpoint: by their names, their shapes and config.json.

The decoder is the numbered list of modules beside the token embedding. What stands around it follows: the final norm,
the head, and what else belongs to the language model (learned positions, inputs for each layer).
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from evovlm.errors import UnknownArchitecture
from evovlm.recipes.families import EMBEDDINGS, FINAL_NORMS, HEADS, BackbonePrefixes
from evovlm.recipes.language_config import stated_blocks, stated_width

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
BLOCKS = "model.layers."
# Longer numbers do not count modules, and Python refuses to read thousands of digits.
_NUMBERED = re.compile(r"(?P<list>(?:[^.]+\.)*?)(?P<number>[0-9]{1,7})\.(?P<rest>.+)")
# Buffers that older checkpoints contain: rotary frequencies, causal masks. They are not weights.
_BUFFER = re.compile(r"(?:.+\.)?(?:\w*rotary\w*\.inv_freq|(?:attn|attention)\.(?:masked_bias|bias))")
_MASK_DIMENSIONS = 4
_MOST_DIGITS = 7
# Modules of a VLM that stand among those of its language model.
_SIGHT = re.compile(r"vision|visual|image|img|mm_|multi_?modal|projector|connector|resampler|perceiver|merger|audio")
# Tables that a model looks something up in; quantised weights are stored in fewer bits.
_NUMBERS_OF_THINGS = ("I64", "BOOL")
_PLAIN_FLOATS = ("F64", "F32", "F16", "BF16")
_LISTED = 4


class Stored(Protocol):
    """What is known of a stored tensor."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype_code(self) -> str: ...


class Found(NamedTuple):
    """A possible decoder: the prefix of its blocks, how many there are, and the name of the embedding beside it."""

    blocks: str
    n_blocks: int
    embedding: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """The tensors of a language model: `names` maps their backbone names to those on disk.

    `core` are the names that every model of an architecture has: embedding, blocks, final norm, head. The others are
    merged only if all models have them.
    """

    names: Mapping[str, str]
    core: frozenset[str]
    n_blocks: int


def find_structure(
    tensors: Mapping[str, Stored],
    *,
    config: Mapping[str, Any],
    text_config: Mapping[str, Any],
    sees: bool,
    declared: BackbonePrefixes | None = None,
) -> Structure:
    """Return the language model among the tensors of a checkpoint, by their names on disk.

    `sees`: the checkpoint holds more than a language model. `declared` are the prefixes that a recipe states for it.
    Raises UnknownArchitecture when no list of blocks stands beside an embedding, or several do.
    """
    named = {name: place for name, place in tensors.items() if not _is_buffer(name, place)}
    found = _declared(named, declared) if declared is not None else _only(_candidates(named, text_config), config)
    n_blocks = _without_predictors(found.n_blocks, text_config)
    head = declared.head if declared is not None else _head_prefix(named, found)
    names = dict(_core(named, found, n_blocks=n_blocks, head=head))
    core = frozenset(names)
    used = set(names.values())
    for name, place in named.items():
        if name not in used and place.dtype_code in _PLAIN_FLOATS and not name.startswith(found.blocks):
            further = _further_name(name, found, sees=sees)
            if further is not None:
                names.setdefault(further, name)
    return Structure(names=names, core=core, n_blocks=n_blocks)


def has_sight(names: Iterable[str]) -> bool:
    """Return whether modules for pictures or sound are among the names of tensors."""
    return any(_SIGHT.search(name) for name in names)


def _is_buffer(name: str, place: Stored) -> bool:
    if place.dtype_code in _NUMBERS_OF_THINGS:
        return True
    match = _BUFFER.fullmatch(name)
    if match is None:
        return False
    return not name.endswith("bias") or name.endswith("masked_bias") or len(place.shape) == _MASK_DIMENSIONS


def _numbered_lists(names: Iterable[str]) -> Mapping[str, int]:
    """Return the numbers of modules in each list of modules that are numbered from 0 on, by the list's prefix."""
    found: dict[str, set[int]] = {}
    for name in names:
        match = _NUMBERED.fullmatch(name)
        if match is not None:
            found.setdefault(match["list"], set()).add(int(match["number"]))
    return {prefix: len(numbers) for prefix, numbers in found.items() if max(numbers) + 1 == len(numbers)}


def _candidates(tensors: Mapping[str, Stored], text_config: Mapping[str, Any]) -> list[Found]:
    """Return the lists of blocks with an embedding beside them; of several, those that text_config describes."""
    lists = _numbered_lists(tensors)
    tables = [
        name
        for name, place in tensors.items()
        if name.endswith(".weight") and len(place.shape) == 2 and not _NUMBERED.fullmatch(name)
    ]
    named = [name for name in tables if _leaf(name) in EMBEDDINGS]
    if not named:
        # Under another name, it is the table with a row for each token.
        size = (text_config.get("vocab_size"), stated_width(text_config))
        named = [name for name in tables if tensors[name].shape == size and _leaf(name) not in HEADS]
    found = [Found(blocks, lists[blocks], name) for name in named for blocks in _nearest(name, lists)]
    described = [each for each in found if _is_described(each, tensors, text_config)]
    return described or found


def _leaf(name: str) -> str:
    """Return the name of the module that a tensor is in, without the modules around that one."""
    return name.rpartition(".")[0].rpartition(".")[2]


def _nearest(embedding: str, lists: Mapping[str, int]) -> list[str]:
    """Return the lists that stand nearest to an embedding: with the most modules in common, then the shortest name."""
    own = embedding.split(".")

    def distance(prefix: str) -> tuple[int, int]:
        parts = prefix.split(".")[:-1]
        common = 0
        while common < min(len(parts) - 1, len(own) - 2) and parts[common] == own[common]:
            common += 1
        return -common, len(parts) - common

    ranked = sorted((distance(prefix), prefix) for prefix in lists if not _SIGHT.search(prefix.rpartition(".")[0]))
    return [prefix for rank, prefix in ranked if rank == ranked[0][0]]


def _is_described(found: Found, tensors: Mapping[str, Stored], text_config: Mapping[str, Any]) -> bool:
    """Return whether the sizes in the config are those of the tensors, where the config states them."""
    rows, columns = tensors[found.embedding].shape
    n_blocks = stated_blocks(text_config)
    stated = ((stated_width(text_config), columns), (text_config.get("vocab_size"), rows))
    fits = n_blocks is None or n_blocks <= found.n_blocks
    return fits and all(size in (None, own) for size, own in stated)


def _without_predictors(n_found: int, text_config: Mapping[str, Any]) -> int:
    """Return the number of blocks without those that predict further tokens (DeepSeek-V3), which follow the others."""
    stated, further = stated_blocks(text_config), text_config.get("num_nextn_predict_layers") or 0
    return stated if stated is not None and stated < n_found <= stated + further else n_found


def _only(found: list[Found], config: Mapping[str, Any]) -> Found:
    model_type = config.get("model_type")
    if len(found) == 1:
        return found[0]
    if not found:
        raise UnknownArchitecture(
            f"its tensors (model_type '{model_type}') hold no numbered blocks beside a token embedding.\n"
            "    State where its language model is in the recipe, as prefixes of tensor names: "
            '`backbone: {body: "model.", head: "lm_head.", blocks: "layers."}`.'
        )
    listed = "; or ".join(_line_for(each) for each in found[:_LISTED])
    raise UnknownArchitecture(
        f"its tensors (model_type '{model_type}') hold {len(found)} lists of blocks that may be the language model.\n"
        f"    State in the recipe which one is merged: {listed}."
    )


def _line_for(found: Found) -> str:
    body = _body(found)
    return (
        f'`backbone: {{body: "{body}", head: "{body.removesuffix("model.")}lm_head.", '
        f'blocks: "{found.blocks.removeprefix(body)}"}}`'
    )


def _body(found: Found) -> str:
    """Return the prefix that the blocks and the embedding have in common."""
    blocks, embedding = found.blocks.split("."), found.embedding.split(".")
    common = 0
    while common < min(len(blocks) - 2, len(embedding) - 2) and blocks[common] == embedding[common]:
        common += 1
    return "".join(f"{part}." for part in blocks[:common])


def _declared(tensors: Mapping[str, Stored], declared: BackbonePrefixes) -> Found:
    blocks = declared.body + declared.blocks
    n_blocks = _numbered_lists(name for name in tensors if name.startswith(blocks)).get(blocks)
    embeddings = [
        name
        for name, place in tensors.items()
        if name.startswith(declared.body)
        and len(place.shape) == 2
        and _leaf(name) in EMBEDDINGS
        and not _NUMBERED.fullmatch(name)
    ]
    if n_blocks is None or not embeddings:
        what = "numbered blocks" if n_blocks is None else "a token embedding"
        raise UnknownArchitecture(
            f"`backbone` in the recipe says that its language model is under '{declared.body}' with blocks under "
            f"'{blocks}', but {what} {'were' if n_blocks is None else 'was'} not found there.\n"
            f"    Its tensors begin with {', '.join(_beginnings(tensors))}; correct `backbone`."
        )
    return Found(blocks, n_blocks, min(embeddings, key=len))


def _beginnings(tensors: Mapping[str, Stored]) -> list[str]:
    lists = sorted(_numbered_lists(tensors), key=len)
    return lists[:_LISTED] or sorted(tensors)[:_LISTED]


def _head_prefix(tensors: Mapping[str, Stored], found: Found) -> str | None:
    """Return the prefix of the output head: of the modules that may be one, the nearest to the decoder."""
    own = found.blocks.split(".")
    n_rows = tensors[found.embedding].shape[0]
    rows = []
    for name, place in tensors.items():
        is_head = name.endswith(".weight") and len(place.shape) == 2 and _leaf(name) in HEADS
        if is_head and not _NUMBERED.fullmatch(name):
            parts = name.split(".")
            common = next((n for n, (a, b) in enumerate(zip(parts, own, strict=False)) if a != b), 0)
            rows.append((-common, len(parts), name.removesuffix("weight")))
    if rows:
        return min(rows)[2]
    # Under another name, it is the other table with a row for each token.
    others = [
        name
        for name, place in tensors.items()
        if name.endswith(".weight")
        and len(place.shape) == 2
        and place.shape[0] == n_rows
        and "embed" not in _leaf(name)
    ]
    others = [name for name in others if name != found.embedding and not _NUMBERED.fullmatch(name)]
    return others[0].removesuffix("weight") if len(others) == 1 else None


def _core(tensors: Mapping[str, Stored], found: Found, *, n_blocks: int, head: str | None) -> Iterator[tuple[str, str]]:
    body = _body(found)
    embedding = found.embedding.rpartition(".")[0] + "."
    norm = _final_norm(tensors, found, body)
    for name in tensors:
        if name.startswith(found.blocks):
            number, _, rest = name.removeprefix(found.blocks).partition(".")
            if _is_number(number) and int(number) < n_blocks:
                yield f"{BLOCKS}{number}.{rest}", name
        elif name.startswith(embedding):
            yield f"model.embed_tokens.{name.removeprefix(embedding)}", name
        elif norm is not None and name.startswith(norm):
            yield f"model.norm.{name.removeprefix(norm)}", name
        elif head is not None and name.startswith(head):
            yield f"lm_head.{name.removeprefix(head)}", name


def _is_number(text: str) -> bool:
    return len(text) <= _MOST_DIGITS and text.isascii() and text.isdecimal()


def _final_norm(tensors: Mapping[str, Stored], found: Found, body: str) -> str | None:
    """Return the prefix of the norm after the last block: the first of the usual names, beside the blocks."""
    places = dict.fromkeys((f"{found.blocks.rpartition('.')[0].rpartition('.')[0]}.".lstrip("."), body))
    for leaf in FINAL_NORMS:
        for place in places:
            if any(name.startswith(f"{place}{leaf}.") for name in tensors):
                return f"{place}{leaf}."
    return None


def _further_name(name: str, found: Found, *, sees: bool) -> str | None:
    """Return the backbone name of a tensor beside the core, None if it is not the language model's."""
    body = _body(found)
    own = name.removeprefix(body)
    if not sees:
        # A config may not say that the model sees pictures.
        return None if _SIGHT.search(own) else f"model.{own}" if name.startswith(body) else name
    if not body or not name.startswith(body) or _NUMBERED.fullmatch(own) or _SIGHT.search(own):
        return None
    return f"model.{own}"
