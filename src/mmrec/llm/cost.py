"""What calls cost: reserved before they are made, settled when they return, stopped at a budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass
from math import inf

from mmrec.cache.store import Failure
from mmrec.errors import ConfigError, MmrecError
from mmrec.llm.types import Answer, Usage


class BudgetReached(MmrecError):
    """The budget is used up; answers received until then are kept."""


@dataclass(eq=False)
class AnswersPending(MmrecError):
    """Answers are still with the server: numbers of requests."""

    submitted: int = 0  # now
    # at most, of those submitted now, in US dollars; 0 where it is unknown
    cost: float = 0.0
    waiting: int = 0  # submitted by an earlier run
    deferred: int = 0  # not submitted, since the budget does not hold them

    def __str__(self) -> str:
        parts = []
        if self.submitted:
            price = f" for at most ${self.cost:,.2f}" if self.cost >= 0.01 else ""
            parts.append(f"{self.submitted:,} submitted now{price}")
        if self.waiting:
            parts.append(f"{self.waiting:,} with the server already")
        if self.deferred:
            parts.append(f"{self.deferred:,} left for later, since --budget holds no more")
        when = "Answers take up to 24 hours; run the same command again to collect them"
        return f"requests: {', '.join(parts)}. {when}"

    def __add__(self, pending: AnswersPending) -> AnswersPending:
        sums = map(sum, zip(astuple(self), astuple(pending), strict=True))
        return AnswersPending(*sums)


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens of input, output, and input that the server had cached."""

    input: float
    output: float
    cached: float

    @classmethod
    def for_model(cls, provider: str, model: str, spec: str | None) -> Price | None:
        """The price by `spec` (else ConfigError) or the price list; None where it is unknown."""
        if spec is not None:
            try:
                input_price, output_price = map(float, spec.split("/"))
            except ValueError:
                input_price = output_price = -1
            if not (0 <= input_price < inf and 0 <= output_price < inf):
                form = "INPUT/OUTPUT in US dollars a million tokens, as in 0.15/0.60"
                raise ConfigError(f"--llm-price {spec}: write it as {form}")
            return cls(input_price, output_price, cached=input_price)
        if provider == "ollama":
            return cls(0, 0, 0)
        if provider != "openai":
            return None
        try:
            from genai_prices import Usage as PricedUsage
            from genai_prices import calc_price

            million = 1_000_000
            cached_tokens = {"input_tokens": million, "cache_read_tokens": million}
            prices = []
            for tokens in ({"input_tokens": million}, {"output_tokens": million}, cached_tokens):
                price = calc_price(PricedUsage(**tokens), model, provider_id=provider)
                prices.append(float(price.total_price))
        except (ImportError, LookupError, ValueError):
            return None
        return cls(*prices)

    def cost(self, usage: Usage) -> float:
        """US dollars of some tokens."""
        fresh = usage.input - usage.cached
        dollars = fresh * self.input + usage.cached * self.cached + usage.output * self.output
        return dollars / 1_000_000


@dataclass
class Budget:
    """What one run may spend, in US dollars, on all of its models together."""

    limit: float | None
    committed: float = 0.0  # spent, or reserved for calls in flight


class CostTracker:
    """Calls, tokens and money of one model in one run.

    A call is made only while the budget holds the most that it can cost: an estimate, which calls
    in flight may exceed. Raises ConfigError: the budget has a limit, and the price is unknown.
    """

    def __init__(self, price: Price | None, budget: Budget) -> None:
        if budget.limit is not None and price is None:
            raise ConfigError("--budget needs a price; name that of this model by --llm-price")
        self.price, self._budget = price, budget
        self.calls, self.usage = 0, Usage()

    @property
    def dollars(self) -> float:
        """US dollars spent."""
        return self.price.cost(self.usage) if self.price else 0.0

    def reserve(self, max_usage: Callable[[], Usage]) -> float:
        """Reserve the most that a call can cost: US dollars, for `settle`; or BudgetReached."""
        if self.price is None:
            return 0.0
        limit, cost = self._budget.limit, self.price.cost(max_usage())
        if limit is not None and self._budget.committed + cost > limit:
            spent = f"{self.calls:,} calls cost ${self.dollars:.4f}. Their answers are kept"
            remedy = "run the same again with a new --budget to go on"
            raise BudgetReached(f"the budget of ${limit:g} is reached: {spent}; {remedy}")
        self._budget.committed += cost
        return cost

    def settle(self, reserved: float, answer: Answer | Failure) -> None:
        """Replace a reservation by what the call used; where no tokens were counted, it stays."""
        if isinstance(answer, Failure):  # failed calls cost nothing
            self._budget.committed -= reserved
            return
        self.calls += 1
        if answer.usage.input + answer.usage.output:
            cost = self.price.cost(answer.usage) if self.price else 0.0
            self._budget.committed += cost - reserved
            self.usage += answer.usage

    def __str__(self) -> str:
        if not self.calls:
            return ""
        money = f", ${self.dollars:.2f}" if self.dollars else ""
        return f"{self.usage.input + self.usage.output:,} tokens{money}"
