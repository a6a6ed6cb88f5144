"""Connections that are kept for as long as a process lives."""

from psycopg.conninfo import conninfo_to_dict

from controlplane.store.lasting import GONE_SECONDS, lasting


def test_both_sides_notice_soon_that_the_other_one_is_gone() -> None:
    found = conninfo_to_dict(lasting("postgresql://me@db.example/bulkhead?sslmode=require"))
    assert (found["host"], found["dbname"], found["sslmode"]) == ("db.example", "bulkhead", "require")
    assert int(str(found["keepalives_idle"])) < GONE_SECONDS
    assert int(str(found["tcp_user_timeout"])) == GONE_SECONDS * 1000
    assert "-c tcp_keepalives_idle=5" in str(found["options"])
    assert f"-c tcp_user_timeout={GONE_SECONDS * 1000}" in str(found["options"])


def test_what_an_installation_asks_of_its_server_is_asked_still() -> None:
    found = conninfo_to_dict(lasting("postgresql://db.example/bulkhead?options=-c%20search_path%3Dmine"))
    assert str(found["options"]).startswith("-c search_path=mine -c tcp_keepalives")
