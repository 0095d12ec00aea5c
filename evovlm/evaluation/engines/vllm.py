"""The engine `vllm`: candidates stream into a running vLLM, which answers (the extra `vllm`).

vLLM opens a folder that holds the result's config and tokenizer but no weights; those of a candidate come unit by unit
under their names in the checkpoint, from memory, without a restart. Pictures come as the projected features that evovlm
has computed once, so that the vision part is never sent. Prompts are token ids.

Only public calls are used: `LLM`, `LLM.generate`, `reset_prefix_cache`, `reset_mm_cache`,
`LLMEngine.reset_encoder_cache`, and through `LLM.collective_rpc` the calls that take weights. The engine runs in the
process that opens it; with `tensor_parallel`, its model is in as many further processes, which read each unit from
shared memory (vllm_worker.py).
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import TYPE_CHECKING, Any

from evovlm.devices import release_memory
from evovlm.errors import FOREIGN_ERRORS, ConfigError, EvovlmError, ModelError, first_line
from evovlm.evaluation.engines.vllm_support import ENVIRONMENT
from evovlm.evaluation.engines.work import Load
from evovlm.recipes.checkpoint_files import CONFIG_FILE
from evovlm.resources import available_memory_bytes

if TYPE_CHECKING:
    import torch

    from evovlm.merging.merge import Merger
    from evovlm.merging.merged_tensors import MergedTensors
    from evovlm.models.decoding.generation import Generated
    from evovlm.models.decoding.stock import DecodingSettings
    from evovlm.models.loading import LoadedModel
    from evovlm.models.prompt import Prompt
    from evovlm.thoughts import ThoughtMarks

_WORKER = "evovlm.evaluation.engines.vllm_worker"
ROWS_AT_ONCE = 256
"""The most answers at once."""
_CACHE_BLOCK = 128
CACHE_SHARE = 0.25
"""Of a CPU's free memory, for keys and values."""
GPU_SHARE = 0.85
"""Of a GPU's memory, for weights, keys and values."""


def open_engine(loaded: LoadedModel, merger: Merger, load: Load, tensor_parallel: int) -> VllmEngine:
    """Open vLLM for the candidates of `merger`, whose host is loaded; the host's weights are then released.

    The model is divided over `tensor_parallel` GPUs, or processes of a CPU. Raises ConfigError when vLLM cannot open
    the model.
    """
    return VllmEngine.open(loaded, merger, load, tensor_parallel)


