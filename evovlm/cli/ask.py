"""`evovlm ask MODEL "質問"`: one answer, as it is generated."""

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from evovlm.cli.completion import complete_models, complete_prompts
from evovlm.cli.rendering import echo, echo_json, from_typed

if TYPE_CHECKING:
    from evovlm.evaluation.asking import Manner
    from evovlm.models.loading import LoadedModel
    from evovlm.tasks.task import Decoding

_NO_QUESTION = "no question was given. Write one after the model, or questions on the standard input, one per line."


def ask(
    model: Annotated[
        str,
        typer.Argument(help="A folder, a hub id, zoo:NAME, or a recipe (YAML).", autocompletion=complete_models),
    ],
    question: Annotated[
        str | None, typer.Argument(help="What to ask; by default each line of the standard input.")
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option("--image", "-i", help="A picture, a file or http(s) address; may be repeated."),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt",
            help="chat (the model's template), plain (only the question), a name such as ja-alpaca-cot, or a text "
            "with {input} (and \\n); default: chat if the model has a template, else plain.",
            parser=from_typed,
            autocompletion=complete_prompts,
        ),
    ] = None,
    system: Annotated[str | None, typer.Option("--system", help="The system message of a chat.")] = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", min=1, max=1_000_000, help="The most tokens of an answer.")
    ] = 512,
    beams: Annotated[int, typer.Option("--beams", min=1, max=1_000, help="The number of beams of the search.")] = 1,
    repetition_penalty: Annotated[
        float, typer.Option("--repetition-penalty", min=0.01, max=1_000, help="Values above 1 reduce repetition.")
    ] = 1.0,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cpu:bfloat16, cuda, cuda:1, xpu, mps")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print each answer as a line of JSON.")] = False,
) -> None:
    """Ask a model a question, about pictures too."""
    from evovlm.cli.progress import Waiting
    from evovlm.cli.signals import stopping
    from evovlm.errors import ConfigError
    from evovlm.tasks.prompts import CHAT, PLAIN, template_of
    from evovlm.tasks.task import Decoding

    if sys.stdin.isatty() if question is None else not question.strip():
        raise ConfigError(_NO_QUESTION)
    # A wrong name is reported before torch is loaded, which takes seconds.
    if prompt not in (None, CHAT, PLAIN):
        template_of(prompt)

    decoding = Decoding(max_new_tokens=max_new_tokens, beams=beams, repetition_penalty=repetition_penalty)
    with stopping("\nstopped"):
        with Waiting(f"loading {model}"):
            from evovlm.devices import device_name
            from evovlm.evaluation.asking import Manner, check_manner, open_pictures, usual_prompt
            from evovlm.runs.scores.score_models import find_model

            found = find_model(model)
            device_name(device)
            pictures = open_pictures(image or [])
            from evovlm.evaluation.resident import load_recipe_model

            loaded = load_recipe_model(found, device=device)
        chosen = prompt or usual_prompt(loaded, model=model, pictures=bool(pictures))
        manner = Manner(prompt=chosen, system=system, images=pictures)
        check_manner(loaded, manner)
        if prompt is None and chosen != CHAT:
            why = "the model has no chat template" if chosen == PLAIN else "the embedded models were trained on it"
            echo(f"prompt: {chosen} ({why}; choose another with --prompt)", err=True)
        for text in _questions(question):
            _answer(loaded, text, manner=manner, decoding=decoding, as_json=as_json)


def _questions(question: str | None) -> Iterator[str]:
    from evovlm.errors import ConfigError

    if question is not None:
        yield question
        return
    asked = False
    for line in sys.stdin:
        if line.strip():
            asked = True
            yield line.strip()
    if not asked:
        raise ConfigError(_NO_QUESTION)


def _answer(loaded: "LoadedModel", text: str, *, manner: "Manner", decoding: "Decoding", as_json: bool) -> None:
    from evovlm.cli.rendering import without_controls
    from evovlm.evaluation.asking import answer_question

    started = False

    def show(piece: str) -> None:
        nonlocal started
        shown = without_controls(piece)
        shown = shown if started else shown.lstrip()
        started = started or bool(shown)
        sys.stdout.write(shown)
        sys.stdout.flush()

    began = time.perf_counter()
    generated = answer_question(
        loaded, manner.question(text), decoding=decoding, on_text=(lambda _: None) if as_json else show
    )
    if not as_json:
        echo()
        return
    row = {
        "question": text,
        "answer": generated.texts[0].strip(),
        "tokens": generated.tokens,
        "seconds": round(time.perf_counter() - began, 4),
    }
    echo_json(row)
