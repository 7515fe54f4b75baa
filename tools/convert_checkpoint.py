"""Convert the original's .pt to a folder (same as ``reward-core convert``)."""

import argparse
import sys

from reward_core.cli import add_convert_arguments, run_command

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    add_convert_arguments(parser)
    sys.exit(run_command(parser.parse_args()))
