"""Requests and responses of the API, with the limits of every value."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic import StringConstraints as Text

from mmrec.data.schema import EntityId
from mmrec.recommender.explain import Explanation
from mmrec.recommender.quotes import Quote


def _integral_to_int(number: Any) -> Any:
    """JSON does not distinguish 10.0 from 10."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


# PostgreSQL cannot store NUL. (JSON parsing rejects unpaired surrogates.)
_remove_nul = AfterValidator(lambda text: text.replace("\0", ""))
Identifier = Annotated[
    EntityId, Field(description="An id; one that is not known stands for a new user or item.")
]
FreeText = Annotated[str, _remove_nul]
NonBlankText = Annotated[
    str, Text(min_length=1, max_length=1000, pattern=r"[^\s\x00]"), _remove_nul
]
PriceTag = Literal["cheap price", "fair price", "overpriced"]
ListLength = Annotated[int, Field(ge=1, le=100), BeforeValidator(_integral_to_int)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class RecommendationRequest(_Request):
    """Options of a list of recommendations."""

    n: ListLength = Field(10, description="Number of items.")
    offset: Annotated[int, BeforeValidator(_integral_to_int)] = Field(
        0, ge=0, le=10_000, description="Number of items to leave out, from the best on."
    )
    categories: list[Identifier] = Field([], max_length=20, description="Items have one of these.")
    prices: list[PriceTag] = Field([], max_length=3, description="Items have one of these.")
    max_fpr: Share | None = Field(None, description="Hide all but this share of dislikes.")
    diversity: Share = Field(0.0, description="How much items in the list should differ.")
    explore: bool = Field(False, description="Give every third place to an item nobody has rated.")
    why: bool = Field(False, description="Whether to explain every item.")


class UserRecommendationRequest(RecommendationRequest):
    """Options of a list of recommendations for a user."""

    model_config = ConfigDict(strict=False)  # query parameters are all text

    seen: bool = Field(False, description="Whether to include reviewed items.")


class RecommendationByQuery(UserRecommendationRequest):
    """Options of a list of recommendations, and the user."""

    user: Identifier


class RecommendationByTextRequest(RecommendationRequest):
    """Recommendations for somebody without reviews, by what they say they like."""

    likes: NonBlankText = Field(description="As in `cheap ramen, no seafood`.")


class RecommendationByItemsRequest(RecommendationRequest):
    """Recommendations for somebody without reviews, by items that they like."""

    liked: list[Identifier] = Field(min_length=1, max_length=50, description="Their ids, or names.")


class Pair(_Request):
    """A user and an item."""

    user: Identifier
    item: Identifier


class Pairs(_Request):
    """Pairs of user and item to score in one call."""

    pairs: list[Pair] = Field(min_length=1, max_length=1000)


class ReviewRequest(_Request):
    """A new review."""

    user: Identifier
    item: Identifier
    rating: float = Field(ge=1, le=5, allow_inf_nan=False)
    text: FreeText = Field("", max_length=10_000)
    review_id: Identifier | None = Field(
        None, max_length=64, description="A review sent twice under one id counts once."
    )


class Item(BaseModel):
    """An item."""

    item: str
    name: str | None
    price: str | None
    categories: list[str]


class Recommendation(Item):
    """A recommended item."""

    probability: float = Field(description="That the user likes the item.")
    unproven: bool | None = Field(
        None, description="Whether nobody has rated it; said if asked to `explore`."
    )
    understood: str | None = Field(
        None, description="What was understood of `likes`, as in `cheap; not seafood; ramen`."
    )
    why: Explanation | None = None


class Neighbor(BaseModel):
    """A similar user or item."""

    id: str
    cosine: float = Field(description="Similarity of the reviews' text.")


class ItemProfile(Item):
    """An item with quotes from its reviews."""

    summary: Quote | None = Field(description="The most typical sentence of its reviews.")
    likes: list[Quote]
    dislikes: list[Quote]


class UserProfile(BaseModel):
    """A user with the items that they have reviewed."""

    user: str
    known: bool = Field(description="Whether the user has reviewed anything.")
    reviewed: list[str]


class AddedReview(BaseModel):
    """A review that has been stored for good."""

    review_id: str


class AddedItem(BaseModel):
    """An item that has been stored for good."""

    item: str
    shows: str | None = Field(description="Caption of its photo by a vision model.")


class ErrorResponse(BaseModel):
    """Why a request failed."""

    error: str
    request_id: str


class ValidationIssue(BaseModel):
    """A part of a request that is not valid: where it stands, and why."""

    type: str
    loc: list[str | int]
    msg: str


class ValidationErrorResponse(BaseModel):
    """A request that does not fit the OpenAPI document."""

    detail: list[ValidationIssue]
    request_id: str


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The argument `responses` of a route that may answer with these statuses."""
    descriptions = {
        400: "The body cannot be read.",
        401: "An API key is required, if the service was started with keys.",
        403: "A page of another site sends this.",
        404: "The item or page does not exist.",
        408: "The body took too long.",
        409: "The item exists already.",
        413: "The body is too large.",
        422: "Validation error.",
        429: "Too many requests.",
        503: "The database or a language or vision model cannot be reached.",
    }
    responses: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        model = ValidationErrorResponse if status == 422 else ErrorResponse
        responses[status] = {"model": model, "description": descriptions[status]}
    return responses
