"""What a search holds in memory, as lines that `check` and a dry run print."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from evovlm.cli.rendering import counted

if TYPE_CHECKING:
    from evovlm.merging.before.findings import SearchMemory


def memory_lines(found: "SearchMemory") -> Iterator[str]:
    """Yield what each worker holds of the memory of its device, and what all take of the machine's."""
    from evovlm.merging.before.needs import gigabytes

    def free(size_bytes: int | None) -> str:
        return "" if size_bytes is None else f" ({gigabytes(size_bytes)} free)"

    share = "" if found.workers == 1 else f", shared by {found.workers} workers, each with"
    yield f"{found.where}{free(found.free_bytes)}{share}:"
    yield f"  the model: {gigabytes(found.model_bytes)}"
    if found.sources_bytes:
        where = "" if found.kept_in == found.where else f" in {found.kept_in}"
        again = f"; {gigabytes(found.read_again_bytes)} are read again for each candidate"
        yield (
            f"  base and sources: {gigabytes(found.kept_bytes)} of {gigabytes(found.sources_bytes)} are kept{where}"
            f"{again if found.read_again_bytes else ''}"
        )
    engine = "" if found.engine == "builtin" else f" in {found.engine}"
    yield (
        f"  an answer of up to {found.answer_tokens:,} tokens, with its question: {gigabytes(found.answer_bytes)}, "
        f"{found.answers_at_once} at once{engine}"
    )
    yield (
        f"the machine{free(found.machine_free_bytes)}: {gigabytes(found.processes_bytes)} for "
        f"{counted(found.processes, 'worker')}, {gigabytes(found.files_bytes)} of models as cached files"
    )
