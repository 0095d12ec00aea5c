"""Finds pictures of a search that look almost like pictures of its report, by the embeddings of an open_clip model.

Pictures that cannot be read, or that this machine does not have (a font is missing), are left out and reported.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from evovlm.errors import TaskError
from evovlm.tasks.sample import ImageSource, Sample

if TYPE_CHECKING:
    from torch import Tensor

    from evovlm.models.pictures.clip import ClipModel

_ROWS_AT_ONCE = 1024
_PICTURES_AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class NearPair:
    """A picture of a search sample and one of a report sample, and the cosine of their embeddings."""

    search_id: str
    report_id: str
    similarity: float


class NearPairs(NamedTuple):
    """The near pairs, nearest first, and by sample id why pictures of the search and the report were not compared."""

    pairs: tuple[NearPair, ...]
    search_left_out: Mapping[str, str]
    report_left_out: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NearImages:
    """Finds pictures whose embeddings have at least the cosine `threshold`; each picture is embedded once.

    What a cosine means depends on the model: cropped, scaled or recompressed copies are mostly above 0.95.
    """

    clip: "ClipModel"
    threshold: float
    _rows: dict[str, "Tensor"] = field(default_factory=dict)

    def compare(self, search: Sequence[Sample], report: Sequence[Sample]) -> NearPairs:
        """Return the near pairs of pictures; each picture counts once for each sample."""
        every = _pictures(search), _pictures(report)
        if not all(every):
            return NearPairs((), {}, {})
        reasons = {**self._embed(every[0]), **self._embed(every[1])}
        left_out = [{name: reasons[image.key] for name, image in side if image.key in reasons} for side in every]
        left, right = ([(name, image) for name, image in side if image.key not in reasons] for side in every)
        if not left or not right:
            return NearPairs((), *left_out)
        rows, columns = self._rows_of(left), self._rows_of(right)
        pairs = []
        for start in range(0, len(left), _ROWS_AT_ONCE):
            cosines = rows[start : start + _ROWS_AT_ONCE] @ columns.T
            for row, column in (cosines >= self.threshold).nonzero().tolist():
                similarity = min(1.0, float(cosines[row, column]))
                seen, reported = left[start + row][0], right[column][0]
                pairs.append(NearPair(search_id=seen, report_id=reported, similarity=similarity))
        pairs.sort(key=lambda pair: (-pair.similarity, pair.search_id, pair.report_id))
        return NearPairs(tuple(pairs), *left_out)

    def _embed(self, pictures: Sequence[tuple[str, ImageSource]]) -> Mapping[str, str]:
        """Embed the new pictures; return by key why pictures cannot be read."""
        new = list({image.key: image for _, image in pictures if image.key not in self._rows}.values())
        reasons: dict[str, str] = {}
        for start in range(0, len(new), _PICTURES_AT_ONCE):
            loaded = {}
            for image in new[start : start + _PICTURES_AT_ONCE]:
                try:
                    loaded[image.key] = image.load()
                except TaskError as error:
                    reasons[image.key] = str(error)
            if loaded:
                self._rows.update(zip(loaded, self.clip.embed_images(list(loaded.values())), strict=True))
        return reasons

    def _rows_of(self, pictures: Sequence[tuple[str, ImageSource]]) -> "Tensor":
        import torch

        return torch.stack([self._rows[image.key] for _, image in pictures])


def _pictures(samples: Sequence[Sample]) -> list[tuple[str, ImageSource]]:
    return [(sample.id, image) for sample in samples for image in {each.key: each for each in sample.images}.values()]
