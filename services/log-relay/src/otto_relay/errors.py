"""What can go wrong in the relay.

RequestError                 a client may read its words
├── InvalidRequestError      INVALID_ARGUMENT
├── UnknownLogError          NOT_FOUND
└── NotReadyError            UNAVAILABLE

RelayError                   ours alone
├── SpoolWriteError          the disk did not take it; nothing of it is stored, it may be tried again
└── SourceError              a source can't be read now; it may be tried again
    └── SourceLostError      what the source had not given yet is gone for good
"""


class RequestError(Exception):
    """A request can't be served; the text is written for the client."""

    grpc_status = "INTERNAL"


class InvalidRequestError(RequestError):
    """Fields of a request are wrong; the text names each of them."""

    grpc_status = "INVALID_ARGUMENT"


class UnknownLogError(RequestError):
    """There is no such worker, task or pipeline, or it is not kept any more."""

    grpc_status = "NOT_FOUND"


class NotReadyError(RequestError):
    """It can't be served now; repeating it is right."""

    grpc_status = "UNAVAILABLE"


class RelayError(Exception):
    """The root of what only our own log sees."""


class SpoolWriteError(RelayError):
    """The disk did not take lines; none of them is stored."""


class SourceError(RelayError):
    """A source can't be read now."""


class SourceLostError(SourceError):
    """Lines that were not read yet are gone for good."""
