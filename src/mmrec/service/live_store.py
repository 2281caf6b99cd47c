"""Live reviews and items in a database: SQLite, or PostgreSQL for several machines."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, date, datetime
from typing import Any, TypeVar
from uuid import uuid4

import sqlalchemy
from sqlalchemy import DateTime, String, Text, UniqueConstraint, cast, event, select, update
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    column_property,
    declared_attr,
    mapped_column,
    undefer,
)

from mmrec.console import single_line
from mmrec.errors import ConfigError, StoreError

T = TypeVar("T")


class Entry(DeclarativeBase):
    """What was added while a model was served; numbered in the order of arrival."""

    __table_args__: Any = ({"sqlite_autoincrement": True},)  # no number is used again

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    note: Mapped[str] = mapped_column(Text)  # a `Note` as JSON
    created: Mapped[datetime] = mapped_column(DateTime(timezone=True), deferred=True)

    @declared_attr
    def _written(cls) -> Mapped[str]:
        # As text, since a database may hold clocks that Python cannot (`infinity`, before Christ).
        return column_property(cast(cls.created, Text))

    @property
    def day(self) -> str:
        """When it was added, as YYYY-MM-DD; "" where the clock says nothing that a calendar knows."""
        with suppress(ValueError):
            return (
                "" if self._written.endswith("BC") else str(date.fromisoformat(self._written[:10]))
            )
        return ""


class StoredReview(Entry):
    """A review; without a rating it was withdrawn, and nothing is left but its user, item and id."""

    __tablename__ = "live_reviews"
    __table_args__ = (
        UniqueConstraint("user_id", "review_id"),  # also an index by user
        {"sqlite_autoincrement": True},
    )

    review_id: Mapped[str] = mapped_column(String(64))
    user: Mapped[str] = mapped_column("user_id", Text)
    item: Mapped[str] = mapped_column("item_id", Text)
    rating: Mapped[float | None]
    text: Mapped[str] = mapped_column(Text)
    # (k, d) float16 vectors of the text and of the sentences of the note, and which encoder made them.
    vectors: Mapped[bytes | None]
    encoder: Mapped[str | None] = mapped_column(String(64))

    @property
    def content(self) -> tuple[str, float | None, str]:
        """What the user says, of which item."""
        return self.item, self.rating, self.text


class StoredItem(Entry):
    """An item, with a caption and a small JPEG where there is a photo."""

    __tablename__ = "live_items"

    item: Mapped[str] = mapped_column("item_id", Text, unique=True)
    name: Mapped[str | None] = mapped_column(Text)
    description: Mapped[str] = mapped_column(Text)
    caption: Mapped[str | None] = mapped_column(Text)
    photo: Mapped[bytes | None] = mapped_column(deferred=True)


_PLACES = 12  # requests that wait for the database; fewer than the threads that answer
AnyEntry = TypeVar("AnyEntry", bound=Entry)


class LiveStore:
    """Live reviews and items in a database; missing tables are created.

    No call takes much longer than `timeout` seconds. Raises a ConfigError for a wrong URL or a missing
    driver, else a StoreError.
    """

    def __init__(self, url: str, timeout: float = 5.0) -> None:
        self._timeout, options = timeout, dict[str, Any]()
        self._places = threading.BoundedSemaphore(_PLACES)
        scheme, mark, rest = url.partition("://")
        driver = scheme.lower()
        if driver.startswith("postgresql"):
            driver = "postgresql+psycopg" if driver == "postgresql" else driver
            keepalive = {"keepalives_idle": 10, "keepalives_interval": 3, "keepalives_count": 3}
            keepalive["tcp_user_timeout"] = int(1000 * timeout)
            # Poolers that share connections between transactions know no prepared statements.
            options["connect_args"] = {"prepare_threshold": None, "connect_timeout": int(timeout)}
            options["connect_args"] |= keepalive
            options |= {"pool_timeout": timeout, "pool_size": 4, "max_overflow": 8}
        try:
            parsed = sqlalchemy.make_url(f"{driver}{mark}{rest}")
            if "@" in (parsed.host or ""):
                raise ValueError
            self._engine = sqlalchemy.create_engine(parsed, **options)
        except (ArgumentError, ImportError, ValueError) as error:
            formats = "sqlite:///FILE or, with mmrec[postgres], postgresql://USER@HOST/NAME"
            # Where a part is wrong, the message may hold a piece of the password.
            is_part = isinstance(error, ValueError)
            problem = "a part is wrong (in a password, write @ as %40)" if is_part else error
            raise ConfigError(f"--database: {problem}; the URL must be {formats}") from error
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine, "connect", self._configure_sqlite)
        # Several processes may start at once.
        try:
            self._run(lambda session: Entry.metadata.create_all(session.connection()), write=True)
        except StoreError as error:
            raise StoreError(f"{error}; --database names another") from error
        self._check_columns()

    def add(self, entry: Entry) -> bool:
        """Store an entry; False if there is one of that id already."""
        entry.created = datetime.now(UTC)
        try:
            self._run(lambda session: session.add(entry), write=True)
        except IntegrityError:
            return False
        return True

    def withdraw(self, user: str, item: str) -> None:
        """Delete what a user has said of an item, and let readers know by an entry without a rating."""
        nothing: dict[str, Any] = {"rating": None, "text": "", "note": "{}", "vectors": None}
        pair = (StoredReview.user == user) & (StoredReview.item == item)
        names = {"user": user, "item": item, "review_id": uuid4().hex}

        def run(session: Session) -> None:
            session.execute(update(StoredReview).where(pair).values(nothing))
            session.add(StoredReview(**names, **nothing, created=datetime.now(UTC)))

        self._run(run, write=True)

    def since(self, table: type[AnyEntry], number: int, limit: int = 1000) -> list[AnyEntry]:
        """The next entries after a number, in order and without photos."""
        query = select(table).where(table.number > number).order_by(table.number).limit(limit)
        return self._transact(lambda session: list(session.scalars(query)))

    def find_review(self, user: str, review_id: str) -> StoredReview:
        """The review with this id of a user, which must exist."""
        chosen = (StoredReview.user == user) & (StoredReview.review_id == review_id)
        return self._run(lambda session: session.scalars(select(StoredReview).where(chosen)).one())

    def find_item(self, item: str) -> StoredItem:
        """The item with this id, which must exist, and its photo."""
        query = select(StoredItem).where(StoredItem.item == item)
        query = query.options(undefer(StoredItem.photo))
        return self._run(lambda session: session.scalars(query).one())

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def _run(self, work: Callable[[Session], T], *, write: bool = False) -> T:
        """Work in a transaction for a request, unless many others do: if the database hangs, threads are
        left for requests that do not need it."""
        if not self._places.acquire(blocking=False):
            raise StoreError("too many requests wait for the database of live reviews")
        try:
            return self._transact(work, write=write)
        finally:
            self._places.release()

    def _transact(self, work: Callable[[Session], T], *, write: bool = False) -> T:
        """Work in a transaction; those that write take turns. A connection that the server has closed
        meanwhile is opened again."""
        started = time.monotonic()
        while True:
            try:
                with self._transaction(write) as session:
                    return work(session)
            except IntegrityError:
                raise
            except SQLAlchemyError as error:
                is_stale = isinstance(error, DBAPIError) and error.connection_invalidated
                if is_stale and time.monotonic() - started < self._timeout / 2:
                    continue
                # The driver's message: SQLAlchemy's own quotes the statement with the review.
                reason = single_line(str(getattr(error, "orig", None) or type(error).__name__))
                kind = self._engine.dialect.name
                if kind == "sqlite":
                    kind = f"{kind}, {self._engine.url.database}"
                raise StoreError(f"the database of live reviews ({kind}): {reason}") from error

    @contextmanager
    def _transaction(self, write: bool) -> Iterator[Session]:
        is_postgresql = self._engine.dialect.name == "postgresql"
        with ExitStack() as stack:
            session = stack.enter_context(Session(self._engine, expire_on_commit=False))
            # A server that hangs heeds no time-out of its own: the connection is closed here. That
            # ends after the transaction, which may hang while it is committed.
            timers = stack.enter_context(ExitStack())
            stack.enter_context(session.begin())
            if is_postgresql:
                connection = session.connection().connection.driver_connection
                timer = threading.Timer(self._timeout, _abort, [connection])
                timer.daemon = True
                timers.callback(timer.cancel)
                timer.start()
                limit = f"{int(1000 * self._timeout)}"
                settings = (f"set_config('{name}', '{limit}', true)" for name in _TIMEOUTS)
                session.execute(sqlalchemy.text(f"SELECT {', '.join(settings)}"))
            if write and is_postgresql:  # SQLite locks by itself
                # Numbers are assigned before transactions commit: without a lock (its
                # key says "mmre") a reader could see 8, and miss 7, which commits later.
                session.execute(sqlalchemy.text(f"SELECT pg_advisory_xact_lock({0x6D6D7265})"))
            yield session

    def _configure_sqlite(self, connection: Any, _: Any) -> None:
        """Wait for locks for a while, read beside a writer, sync every commit, overwrite what is deleted."""
        wait = f"busy_timeout={int(1000 * self._timeout)}"
        for pragma in (wait, "journal_mode=WAL", "synchronous=FULL", "secure_delete=ON"):
            connection.execute(f"PRAGMA {pragma}")

    def _check_columns(self) -> None:
        inspector = sqlalchemy.inspect(self._engine)
        for table in Entry.metadata.sorted_tables:
            found = {column["name"] for column in inspector.get_columns(table.name)}
            if missing := {column.name for column in table.columns} - found:
                problem = f"table {table.name} has no column {', '.join(sorted(missing))}"
                mend = "it is of an earlier mmrec; name another --database"
                raise ConfigError(f"--database: {problem}: {mend}")


_TIMEOUTS = ("statement_timeout", "lock_timeout")


def _abort(connection: Any) -> None:
    """Close the socket of a connection, whose thread waits for the server."""
    with suppress(OSError), socket.socket(fileno=os.dup(connection.pgconn.socket)) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)
