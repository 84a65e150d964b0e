"""``python -m SESegmentationLib.worker``: started by the client, which talks to it through pipes."""

from .process import serve

if __name__ == "__main__":
    serve()
