"""Run by a pod: an otto-handler that takes every line and prints it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc

from ottoscaler.v1.otto_handler_log_service_pb2 import LogForwardResponse, WorkerLogEntry, WorkerStatusAck, WorkerStatusNotification
from ottoscaler.v1.otto_handler_log_service_pb2_grpc import OttoHandlerLogServiceServicer, add_OttoHandlerLogServiceServicer_to_server


class Handler(OttoHandlerLogServiceServicer):
    """ACK is the zero value of its answers."""

    def ForwardWorkerLogs(  # noqa: N802 - the method's name in the contract
        self, requests: Iterator[WorkerLogEntry], context: grpc.ServicerContext
    ) -> Iterator[LogForwardResponse]:
        for number, entry in enumerate(requests, 1):
            print(entry.message, flush=True)
            yield LogForwardResponse(sequence=number)

    def NotifyWorkerStatus(  # noqa: N802 - the same
        self, request: WorkerStatusNotification, context: grpc.ServicerContext
    ) -> WorkerStatusAck:
        return WorkerStatusAck()


if __name__ == "__main__":
    server = grpc.server(ThreadPoolExecutor(8))
    add_OttoHandlerLogServiceServicer_to_server(Handler(), server)
    server.add_insecure_port("0.0.0.0:50051")
    server.start()
    server.wait_for_termination()
