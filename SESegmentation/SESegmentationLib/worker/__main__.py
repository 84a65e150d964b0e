"""``python -m SESegmentationLib.worker``: started by the client, which talks to it through pipes."""

from .ending import prepare

if __name__ == "__main__":
    prepare()
    from .process import serve

    serve()