@dataclass(slots=True, kw_only=True, eq=False)
class VllmEngine:
    """A running vLLM; it does not have weights until it takes its first candidate."""

    loaded: LoadedModel
    _config: Mapping[str, Any]
    _settings: Mapping[str, Any]
    _llm: Any = None
    _failed: bool = field(default=False)

    @classmethod
    def open(cls, loaded: LoadedModel, merger: Merger, load: Load, tensor_parallel: int) -> VllmEngine:
        """See `open_engine`."""
        import torch

        settings = _settings_for(loaded, load, tensor_parallel)
        # From here on it only says how prompts are made; vLLM needs the memory. The model's own `to` warns where
        # accelerate has spread it.
        torch.nn.Module.to(loaded.model, "meta")
        release_memory()
        engine = cls(loaded=loaded, _config=merger.result.config, _settings=settings)
        engine._start()
        return engine

    def become(self, tensors: MergedTensors) -> bool:
        """See Engine."""
        import torch

        if self._failed:
            # A vLLM that failed in the middle of an answer keeps its request, and waits for it for ever; one that
            # failed to take weights, or lost a process, does not take others.
            self._stop()
            self._start()
        problems: list[EvovlmError | FloatingPointError] = []

        def units() -> Iterator[Mapping[str, torch.Tensor]]:
            # vLLM does not survive an error in the middle of a module; between two units it keeps what it has.
            try:
                yield from tensors.by_unit()
            except (EvovlmError, FloatingPointError) as error:
                problems.append(error)

        self._failed = True
        # Its parameters are ordinary tensors, which must not be written in inference mode.
        with torch.inference_mode(False), torch.no_grad():
            self._take(units())
            self._llm.reset_prefix_cache()
            # The workers have forgotten the pictures' features, and the scheduler must not count on them.
            self._llm.reset_mm_cache()
            self._llm.llm_engine.reset_encoder_cache()
        self._failed = False
        for problem in problems:
            if not isinstance(problem, FloatingPointError):
                raise problem
        return not problems

    def answer(
        self,
        prompts: Sequence[Prompt],
        *,
        decoding: DecodingSettings,
        marks: ThoughtMarks | None = None,
        on_answers: Callable[[int, int], None] | None = None,
    ) -> Generated:
        """See Engine; answers are reported once all are there."""
        import torch

        from evovlm.models.chat import thought_marks
        from evovlm.models.decoding.generation import generated, stop_ids
        from evovlm.models.decoding.slots import answer_limits

        limits = answer_limits(self.loaded, prompts, max_new_tokens=decoding.max_new_tokens)
        stops = stop_ids(self.loaded)
        marks = marks or thought_marks(self.loaded)
        # A stop string in a thought does not end the answer, which vLLM does not know.
        texts = () if marks.tags or marks.channels else decoding.stop
        settings = [_sampling(decoding, limit=limit, stop_ids=stops, stop_texts=texts) for limit in limits]
        self._failed = True
        with torch.inference_mode(False), torch.no_grad():
            found = self._llm.generate([_asked(self.loaded, each) for each in prompts], settings, use_tqdm=False)
        self._failed = False
        rows = []
        for prompt, output in zip(prompts, found, strict=True):
            if list(output.prompt_token_ids) != prompt.ids.tolist():
                raise ModelError(
                    f"{self.loaded.folder}: vLLM read another prompt than it was given ({len(output.prompt_token_ids)} "
                    f"tokens, not {len(prompt.ids)}).\n    Set engine to builtin, and please report this."
                )
            if output.metrics is not None and output.metrics.is_corrupted:
                raise FloatingPointError("the model's logits are not finite")
            rows.append(list(itertools.takewhile(lambda token: token not in stops, output.outputs[0].token_ids)))
        if on_answers is not None:
            on_answers(len(rows), sum(map(len, rows)))
        return generated(self.loaded, prompts, rows, stops=decoding.stop, marks=marks)

    def close(self) -> None:
        """See Engine."""
        self._stop()

    def _take(self, units: Iterator[Mapping[str, torch.Tensor]]) -> None:
        """Have the model take a candidate's tensors; one in this process takes them as they are."""
        if not self._is_divided:
            stream = itertools.chain.from_iterable(unit.items() for unit in units)
            rules = {"weights_iterator": stream, "is_checkpoint_format": True}
            self._llm.collective_rpc("reload_weights", kwargs=rules)
            return
        from evovlm.evaluation.engines.shared_tensors import sharing

        self._llm.collective_rpc("start_weight_update")
        for unit in units:
            with sharing(unit) as tensors:
                self._llm.collective_rpc("update_weights", args=({"tensors": tensors},))
        self._llm.collective_rpc("finish_weight_update")

    @property
    def _is_divided(self) -> bool:
        return "tensor_parallel_size" in self._settings

    def _start(self) -> None:
        os.environ.update(ENVIRONMENT)
        import torch

        try:
            from vllm import LLM

            # It reads the folder only while it opens.
            with ExitStack() as opening:
                folder = opening.enter_context(TemporaryDirectory(prefix="evovlm-vllm-"))
                opening.enter_context(torch.inference_mode(False))
                opening.enter_context(_plain_llvmlite())
                opening.enter_context(_without_main())
                # They are about vLLM's own code.
                opening.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
                self._write_files(Path(folder))
                self._llm = LLM(model=folder, tokenizer=folder, **self._settings)
        except Exception as error:
            # A process of its own that fails to start is reported as an Exception of no class.
            if type(error) is not Exception and not isinstance(error, FOREIGN_ERRORS):
                raise
            raise ConfigError(
                f"engine: vllm cannot open {self.loaded.folder} ({first_line(error)}).\n    Set engine to builtin."
            ) from error
        self._failed = False

    def _write_files(self, folder: Path) -> None:
        """Write everything that a checkpoint has beside its weights."""
        (self.loaded.processor or self.loaded.tokenizer).save_pretrained(folder)
        self.loaded.tokenizer.save_pretrained(folder)
        (folder / CONFIG_FILE).write_text(json.dumps(self._config, ensure_ascii=False), encoding="utf-8")

    def _stop(self) -> None:
        from vllm.distributed import cleanup_dist_env_and_memory

        if self._llm is not None:
            # Its processes end here, not when Python finds that nothing refers to it.
            self._llm.llm_engine.engine_core.shutdown()
        self._llm = None
        cleanup_dist_env_and_memory()
        gc.collect()


