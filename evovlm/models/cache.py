"""Keys and values of a batch, with room for all that will come: growing writes in place, rows can leave."""

from typing import Any

from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer


class RoomyLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """One layer's keys and values, each of shape (rows, heads, `room`, size); the filled part is what it returns.

    transformers' own layers either copy all they hold to grow by one token, or attend to their whole room.
    """

    def __init__(self, room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._room = room
        self._length = 0

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append the states of new tokens, shape (rows, heads, tokens, size); return those of all tokens so far."""
        if not self.is_initialized:
            rows, heads, _length, size = key_states.shape
            self.dtype, self.device = key_states.dtype, key_states.device
            self._keys = key_states.new_empty(rows, heads, self._room, size)
            self._values = value_states.new_empty(rows, heads, self._room, value_states.shape[-1])
            self.is_initialized = True
        end = self._length + key_states.shape[-2]
        self._keys[:, :, self._length : end] = key_states
        self._values[:, :, self._length : end] = value_states
        self._length = end
        self.keys, self.values = self._keys[:, :, :end], self._values[:, :, :end]
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Return how many tokens it holds."""
        return self._length

    def keep_rows(self, rows: Tensor) -> None:
        """Keep only the rows of these indices, in this order."""
        self._keys, self._values = self._keep(self._keys, rows), self._keep(self._values, rows)

    def _keep(self, states: Tensor, rows: Tensor) -> Tensor:
        kept = states.new_empty(len(rows), *states.shape[1:])
        # Only what is filled is copied: the room behind it may be far larger.
        kept[:, :, : self._length] = states[rows, :, : self._length]
        return kept


class RoomyCache(Cache):
    """One `RoomyLayer` per decoder layer."""

    def __init__(self, *, n_layers: int, room: int) -> None:
        self._roomy = [RoomyLayer(room) for _ in range(n_layers)]
        super().__init__(layers=list(self._roomy))

    def keep_rows(self, rows: Tensor) -> None:
        """Keep only the rows of these indices, in this order."""
        for layer in self._roomy:
            layer.keep_rows(rows)
