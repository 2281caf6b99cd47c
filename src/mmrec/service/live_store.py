"""Live reviews and items in a database: SQLite, or PostgreSQL for several machines."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import sqlalchemy
from sqlalchemy import DateTime, String, Text, event, select
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, undefer

from mmrec.errors import ConfigError, StoreError


class Entry(DeclarativeBase):
    """What was added while a model was served; numbered in the order of arrival."""

    __table_args__ = ({"sqlite_autoincrement": True},)  # no number is used again after a deletion

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    note: Mapped[str] = mapped_column(Text)  # a `Note` as JSON
    created: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class StoredReview(Entry):
    """A review."""

    __tablename__ = "live_reviews"

    review_id: Mapped[str] = mapped_column(String(64), unique=True)
    user: Mapped[str] = mapped_column("user_id", Text)
    item: Mapped[str] = mapped_column("item_id", Text)
    rating: Mapped[float]
    text: Mapped[str] = mapped_column(Text)


class StoredItem(Entry):
    """An item, with a caption and a small JPEG where there is a photo."""

    __tablename__ = "live_items"

    item: Mapped[str] = mapped_column("item_id", Text, unique=True)
    name: Mapped[str | None] = mapped_column(Text)
    description: Mapped[str] = mapped_column(Text)
    caption: Mapped[str | None] = mapped_column(Text)
    photo: Mapped[bytes | None] = mapped_column(deferred=True)


AnyEntry = TypeVar("AnyEntry", bound=Entry)


class LiveStore:
    """Live reviews and items in a database; missing tables are created.

    Raises a ConfigError for a wrong URL or a missing driver, else a StoreError.
    """

    def __init__(self, url: str) -> None:
        scheme, mark, rest = url.partition("://")
        driver = "postgresql+psycopg" if scheme.lower() == "postgresql" else scheme.lower()
        try:
            parsed = sqlalchemy.make_url(f"{driver}{mark}{rest}")
            if "@" in (parsed.host or ""):
                raise ValueError
            self._engine = sqlalchemy.create_engine(parsed, pool_pre_ping=True)
        except (ArgumentError, ImportError, ValueError) as error:
            formats = "sqlite:///FILE or, with mmrec[postgres], postgresql://USER@HOST/NAME"
            # Where a part is wrong, the message may hold a piece of the password.
            is_part = isinstance(error, ValueError)
            problem = "a part is wrong (in a password, write @ as %40)" if is_part else error
            raise ConfigError(f"--database: {problem}; the URL must be {formats}") from error
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine, "connect", _configure_sqlite)
        with self._session(write=True) as session:  # several processes may start at once
            Entry.metadata.create_all(session.connection())

    def add(self, entry: Entry) -> bool:
        """Store an entry; False if there is one of that id already."""
        entry.created = datetime.now(UTC)
        try:
            with self._session(write=True) as session:
                session.add(entry)
                return True
        except IntegrityError:
            return False

    def since(self, table: type[AnyEntry], number: int) -> list[AnyEntry]:
        """The next 1000 entries after a number, in order and without photos."""
        query = select(table).where(table.number > number).order_by(table.number)
        with self._session() as session:
            return list(session.scalars(query.limit(1000)))

    def find_item(self, item: str) -> StoredItem:
        """The item with this id, which must exist, and its photo."""
        query = select(StoredItem).where(StoredItem.item == item)
        with self._session() as session:
            return session.scalars(query.options(undefer(StoredItem.photo))).one()

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def _session(self, *, write: bool = False) -> Iterator[Session]:
        """A transaction; those that write take turns."""
        kind = self._engine.dialect.name
        try:
            with Session(self._engine, expire_on_commit=False) as session, session.begin():
                if write and kind == "postgresql":  # SQLite locks by itself
                    # Numbers are assigned before transactions commit: without a lock (its
                    # key says "mmre") a reader could see 8, and miss 7, which commits later.
                    lock = f"SELECT pg_advisory_xact_lock({0x6D6D7265})"
                    session.execute(sqlalchemy.text(lock))
                yield session
        except IntegrityError:
            raise
        except SQLAlchemyError as error:
            # The driver's message: SQLAlchemy's own quotes the statement with the review.
            reason = str(getattr(error, "orig", None) or type(error).__name__).strip()
            raise StoreError(f"the database of live reviews ({kind}): {reason}") from error


def _configure_sqlite(connection: Any, _: Any) -> None:
    """Wait for locks up to 10 s, read beside a writer, and sync every commit."""
    for pragma in ("busy_timeout=10000", "journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")
