"""Trials of a model before it is decoded here: are packed passes exact, and how many rows must a pass have?"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from evovlm.devices import is_out_of_memory
from evovlm.models.backbone import Backbone
from evovlm.models.decoding.packed import Entering, NotPackable, Pass, forward, packed_attention
from evovlm.models.decoding.plain import PlainBlocks
from evovlm.models.decoding.slots import Continuing, Slots, shape_of
from evovlm.models.threads import threads_each, threads_per_product

_LENGTHS = (3, 7)
_REFUSALS = (TypeError, AttributeError, LookupError, ValueError, ArithmeticError, RuntimeError)
_TOLERANCE = 1e-2
_HEAD_TOLERANCE = 0.02
_TRIAL_WINDOW = 4
_WINDOWS = ("sliding_window", "attention_chunk_size")
_HALVES = (torch.bfloat16, torch.float16)
_log = logging.getLogger(__name__)
_exact: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


@torch.no_grad()
def packs_exactly(backbone: Backbone) -> bool:
    """Return whether packed passes give the model's own results; tested once per model on two short texts, in float32.

    They do not for models that make positions or masks in another way (ALiBi, sinks, custom attention), that keep
    other states than keys and values (linear attention), or that change the logits after the head. Such a model's
    answers come from `generate`, which is logged once.
    """
    if backbone.decoder in _exact:
        return _exact[backbone.decoder]
    try:
        with _its_threads(backbone):
            problem = _problem(backbone)
    except (NotPackable, *_REFUSALS) as error:
        if is_out_of_memory(error):
            raise
        # Its forward pass does not take what packed passes give it.
        problem = " ".join(str(error).split())[:200] or type(error).__name__
    except _Undecided:
        return True
    if problem is not None:
        _log.warning(
            "%s answers with transformers' generate, which is slower than evovlm's decoding: %s.",
            type(backbone.model).__name__,
            problem,
        )
    _exact[backbone.decoder] = problem is None
    return problem is None


def _its_threads(backbone: Backbone) -> AbstractContextManager[None]:
    return threads_each(threads_per_product(hidden_size=backbone.embedding.embedding_dim, device=backbone.device))


class _Undecided(Exception):
    """The weights are not finite, so they say nothing about the architecture; decoding will report them."""


def _problem(backbone: Backbone) -> str | None:
    """Return why packed passes do not serve the model; None if they do."""
    with _in_float32(backbone):
        with _small_windows(backbone):
            exact = _computes(_own_states(backbone), backbone)
        wanted = _own_states(backbone)
        if not all(bool(torch.isfinite(states).all()) for states in wanted):
            raise _Undecided
        if not exact or not _computes(wanted, backbone):
            return "its attention is computed in another way"
    return None if _ends_with_its_head(backbone) else "it changes the logits after its head"


@contextmanager
def _in_float32(backbone: Backbone) -> Iterator[None]:
    """Let the decoder compute in float32 with its own weights, where they are stored in 16 bits.

    Two ways to the same result differ by so much in 16 bits that a wrong way would not be noticed. Only the module that
    computes has its weights in float32, and it gets its own memory back afterwards.
    """
    kept: dict[nn.Parameter, Tensor] = {}

    def widen(module: nn.Module, _given: object) -> None:
        for parameter in module.parameters(recurse=False):
            if parameter.dtype in _HALVES:
                kept[parameter] = parameter.data
                parameter.data = parameter.data.float()

    def restore(module: nn.Module, _given: object, _found: object) -> None:
        for parameter in module.parameters(recurse=False):
            if parameter in kept:
                parameter.data = kept.pop(parameter)

    modules = [module for module in backbone.decoder.modules() if module is not backbone.embedding]
    hooks = [module.register_forward_pre_hook(widen) for module in modules]
    hooks += [module.register_forward_hook(restore) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for parameter, own in kept.items():
            parameter.data = own


def _texts(backbone: Backbone) -> list[Tensor]:
    n_rows = backbone.embedding.num_embeddings
    return [torch.arange(length + 1, device=backbone.device) * 7 % n_rows for length in _LENGTHS]


def _embedded(backbone: Backbone, ids: Tensor) -> Tensor:
    """Return the embeddings of tokens, (1, tokens, hidden), in float32."""
    embeddings: Tensor = backbone.embedding(ids)[None].float()
    return embeddings


def _own_states(backbone: Backbone) -> list[Tensor]:
    """Return the last two hidden states of each trial text, as the model itself computes them."""
    return [
        backbone.decoder(inputs_embeds=_embedded(backbone, text), use_cache=False).last_hidden_state[0, -2:]
        for text in _texts(backbone)
    ]


def _computes(wanted: Sequence[Tensor], backbone: Backbone) -> bool:
    with packed_attention(backbone):
        found = _in_two_passes(backbone, _texts(backbone))
    return all(
        torch.allclose(mine, own, rtol=_TOLERANCE, atol=_TOLERANCE) for mine, own in zip(found, wanted, strict=True)
    )


def _in_two_passes(backbone: Backbone, texts: Sequence[Tensor]) -> list[Tensor]:
    """Return each text's last two hidden states: all but its last token in one pass, the last one in another."""
    device = backbone.device
    lengths = [len(text) - 1 for text in texts]
    ends = torch.tensor(lengths).cumsum(0).tolist()
    starts = [0, *ends[:-1]]
    slots = Slots(replace(shape_of(backbone), dtype=torch.float32), n=len(texts), capacity=max(lengths) + 1)
    parts = [Entering(start=starts[slot], stop=ends[slot], slot=slot) for slot in range(len(texts))]
    positions = torch.cat([torch.arange(n, device=device) for n in lengths])
    begun = {"inputs_embeds": _embedded(backbone, torch.cat([text[:-1] for text in texts]))}
    first = forward(backbone, begun, positions, this=Pass(slots=slots, continuing=None, entering=parts))
    counted = torch.tensor(lengths, device=device)
    rows = Continuing(
        slots=torch.arange(len(texts), device=device), lengths=counted, end=len(texts), reach=slots.capacity
    )
    continued = {"inputs_embeds": _embedded(backbone, torch.stack([text[-1] for text in texts]))}
    last = forward(backbone, continued, counted, this=Pass(slots=slots, continuing=rows, entering=()))
    return [torch.stack([first[end - 1], last[row]]) for row, end in enumerate(ends)]


