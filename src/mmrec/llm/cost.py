"""What calls cost: estimated before they are made, counted as they come back, stopped at a budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from mmrec.errors import ConfigError, MmrecError
from mmrec.llm.types import Usage

__all__ = ["Budget", "BudgetReached", "CostTracker", "Price"]

_MILLION = 1_000_000


class BudgetReached(MmrecError):
    """The budget is used up; what was answered until then is kept."""


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens of input, of output, and of input that the server had cached."""

    input: float
    output: float
    cached: float

    @classmethod
    def for_model(cls, provider: str, model: str, spec: str | None) -> Price | None:
        """The price of a model: as spelled, that of the price list, or nothing for one on this machine.

        Returns:
            None where it is not known, as for a server that was named by its URL.

        Raises:
            ConfigError: a price that is not `INPUT/OUTPUT`.
        """
        if spec is not None:
            try:
                into, out = (float(part) for part in spec.split("/"))
                if not (0 <= into < inf and 0 <= out < inf):
                    raise ValueError(spec)
            except ValueError:
                raise ConfigError(
                    f"--llm-price {spec}: write it as INPUT/OUTPUT in US dollars a million tokens, "
                    "as in 0.15/0.60"
                ) from None
            return cls(into, out, into)
        if provider != "openai":
            return None if provider == "server" else cls(0, 0, 0)
        try:
            from genai_prices import Usage as Used
            from genai_prices import calc_price

            uses = (Used(input_tokens=_MILLION), Used(output_tokens=_MILLION))
            cached = Used(input_tokens=_MILLION, cache_read_tokens=_MILLION)
            prices = [
                float(calc_price(use, model_ref=model, provider_id=provider).total_price)
                for use in (*uses, cached)
            ]
        except (ImportError, LookupError, ValueError):
            return None
        return cls(*prices)

    def halved(self) -> Price:
        """The price in batches."""
        return Price(self.input / 2, self.output / 2, self.cached / 2)

    def cost(self, usage: Usage) -> float:
        """US dollars of some tokens."""
        fresh = usage.input - usage.cached
        return (
            fresh * self.input + usage.cached * self.cached + usage.output * self.output
        ) / _MILLION


@dataclass
class Budget:
    """What one run may spend, on all of its models together; None for no limit.

    Attributes:
        limit: US dollars.
        committed: of which are spent, or set aside for what is under way.
    """

    limit: float | None
    committed: float = 0.0


class CostTracker:
    """Calls, tokens and money of one model in one run, and what is still under way.

    Args:
        price: None where it is not known; then only tokens are counted.
        budget: calls are made while it holds the most that they can cost, by estimated tokens; texts whose
            tokens are underestimated can overdraw it by what is under way.

    Raises:
        ConfigError: a budget without a price.
    """

    def __init__(self, price: Price | None, budget: Budget) -> None:
        if budget.limit is not None and price is None:
            raise ConfigError(
                "--budget needs a price, and that of this model is not known: name it by --llm-price"
            )
        self.price = price
        self.calls = 0
        self.usage = Usage()
        self._purse = budget

    @property
    def dollars(self) -> float:
        """US dollars spent."""
        return self.price.cost(self.usage) if self.price else 0.0

    def reserve(self, max_usage: Callable[[], Usage]) -> float:
        """Set the most that a call can cost aside.

        Returns:
            What was set aside, to be handed to `settle`.

        Raises:
            BudgetReached: the budget does not hold that much any more.
        """
        if self.price is None:
            return 0.0
        budget, cost = self._purse.limit, self.price.cost(max_usage())
        if budget is not None and self._purse.committed + cost > budget:
            raise BudgetReached(
                f"the budget of ${budget:g} is reached: {self.calls:,} calls cost ${self.dollars:.4f}. "
                "Their answers are kept; run the same again with a new --budget to go on"
            )
        self._purse.committed += cost
        return cost

    def settle(self, reserved: float, usage: Usage | None) -> None:
        """A call is over; it used these tokens. Where a server counts none, what was set aside stays."""
        if usage is not None and not usage.input + usage.output:
            self.calls += 1
            return
        self._purse.committed -= reserved
        if usage is not None:
            self._purse.committed += self.price.cost(usage) if self.price else 0.0
            self.calls += 1
            old = self.usage
            self.usage = Usage(
                input=old.input + usage.input,
                output=old.output + usage.output,
                cached=old.cached + usage.cached,
            )

    def __str__(self) -> str:
        if not self.calls:
            return ""
        money = (
            f", ${self.dollars:.2f}" if self.price and self.price.input + self.price.output else ""
        )
        return f"{_short(self.usage.input + self.usage.output)} tokens{money}"


def _short(number: int) -> str:
    for size, unit in ((_MILLION, "M"), (1000, "k")):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return str(number)
