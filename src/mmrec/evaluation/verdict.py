"""Whether to use a trained model: decided on validation rows, told with figures of test rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field

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
    # Name -> (n,) by other simple baselines; on validation rows they are no rivals.
    baselines: Mapping[str, np.ndarray] = field(default_factory=dict)

    def gain(self) -> Difference:
        """In mean log likelihood, of the trained model over the bias model."""
        reference = self.bias
        return bootstrap(self.user, self.label, self.trained, mean_log_likelihood, reference)

    def better_baseline(self) -> str | None:
        """The best of the other baselines, if the rows prove that it beats the trained model."""
        gains: dict[str, Difference] = {}
        for name, probability in self.baselines.items():
            rows = self.user, self.label, probability
            gains[name] = bootstrap(*rows, mean_log_likelihood, self.trained)
        for name, gain in sorted(gains.items(), key=lambda pair: -pair[1].mean)[:1]:
            # As many tests as baselines (Bonferroni).
            if gain._replace(p_value=len(gains) * gain.p_value).is_proven:
                return name
        return None

    def gain_over_guessing(self) -> Difference:
        """In ROC-AUC, of the bias model over equal probabilities."""
        equal = np.full(len(self.label), 0.5)
        return bootstrap(self.user, self.label, self.bias, weighted_auc, equal)

    def figures(self) -> str:
        """ROC-AUC of both models, with 95% intervals."""
        auc = self.auc(self.trained)
        text = f"on {len(self.label):,} {self.kind}, ROC-AUC is {auc}"
        if self.name == BIAS_MODEL:
            return text
        comparison = f"{text} for {self.name} and {self.auc(self.bias)} for the bias model"
        return f"{comparison} (difference {self.auc(self.trained, self.bias, '+')})"

    def auc(self, p: np.ndarray, reference: np.ndarray | None = None, sign: str = "-") -> str:
        """ROC-AUC of (n,) probabilities, less that of a reference, with its interval."""
        rows = self.user, self.label, p
        return bootstrap(*rows, weighted_auc, reference, rounds=500).as_text(3, sign)


def reach_verdict(
    valid: RivalModels, test: RivalModels, reviews: int, *, fallback: bool
) -> Verdict:
    """Use the trained model if validation rows prove that it beats the bias model.

    The proof is a higher mean log likelihood by a paired bootstrap over users, one-sided 95%. Without
    it, `fallback` decides whether the bias model is used. `reviews` is the size of the data set.
    Another baseline that proves better is named first.
    """
    name, rows, figures = valid.name, f"{len(valid.label):,} {valid.kind}", test.figures()
    gain, bias_gain = valid.gain(), valid.gain_over_guessing()
    effects = "user effect + item effect"
    if better := valid.better_baseline():
        auc = valid.auc(valid.baselines[better])
        proof = f"{rows} prove that the {better} predicts them better, with ROC-AUC {auc}"
        return Verdict(name, f"Do not rely on {name} here: {proof}; {figures}.")
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
            f" These {reviews:,} reviews show no gain, so it cannot be said how many would "
            "prove one; what helps most is more reviews by the same users."
        )
    if needed < reviews:
        return f" These {reviews:,} reviews are by too few users for a proof."
    step = 10 ** int(np.log10(needed))  # one significant digit, rounded up
    needed = int(np.ceil(needed / step) * step)
    advice = f"About {needed:,} reviews would prove a gain of this size"
    return f" {advice}; these are {reviews:,}."
