"""The web page: plain forms and server-made HTML, which a small script only makes quicker."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Form, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool

from mmrec.errors import DataError, PhotoError
from mmrec.llm.types import PRICE_TAGS
from mmrec.service.api import ReviewRequest, ServiceDependency
from mmrec.service.recommendations import ExplainedItem, RecommendationService
from mmrec.vision.image_features import encode_thumbnail

__all__ = ["error_page", "router"]

router = APIRouter(include_in_schema=False)

_SHOWN, _NEAR, _NAMES, _KINDS = 12, 6, 50, 40
_loader = PackageLoader("mmrec", "service/templates")
_pages = Environment(loader=_loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)


class Asking(BaseModel):
    """What the form on the first page says."""

    model_config = ConfigDict(extra="ignore")

    user: str = Field("", max_length=200)
    likes: str = Field("", max_length=1000)
    sure: int = Field(80, ge=0, le=100)
    variety: int = Field(0, ge=0, le=100)
    price: str = Field("", max_length=20)
    category: str = Field("", max_length=200)
    taken: bool = Field(False, exclude=True)

    @property
    def query(self) -> str:
        """As the end of a URL, without what is as it is by itself."""
        said = self.model_dump(exclude_defaults=True)
        return f"?{urlencode(said)}" if said else ""


@router.get("/", response_class=HTMLResponse)
def home(
    request: Request, asked: Annotated[Asking, Query()], desk: ServiceDependency
) -> HTMLResponse:
    """Who asks, how sure it must be, and the list."""
    found = _listed(asked, desk)
    if request.headers.get("x-fragment") == "list":
        return _html("list.html.jinja", **found)
    recommender = desk.recommender
    return _html(
        "home.html.jinja",
        **found,
        asked=asked,
        users=recommender.reviews.table["user"]
        .value_counts(sort=True)["user"]
        .head(_NAMES)
        .to_list(),
        prices=PRICE_TAGS[:-1],
        categories=desk.common_categories(_KINDS),
    )


def _listed(asked: Asking, desk: RecommendationService) -> dict[str, Any]:
    """What the list needs."""
    max_fpr = 1 - asked.sure / 100
    _, tpr = desk.recommender.evaluation.curve.for_max_fpr(max_fpr)
    passes = f"at most {max_fpr:.0%} of what you would dislike gets through"
    likes, user = asked.likes.strip(), asked.user.strip()
    nobody = f"For someone who likes {likes}" if likes else "What most people like"
    heading = f"For {user}" if user else nobody
    both = "With a name, only the name counts: take it away to say what you like."
    trouble = both if user and likes else ""
    how: dict[str, Any] = {"max_fpr": max_fpr, "diversity": asked.variety / 100, "why": True}
    how |= {
        "prices": [*filter(None, [asked.price])],
        "categories": [*filter(None, [asked.category])],
    }
    if likes and not user:
        found = desk.recommend(None, _SHOWN, likes=likes, **how)
    else:
        found = desk.recommend(user, _SHOWN, **how)
    return {
        "cards": [_card(one, desk) for one in found],
        "hint": f"So sure that {passes}, and {tpr:.0%} of what you would like.",
        "heading": heading,
        "trouble": trouble,
        "back": asked.query,
    }


def _card(one: ExplainedItem, desk: RecommendationService) -> dict[str, Any]:
    assert one.explanation is not None
    photos = desk.photos(one.row["item"])
    why = sorted(one.explanation.contributions.items(), key=lambda pair: -abs(pair[1]))
    why = [(name, value) for name, value in why if abs(value) >= 0.005]  # none that would read -0
    shown = photos[0][1] or "a photo of it" if photos else ""
    return {
        **one.row,
        "photo": shown,
        "why": why,
        "quotes": one.explanation.quotes,
        "told": one.explanation.sentence,
    }


@router.get("/places/{item:path}", response_class=HTMLResponse)
def place(item: str, asked: Annotated[Asking, Query()], desk: ServiceDependency) -> HTMLResponse:
    """An item: its photos, what people like and dislike, what is spoken of alike, and a form for a review."""
    likes, dislikes = desk.typical_quotes(item)
    return _html(
        "place.html.jinja",
        place=desk.describe_item(item),
        summary=desk.summary_quote(item),
        likes=likes,
        dislikes=dislikes,
        photos=[caption for _, caption in desk.photos(item)],
        near=[desk.describe_item(one) for one, _ in desk.similar_items(item, _NEAR)],
        user=asked.user,
        back=asked.query,
        taken=asked.taken,
    )


@router.post("/places/{item:path}", response_class=HTMLResponse)
async def write(
    request: Request,
    item: str,
    asked: Annotated[Asking, Query()],
    desk: ServiceDependency,
    user: Annotated[str, Form(max_length=200)],
    rating: Annotated[float, Form(ge=1, le=5)],
    text: Annotated[str, Form(max_length=10_000)] = "",
) -> Response:
    """Take in a review from the page."""
    # A page of somebody else's must not write in the name of whoever has it open.
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return HTMLResponse("reviews are taken from this page alone", 403)
    try:
        said = ReviewRequest(user=user.strip() or "somebody", item=item, rating=rating, text=text)
    except ValidationError:
        raise HTTPException(422, "a name has 1 to 200 characters that can be seen") from None
    await run_in_threadpool(desk.add_review, said.user, said.item, said.rating, said.text)
    then = asked.model_copy(update={"user": said.user, "likes": ""}).model_dump(
        exclude_defaults=True
    )
    return RedirectResponse(f"{request.url.path}?{urlencode({**then, 'taken': 'true'})}", 303)


@router.get("/photos/{item:path}")
def photo(
    item: str, desk: ServiceDependency, at: Annotated[int, Query(ge=0, le=1000)] = 0
) -> Response:
    """A photo of an item, made small and anew, so that nothing but the picture leaves."""
    photos = desk.photos(item)
    if at >= len(photos):
        raise DataError(f"{item!r} has {len(photos)} photos")
    limit = desk.recommender.config.read.max_pixels
    try:
        body = _small(photos[at][0], limit) if photos[at][0] else desk.live_photo(item)
    except PhotoError as error:
        raise DataError(f"photo {at} of {item!r} cannot be shown: {error}") from error
    return Response(
        body, media_type="image/jpeg", headers={"Cache-Control": "public, max-age=3600"}
    )


@lru_cache(maxsize=512)
def _small(path: str, max_pixels: int) -> bytes:
    return encode_thumbnail(Path(path), max_pixels)


def error_page(status: int, why: str, headers: Mapping[str, str] | None = None) -> HTMLResponse:
    """Why there is no answer, for people."""
    return HTMLResponse(_pages.get_template("sorry.html.jinja").render(why=why), status, headers)


def _html(name: str, **values: Any) -> HTMLResponse:
    return HTMLResponse(_pages.get_template(name).render(**values))
