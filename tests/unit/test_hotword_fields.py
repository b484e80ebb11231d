"""Which hotwords a request may have. In the front."""

from __future__ import annotations

import pytest

from ipc.errors import ErrorCode, ServiceError
from supervisor.http.shared.transcription import read_hotwords


def test_hotwords_come_in_fields_or_divided_by_commas() -> None:
    given = [" Anna  Karenina ,Zürich", "北京，上海、東京", "Anna Karenina", ",", ""]
    assert read_hotwords(given) == ("Anna Karenina", "Zürich", "北京", "上海", "東京")
    assert read_hotwords([]) == ()


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ([f"word {number}" for number in range(101)], "101 hotwords; send at most 100"),
        (["a" * 51], "51 characters; send at most 50"),
        (["Anna", "--"], "'--' has no letter"),
    ],
    ids=["many", "long", "no letter"],
)
def test_hotwords_have_limits(given: list[str], complaint: str) -> None:
    with pytest.raises(ServiceError, match=complaint) as caught:
        read_hotwords(given)
    assert caught.value.code is ErrorCode.invalid_option
