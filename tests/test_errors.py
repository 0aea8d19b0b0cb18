"""How a script ends."""

import pytest

from gengeo_hf.errors import GenGeoError, told_in_one_line


def test_an_error_to_be_mended_and_ctrl_c_are_one_line_and_others_keep_their_traceback():
    with pytest.raises(SystemExit, match="error: no such folder"), told_in_one_line():
        raise GenGeoError("no such folder")
    with pytest.raises(SystemExit, match="the same command goes on"), told_in_one_line("the same command goes on"):
        raise KeyboardInterrupt
    with pytest.raises(ZeroDivisionError), told_in_one_line():
        1 / 0  # noqa: B018  (the error is the point)
