"""No secret is shown: every form in which an address can carry one."""

import pytest

from importer_dagster.redaction import redact, redact_text

SECRET = "s3cr3t-Planted"

ADDRESSES = [
    f"postgresql://ann:{SECRET}@db/warehouse",
    f"postgresql://ann:{SECRET}%2F%40x@db:5432/warehouse?sslmode=verify-full",
    f"postgresql://ann:p/{SECRET}@db/warehouse",  # not encoded as it should be
    f"postgresql://ann:p@{SECRET}@db/warehouse",
    f"postgresql://ann:p?{SECRET}@db/warehouse",
    f"postgresql://ann:#{SECRET}@db/warehouse",
    f"postgresql://:{SECRET}@db/warehouse",
    f"postgresql://ann@db/warehouse?password={SECRET}&sslmode=require",
    f"postgresql://ann@db/warehouse?sslmode=require&PASSWORD={SECRET}",
    f"postgresql://ann@db/warehouse?pass%77ord={SECRET}",
    f"postgresql://ann@db/warehouse?sslpassword={SECRET}",
    f"postgresql+psycopg://ann:{SECRET}@[::1]:5432/warehouse",
    f"postgresql://ann:{SECRET}@[broken/warehouse",
    f"host=db user=ann password={SECRET} dbname=warehouse",
    f"host=db user=ann password = '{SECRET} with spaces' dbname=warehouse",
    f"host=db password='it\\'s {SECRET}' dbname=warehouse",
    f"host=db sslpassword={SECRET}",
    f"sftp://ann:{SECRET}@files/inbox",
    f"https://files/inbox?sv=2024&sig={SECRET}",
    f"https://files/inbox?token={SECRET}",
    f"https://files/inbox?access_token={SECRET}#top",
    f"https://files/inbox#access_token={SECRET}",
    f"https://files/inbox?X-Amz-Credential=AKIA{SECRET}&X-Amz-Date=1",
    f"https://files/inbox?X-Amz-Date=1&X-Amz-Signature={SECRET}",
    f"https://files/inbox?X-Amz-Security-Token={SECRET}",
    f"https://files/inbox?X-Goog-Signature={SECRET}",
    f"https://files/inbox?api_key={SECRET};v=2",
    f"https://files/inbox?client_secret={SECRET}",
    f"abfs://box@account/inbox?AccountKey={SECRET}",
    f"simplecache::https://ann:{SECRET}@files/inbox",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_no_secret_of_an_address_is_shown(address: str) -> None:
    shown = redact(address)
    assert SECRET not in shown and "***" in shown
    # whatever words stand around it, as in the errors of libraries
    for text in (f"cannot open {address}", f'403, message="Forbidden", url="{address}" (try later)'):
        assert SECRET not in redact_text(text, address), text
    if "://" in address:  # an address that the library has put together itself
        assert SECRET not in redact_text(f"Cannot connect to {address}", "other")


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://u:secret@h:1/db?sslmode=require", "postgresql://u:***@h:1/db?sslmode=require"),
        ("postgresql://h/db?user=ann&password=x", "postgresql://h/db?user=ann&password=***"),
        ("https://h/a?b=1&sig=x&c=2", "https://h/a?b=1&sig=***&c=2"),
        ("host=h password=x dbname=d", "host=h password=*** dbname=d"),
        ("s3://bucket/inbox/a:b@c.csv", "s3://bucket/inbox/a:b@c.csv"),
        ("/inbox/2024-01-01/acme/key=3.csv", "/inbox/2024-01-01/acme/key=3.csv"),
        ("s3://bucket/inbox/key=3/f.csv", "s3://bucket/inbox/key=3/f.csv"),
        ("/inbox/password.csv", "/inbox/password.csv"),
        (
            "postgresql://postgres@/warehouse?host=%2Ftmp%2Fx",
            "postgresql://postgres@/warehouse?host=%2Ftmp%2Fx",
        ),
        ("http://h:80/a@b", "http://h:80/a@b"),
    ],
)
def test_what_is_no_secret_stays_readable(address: str, shown: str) -> None:
    assert redact(address) == shown