@contextmanager
def _small_windows(backbone: Backbone) -> Iterator[None]:
    """Make sliding windows and chunks of attention shorter than the trial's texts, in the config and in its modules.

    Some models state a window only in the mask that they make, which packed passes do not have.
    """
    own = [backbone.decoder.config, *backbone.decoder.modules()]
    found = [(each, name, each.__dict__.get(name)) for each in own for name in _WINDOWS]
    changed = [(each, name, value) for each, name, value in found if isinstance(value, int) and value > _TRIAL_WINDOW]
    for each, name, _ in changed:
        setattr(each, name, _TRIAL_WINDOW)
    try:
        yield
    finally:
        for each, name, value in changed:
            setattr(each, name, value)


def _ends_with_its_head(backbone: Backbone) -> bool:
    """Return whether the head's logits for the last states order the tokens as the model's own logits do.

    Both are computed in the model's own dtype, since the head is its largest module.
    """
    for text in _texts(backbone):
        states = backbone.decoder(input_ids=text[None], use_cache=False).last_hidden_state[0, -2:]
        own = backbone.model(input_ids=text[None], use_cache=False).logits[0, -2:].float()
        order = backbone.head(states).float().argsort(-1)
        rising = own.gather(-1, order).diff(dim=-1)
        # In 16 bits, logits have rounding errors in proportion to their size.
        tolerance = max(_TOLERANCE, _HEAD_TOLERANCE * float(own.abs().max()) if states.dtype in _HALVES else 0.0)
        if bool((rising < -tolerance).any()):
            return False
    return True


_MOST_ROWS = 16
"""With as many rows in a pass, a CPU computes each row in the same way, whatever the number of rows."""
_least_rows: WeakKeyDictionary[nn.Module, dict[int, int]] = WeakKeyDictionary()


