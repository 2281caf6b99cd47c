"""Reviews: reading, checking, filtering, splitting, and the synthetic Sample City."""

from mmrec.data.readers import read_reviews
from mmrec.data.schema import Interactions, Reviews, Split, filter_reviews, split_reviews

__all__ = ["Interactions", "Reviews", "Split", "filter_reviews", "read_reviews", "split_reviews"]
