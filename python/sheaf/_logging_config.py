"""Settings of Python's logging in drivers and workers."""

from __future__ import annotations


class LoggingConfig:
    """How log records of a job look.

    Args:
        encoding: "TEXT" or "JSON".
        log_level: least level, e.g. "INFO".
        additional_log_standard_attrs: further attributes of ``logging.LogRecord`` to print.

    Raises: ValueError for another encoding or level.
    """

    def __init__(
        self, encoding: str = "TEXT", log_level: str = "INFO", additional_log_standard_attrs=None
    ):
        if encoding not in ("TEXT", "JSON"):
            raise ValueError(f"Invalid encoding: {encoding!r}; it is 'TEXT' or 'JSON'")
        levels = ("CRITICAL", "FATAL", "ERROR", "WARN", "WARNING", "INFO", "DEBUG", "NOTSET")
        if log_level not in levels:
            raise ValueError(f"Invalid log level: {log_level!r}; it is one of {levels}")
        self.encoding = encoding
        self.log_level = log_level
        self.additional_log_standard_attrs = list(additional_log_standard_attrs or ())

    def to_dict(self) -> dict:
        """The settings as a plain dict."""
        return dict(vars(self))

    @classmethod
    def from_dict(cls, settings: dict) -> "LoggingConfig":
        """The settings that `to_dict` gave."""
        return cls(**settings)
