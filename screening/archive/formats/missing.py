"""A library that is needed for a format, and not there."""


class Missing(ImportError):
    """A library that is not installed; what is to be installed stands in the message."""

    def __init__(self, library: str, extra: str = "hospital") -> None:
        super().__init__(f"{library} is not installed; pip install 'ecg-screening[{extra}]' brings it")
