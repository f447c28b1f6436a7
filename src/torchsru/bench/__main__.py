"""`python -m torchsru.bench`."""

import sys

from torchsru.bench import main

if __name__ == "__main__":
    sys.exit(main())
