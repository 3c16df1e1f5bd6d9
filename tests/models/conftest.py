"""Position tables are made once; tests that put others in their place must not leave them behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from flowreel.models import positions

Table = Callable[..., object]


@pytest.fixture
def put_rope_table(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Table], None]]:
    def put(table: Table) -> None:
        monkeypatch.setattr(positions, "rope_table", table)
        positions.clock.cache_clear()

    yield put
    positions.clock.cache_clear()