@torch.inference_mode()
def least_rows(backbone: Backbone) -> int:
    """Return how many rows a pass must have so that no answer depends on what is decoded beside it, at most 16.

    A CPU's library computes products of few rows in other ways, with other last bits. The number of rows from
    which on it no longer does depends on the CPU and on the shapes of the weights, so it is tried once per model and
    number of threads, on rows of one token in passes of 15 rows and fewer, while their logits have the bits that they
    have in a pass of 16. In 16 bits it is 16 without a trial, because rounding hides most of the differences. On a GPU
    no number of rows ensures this, so it is 1.
    """
    if backbone.device.type != "cpu":
        return 1
    if backbone.embedding.weight.dtype != torch.float32:
        return _MOST_ROWS
    known, threads = _least_rows.setdefault(backbone.decoder, {}), torch.get_num_threads()
    if threads not in known:
        wanted = _logits_of_rows(backbone, range(_MOST_ROWS))
        known[threads] = 1 + next(
            (
                n
                for n in range(_MOST_ROWS - 1, 0, -1)
                # The last rows, which are the first ones in the smaller pass.
                if not torch.equal(_logits_of_rows(backbone, range(_MOST_ROWS - n, _MOST_ROWS)), wanted[-n:])
            ),
            0,
        )
    return known[threads]


def _logits_of_rows(backbone: Backbone, numbers: range) -> Tensor:
    """Return the logits of texts of one token each, (rows, vocabulary), computed in one pass."""
    ids = torch.tensor([number * 7 % backbone.embedding.num_embeddings for number in numbers])
    slots = Slots(shape_of(backbone), n=len(ids), capacity=1)
    parts = [Entering(start=row, stop=row + 1, slot=row) for row in range(len(ids))]
    inputs = {"inputs_embeds": backbone.embedding(ids)[None]}
    this = Pass(slots=slots, continuing=None, entering=parts)
    logits: Tensor = backbone.head(forward(backbone, inputs, torch.zeros_like(ids), this=this))
    return logits


_TRIAL_TOKENS = 3 * _MOST_ROWS
_plain: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


@torch.inference_mode()
def plain_blocks(backbone: Backbone) -> PlainBlocks | None:
    """Return the backbone's blocks as `PlainBlocks` where these give the bits of its own forward pass, else None.

    This is tried once per model, inside `packed_attention`.
    """
    blocks = PlainBlocks.of(backbone)
    if blocks is None:
        return None
    if backbone.decoder not in _plain:
        try:
            same = _gives_the_bits(blocks, backbone)
        except _REFUSALS as error:
            if is_out_of_memory(error):
                raise
            same = False
        except _Undecided:
            return None
        _plain[backbone.decoder] = same
    return blocks if _plain[backbone.decoder] else None


def _gives_the_bits(blocks: PlainBlocks, backbone: Backbone) -> bool:
    """Compare the last states of two texts, at both ends of the context. Raises _Undecided when they are not finite."""
    half = _TRIAL_TOKENS // 2
    # Some models scale queries from a certain position on.
    longest = max(_TRIAL_TOKENS, getattr(backbone.decoder.config, "max_position_embeddings", None) or 0)
    embeddings = backbone.embedding(torch.arange(_TRIAL_TOKENS) * 7 % backbone.embedding.num_embeddings)
    positions = torch.cat([torch.arange(half), torch.arange(longest - half, longest)])
    ends = torch.arange(0, _TRIAL_TOKENS, 3).flip(0)

    def one_pass() -> Pass:
        texts = [Entering(start=slot * half, stop=(slot + 1) * half, slot=slot) for slot in range(2)]
        return Pass(slots=Slots(shape_of(backbone), n=2, capacity=half), continuing=None, entering=texts)

    own = forward(backbone, {"inputs_embeds": embeddings[None]}, positions, this=one_pass())[ends]
    if not bool(torch.isfinite(own).all()):
        raise _Undecided
    return torch.equal(blocks.states(embeddings.clone(), positions, this=one_pass(), ends=ends), own)
