"""Whether to use a trained model: decided on validation rows, told with figures of test rows."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from mmrec.evaluation.metrics import Verdict
from mmrec.evaluation.simple_baselines import BIAS_MODEL
from mmrec.evaluation.statistics import Difference, bootstrap, mean_log_likelihood, weighted_auc


@dataclass(frozen=True)
class RivalModels:
    """Probabilities of a like by a trained model and by the bias model, for n rows of one kind."""

    name: str  # of the trained model
    kind: str  # of the rows, as in "validation reviews"
    user: np.ndarray  # (n,)
    label: np.ndarray  # (n,) bool
    trained: np.ndarray  # (n,)
    bias: np.ndarray  # (n,)

    def gain(self) -> Difference:
        """In mean log likelihood, of the trained model over the bias model."""
        reference = self.bias
        return bootstrap(self.user, self.label, self.trained, mean_log_likelihood, reference)

    def gain_over_guessing(self) -> Difference:
        """In ROC-AUC, of the bias model over equal probabilities."""
        equal = np.full(len(self.label), 0.5)
        return bootstrap(self.user, self.label, self.bias, weighted_auc, equal)

    def figures(self) -> str:
        """ROC-AUC of both models, with 95% intervals."""
        rows = f"on {len(self.label):,} {self.kind}"
        auc = partial(bootstrap, self.user, self.label, metric=weighted_auc, rounds=500)
        trained, bias = (auc(p=p).as_text(3, sign="-") for p in (self.trained, self.bias))
        if self.name == BIAS_MODEL:
            return f"{rows}, ROC-AUC is {trained}"
        difference = auc(p=self.trained, reference=self.bias).as_text(3)
        of_both = f"{trained} for {self.name} and {bias} for the bias model"
        return f"{rows}, ROC-AUC is {of_both} (difference {difference})"


def reach_verdict(
    valid: RivalModels, test: RivalModels, reviews: int, *, fallback: bool
) -> Verdict:
    """Use the trained model if validation rows prove that it beats the bias model.

    The proof is a higher mean log likelihood by a paired bootstrap over users, one-sided 95%. Without
    it, `fallback` decides whether the bias model is used. `reviews` is the size of the data set.
    """
    name, rows, figures = valid.name, f"{len(valid.label):,} {valid.kind}", test.figures()
    gain, bias_gain, effects = valid.gain(), valid.gain_over_guessing(), "user effect + item effect"
    if name != BIAS_MODEL and gain.is_proven:
        beats = f"{rows} prove that it beats the bias model ({effects})"
        return Verdict(name, f"Use {name}: {beats}; {figures}.")
    model = BIAS_MODEL if fallback else name
    if model != valid.name:
        effects += f"; it takes the place of {name}"
    if not bias_gain.is_proven:
        dislikes = f"{(~valid.label).sum():,} of them dislikes"
        unproven = f"do not prove that even the bias model ({effects}) beats guessing"
        advice = f"Bring more data: {rows}, {dislikes}, {unproven}"
        needed = _reviews_needed(bias_gain, reviews)
    elif name == BIAS_MODEL:
        proof = f"{rows} prove that the bias model ({effects}) beats guessing"
        advice, needed = f"Use it: {proof}", ""
    else:
        beats = f"{rows} do not prove that {name} beats the bias model ({effects})"
        advice, needed = f"Use the simpler one: {beats}", _reviews_needed(gain, reviews)
    return Verdict(model, f"{advice}; {figures}.{needed}")


def _reviews_needed(gain: Difference, reviews: int) -> str:
    """What it takes to prove a gain that `reviews` do not prove."""
    # The standard error falls with the root of the number of reviews. Where the gain is 2.49 standard
    # errors, four of five data sets prove it: 1.645 (one-sided 95%) + .84 (power .8).
    needed = reviews * (2.49 * gain.standard_error / max(gain.mean, 1e-9)) ** 2
    if gain.mean <= 0 or needed > 100 * reviews:
        return (
            f" These {reviews:,} reviews show no gain, so it cannot be said how many would prove "
            "one; what helps most is more reviews by the same users."
        )
    if needed < reviews:
        return f" These {reviews:,} reviews are by too few users for a proof."
    step = 10 ** int(np.log10(needed))  # one significant digit, rounded up
    needed = int(np.ceil(needed / step) * step)
    return f" About {needed:,} reviews would prove a gain of this size; these are {reviews:,}."
