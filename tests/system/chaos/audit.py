"""PostgreSQL writes down every change of a task instance and of a trigger's place, at the moment it happens."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import sqlalchemy

from tests.system.chaos.history import Change, Holding

_SQL = """
CREATE TABLE chaos_change (
    number bigserial PRIMARY KEY, at double precision, task text, ti_id text, old text, new text,
    try_number int, max_tries int, trigger_id int
);
CREATE TABLE chaos_holding (number bigserial PRIMARY KEY, at double precision, trigger_id int, triggerer_id int);
CREATE FUNCTION chaos_changed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO chaos_change (at, task, ti_id, old, new, try_number, max_tries, trigger_id) VALUES (
        extract(epoch FROM clock_timestamp()), NEW.dag_id || '/' || NEW.run_id || '/' || NEW.map_index, NEW.id,
        OLD.state, NEW.state, NEW.try_number, NEW.max_tries, NEW.trigger_id
    );
    RETURN NEW;
END $$;
CREATE FUNCTION chaos_held() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO chaos_holding (at, trigger_id, triggerer_id) VALUES (
        extract(epoch FROM clock_timestamp()), COALESCE(NEW.id, OLD.id), NEW.triggerer_id
    );
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_changed AFTER UPDATE ON task_instance FOR EACH ROW
    WHEN (OLD.state IS DISTINCT FROM NEW.state OR OLD.id <> NEW.id OR OLD.max_tries <> NEW.max_tries)
    EXECUTE FUNCTION chaos_changed();
CREATE TRIGGER chaos_placed AFTER UPDATE ON trigger FOR EACH ROW
    WHEN (OLD.triggerer_id IS DISTINCT FROM NEW.triggerer_id) EXECUTE FUNCTION chaos_held();
CREATE TRIGGER chaos_dropped AFTER INSERT OR DELETE ON trigger FOR EACH ROW EXECUTE FUNCTION chaos_held();
"""


class Audit:
    """
    The database of a running Airflow, which is asked here because that costs Airflow nothing.

    :param database_url: SQLAlchemy's.
    """

    def __init__(self, database_url: str) -> None:
        self.engine = sqlalchemy.create_engine(database_url)
        with self.engine.begin() as connection:
            connection.execute(sqlalchemy.text(_SQL.replace(":", "\\:")))

    def select(self, query: str, **values: Any) -> list[Any]:
        """Return the rows."""
        with self.engine.connect() as connection:
            return list(connection.execute(sqlalchemy.text(query), values))

    def tasks(self) -> list[Any]:
        """Return all tasks as they are now."""
        return self.select(
            "SELECT dag_id, run_id, map_index, id::text AS ti_id, state, pid, try_number FROM task_instance"
            " ORDER BY start_date NULLS LAST, id"
        )

    def unfinished(self) -> list[str]:
        """Return the Dag runs that have not ended."""
        rows = self.select(
            "SELECT dag_id || '/' || run_id FROM dag_run WHERE state NOT IN ('success', 'failed')"
        )
        return [row[0] for row in rows]

    def changes(self) -> dict[str, list[Change]]:
        """Return what happened to each task."""
        found = defaultdict(list)
        for row in self.select("SELECT * FROM chaos_change ORDER BY number"):
            fields = dict(row._mapping)
            del fields["number"]
            found[fields.pop("task")].append(Change(**fields))
        return found

    def holdings(self) -> dict[int, list[Holding]]:
        """Return who has had each trigger."""
        found = defaultdict(list)
        rows = self.select(
            "SELECT held.at, held.trigger_id, job.unixname FROM chaos_holding held"
            " LEFT JOIN job ON job.id = held.triggerer_id ORDER BY held.number"
        )
        for at, trigger_id, component in rows:
            found[trigger_id].append(Holding(at, trigger_id, component))
        return found

    def mismatches(self) -> list[Any]:
        """Return where Airflow took a task for killed because of an old report of its executor: a bug of Airflow."""
        return self.select(
            "SELECT extract(epoch FROM dttm)::float AS at, dag_id || '/' || run_id || '/' || map_index AS task,"
            " try_number, extra FROM log WHERE event = 'state mismatch'"
        )

    def close(self) -> None:
        """End its connections."""
        self.engine.dispose()
