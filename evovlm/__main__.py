"""`python -m evovlm` is the `evovlm` command."""

import os
import sys

# Python looks for modules in the current folder first, which may be anybody's.
if not sys.flags.safe_path and sys.path[0] == os.getcwd() != os.path.dirname(os.path.dirname(__file__)):  # noqa: PTH109, PTH120
    del sys.path[0]

from evovlm.cli.app import main

if __name__ == "__main__":
    main()
