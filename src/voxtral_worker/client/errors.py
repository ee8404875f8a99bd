"""The error that the client raises."""


class VoxtralError(Exception):
    """The worker has refused something, or cannot be reached.

    `code`: the worker's error code, or empty. `may_pass`: whether trying again may help.
    `retry_after_s`: how long the worker asks you to wait before that; None: it does not say.
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
