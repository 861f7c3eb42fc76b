"""Ways in which a file may be damaged."""

import random
from collections.abc import Iterator


def damaged(content: bytes, count: int) -> Iterator[bytes]:
    """A flipped bit, a cut, a piece with all bits flipped, bytes put in between; the same at every call."""
    generator = random.Random(0)
    for number in range(count):
        at = generator.randrange(len(content))
        if number % 4 == 0:
            yield content[:at] + bytes([content[at] ^ 1 << generator.randrange(8)]) + content[at + 1 :]
        elif number % 4 == 1:
            yield content[:at]
        elif number % 4 == 2:
            length = generator.randrange(1, 64)
            yield content[:at] + bytes(255 - b for b in content[at : at + length]) + content[at + length :]
        else:
            yield content[:at] + generator.randbytes(generator.randrange(1, 9)) + content[at:]
