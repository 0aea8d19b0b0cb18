"""Error messages are one line, and `exit_on_error` ends scripts with an exit status."""

import errno
import os

import pytest

from gengeo_hf.common.errors import GenGeoError, UsageError, disk_problem, exit_on_error


def test_error_message_with_control_characters_is_one_line():
    assert str(GenGeoError("a\nb\x1b[31mc\u2028d\udcff — ü")) == "a b [31mc d  — ü"


def test_exit_on_error_full_disk_or_missing_permission_is_one_line():
    for number, word in ((errno.ENOSPC, "No space left"), (errno.EACCES, "Permission denied")):
        with pytest.raises(SystemExit, match=f"out.npy cannot be read or written: {word}"), exit_on_error():
            raise OSError(number, os.strerror(number), "out.npy")
    with pytest.raises(SystemExit, match="No space left"), exit_on_error():
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert disk_problem(OSError(errno.EIO, "Input/output error")) is None


@pytest.mark.parametrize(("error", "status"), [(GenGeoError("no such directory"), 1), (UsageError("no such key"), 2)])
def test_exit_on_error_gengeo_error_is_one_line_and_exit_status(error, status, capsys):
    with pytest.raises(SystemExit) as ended, exit_on_error():
        raise error
    assert ended.value.code == status
    assert capsys.readouterr().err == f"error: {error}\n"


def test_exit_on_error_ctrl_c_is_one_line_and_other_errors_propagate():
    with pytest.raises(SystemExit, match="the same command goes on"), exit_on_error("the same command goes on"):
        raise KeyboardInterrupt
    with pytest.raises(ZeroDivisionError), exit_on_error():
        1 / 0  # noqa: B018  (raises the error that the test needs)
