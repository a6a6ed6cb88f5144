"""Connections that are kept for as long as a process lives."""

from psycopg.conninfo import conninfo_to_dict

from controlplane.store.lasting import GONE_SECONDS, TIMES, lasting


def test_both_sides_notice_soon_that_the_other_one_is_gone() -> None:
    found = conninfo_to_dict(lasting("postgresql://me@db.example/bulkhead?sslmode=require&options=-c%20a%3Db"))
    assert (found["host"], found["dbname"], found["sslmode"]) == ("db.example", "bulkhead", "require")
    assert found["options"] == "-c a=b", "a pooler takes none of ours"
    assert int(str(found["keepalives_idle"])) < GONE_SECONDS
    assert int(str(found["tcp_user_timeout"])) == GONE_SECONDS * 1000
    assert TIMES["gone"] == f"{GONE_SECONDS}s"
