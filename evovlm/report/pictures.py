"""Pictures of a task's samples as small data URIs, if the data is on this machine."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field

from evovlm.errors import EvovlmError
from evovlm.evaluation.answers import TaskChoice
from evovlm.tasks.catalogue import get_task
from evovlm.tasks.harness_name import is_harness_name
from evovlm.tasks.published import is_on_hub
from evovlm.tasks.sample import ImageSource, Sample
from evovlm.tasks.task import Split

_BUDGET_BYTES = 1_500_000
_SIDES_PX = (160, 128, 96, 64)
_BYTES_OF = {160: 5000, 128: 3500, 96: 2200, 64: 1200}
"""The rough size of a photo of that side as WebP, from which the side is chosen."""
_MOST_IN_A_ROW = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pictures:
    """The pictures of a task by its samples' ids; `missing` says why they are missing."""

    samples: Mapping[str, Sample]
    side_px: int
    missing: str | None
    _drawn: dict[str, str | None] = field(default_factory=dict, init=False)
    _spent: list[int] = field(default_factory=lambda: [0], init=False)

    def of(self, sample_id: str) -> tuple[str, ...]:
        """Return a sample's pictures, without those that cannot be read or do not fit into the page any more."""
        sample = self.samples.get(sample_id)
        images = sample.images[:_MOST_IN_A_ROW] if sample is not None else ()
        return tuple(uri for image in images if (uri := self._uri(image)) is not None)

    def _uri(self, image: ImageSource) -> str | None:
        if image.key not in self._drawn:
            self._drawn[image.key] = self._draw(image)
        return self._drawn[image.key]

    def _draw(self, image: ImageSource) -> str | None:
        if self._spent[0] > _BUDGET_BYTES:
            return None
        try:
            picture = image.load()
        except (EvovlmError, OSError):
            return None
        picture.thumbnail((self.side_px, self.side_px))
        stream = io.BytesIO()
        picture.save(stream, format="WEBP", quality=70, method=6)
        uri = "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()
        self._spent[0] += len(uri)
        return uri


def open_pictures(choice: TaskChoice, n_rows: int) -> Pictures:
    """Return the pictures of a task's report split; nothing is fetched."""
    side = next((side for side in _SIDES_PX if n_rows * _BYTES_OF[side] <= _BUDGET_BYTES), _SIDES_PX[-1])
    if is_harness_name(choice.name):
        return Pictures(samples={}, side_px=side, missing=None)
    try:
        task = get_task(choice.name)
        if not task.needs_images:
            return Pictures(samples={}, side_px=side, missing=None)
        named = choice.data is not None and not is_on_hub(str(choice.data))
        at_hand = task.samples(Split.REPORT, data=choice.data) if named else task.samples_at_hand(Split.REPORT)
    except EvovlmError as error:
        return Pictures(samples={}, side_px=side, missing=str(error))
    if at_hand is None:
        return Pictures(samples={}, side_px=side, missing=f"the data of {task.name} is not on this machine")
    return Pictures(samples={sample.id: sample for sample in at_hand}, side_px=side, missing=None)
