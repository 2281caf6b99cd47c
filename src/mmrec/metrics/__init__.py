"""Figures: of probabilities, at a threshold, of lists, on slices of the rows, and how sure they are."""

# ruff: noqa: F403
from mmrec.metrics.lists import *
from mmrec.metrics.operating import *
from mmrec.metrics.scores import *
from mmrec.metrics.slices import *
from mmrec.metrics.uncertainty import *
