"""The `evovlm` command. Every subcommand imports what it needs when it runs, so that `--help` answers at once."""

import errno
import os
import sys
import warnings
from pathlib import Path
from urllib.parse import urlsplit

import typer

from evovlm.cli.ask import ask
from evovlm.cli.check import check
from evovlm.cli.completion import complete_in_bash
from evovlm.cli.convert import convert
from evovlm.cli.demo import demo
from evovlm.cli.doctor import doctor
from evovlm.cli.evolve import evolve
from evovlm.cli.export import export
from evovlm.cli.grade import grade
from evovlm.cli.help import DescribedCommand, GroupedCommands, example
from evovlm.cli.init import init
from evovlm.cli.merge import merge
from evovlm.cli.methods import methods
from evovlm.cli.optimizers import optimizers
from evovlm.cli.push import push
from evovlm.cli.rate import rate
from evovlm.cli.rendering import echo
from evovlm.cli.report import report
from evovlm.cli.score import score
from evovlm.cli.show import show
from evovlm.cli.signals import ending_cleanly
from evovlm.cli.spaces import spaces
from evovlm.cli.tasks import tasks
from evovlm.cli.watch import watch
from evovlm.cli.zoo import zoo
from evovlm.errors import ConfigError, EvovlmError

app = typer.Typer(
    name="evovlm",
    help="Evolve model-merge recipes: Japanese math LLMs and Japanese VLMs from published models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    cls=GroupedCommands,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_COMMANDS = (
    demo,
    init,
    evolve,
    watch,
    show,
    report,
    check,
    merge,
    convert,
    export,
    push,
    score,
    rate,
    grade,
    ask,
    methods,
    optimizers,
    spaces,
    tasks,
    doctor,
)
for command in _COMMANDS:
    app.command(cls=DescribedCommand, epilog=example(command.__name__))(command)
app.add_typer(zoo)


@app.callback(invoke_without_command=True)
def root(
    version: bool = typer.Option(False, "--version", help="Print the version.", is_eager=True),
) -> None:
    """Evolve model-merge recipes: Japanese math LLMs and Japanese VLMs from published models."""
    if version:
        from evovlm import __version__

        echo(f"evovlm {__version__}")
        raise typer.Exit


def _check_current_folder() -> None:
    """Raise ConfigError for a settings file from which numba would take a folder of compiled code, and run it."""
    file = Path(".numba_config.yaml").absolute()
    if file.exists():
        raise ConfigError(
            f"{file}: numba reads its settings from this file, and they can make it run code from any folder.\n"
            "    Start from another folder, or replace the file by environment variables (NUMBA_...)."
        )


def _check_endpoint() -> None:
    """Raise ConfigError for an HF_ENDPOINT at which huggingface_hub fails while it is imported."""
    endpoint = os.environ.get("HF_ENDPOINT", "")
    try:
        address = urlsplit(endpoint)
        is_one = not endpoint or (address.scheme in ("http", "https") and bool(address.hostname))
    except ValueError:
        is_one = False
    if not is_one:
        raise ConfigError(
            f"HF_ENDPOINT is '{endpoint:.200}', which is not an address.\n"
            "    Set it to one such as https://huggingface.co, or unset it."
        )


_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What a full or broken disk raises behind a redirected output, without the name of a file."""


def _hush_libraries() -> None:
    """Keep transformers and others from warning about their own insides; evovlm reports what matters to users.

    Who sets TRANSFORMERS_VERBOSITY, or Python's own option -W, sees the warnings.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    if not sys.warnoptions:
        for library in ("transformers", "torch", "torchvision", "huggingface_hub", "datasets", "accelerate"):
            warnings.filterwarnings("ignore", module=rf"{library}(\.|$)")


def main() -> None:
    """Run the command line: exit code 0 done, 2 an error that the user can fix, 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP."""
    # OpenMP threads that spin while they wait slow a busy machine down (measured: 1.8 s becomes 12 s and more).
    # The library reads this once, when torch is first imported; numpy's OpenBLAS has its own setting (2^4 cycles).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
    _hush_libraries()
    try:
        _check_current_folder()
        _check_endpoint()
        if os.environ.get("_EVOVLM_COMPLETE") == "complete_bash":
            complete_in_bash(app)
        with ending_cleanly():
            app()
    except SystemExit as ended:
        exited = ended.__context__
        # Commands with something to say have said it.
        if isinstance(exited, typer.Exit) and isinstance(exited.__cause__, KeyboardInterrupt):
            echo("\nstopped", err=True)
        raise
    except EvovlmError as error:
        # A message may quote a file from a stranger.
        echo(f"error: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        # The arguments and the files that they name have many paths, and looking for one that no file can have fails.
        if error.errno == errno.ENAMETOOLONG:
            echo(f"error: {str(error.filename)[:200]}...: the name is too long. Choose a shorter one.", err=True)
        elif error.errno in _CANNOT_WRITE and error.filename is None:
            echo(f"error: the output cannot be written ({error.strerror}). Write it to another place.", err=True)
        else:
            raise
        sys.exit(2)
