"""SQLite files from untrusted sources, read with a limit on the work of every query.

A table of such a file may be a view whose query never ends, or that generates values of a gigabyte each.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

UNREADABLE = (sqlite3.Error, UnicodeError, MemoryError)  # exceptions for damaged files
LARGEST_VALUE = 64_000_000  # bytes of one text or image
STEPS, STEPS_PER_BYTE = 200_000_000, 10  # SQLite instructions of one query: some seconds, more for larger files
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
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGEST_VALUE)
        self._connection.set_progress_handler(self._is_over_limit, CHECK_EVERY)

    def query(self, statement: str, values: tuple[Any, ...] = ()) -> list[tuple]:
        """All rows of a SELECT statement.

        Raises:
            sqlite3.Error: The file is damaged, holds a value that is too large, or the statement needs far more work
                than the size of the file explains.
            KeyboardInterrupt: Ctrl-C, also while SQLite computes.
        """
        self._checks = 0
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.OperationalError as error:
            if self._checks > self._most:
                raise sqlite3.OperationalError(
                    "reading it needs far more work than its size explains: is a table a view that never ends?"
                ) from None
            if str(error) == "interrupted":  # SQLite reports an exception inside `_is_over_limit` so
                raise KeyboardInterrupt from None
            raise

    def _is_over_limit(self) -> bool:
        """Whether to stop the query. Python's signal handlers run here, and may raise KeyboardInterrupt."""
        self._checks += 1
        return self._checks > self._most
