"""SQLAlchemy: the ORM, and Core for the ids."""

from serve import go_on, need, serve

need("sqlalchemy", "2.1")

from sqlalchemy import create_engine, event, func, select, text
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class Base(DeclarativeBase):
    pass


# docs
class Deletion(Base):                                        # SQLAlchemy
    __tablename__ = "deletions"
    agent_id: Mapped[str] = mapped_column(primary_key=True)
    entry_id: Mapped[str] = mapped_column(primary_key=True)
    priority: Mapped[int] = mapped_column(default=0)         # with server_default, a duplicate fails
    due_at: Mapped[int] = mapped_column(default=0)
# end


class Base2(DeclarativeBase):
    pass


class ServerDefault(Base2):
    __tablename__ = "deletions"
    agent_id: Mapped[str] = mapped_column(primary_key=True)
    entry_id: Mapped[str] = mapped_column(primary_key=True)
    priority: Mapped[int] = mapped_column(server_default="0")
    due_at: Mapped[int] = mapped_column(server_default="0")


class Base3(DeclarativeBase):
    pass


class WithId(Base3):
    __tablename__ = "deletions"
    id: Mapped[int] = mapped_column(primary_key=True)
    agent_id: Mapped[str]
    entry_id: Mapped[str]
    priority: Mapped[int]


engine = create_engine("sqlite:///sweeper.db")


def add_all(rows):
    with Session(engine) as session, session.begin():
        # docs
        session.add_all(Deletion(**row) for row in rows)
        # end


def upsert(rows):
    with engine.begin() as connection:
        # docs
        new = insert(Deletion).values(rows)                          # sqlalchemy.dialects.sqlite.insert: for the ids, unordered
        new = new.on_conflict_do_update(index_elements=["agent_id", "entry_id"], set_={"agent_id": new.excluded.agent_id})
        ids = connection.scalars(new.returning(text("id"))).all()
        # end
    return list(ids)


def merge(rows):
    with Session(engine) as session, session.begin():
        for row in rows:
            session.merge(Deletion(**row))


def server_default(rows):
    with Session(engine) as session, session.begin():
        session.add_all(ServerDefault(agent_id=row["agent_id"], entry_id=row["entry_id"]) for row in rows)


def with_id(rows):
    ids = []
    for row in rows:
        with Session(engine) as session, session.begin():
            deletion = WithId(**row)
            session.add(deletion)
            session.flush()
            ids.append(deletion.id)
    return ids


def read_then_write(engine, rows):
    with Session(engine) as session, session.begin():
        session.scalar(select(func.count()).select_from(Deletion))
        go_on()
        session.add_all(Deletion(**row) for row in rows)


def immediate(rows):
    # docs
    engine = create_engine("sqlite:///sweeper.db", connect_args={"isolation_level": None})   # to read first
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    # end
    read_then_write(engine, rows)


def deferred(rows):
    engine = create_engine("sqlite:///sweeper.db", connect_args={"isolation_level": None})
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    read_then_write(engine, rows)


with engine.connect() as connection:
    busy_timeout = connection.exec_driver_sql("PRAGMA busy_timeout").scalar()

serve(
    "SQLAlchemy 2.1",
    busy_timeout,
    "exact",
    [
        ("add_all", "enqueues", add_all),
        ("on_conflict_do_update", "tells the ids", upsert),
        ("merge()", "leaves a settled row as it is", merge),
        ("server_default", "fails on a duplicate", server_default),
        ("`id`", "tells another's id", with_id),
        ("BEGIN IMMEDIATE", "locks first", immediate),
        ("BEGIN", "is locked out", deferred),
    ],
)
