"""Live reviews and items in a database: SQLite, or PostgreSQL for several machines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import (
    Connection,
    DateTime,
    Engine,
    String,
    Text,
    create_engine,
    event,
    select,
    text,
)
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from mmrec.errors import ConfigError, StoreError

__all__ = ["LiveStore", "StoredItem", "StoredReview"]

_ORDER = 0x6D6D7265  # of the lock that has reviews committed in the order of their numbers


class _Base(DeclarativeBase): ...


class StoredReview(_Base):
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


class StoredItem(_Base):
    """An item that was introduced while a model was served."""

    __tablename__ = "live_items"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    item: Mapped[str] = mapped_column("item_id", Text, unique=True)
    name: Mapped[str | None] = mapped_column(Text)
    description: Mapped[str] = mapped_column(Text)
    note: Mapped[str] = mapped_column(Text)
    caption: Mapped[str | None] = mapped_column(Text)
    """What its photo shows; null without one."""
    photo: Mapped[bytes | None] = mapped_column(deferred=True)
    """JPEG, made anew, so that nothing but the picture is in it."""
    created: Mapped[datetime] = mapped_column(DateTime(timezone=True))


Live = TypeVar("Live", StoredReview, StoredItem)


class LiveStore:
    """Live reviews and items, each in the order in which they came; what was added is never lost.

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
        with self._told(), self._engine.begin() as connection:
            self._in_turn(connection)  # several may start at once on an empty database
            _Base.metadata.create_all(connection)

    def add(self, new: StoredReview | StoredItem) -> bool:
        """Keep a review or an item, and say whether it is new; one of the same id is kept as it was.

        Raises:
            StoreError: the database does not take it.
        """
        new.created = datetime.now(UTC)
        with self._told():
            try:
                with Session(self._engine) as session, session.begin():
                    # Numbers are given before they are committed: a reader could miss the slower one.
                    self._in_turn(session)
                    session.add(new)
                return True
            except IntegrityError:
                return False

    def since(self, table: type[Live], number: int, limit: int = 1000) -> list[Live]:
        """Reviews or items after one, in order.

        Raises:
            StoreError: the database cannot be read.
        """
        found = select(table).where(table.number > number).order_by(table.number).limit(limit)
        with self._told(), Session(self._engine) as session:
            return list(session.scalars(found))

    def find_item(self, item: str) -> StoredItem:
        """An item that was introduced.

        Raises:
            StoreError: the database cannot be read.
        """
        with self._told(), Session(self._engine) as session:
            return session.scalars(select(StoredItem).where(StoredItem.item == item)).one()

    def photo(self, item: str) -> bytes | None:
        """The photo that an item was introduced with.

        Raises:
            StoreError: the database cannot be read.
        """
        with self._told(), Session(self._engine) as session:
            return session.scalar(select(StoredItem.photo).where(StoredItem.item == item))

    def close(self) -> None:
        """Give all connections back."""
        self._engine.dispose()

    def _in_turn(self, session: Session | Connection) -> None:
        """Wait until nobody else changes anything; SQLite sees to it by itself."""
        if self.kind == "postgresql":
            session.execute(text(f"SELECT pg_advisory_xact_lock({_ORDER})"))

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
