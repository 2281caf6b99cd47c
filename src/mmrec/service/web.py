"""Web pages: plain HTML forms, which a small script makes faster but does not replace."""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any
from urllib.parse import urlencode
from uuid import uuid4

from fastapi import APIRouter, Form, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool

from mmrec.llm.types import PRICE_TAGS
from mmrec.service.addresses import item_address
from mmrec.service.api import CurrentService
from mmrec.service.schemas import ReviewRequest

router = APIRouter(include_in_schema=False)
_LOADER = PackageLoader("mmrec", "service/templates")
_TEMPLATES = Environment(
    loader=_LOADER, autoescape=True, undefined=StrictUndefined, trim_blocks=True
)


class ListForm(BaseModel):
    """The form of the home page; links between pages carry it along as their query."""

    model_config = ConfigDict(extra="ignore", str_strip_whitespace=True)

    user: str = Field("", max_length=512)
    likes: str = Field("", max_length=1000)
    hide: int = Field(0, ge=0, le=100)  # % of disliked places
    variety: int = Field(0, ge=0, le=100)
    price: str = Field("", max_length=20)
    category: str = Field("", max_length=512)
    start: int = Field(0, ge=0, le=10_000)  # places of the list that stand on pages before

    def values(self, **changes: Any) -> dict[str, Any]:
        """What a URL that leads to this form has in its query, with some values changed."""
        return self.model_copy(update=changes).model_dump(exclude_defaults=True)

    def query(self, **changes: Any) -> str:
        """The same, as the end of the URL."""
        values = self.values(**changes)
        return f"?{urlencode(values)}" if values else ""


@router.get("/", response_class=HTMLResponse)
def home(
    request: Request, form: Annotated[ListForm, Query()], service: CurrentService
) -> HTMLResponse:
    """The form and the list; with `X-Fragment: list` the list alone, for the script."""
    max_fpr = 1 - form.hide / 100
    options: dict[str, Any] = {"max_fpr": max_fpr, "diversity": form.variety / 100}
    options["prices"] = [form.price] if form.price else []
    options["categories"] = [form.category] if form.category else []
    options |= {"n": 12, "offset": form.start, "why": True}
    # The name goes first; without name and text the list is that of an unknown user.
    wish = service.parse_wish(form.likes) if form.likes and not form.user else None
    if wish is not None:
        cards = service.recommend(None, likes=wish, **options)
    else:
        cards = service.recommend(form.user, **options)
    with service.recommender() as recommender:
        _, shown = recommender.saved.evaluation.curve.for_max_fpr(max_fpr)
    values = {"form": form, "cards": cards, "photos": service.photos, "shown": shown}
    values["wish"] = wish
    values["is_stranger"] = bool(form.user) and not service.reviewed_items(form.user)
    if request.headers.get("x-fragment") == "list":
        return _render(request, "list.html.jinja", **values)
    with service.recommender() as recommender:
        users = recommender.saved.reviews.table["user"].value_counts(sort=True)["user"]
        categories = recommender.state.catalog.common_categories(40)
    choices = {"users": users[:50], "prices": PRICE_TAGS[:-1], "categories": categories}
    return _render(request, "home.html.jinja", **values, **choices)


@router.get("/places/", response_class=HTMLResponse)
@router.get("/places/{item:id}", response_class=HTMLResponse)
def place(
    request: Request,
    item: str,
    form: Annotated[ListForm, Query()],
    service: CurrentService,
    added: Annotated[bool, Query()] = False,
) -> HTMLResponse:
    """An item with photos, quotes, similar items, and a form for a review."""
    values = {"place": service.item_profile(item), "added": added, "form": form}
    with service.recommender() as recommender:
        neighbors = [name for name, _ in recommender.similar_items(item, 6)]
    similar, photos = service.describe_items(neighbors), service.photos(item)
    return _render(request, "place.html.jinja", **values, similar=similar, photos=photos)


@router.post("/places/", response_class=HTMLResponse)
@router.post("/places/{item:id}", response_class=HTMLResponse)
async def add_review(
    request: Request,
    item: str,
    form: Annotated[ListForm, Query()],
    service: CurrentService,
    user: Annotated[str, Form(max_length=512)],
    rating: Annotated[float, Form(ge=1, le=5)],
    text: Annotated[str, Form(max_length=10_000)] = "",
) -> Response:
    """Add the review that a visitor has written."""
    try:
        name = user.strip() or f"guest {uuid4().hex[:8]}"  # each has a voice
        review = ReviewRequest(user=name, item=item, rating=rating, text=text)
    except ValidationError:
        raise HTTPException(422, "a name must have 1 to 512 printable characters") from None
    await run_in_threadpool(service.add_review, review.user, review.item, rating, review.text)
    query = form.values(user=review.user, likes="") | {"added": "true"}
    address = item_address(request.scope["root_path"], "places", review.item, **query)
    return RedirectResponse(address, 303)


@router.get("/photos/")
@router.get("/photos/{item:id}")
def photo(
    item: str, service: CurrentService, index: Annotated[int, Query(ge=0, le=1000)] = 0
) -> Response:
    """A photo of an item, encoded anew and small, so that its metadata stays private."""
    headers = {"Cache-Control": "public, max-age=3600"}
    return Response(service.photo(item, index), media_type="image/jpeg", headers=headers)


def error_page(
    request: Request, status: int, message: str, headers: Mapping[str, str] | None = None
) -> HTMLResponse:
    """A page that says why a request failed."""
    title = {404: "Not found", 422: "Not valid", 503: "Not available"}.get(status, "Error")
    page = _render(request, "error.html.jinja", title=title, message=message)
    return HTMLResponse(page.body, status, headers)


def _render(request: Request, name: str, **values: Any) -> HTMLResponse:
    root = request.scope.get("root_path", "")
    shared = {"root": root, "address": partial(item_address, root)}
    return HTMLResponse(_TEMPLATES.get_template(name).render(**values, **shared))
