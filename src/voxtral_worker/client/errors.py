"""What a caller of the client can be told."""


class VoxtralError(Exception):
    """The worker refused, or cannot be reached.

    `code` is the worker's, empty where it said none; `may_pass` says whether the same may go
    well later, and `retry_after_s` when the worker expects that.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        may_pass: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.may_pass = may_pass
        self.retry_after_s = retry_after_s
