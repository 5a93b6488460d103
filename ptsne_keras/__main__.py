"""`python -m ptsne_keras` is the command `ptsne`."""

import sys

from ptsne_keras.cli import main

if __name__ == "__main__":
    sys.exit(main())