@contextmanager
def _plain_llvmlite() -> Iterator[None]:
    """Let vLLM open after numba was imported.

    For a CPU it looks into the __dict__ of every value of every module, and fails at llvmlite's handle of its library,
    which returns a function for any name at all, also for __dict__.
    """
    ffi: Any = sys.modules.get("llvmlite.binding.ffi")
    handle = getattr(ffi, "lib", None)

    class _Handle:
        def __getattr__(self, name: str) -> Any:
            return getattr(handle, name)

    if handle is None:
        yield
        return
    ffi.lib = _Handle()
    try:
        yield
    finally:
        ffi.lib = handle


@contextmanager
def _without_main() -> Iterator[None]:
    """Keep processes that are started here from running the main module again.

    It may be a user's script, or import numba, with which vLLM's processes do not start.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _settings_for(loaded: LoadedModel, load: Load, tensor_parallel: int) -> Mapping[str, Any]:
    """Return the arguments of `vllm.LLM`, read from the model while it is loaded."""
    on_cpu = loaded.device.type == "cpu"
    settings: dict[str, Any] = {
        "load_format": "dummy",
        "trust_remote_code": False,
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "max_model_len": load.longest,
        # evovlm's settings alone decide how answers are decoded, not those of generation_config.json.
        "generation_config": "vllm",
        "enforce_eager": on_cpu,
        "disable_log_stats": False,
        "max_num_seqs": ROWS_AT_ONCE,
        "seed": 0,
    }
    if loaded.sees:
        # Without a vision part: pictures come as features.
        settings |= {"enable_mm_embeds": True, "limit_mm_per_prompt": {"image": 0}}
    if on_cpu:
        settings["kv_cache_memory_bytes"] = _cache_bytes(loaded, load, tensor_parallel)
    else:
        settings["gpu_memory_utilization"] = GPU_SHARE
    if tensor_parallel > 1:
        settings |= {
            "tensor_parallel_size": tensor_parallel,
            "distributed_executor_backend": "mp",
            "worker_extension_cls": f"{_WORKER}.Extension",
            "weight_transfer_config": {"backend": "evovlm"},
        }
    return settings


def _cache_bytes(loaded: LoadedModel, load: Load, tensor_parallel: int) -> int:
    """Return each process's memory for keys and values on a CPU: for all answers at once, or a share of what is free.

    A process has its part of the heads, and at least one.
    """
    config = loaded.model.config.get_text_config()
    heads: int = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    token: int = 2 * config.num_hidden_layers * -(-heads // tensor_parallel) * size * loaded.model.dtype.itemsize
    row = -(-load.longest // _CACHE_BLOCK) * _CACHE_BLOCK * token
    wanted = (min(load.n_prompts, ROWS_AT_ONCE) + 1) * row
    free = available_memory_bytes()
    return (
        wanted
        if free is None
        else max(2 * row, min(wanted, int(free * CACHE_SHARE) // (load.n_sharing * tensor_parallel)))
    )


def _sampling(decoding: DecodingSettings, *, limit: int, stop_ids: frozenset[int], stop_texts: Sequence[str]) -> Any:
    from vllm import SamplingParams

    return SamplingParams(
        temperature=0.0,
        repetition_penalty=decoding.repetition_penalty,
        max_tokens=limit,
        stop=list(stop_texts) or None,
        stop_token_ids=sorted(stop_ids),
        ignore_eos=True,
        detokenize=bool(stop_texts),
    )


def _asked(loaded: LoadedModel, prompt: Prompt) -> dict[str, Any]:
    """Return a prompt as vLLM takes it: each run of image tokens as one, with the features that replace it."""
    ids = prompt.ids.tolist()
    if prompt.features is None:
        return {"prompt_token_ids": ids}
    features = prompt.features().cpu()
    image_token = loaded.model.config.image_token_id
    short: list[int] = []
    parts: list[torch.Tensor] = []
    done = 0
    for is_picture, run in itertools.groupby(ids, key=lambda token: token == image_token):
        tokens = list(run)
        short += tokens[:1] if is_picture else tokens
        if is_picture:
            parts.append(features[done : done + len(tokens)])
            done += len(tokens)
    return {"prompt_token_ids": short, "multi_modal_data": {"image": parts}}
