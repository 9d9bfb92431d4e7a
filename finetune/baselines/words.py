"""What the words of events say, as columns beside the aggregates: TF-IDF, and the directions in which it varies most.

Rivals that read no words would lose to a model that reads them for that reason alone.
"""

from pathlib import Path

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from data_prep.cutoffs import SPLITS
from data_prep.facts import Manifest
from data_prep.prepared import Limit, read_split, sampled
from data_prep.serializer import EventSerializer

DIRECTIONS = 50
MAX_TEXTS = 50_000  # that the directions are found in


def known_words(folder: Path, manifest: Manifest) -> list[str]:
    """The words of the log's text fields that the model may read; none where it has no such field."""
    fields = manifest["config"]["text"]["fields"]
    if not any(field["words"] for field in fields.values()):
        return []
    fitted = EventSerializer.from_pretrained(folder).fields
    return sorted({word for field in fitted.values() if field["kind"] == "text" for word in field["words"]})


def word_columns(folder: Path, limits: dict[str, Limit], words: list[str], seed: int) -> dict[str, np.ndarray]:
    """Split -> what `directions` says of its texts."""
    texts = {split: read_split(folder, split, limits.get(split), ["text"])["text"].to_pylist() for split in SPLITS}
    return directions(texts, words, seed)


def directions(texts: dict[str, list[str]], words: list[str], seed: int) -> dict[str, np.ndarray]:
    """Split -> the TF-IDF of these words along its largest directions, of shape (texts, at most DIRECTIONS).

    A word counts 1 + log(how often it is in the text), times its smoothed inverse document frequency; each text then
    has length 1 (scikit-learn's TfidfVectorizer). Frequencies and directions are those of the training texts alone
    (Deerwester et al., Indexing by Latent Semantic Analysis, 1990).

    Args:
        texts: Split -> texts of either style; training is named train.
        words: That count; whatever else is in a text does not.
        seed: Of the decomposition.
    """
    weights = TfidfVectorizer(vocabulary=words, token_pattern=r"[^\s,.;:]+", lowercase=False, sublinear_tf=True)
    weights.fit(texts["train"])
    found = {split: weights.transform(part) for split, part in texts.items()}
    if len(words) <= DIRECTIONS:
        return {split: part.toarray() for split, part in found.items()}
    drawn = found["train"][sampled(found["train"].shape[0], MAX_TEXTS)]
    largest = TruncatedSVD(DIRECTIONS, random_state=seed).fit(drawn)
    return {split: largest.transform(part) for split, part in found.items()}
