"""The program that stands between the service and one worker, and outlives the service.

It starts the worker, writes its log, keeps its limits, stops it on request, and leaves its true end in a file. A hundred of it run at
once, so it imports
only light modules of the standard library and its own, relatively: it is started without site-packages, under the bare name `supervisor`.
The service imports `launch` and `report` for the two formats they share; nothing here may import anything of the service.
"""
