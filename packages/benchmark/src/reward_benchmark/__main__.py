"""``python -m reward_benchmark`` is the ``reward-benchmark`` command."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
