"""SQLite files of strangers, read with a bound on every question.

What looks like a table may be a view that computes without end, or makes pictures of a gigabyte each.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

# What SQLite raises of a damaged file, which may also make it speak no UTF-8, or ask for more memory than there is.
UNREADABLE = (sqlite3.Error, UnicodeError, MemoryError)
LARGEST_VALUE = 64_000_000  # bytes of one text or picture
STEPS, STEPS_FOR_EACH_BYTE = 200_000_000, 10  # instructions of SQLite for one question: some seconds, and by file size
CHECK_EACH = 200_000  # instructions


class BoundedDatabase:
    """A read-only connection, for one thread.

    Args:
        path: SQLite file; it is not created where it is missing.
    """

    def __init__(self, path: Path) -> None:
        self._most = (STEPS + STEPS_FOR_EACH_BYTE * path.stat().st_size) // CHECK_EACH if path.exists() else 0
        self._checks = 0
        self._connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGEST_VALUE)
        self._connection.set_progress_handler(self._go_on, CHECK_EACH)

    def ask(self, question: str, values: tuple[Any, ...] = ()) -> list[tuple]:
        """All rows of an answer.

        Raises:
            sqlite3.Error: The file is damaged, holds a value that is too large, or the question needs more work than a
                file of its size can.
            KeyboardInterrupt: Ctrl-C, also while SQLite computes.
        """
        self._checks = 0
        try:
            return self._connection.execute(question, values).fetchall()
        except sqlite3.OperationalError as error:
            if self._checks > self._most:
                raise sqlite3.OperationalError(
                    "reading it needs far more work than its size allows: is it a view that computes without end?"
                ) from None
            if str(error) == "interrupted":  # what SQLite makes of an exception inside of `_go_on`
                raise KeyboardInterrupt from None
            raise

    def _go_on(self) -> bool:
        """True ends the question. Python's own handlers of signals run here, and may raise KeyboardInterrupt."""
        self._checks += 1
        return self._checks > self._most
