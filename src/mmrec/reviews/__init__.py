"""Reviews in: reading, checking, filtering, splitting, and Sample City."""

from mmrec.reviews.reader import read_reviews
from mmrec.reviews.split import Split, filter_reviews, split_reviews
from mmrec.reviews.table import Interactions, Reviews

__all__ = ["Interactions", "Reviews", "Split", "filter_reviews", "read_reviews", "split_reviews"]
