"""Reading of SQLite files from untrusted sources, with a limit on the work of every query.

A table of such a file may be a view whose query never ends, or which generates values of a gigabyte each.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

UNREADABLE = (sqlite3.Error, UnicodeError, MemoryError)  # exceptions for damaged files
MAX_VALUE_BYTES = 64_000_000  # of one text or image
STEPS, STEPS_PER_BYTE = 200_000_000, 10  # maximum SQLite instructions of one query: a few seconds, more for large files
CHECK_EVERY = 200_000  # instructions between two calls of the progress handler


class BoundedDatabase:
    """A read-only connection, for one thread.

    Args:
        path: SQLite file; it is not created if it is missing.
    """

    def __init__(self, path: Path) -> None:
        self._most = (STEPS + STEPS_PER_BYTE * path.stat().st_size) // CHECK_EVERY if path.exists() else 0
        self._checks = 0
        self._connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
        self._connection.set_progress_handler(self._is_over_limit, CHECK_EVERY)

    def query(self, statement: str, values: tuple[Any, ...] = ()) -> list[tuple]:
        """Run a SELECT statement.

        Args:
            statement: SQL with `?` for each value.
            values: Values of the statement.

        Returns:
            All rows.

        Raises:
            sqlite3.Error: The file is damaged, a value is too large, or the statement exceeds the limit of work.
            KeyboardInterrupt: The user interrupted the query.
        """
        self._checks = 0
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.OperationalError as error:
            if self._checks > self._most:
                raise sqlite3.OperationalError(
                    "reading it needs far more work than its size explains: is a table a view that never ends?"
                ) from None
            if str(error) == "interrupted":  # SQLite's report of an exception inside `_is_over_limit`
                raise KeyboardInterrupt from None
            raise

    def _is_over_limit(self) -> bool:
        """Whether to stop the query. Python runs signal handlers here, which may raise KeyboardInterrupt."""
        self._checks += 1
        return self._checks > self._most
