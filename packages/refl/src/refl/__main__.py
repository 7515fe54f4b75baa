"""python -m refl, for torchrun and accelerate launch."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
