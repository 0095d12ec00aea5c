"""A guard against pictures that a search and its report share: nearly the same ones, by an open_clip embedding."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evovlm.tasks.sample import ImageSource, Sample

if TYPE_CHECKING:
    from torch import Tensor

    from evovlm.models.clip import ClipModel

_ROWS_AT_ONCE = 1024
_PICTURES_AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class NearPair:
    """A picture of a search sample and one of a report sample, and the cosine of their embeddings."""

    search_id: str
    report_id: str
    similarity: float


def near_images(
    search: Sequence[Sample], report: Sequence[Sample], *, clip: "ClipModel", threshold: float = 0.95
) -> tuple[NearPair, ...]:
    """Return the pairs of pictures of at least that cosine, the nearest first; each picture counts once a sample.

    What a cosine means depends on the model: copies, cut or scaled or compressed anew, are mostly above 0.95. Raises
    TaskError when a picture cannot be read.
    """
    left, right = _pictures(search), _pictures(report)
    if not left or not right:
        return ()
    rows, columns = _embed([image for _, image in left], clip), _embed([image for _, image in right], clip)
    pairs = []
    for start in range(0, len(left), _ROWS_AT_ONCE):
        cosines = rows[start : start + _ROWS_AT_ONCE] @ columns.T
        for row, column in (cosines >= threshold).nonzero().tolist():
            similarity = float(cosines[row, column])
            pairs.append(
                NearPair(search_id=left[start + row][0], report_id=right[column][0], similarity=min(1.0, similarity))
            )
    return tuple(sorted(pairs, key=lambda pair: (-pair.similarity, pair.search_id, pair.report_id)))


def _pictures(samples: Sequence[Sample]) -> list[tuple[str, ImageSource]]:
    return [(sample.id, image) for sample in samples for image in {each.key: each for each in sample.images}.values()]


def _embed(images: Sequence[ImageSource], clip: "ClipModel") -> "Tensor":
    import torch

    unique = {image.key: image for image in images}
    places = {key: row for row, key in enumerate(unique)}
    loaded = list(unique.values())
    parts = [
        clip.embed_images([image.load() for image in loaded[start : start + _PICTURES_AT_ONCE]])
        for start in range(0, len(loaded), _PICTURES_AT_ONCE)
    ]
    return torch.cat(parts)[[places[image.key] for image in images]]
