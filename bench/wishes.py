"""Wishes in words against the truth of the demo's city: what must, and must not, be in the first five.

    mmrec demo --out demo
    python bench/wishes.py demo

The first table was looked at while the rules were written, the second only afterwards. A row is right
if all of the first five fit, or as many as the city has.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmrec.data.synthetic.city import TRAITS, build_city
from mmrec.recommender.recommender import Recommender


@dataclass(frozen=True)
class Case:
    """What somebody says, and what the items that are listed must be."""

    words: str
    serves: str = ""  # one of these cuisines, divided by "/"
    never: str = ""  # none of these cuisines
    prices: tuple[int, ...] = (1, 2, 3, 4)  # one of these levels, 1 is the cheapest
    trait: str = ""  # not the contrary of this trait, and most of the items have it
    first: str = ""  # the name of the item that must come first
    like: str = ""  # the name of an item that must share a cuisine with each, and not be listed


# Dishes, cuisines, negations, prices, names, likeness.
SEEN = (
    Case("ramen", "Japanese"),
    Case("sushi", "Japanese"),
    Case("pad thai", "Thai"),
    Case("I could go for a good bowl of pho", "Vietnamese"),
    Case("butter chicken and garlic naan", "Indian"),
    Case("wood-fired pizza", "Italian"),
    Case("tacos", "Mexican/Vegan"),
    Case("croissants and coffee", "Café"),
    Case("falafel", "Lebanese"),
    Case("fish and chips", "Seafood"),
    Case("mac and cheese", "American"),
    Case("creme brulee", "French"),
    Case("injera with lentils", "Ethiopian"),
    Case("dumplings", "Chinese"),
    Case("pulled pork", "Barbecue"),
    Case("Greek food", "Greek"),
    Case("something Korean", "Korean"),
    Case("a vegan place", "Vegan"),
    Case("I'm in the mood for Spanish tapas", "Spanish"),
    Case("no seafood", never="Seafood"),
    Case("I hate Italian food", never="Italian"),
    Case("never Indian", never="Indian"),
    Case("anything but Chinese", never="Chinese"),
    Case("Thai, but not Vietnamese", "Thai", "Vietnamese"),
    Case("Japanese, no Korean please", "Japanese", "Korean"),
    Case("I can't stand barbecue", never="Barbecue"),
    Case("no seafood, Thai or Indian", never="Seafood/Thai/Indian"),
    Case("not too expensive", prices=(1, 2)),
    Case("cheap", prices=(1,)),
    Case("affordable Mexican", "Mexican", prices=(1, 2)),
    Case("expensive fine dining", prices=(3, 4)),
    Case("somewhere fancy, not cheap", prices=(3, 4)),
    Case("Saddle Ramen House", first="Saddle Ramen House"),
    Case("pho mabel", first="Phở Mabel"),
    Case("I want to try Tomas's Injera", first="Tomas's Injera"),
    Case("a place like Izakaya Otter", like="Izakaya Otter"),
    Case("similar to Tandoor & Marigold", like="Tandoor & Marigold"),
    Case("a quiet place to talk", trait="quiet"),
    Case("good with kids", trait="family"),
    Case("really spicy Thai food", "Thai", trait="spice"),
)
UNSEEN = (
    Case("okonomiyaki", "Japanese"),
    Case("green curry", "Thai"),
    Case("where do they make good bánh mì?", "Vietnamese"),
    Case("chicken biryani", "Indian"),
    Case("risotto", "Italian"),
    Case("a big burrito", "Mexican/Café"),
    Case("eggs benedict for breakfast", "Café"),
    Case("hummus and baba ghanoush", "Lebanese"),
    Case("oysters", "Seafood"),
    Case("bibimbap", "Korean"),
    Case("boeuf bourguignon", "French"),
    Case("doro wat", "Ethiopian"),
    Case("mapo tofu", "Chinese"),
    Case("ribs and brisket", "Barbecue"),
    Case("moussaka", "Greek"),
    Case("patatas bravas", "Spanish"),
    Case("a juicy cheeseburger", "American"),
    Case("Ethiopian", "Ethiopian"),
    Case("we would love some Lebanese food tonight", "Lebanese"),
    Case("plant-based cooking", "Vegan"),
    Case("a coffee shop", "Café"),
    Case("no Mexican food please", never="Mexican"),
    Case("we dislike French cooking", never="French"),
    Case("not Thai", never="Thai"),
    Case("everything except Vietnamese", never="Vietnamese"),
    Case("I'm allergic to seafood", never="Seafood"),
    Case("Chinese without Thai dishes", "Chinese", "Thai"),
    Case("Mexican, but no barbecue", "Mexican", "Barbecue"),
    Case("vegan food is not for me", never="Vegan"),
    Case("neither Greek nor Lebanese", never="Greek/Lebanese"),
    Case("nothing pricey", prices=(1, 2)),
    Case("easy on the wallet", prices=(1,)),
    Case("cheap barbecue", "Barbecue", prices=(1,)),
    Case("an upscale restaurant for a special occasion", prices=(3, 4)),
    Case("Tandoor and Juniper, Station Square", first="Tandoor & Juniper, Station Square"),
    Case("remys kitchen table", first="Remy's Kitchen Table"),
    Case("take me to Crumb & Fox", first="Crumb & Fox"),
    Case("I loved Chez Dimitra, something like it", like="Chez Dimitra"),
    Case("restaurants similar to El Poppy Azul", like="El Poppy Azul"),
    Case("a lively, child-friendly place", trait="family"),
)
# Phrases of people who say what they like and what they do not.
TASTES = (
    "crazy about {liked} food, no fan of {disliked}",
    "I love {liked}, but I hate {disliked} food",
    "{liked} is my favorite. Please no {disliked}!",
    "not into {disliked}; always up for {liked}",
    "Big fan of {liked} cuisine, can't stand {disliked}",
)


class Truth:
    """What the city knows of its restaurants, by their ids."""

    def __init__(self, seed: int) -> None:
        items = build_city(seed).items
        self.names = dict(zip(items.ids, items.names, strict=True))
        self.cuisines = {
            name: {*served} for name, served in zip(items.ids, items.cuisines, strict=True)
        }
        self.prices = dict(zip(items.ids, items.price_level.tolist(), strict=True))
        self.traits = dict(zip(items.ids, items.traits.tolist(), strict=True))

    def conditions(self, case: Case) -> list[Callable[[str], bool]]:
        """What must be true of each listed item."""
        conditions: list[Callable[[str], bool]] = [lambda item: self.prices[item] in case.prices]
        if case.serves:
            conditions.append(
                lambda item: not self.cuisines[item].isdisjoint(case.serves.split("/"))
            )
        if case.never:
            conditions.append(lambda item: self.cuisines[item].isdisjoint(case.never.split("/")))
        if case.trait:
            trait = TRAITS.index(case.trait)
            conditions.append(lambda item: self.traits[item][trait] >= 0)
        if case.like:
            same = {item for item, name in self.names.items() if name == case.like}
            shared = set().union(*(self.cuisines[item] for item in same))
            conditions.append(
                lambda item: item not in same and not self.cuisines[item].isdisjoint(shared)
            )
        return conditions

    def is_right(self, case: Case, listed: list[str]) -> bool:
        """Whether the first five items are what a case asks for."""
        if case.first:
            return bool(listed) and self.names[listed[0]] == case.first
        conditions = self.conditions(case)
        fit = {item for item in self.names if all(holds(item) for holds in conditions)}
        count = min(5, len(fit))
        right = len(listed) == 5 and {*listed[:count]} <= fit
        if case.trait:
            trait = TRAITS.index(case.trait)
            right = right and sum(self.traits[item][trait] == 1 for item in listed) >= min(3, count)
        return right


def show_table(recommender: Recommender, truth: Truth, cases: tuple[Case, ...], title: str) -> None:
    """Print every case with what was understood and listed."""
    right = 0
    for case in cases:
        wish = recommender.parse_wish(case.words)
        listed = recommender.recommend(n=5, likes=wish)["item"].to_list()
        longer = recommender.recommend(n=10, likes=wish)["item"].to_list()
        is_right = truth.is_right(case, listed) and longer[:5] == listed
        right += is_right
        print(f"{'right' if is_right else 'WRONG'}  {case.words!r} ({wish})")
        for item in listed:
            level = "$" * truth.prices[item]
            print(
                f"         {truth.names[item]}, {level}, {', '.join(sorted(truth.cuisines[item]))}"
            )
    print(f"{title}: {right} of {len(cases)} right\n")


def show_tastes(recommender: Recommender, truth: Truth, count: int = 20) -> None:
    """Print for how many people their taste leads in the first five."""
    rng = np.random.default_rng(0)
    cuisines = sorted(set().union(*truth.cuisines.values()))
    right = 0
    for number in range(count):
        liked, disliked = rng.choice(cuisines, 2, replace=False).tolist()
        words = TASTES[number % len(TASTES)].format(liked=liked, disliked=disliked)
        listed = recommender.recommend(n=5, likes=words)["item"].to_list()
        served = [truth.cuisines[item] for item in listed]
        leads = sum(liked in names for names in served) >= 3
        leads = leads and not any(disliked in names for names in served)
        right += leads
        shown = "; ".join("/".join(sorted(names)) for names in served)
        print(f"{'right' if leads else 'WRONG'}  {words!r}: {shown}")
    print(f"tastes: {right} of {count} lead in the first five")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", type=Path, help="folder that `mmrec demo` wrote")
    parser.add_argument("--seed", type=int, default=0, help="of the city")
    options = parser.parse_args()
    recommender, truth = Recommender.load(options.model), Truth(options.seed)
    show_table(recommender, truth, SEEN, "first table")
    show_table(recommender, truth, UNSEEN, "second table")
    show_tastes(recommender, truth)


if __name__ == "__main__":
    main()
