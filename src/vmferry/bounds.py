"""Types of the numbers in records, which may come from anyone: what is decoded is small enough to be reckoned with."""

from typing import Annotated

import msgspec

Natural = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=1 << 62)]
Number = Annotated[float, msgspec.Meta(ge=-1e18, le=1e18)]
