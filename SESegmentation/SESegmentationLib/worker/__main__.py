"""``python -m SESegmentationLib.worker``: started by the client, which talks to it through pipes.

With the argument ``read`` it only opens files, see :mod:`.reader`.
"""

import sys

from .ending import prepare

if __name__ == "__main__":
    prepare()
    if sys.argv[1:] == ["read"]:
        from .reader import serve
    else:
        from .process import serve

    serve()
