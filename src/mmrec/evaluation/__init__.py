"""Figures: of probabilities, at a threshold, of lists, on slices of the rows, and how sure they are."""

# ruff: noqa: F403
from mmrec.evaluation.list_metrics import *
from mmrec.evaluation.metrics import *
from mmrec.evaluation.slices import *
from mmrec.evaluation.statistics import *
from mmrec.evaluation.thresholds import *
