"""What one process asks of another, on the control topic: a request to do early what is due later.

Plain data; who asks and who obeys is decided elsewhere.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal, get_args

Ask = Literal["period", "hand-down"]
"""That TPM closes its period, or that CPM hands down."""
ASKS: tuple[Ask, ...] = get_args(Ask)
MAX_TEXT = 200
"""Characters of each text: what is written here ends up in other people's logs."""


@dataclass(frozen=True)
class Request:
    """What an alarm asks for. The same alarm asks the same again, under the same id.

    Raises:
        ValueError: something that nobody can be asked for, or no event time.
    """

    ask: Ask
    at: int  # event time of the alarm, ms
    domain: str
    signal: str
    why: str = ""  # for people

    def __post_init__(self) -> None:
        if self.ask not in ASKS:
            raise ValueError(f"asks for {str(self.ask)[:40]!a}: expected one of {', '.join(ASKS)}")
        if type(self.at) is not int or not 0 < self.at < 2**53:
            raise ValueError(f"at = {str(self.at)[:40]!a} is no event time in ms")
        if not all(map(_told, (self.domain, self.signal, self.why))):
            raise ValueError(
                f"domain, signal and why are to be printable, {MAX_TEXT} characters at most"
            )

    @property
    def id(self) -> str:
        return f"{self.ask}/{self.domain}/{self.signal}/{self.at}"

    def encode(self) -> bytes:
        return json.dumps({"id": self.id, **asdict(self)}).encode()

    @staticmethod
    def decode(value: bytes | None) -> Request:
        """Raises ValueError for what is no request."""
        try:
            fields = json.loads(value or b"")
            return Request(**{name: fields[name] for name in Request.__annotations__})
        except (TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"not a request: {str(error)[:200]!a}") from None


def _told(text: object) -> bool:
    return isinstance(text, str) and len(text) <= MAX_TEXT and text.isprintable()
