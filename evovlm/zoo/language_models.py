"""Train the embedded language models: a sentencepiece tokenizer, the Mistral ancestor, and its fine-tunes."""

import io
import math
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import sentencepiece
import torch
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

from evovlm.zoo.corpus import Example

BOS, EOS, UNK, PAD = "<s>", "</s>", "<unk>", "<pad>"
PROMPT_WEIGHT = 0.1
"""Weight of a prompt token's loss relative to an answer token's: the model reads prompts, but learns answers first."""


class Progress(NamedTuple):
    """Progress of a training."""

    step: int
    steps: int
    loss: float


def train_tokenizer(texts: Iterable[str], *, folder: Path, pieces: int) -> PreTrainedTokenizerFast:
    """Train a sentencepiece BPE model and save it as a tokenizer that stock transformers loads.

    Digits are single pieces, unknown characters fall back to bytes, text is normalised by NFKC (so full-width digits
    are digits). The folder gets `tokenizer.json` and sentencepiece's own `tokenizer.model`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for text in texts for line in text.split("\n")),
        model_writer=trained,
        model_type="bpe",
        vocab_size=pieces,
        character_coverage=1.0,
        split_digits=True,
        byte_fallback=True,
        add_dummy_prefix=False,
        normalization_rule_name="nfkc",
        max_sentencepiece_length=7,
        pad_id=3,
        num_threads=1,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(trained.getvalue())
    model: Any = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    model.ParseFromString(trained.getvalue())
    fast = _fast_tokenizer(model)
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=fast, bos_token=BOS, eos_token=EOS, unk_token=UNK, pad_token=PAD, padding_side="left"
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def _fast_tokenizer(model: Any) -> Tokenizer:
    ids = {piece.piece: index for index, piece in enumerate(model.pieces)}
    # sentencepiece stores the merged pieces in merge order, not the pairs: every split into two known pieces is a pair.
    merges = [
        (piece.piece[:cut], piece.piece[cut:])
        for piece in model.pieces
        if piece.type == piece.NORMAL
        for cut in range(1, len(piece.piece))
        if piece.piece[:cut] in ids and piece.piece[cut:] in ids
    ]
    fast = Tokenizer(models.BPE(vocab=ids, merges=merges, unk_token=UNK, fuse_unk=True, byte_fallback=True))
    fast.normalizer = normalizers.Sequence(
        [
            normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap),
            normalizers.Replace(Regex(r"\s+"), " "),
        ]
    )
    fast.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    fast.decoder = decoders.Sequence(
        [
            decoders.ByteFallback(),
            decoders.Metaspace(prepend_scheme="never", split=False),
            decoders.Fuse(),
        ]
    )
    bos = model.trainer_spec.bos_id
    fast.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, bos)])
    return fast


def new_language_model(tokenizer: PreTrainedTokenizerFast, *, seed: int) -> MistralForCausalLM:
    """Return an untrained Mistral of about 2.5 million parameters, float32."""
    torch.manual_seed(seed)
    config = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=448,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        rms_norm_eps=1e-5,
        sliding_window=None,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return MistralForCausalLM(config)


def fit(
    model: MistralForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    *,
    examples: Callable[[int], Iterable[Example]],
    steps: int,
    tokens_per_step: int,
    learning_rate: float,
    muon: bool,
    on_progress: Callable[[Progress], None],
) -> None:
    """Train `model` in place for `steps` steps of about `tokens_per_step` tokens.

    `examples(count)` draws fresh examples. The learning rate rises over the first 2 % of the steps and falls to a
    tenth along a cosine. `muon` trains the matrices of the blocks with Muon (Jordan 2024), which needs about half the
    steps of AdamW from a random start; fine-tunes use AdamW alone.
    """
    optimizers = _optimizers(model, learning_rate=learning_rate, muon=muon)
    model.train()
    batches = _batches(tokenizer, examples, tokens_per_step=tokens_per_step)
    for step in range(steps):
        rate = _schedule(step, steps)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * rate
        ids, weights = next(batches)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=ids, use_cache=False).logits
        loss = weighted_loss(logits.float(), ids, weights)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        on_progress(Progress(step + 1, steps, float(loss.detach())))
    model.train(False)


def weighted_loss(logits: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean next-token loss; shapes (rows, length, vocabulary), (rows, length), (rows, length)."""
    losses = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    kept = weights[:, 1:].flatten()
    return (losses * kept).sum() / kept.sum()


def _optimizers(model: MistralForCausalLM, *, learning_rate: float, muon: bool) -> list[torch.optim.Optimizer]:
    matrices = [p for name, p in model.named_parameters() if muon and p.ndim == 2 and ".layers." in name]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    ]
    if matrices:
        optimizers.append(
            torch.optim.Muon(matrices, lr=learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
        )
    return optimizers


def _schedule(step: int, steps: int) -> float:
    warm = max(1, steps // 50)
    if step < warm:
        return (step + 1) / warm
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _batches(
    tokenizer: PreTrainedTokenizerFast, examples: Callable[[int], Iterable[Example]], *, tokens_per_step: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (ids, loss weights), with rows of similar length together to save padding; torch shuffles the order."""
    while True:
        drawn = list(examples(4096))
        prompts = tokenizer([example.prompt for example in drawn]).input_ids
        answers = tokenizer([example.answer for example in drawn], add_special_tokens=False).input_ids
        rows = [(p, [*a, tokenizer.eos_token_id]) for p, a in zip(prompts, answers, strict=True)]
        rows.sort(key=lambda row: len(row[0]) + len(row[1]))
        batches: list[list[tuple[list[int], list[int]]]] = [[]]
        for row in rows:
            length = len(row[0]) + len(row[1])
            if batches[-1] and (len(batches[-1]) + 1) * length > tokens_per_step:
                batches.append([])
            batches[-1].append(row)
        for index in torch.randperm(len(batches)).tolist():
            yield _padded(batches[index], pad=int(tokenizer.pad_token_id))


def _padded(rows: list[tuple[list[int], list[int]]], *, pad: int) -> tuple[Tensor, Tensor]:
    length = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.full((len(rows), length), pad)
    weights = torch.zeros(len(rows), length)
    for row, (prompt, answer) in enumerate(rows):
        end = len(prompt) + len(answer)
        ids[row, :end] = torch.tensor(prompt + answer)
        weights[row, : len(prompt)] = PROMPT_WEIGHT
        weights[row, len(prompt) : end] = 1.0
    return ids, weights


def save_language_model(model: MistralForCausalLM, *, tokenizer_folder: Path, folder: Path) -> None:
    """Write an ordinary model folder: bfloat16 safetensors, config, tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    stored: Any = MistralForCausalLM(model.config)
    stored.to(torch.bfloat16)
    stored.load_state_dict({name: tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items()})
    stored.generation_config.do_sample = False
    stored.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json"):
        if (tokenizer_folder / name).is_file() and tokenizer_folder != folder:
            shutil.copyfile(tokenizer_folder / name, folder / name)
