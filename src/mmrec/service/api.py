"""The HTTP API, version 1; its OpenAPI document is at `/openapi.json`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Form, HTTPException, Query, Request, UploadFile
from pydantic import BaseModel, ConfigDict, Field, model_validator

from mmrec.errors import DataError, PhotoError
from mmrec.recommender.explain import Explanation
from mmrec.service.errors import error_responses
from mmrec.service.recommendations import ExplainedItem, ItemExistsError, RecommendationService
from mmrec.service.schemas import Count, Id, InUrl, Price, Share, Text, Words

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["v1"], responses=error_responses(401, 413, 422, 429, 503))

_ONE_OF_BOTH: dict[str, Any] = {
    "oneOf": [
        {
            "required": ["likes"],
            "properties": {"likes": {"type": "string"}, "liked": {"maxItems": 0}},
        },
        {
            "required": ["liked"],
            "properties": {"likes": {"type": "null"}, "liked": {"minItems": 1}},
        },
    ]
}


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class RecommendationRequest(_Body):
    """What may be asked of a list of recommendations."""

    n: Count = Field(10, description="Number of items.")
    categories: list[Id] = Field([], max_length=20, description="Items must have one of these.")
    prices: list[Price] = Field([], max_length=3, description="Items must have one of these.")
    max_fpr: Share | None = Field(
        None,
        description="Only what is so likely to be liked that at most this share of dislikes would pass.",
    )
    diversity: Share = Field(
        0.0, description="How much items unlike those above them are preferred."
    )
    why: bool = Field(False, description="Whether to say what spoke for each item.")

    def list_options(self) -> dict[str, Any]:
        """As keywords of `Desk.recommend`."""
        return self.model_dump(exclude={"n"})


class UserRecommendationRequest(RecommendationRequest):
    """The same, of a user."""

    model_config = ConfigDict(strict=False)  # in a URL all is text

    seen: bool = Field(
        False, description="Whether items that the user has reviewed may come up too."
    )


class NewUserRequest(RecommendationRequest):
    """Someone who never wrote a review: words, or items that they like."""

    model_config = ConfigDict(json_schema_extra=_ONE_OF_BOTH)

    likes: Words | None = Field(None, description="As in `ramen, cheap`.")
    liked: list[Id] = Field([], max_length=50, description="Ids of items.")

    @model_validator(mode="after")
    def _one_of_both(self) -> NewUserRequest:
        if bool(self.likes) == bool(self.liked):
            raise ValueError("say in words what is liked, or name liked items; one of both")
        return self


class Quote(BaseModel):
    """A sentence of a real review, or what a photo shows."""

    text: str
    review_id: str = Field(description="Empty where a photo came with no review.")
    liked: bool
    photo: bool


class Why(BaseModel):
    """Exact shares (Shapley values) of what is known in the probability; with `base` they add up to it."""

    base: float
    contributions: dict[str, float]
    quotes: list[Quote]
    sentence: str = Field(description="By a language model, of the quotes alone; else empty.")


class Item(BaseModel):
    """What is said of an item."""

    item: str
    name: str | None
    price: str | None
    categories: list[str]


class Recommendation(Item):
    """An item for someone."""

    probability: float = Field(description="Of liking it.")
    why: Why | None = None


class Pair(_Body):
    """A user and an item."""

    user: Id
    item: Id


class Pairs(_Body):
    """Pairs to be scored together."""

    pairs: list[Pair] = Field(min_length=1, max_length=1000)


class Neighbor(BaseModel):
    """Another user or item, and how near it is in words."""

    id: str
    cosine: float


class ItemProfile(Item):
    """An item, and what people like and dislike about it."""

    summary: Quote | None = Field(description="A sentence that stands for most of its reviews.")
    likes: list[Quote]
    dislikes: list[Quote]


class UserProfile(BaseModel):
    """A user: the items that they have reviewed."""

    user: str
    known: bool
    reviewed: list[str]


class ReviewRequest(_Body):
    """A review to be heard at once."""

    user: Id
    item: Id
    rating: float = Field(ge=1, le=5, allow_inf_nan=False)
    text: Text = Field("", max_length=10_000)
    review_id: Id | None = Field(
        None, max_length=64, description="Yours: one sent twice counts once."
    )


class Taken(BaseModel):
    """A review that is kept, whatever happens from now on."""

    review_id: str


class Introduced(BaseModel):
    """An item that is known from now on."""

    item: str
    shows: str | None = Field(description="Its photo in words.")


def _desk(request: Request) -> RecommendationService:
    desk: RecommendationService = request.app.state.desk
    desk.catch_up()
    return desk


ServiceDependency = Annotated[RecommendationService, Depends(_desk)]


@router.get("/users/{user:path}/recommendations", responses=error_responses(404))
def recommend(
    user: InUrl, wish: Annotated[UserRecommendationRequest, Query()], desk: ServiceDependency
) -> list[Recommendation]:
    """What a user will most likely like."""
    return [_recommendation(one) for one in desk.recommend(user, wish.n, **wish.list_options())]


@router.post("/recommendations", responses=error_responses(400, 404))
def recommend_to_newcomer(wish: NewUserRequest, desk: ServiceDependency) -> list[Recommendation]:
    """The same for someone who never wrote a review."""
    return [_recommendation(one) for one in desk.recommend(None, wish.n, **wish.list_options())]


@router.post("/predictions", responses=error_responses(400))
def predict(pairs: Pairs, desk: ServiceDependency) -> list[float]:
    """Probability of a like, for every pair."""
    return desk.predict([pair.user for pair in pairs.pairs], [pair.item for pair in pairs.pairs])


@router.get("/similar-items/{item:path}", responses=error_responses(404))
def similar_items(
    item: InUrl, desk: ServiceDependency, n: Annotated[Count, Query()] = 10
) -> list[Neighbor]:
    """Items that are spoken of alike."""
    return [Neighbor(id=one, cosine=near) for one, near in desk.similar_items(item, n)]


@router.get("/similar-users/{user:path}", responses=error_responses(404))
def similar_users(
    user: InUrl, desk: ServiceDependency, n: Annotated[Count, Query()] = 10
) -> list[Neighbor]:
    """Users who write alike."""
    return [Neighbor(id=one, cosine=near) for one, near in desk.similar_users(user, n)]


@router.get("/items/{item:path}", responses=error_responses(404))
def item_profile(item: InUrl, desk: ServiceDependency) -> ItemProfile:
    """An item, and what is said of it."""
    likes, dislikes = ([Quote(**vars(quote)) for quote in own] for own in desk.typical_quotes(item))
    summary = desk.summary_quote(item)
    short = Quote(**vars(summary)) if summary else None
    return ItemProfile(**desk.describe_item(item), summary=short, likes=likes, dislikes=dislikes)


@router.get("/users/{user:path}", responses=error_responses(404))
def user_profile(user: InUrl, desk: ServiceDependency) -> UserProfile:
    """A user."""
    reviewed = desk.reviewed_items(user)
    return UserProfile(user=user, known=bool(reviewed), reviewed=reviewed)


@router.get("/search")
def search(
    desk: ServiceDependency,
    q: Annotated[str, Query(min_length=1, max_length=200)],
    n: Annotated[Count, Query()] = 10,
) -> list[Item]:
    """Items by name, or spoken of in words near to these."""
    return [Item(**desk.describe_item(item)) for item in desk.search(q, n)]


@router.post("/reviews", status_code=201, responses=error_responses(400))
def review(said: ReviewRequest, desk: ServiceDependency) -> Taken:
    """Take a review in; lists are others from then on."""
    return Taken(review_id=desk.add_review(**said.model_dump()))


@router.post("/items", status_code=201, responses=error_responses(400, 409))
def introduce(
    desk: ServiceDependency,
    item: Annotated[Id, Form(description="Its id.")],
    name: Annotated[Words | None, Form(description="What it is called.")] = None,
    description: Annotated[Text, Form(max_length=10_000, description="In words.")] = "",
    photo: Annotated[UploadFile | None, File(description="JPEG, PNG, WebP or GIF.")] = None,
) -> Introduced:
    """Take in an item that is new, by a description or a photo of it or both; one sent twice counts once."""
    try:
        shows = desk.add_item(item, name, description, photo.file.read() if photo else None)
    except (DataError, PhotoError) as error:
        raise HTTPException(400, str(error)) from error
    except ItemExistsError as error:
        raise HTTPException(409, str(error)) from error
    return Introduced(item=item, shows=shows)


def _recommendation(one: ExplainedItem) -> Recommendation:
    return Recommendation(**one.row, why=_why(one.explanation) if one.explanation else None)


def _why(explanation: Explanation) -> Why:
    quotes = [Quote(**vars(quote)) for quote in explanation.quotes]
    told = {name: getattr(explanation, name) for name in ("base", "contributions", "sentence")}
    return Why(**told, quotes=quotes)
