"""The errors that a user can mend: one line that says what was found, what was expected, what to do."""


class GenGeoError(ValueError):
    """Bad input or a broken precondition. The command line prints its message alone, without a traceback."""


class MissingExtraError(GenGeoError):
    """An optional package is needed for what was asked.

    Args:
        package: the import name that is missing.
        extra: the extra of `gengeo_hf` that brings it.
        purpose: what it is needed for, as the end of "... is needed to".
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f'{package} is needed to {purpose}: pip install "gengeo_hf[{extra}]"')
