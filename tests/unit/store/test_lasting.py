"""Connections that are kept for as long as a process lives."""

import pytest
from psycopg.conninfo import conninfo_to_dict

from controlplane.errors import InvalidRequestError
from controlplane.store.lasting import GONE_SECONDS, TIMES, lasting


def test_both_sides_notice_soon_that_the_other_one_is_gone() -> None:
    found = conninfo_to_dict(lasting("postgresql://me@db.example/bulkhead?sslmode=require&options=-c%20a%3Db"))
    assert (found["host"], found["dbname"], found["sslmode"]) == ("db.example", "bulkhead", "require")
    assert found["options"] == "-c a=b", "a pooler takes none of ours"
    assert int(str(found["keepalives_idle"])) < GONE_SECONDS
    assert int(str(found["tcp_user_timeout"])) == GONE_SECONDS * 1000
    assert TIMES["gone"] == f"{GONE_SECONDS}s"


@pytest.mark.parametrize("password", ["pa%ss-Secret", "Sec@ret", "Sec/ret", "Sec/r@et", "100%"])
def test_a_password_that_is_not_percent_encoded_is_refused_and_not_repeated(password: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        lasting(f"postgresql://bulkhead:{password}@127.0.0.1:1/bulkhead?sslmode=require")
    assert refused.value.field == "BULKHEAD_DATABASE_URL"
    assert "ret" not in str(refused.value) + str(refused.value.next_step)
    assert refused.value.__context__ is None


@pytest.mark.parametrize(
    "url", ["postgresql://b:p%40ss@h/d", "postgresql://b@/d?host=/run/p@g", "host=h password='a@b' dbname=d", ""]
)
def test_what_libpq_reads_is_taken(url: str) -> None:
    assert "keepalives=1" in lasting(url)
