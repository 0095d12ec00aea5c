"""The options that name a judge, of the commands that score."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from evovlm.evaluation.judging import JudgeChoice


JudgeModel = Annotated[
    str | None,
    typer.Option(
        "--judge", help="The model that judges, for tasks or a metric that need one; its key: OPENAI_API_KEY."
    ),
]
JudgeUrl = Annotated[
    str | None,
    typer.Option("--judge-url", help="The judge's endpoint, which speaks OpenAI's protocol; default: OpenAI's."),
]
JudgeCalls = Annotated[
    int | None,
    typer.Option("--judge-calls", min=1, max=10**9, help="The most calls to the judge; cached verdicts are free."),
]


def judge_choice(model: str | None, *, url: str | None, calls: int | None) -> "JudgeChoice | None":
    """Return the judge of --judge, None without it. Raises ConfigError for its other options alone, or a wrong URL."""
    from urllib.parse import urlsplit

    from evovlm.errors import ConfigError
    from evovlm.evaluation.judging import JudgeChoice

    if model is None:
        if url is not None or calls is not None:
            raise ConfigError("--judge-url and --judge-calls belong to a judge. Name its model with --judge.")
        return None
    if url is not None and urlsplit(url).scheme not in ("http", "https"):
        raise ConfigError(f"--judge-url {url}: is not an address. Write it like http://localhost:8000/v1.")
    return JudgeChoice(model=model, url=url, budget=calls)
