"""The option `--lang` of the commands that speak several languages."""

from typing import Annotated

import typer

from evovlm.cli.completion import complete_languages
from evovlm.texts.languages import chosen_language

Language = Annotated[
    str,
    typer.Option(
        "--lang",
        help="en or ja [default: as LC_ALL, LC_MESSAGES or LANG says].",
        show_default=False,
        callback=chosen_language,
        autocompletion=complete_languages,
    ),
]
