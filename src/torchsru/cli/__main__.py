"""`python -m torchsru.cli`, the same as the command `torchsru`."""

import sys

from torchsru.cli import main

sys.exit(main())
