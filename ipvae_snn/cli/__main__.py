"""``python -m ipvae_snn.cli``: the command ``ipvae-snn``, if that is not on the PATH."""

import sys

from ipvae_snn.cli import main

if __name__ == "__main__":
    sys.exit(main())
