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
            raise ValueError(f"asks for '{self.ask}': expected one of {', '.join(ASKS)}")
        if type(self.at) is not int or not 0 < self.at < 2**53:
            raise ValueError(f"at = {self.at} is no event time in ms")
        if not all(isinstance(text, str) for text in (self.domain, self.signal, self.why)):
            raise ValueError("domain, signal and why are to be texts")

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
            raise ValueError(f"not a request: {error}") from None
