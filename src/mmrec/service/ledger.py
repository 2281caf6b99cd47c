"""Live reviews in a database: SQLite, or PostgreSQL for several machines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DateTime, Engine, String, Text, create_engine, event, select, text
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from mmrec.errors import ConfigError, StoreError

__all__ = ["Ledger", "LiveReview"]

_ORDER = 0x6D6D7265  # of the lock that has reviews committed in the order of their numbers


class _Base(DeclarativeBase): ...


class LiveReview(_Base):
    """A review that came while a model was served, with what was read out of it."""

    __tablename__ = "live_reviews"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    review_id: Mapped[str] = mapped_column(String(64), unique=True)
    user: Mapped[str] = mapped_column("user_id", Text)
    item: Mapped[str] = mapped_column("item_id", Text)
    rating: Mapped[float]
    text: Mapped[str] = mapped_column(Text)
    note: Mapped[str] = mapped_column(Text)
    """`Note` as JSON: a review is read once, by whoever took it in."""
    created: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class Ledger:
    """All live reviews, in the order in which they were taken in; what `add` returned from is never lost.

    Args:
        url: of the database; the table is made where there is none.

    Raises:
        ConfigError: no such kind of database, or its driver is not installed.
        StoreError: it cannot be reached.
    """

    def __init__(self, url: str) -> None:
        if url.startswith("postgresql://"):
            url = url.replace("postgresql://", "postgresql+psycopg://", 1)
        try:
            self._engine = create_engine(url, pool_pre_ping=True)
        except (ArgumentError, ImportError) as error:
            mend = "name it as sqlite:///FILE or postgresql://USER@HOST/NAME (this needs mmrec[postgres])"
            raise ConfigError(f"--database: {error}; {mend}") from error
        self.kind = self._engine.dialect.name
        if self.kind == "sqlite":
            _make_durable(self._engine)
        with self._told():
            _Base.metadata.create_all(self._engine)

    def add(self, review_id: str, **fields: Any) -> int:
        """Keep a review, and return its number; one of the same id is kept as it was.

        Raises:
            StoreError: the database does not take it.
        """
        review = LiveReview(review_id=review_id, created=datetime.now(UTC), **fields)
        with self._told():
            try:
                with Session(self._engine, expire_on_commit=False) as session, session.begin():
                    if self.kind == "postgresql":
                        # Numbers are given before they are committed: a reader could miss the slower one.
                        session.execute(text(f"SELECT pg_advisory_xact_lock({_ORDER})"))
                    session.add(review)
                return review.number
            except IntegrityError:
                with Session(self._engine) as session:
                    known = select(LiveReview.number).where(LiveReview.review_id == review_id)
                    return session.scalars(known).one()

    def since(self, number: int, most: int = 1000) -> list[LiveReview]:
        """Reviews after one, in order.

        Raises:
            StoreError: the database cannot be read.
        """
        found = select(LiveReview).where(LiveReview.number > number).order_by(LiveReview.number).limit(most)
        with self._told(), Session(self._engine) as session:
            return list(session.scalars(found))

    def close(self) -> None:
        """Give all connections back."""
        self._engine.dispose()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            # Not the statement, which has a review in it.
            reason = str(getattr(error, "orig", None) or type(error).__name__).strip()
            raise StoreError(f"the database of live reviews ({self.kind}): {reason}") from error


def _make_durable(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def begin(connection: Any, _: Any) -> None:
        for pragma in ("busy_timeout=10000", "journal_mode=WAL", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}")
