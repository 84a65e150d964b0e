"""``python -m SESegmentationLib.cli``: the ``sesegment`` command where it is not installed."""

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
