"""What vLLM's own processes run, where it divides a model over several: they read a candidate from evovlm's memory.

vLLM imports this module there by its name (`worker_extension_cls`), which registers the transfer of weights.
"""

from dataclasses import dataclass

from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from evovlm.evaluation.engines.shared_tensors import SharedTensors

BACKEND = "evovlm"


@dataclass
class NothingToStart(WeightTransferInitInfo):  # type: ignore[misc]
    """What the transfer needs before the first candidate."""


@dataclass
class Unit(WeightTransferUpdateInfo):  # type: ignore[misc]
    """A unit of a candidate's tensors, by their names in the checkpoint."""

    tensors: SharedTensors


class SharedMemoryTransfer(WeightTransferEngine[NothingToStart, Unit]):  # type: ignore[misc]
    """Reads each unit from shared memory; vLLM's loader takes the part of each tensor that belongs to this process."""

    init_info_cls = NothingToStart
    update_info_cls = Unit

    def init_transfer_engine(self, init_info: NothingToStart) -> None:
        """Do nothing: each unit says where it is."""

    def start_weight_update(self) -> None:
        """Prepare the model for new tensors, as `reload_weights` does."""
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: Unit) -> None:
        """Load the tensors of a unit."""
        self.model.load_weights(update_info.tensors.read().items())

    def finish_weight_update(self) -> None:
        """Complete what was loaded, as `reload_weights` does."""
        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        """Do nothing: no connection is open."""


class Extension:
    """Adds nothing to vLLM's worker: naming it makes the worker import this module."""


WeightTransferEngineFactory.register_engine(BACKEND, SharedMemoryTransfer)
