"""What calls cost: reserved before they are made, settled when they return, stopped at a budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from mmrec.errors import ConfigError, MmrecError
from mmrec.llm.types import Usage

__all__ = ["Budget", "BudgetReached", "CostTracker", "Price"]


class BudgetReached(MmrecError):
    """The budget is used up; answers received until then are kept."""


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens of input, output, and input that the server had cached."""

    input: float
    output: float
    cached: float

    @classmethod
    def for_model(cls, provider: str, model: str, spec: str | None) -> Price | None:
        """The price by `spec`, else by the price list; 0 on this machine, None where it is unknown.

        Args:
            provider: `openai`, `ollama`, or `server` for any other.
            model: its name.
            spec: `INPUT/OUTPUT` in US dollars per million tokens, else a ConfigError is raised.
        """
        if spec is not None:
            return cls._parse(spec)
        if provider == "ollama":
            return cls(0, 0, 0)
        if provider != "openai":
            return None
        try:
            from genai_prices import Usage as PricedUsage
            from genai_prices import calc_price
        except ImportError:
            return None

        def list_price(**tokens: int) -> float:
            return float(calc_price(PricedUsage(**tokens), model, provider_id=provider).total_price)

        million = 1_000_000
        try:
            return cls(
                input=list_price(input_tokens=million),
                output=list_price(output_tokens=million),
                cached=list_price(input_tokens=million, cache_read_tokens=million),
            )
        except (LookupError, ValueError):  # The list does not have the model.
            return None

    @classmethod
    def _parse(cls, spec: str) -> Price:
        try:
            input_price, output_price = map(float, spec.split("/"))
        except ValueError:
            input_price = output_price = -1
        if not (0 <= input_price < inf and 0 <= output_price < inf):
            raise ConfigError(
                f"--llm-price {spec}: write it as INPUT/OUTPUT in US dollars a million tokens, "
                "as in 0.15/0.60"
            )
        return cls(input_price, output_price, cached=input_price)

    def halved(self) -> Price:
        """The price in batches."""
        return Price(self.input / 2, self.output / 2, self.cached / 2)

    def cost(self, usage: Usage) -> float:
        """US dollars of some tokens."""
        fresh = usage.input - usage.cached  # the input includes what was cached
        dollars = fresh * self.input + usage.cached * self.cached + usage.output * self.output
        return dollars / 1_000_000


@dataclass
class Budget:
    """What one run may spend, in US dollars, on all of its models together."""

    limit: float | None
    committed: float = 0.0
    """Spent, or reserved for calls in flight."""


class CostTracker:
    """Calls, tokens and money of one model in one run.

    Args:
        price: None where it is unknown; then only tokens are counted.
        budget: a call is made only while the budget holds the most that it can cost. That is an
            estimate, so texts of more tokens can exceed it by what is in flight.

    Raises:
        ConfigError: a budget without a price.
    """

    def __init__(self, price: Price | None, budget: Budget) -> None:
        if budget.limit is not None and price is None:
            raise ConfigError(
                "--budget needs a price, and that of this model is not known: name it by "
                "--llm-price"
            )
        self.price = price
        self.calls = 0
        self.usage = Usage()
        self._budget = budget

    @property
    def dollars(self) -> float:
        """US dollars spent."""
        return self.price.cost(self.usage) if self.price else 0.0

    def reserve(self, max_usage: Callable[[], Usage]) -> float:
        """Reserve the most that a call can cost: US dollars, for `settle`.

        Raises:
            BudgetReached: the budget does not hold that much any more.
        """
        if self.price is None:
            return 0.0
        limit, cost = self._budget.limit, self.price.cost(max_usage())
        if limit is not None and self._budget.committed + cost > limit:
            raise BudgetReached(
                f"the budget of ${limit:g} is reached: {self.calls:,} calls cost "
                f"${self.dollars:.4f}. Their answers are kept; run the same again with a new "
                "--budget to go on"
            )
        self._budget.committed += cost
        return cost

    def settle(self, reserved: float, usage: Usage | None) -> None:
        """Replace a reservation by what the call used; where no tokens were counted, it stays."""
        if usage is None:  # failed calls cost nothing
            self._budget.committed -= reserved
            return
        self.calls += 1
        if usage.input + usage.output:
            cost = self.price.cost(usage) if self.price else 0.0
            self._budget.committed += cost - reserved
            self.usage += usage

    def __str__(self) -> str:
        if not self.calls:
            return ""
        is_paid = self.price is not None and self.price.input + self.price.output > 0
        money = f", ${self.dollars:.2f}" if is_paid else ""
        return f"{self.usage.input + self.usage.output:,} tokens{money}"
