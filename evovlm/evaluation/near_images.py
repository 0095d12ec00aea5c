"""A guard against pictures that a search and its report share: nearly the same ones, by an open_clip embedding."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NearImages:
    """Finds pictures whose embeddings have at least the cosine `threshold`; each picture is embedded once.

    What a cosine means depends on the model: copies, cut or scaled or compressed anew, are mostly above 0.95.
    """

    clip: "ClipModel"
    threshold: float
    _rows: dict[str, "Tensor"] = field(default_factory=dict)

    def pairs(self, search: Sequence[Sample], report: Sequence[Sample]) -> tuple[NearPair, ...]:
        """Return the near pairs of pictures, the nearest first; each picture counts once a sample.

        Raises TaskError when a picture cannot be read.
        """
        left, right = _pictures(search), _pictures(report)
        if not left or not right:
            return ()
        rows, columns = self._embedded(left), self._embedded(right)
        pairs = []
        for start in range(0, len(left), _ROWS_AT_ONCE):
            cosines = rows[start : start + _ROWS_AT_ONCE] @ columns.T
            for row, column in (cosines >= self.threshold).nonzero().tolist():
                similarity = min(1.0, float(cosines[row, column]))
                seen, reported = left[start + row][0], right[column][0]
                pairs.append(NearPair(search_id=seen, report_id=reported, similarity=similarity))
        return tuple(sorted(pairs, key=lambda pair: (-pair.similarity, pair.search_id, pair.report_id)))

    def _embedded(self, pictures: Sequence[tuple[str, ImageSource]]) -> "Tensor":
        import torch

        new = list({image.key: image for _, image in pictures if image.key not in self._rows}.values())
        for start in range(0, len(new), _PICTURES_AT_ONCE):
            part = new[start : start + _PICTURES_AT_ONCE]
            embedded = self.clip.embed_images([image.load() for image in part])
            self._rows.update({image.key: row for image, row in zip(part, embedded, strict=True)})
        return torch.stack([self._rows[image.key] for _, image in pictures])


def _pictures(samples: Sequence[Sample]) -> list[tuple[str, ImageSource]]:
    return [(sample.id, image) for sample in samples for image in {each.key: each for each in sample.images}.values()]
