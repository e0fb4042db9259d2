"""``python -m ipvae_snn.cli``: the command, also where it is not on the path."""

import sys

from ipvae_snn.cli import main

if __name__ == "__main__":
    sys.exit(main())
