"""The process that owns torch: it runs jobs, reports progress and can be killed.

``python -m SESegmentationLib.worker`` is started by :mod:`SESegmentationLib.client`, which also uses the messages
defined here (:mod:`.frames`, :mod:`.jobs`, :mod:`.messages`). Importing any module of this package imports no torch:
only running a job does.
"""
