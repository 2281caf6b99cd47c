"""Endpoints of the HTTP API, version 1; `/openapi.json` describes them.

An id may also stand in the query, as in `/v1/items/?item=..`: clients and proxies resolve `..` in a path.
"""

from functools import partial
from typing import Annotated

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, File, Form, HTTPException, Query, UploadFile

import mmrec.service.addresses  # noqa: F401 (registers `:id` of paths)
from mmrec.errors import DataError, PhotoError
from mmrec.service import schemas
from mmrec.service.recommendations import RecommendationService, current_service
from mmrec.service.schemas import Identifier, error_responses

router = APIRouter(
    prefix="/v1", tags=["v1"], responses=error_responses(401, 403, 408, 413, 422, 429, 503)
)
CurrentService = Annotated[RecommendationService, Depends(current_service)]
Length = Annotated[schemas.ListLength, Query()]
_UPLOADS = CapacityLimiter(4)
Neighbors = list[schemas.Neighbor]


@router.get("/users/{user:id}/recommendations", responses=error_responses(404))
def recommend(
    user: Identifier,
    request: Annotated[schemas.UserRecommendationRequest, Query()],
    service: CurrentService,
) -> list[schemas.Recommendation]:
    """Recommend items to a user."""
    return service.recommend(user, **request.model_dump())


@router.get("/recommendations/", responses=error_responses(404))
def recommend_by_query(
    request: Annotated[schemas.RecommendationByQuery, Query()], service: CurrentService
) -> list[schemas.Recommendation]:
    """Recommend items to a user, whose id stands in the query."""
    return service.recommend(**request.model_dump())


@router.post("/recommendations", responses=error_responses(400, 404))
def recommend_to_new_user(
    request: schemas.RecommendationByTextRequest | schemas.RecommendationByItemsRequest,
    service: CurrentService,
) -> list[schemas.Recommendation]:
    """Recommend items to somebody who has written no review."""
    return service.recommend(None, **request.model_dump())


@router.post("/predictions", responses=error_responses(400))
def predict(request: schemas.Pairs, service: CurrentService) -> list[float]:
    """Predict for every pair the probability that the user likes the item."""
    users = [pair.user for pair in request.pairs]
    items = [pair.item for pair in request.pairs]
    with service.recommender() as recommender:
        return recommender.predict(users, items).tolist()


@router.get("/similar-items/{item:id}", responses=error_responses(404))
@router.get("/similar-items/", responses=error_responses(404))
def similar_items(item: Identifier, service: CurrentService, n: Length = 10) -> Neighbors:
    """Find items with similar reviews."""
    with service.recommender() as recommender:
        pairs = recommender.similar_items(item, n)
    return [schemas.Neighbor(id=name, cosine=cosine) for name, cosine in pairs]


@router.get("/similar-users/{user:id}", responses=error_responses(404))
@router.get("/similar-users/", responses=error_responses(404))
def similar_users(user: Identifier, service: CurrentService, n: Length = 10) -> Neighbors:
    """Find users who write similar reviews."""
    with service.recommender() as recommender:
        pairs = recommender.similar_users(user, n)
    return [schemas.Neighbor(id=name, cosine=cosine) for name, cosine in pairs]


@router.get("/items/{item:id}", responses=error_responses(404))
@router.get("/items/", responses=error_responses(404))
def item_profile(item: Identifier, service: CurrentService) -> schemas.ItemProfile:
    """Show an item with quotes from its reviews."""
    return service.item_profile(item)


@router.get("/users/{user:id}", responses=error_responses(404))
@router.get("/users/", responses=error_responses(404))
def user_profile(user: Identifier, service: CurrentService) -> schemas.UserProfile:
    """Show a user with the items that they have reviewed."""
    reviewed = service.reviewed_items(user)
    return schemas.UserProfile(user=user, known=bool(reviewed), reviewed=reviewed)


@router.get("/search")
def search(
    service: CurrentService, q: Annotated[str, Query(min_length=1, max_length=200)], n: Length = 10
) -> list[schemas.Item]:
    """Find items by name, or by words similar to those of their reviews."""
    with service.recommender() as recommender:
        return service.describe_items(recommender.search(q, n))


@router.post("/reviews", status_code=201, responses=error_responses(400, 409))
def add_review(review: schemas.ReviewRequest, service: CurrentService) -> schemas.AddedReview:
    """Store a review, in place of an earlier one of the same user and item; it counts at once."""
    return schemas.AddedReview(review_id=service.add_review(**review.model_dump()))


@router.post("/withdrawals", status_code=204, responses=error_responses(400, 404))
def withdraw_review(pair: schemas.Pair, service: CurrentService) -> None:
    """Take back what a user has said of an item."""
    service.withdraw_review(pair.user, pair.item)


@router.post("/items", status_code=201, responses=error_responses(400, 409))
async def add_item(
    service: CurrentService,
    item: Annotated[Identifier, Form(description="Its id.")],
    name: Annotated[schemas.NonBlankText | None, Form(description="Its name.")] = None,
    description: Annotated[
        schemas.FreeText, Form(max_length=10_000, description="A description.")
    ] = "",
    photo: Annotated[UploadFile | None, File(description="JPEG, PNG, WebP or GIF.")] = None,
) -> schemas.AddedItem:
    """Add a new item by a description or a photo; one that is sent twice counts once."""
    try:
        add = partial(service.add_item, item, name, description, photo.file if photo else None)
        # Who waits for a photo to be decoded takes no thread from others.
        caption = await run_sync(add, limiter=_UPLOADS)
    except (DataError, PhotoError) as error:
        raise HTTPException(400, str(error)) from error
    return schemas.AddedItem(item=item, shows=caption)
