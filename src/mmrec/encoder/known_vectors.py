"""An encoder that has been told the vectors of some texts."""

from collections.abc import Mapping, Sequence

import numpy as np

from mmrec.encoder.text_encoder import Encoder


class InformedEncoder(Encoder):
    """An encoder that knows vectors beforehand, and encodes other texts as the given one does."""

    def __init__(self, encoder: Encoder, known: Mapping[str, np.ndarray]) -> None:
        self.__dict__.update(vars(encoder))
        self._encoder, self.known = encoder, known

    def encode(self, texts: Sequence[str], title: str = "encoding") -> np.ndarray:
        """As `Encoder.encode`; known vectors are (d,) float16."""
        missing = [text for text in dict.fromkeys(texts) if text not in self.known]
        if len(missing) == len(texts):
            return self._encoder.encode(texts, title)
        encoded: dict[str, np.ndarray] = {}
        if missing:
            encoded = dict(zip(missing, self._encoder.encode(missing, title), strict=True))
        vectors = [encoded[text] if text in encoded else self.known[text] for text in texts]
        return np.stack(vectors) if vectors else self._encoder.encode(texts, title)
