"""Run by a pod: asks replicas about a pipeline that has ended; exit code 0 if all know it.

asks.py PIPELINE scaler=ADDRESS … pipeline-executor=ADDRESS …
"""

import sys

import grpc

from ottoscaler.v1.ottoscaler_service_pb2 import WorkerStatusRequest
from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceStub
from ottoscaler.v1.pipeline_pb2 import PipelineRequest
from ottoscaler.v1.pipeline_service_pb2 import GetPipelineRequest
from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceStub

PATIENCE_SECONDS = 60


def ask(service: str, address: str, pipeline_id: str) -> None:
    """What only the replica that acts can answer, or the executor behind it. Raises grpc.RpcError."""
    with grpc.insecure_channel(f"{address}:9090") as channel:
        if service == "scaler":
            scaler = OttoscalerServiceStub(channel)
            scaler.GetWorkerStatus(WorkerStatusRequest(), timeout=PATIENCE_SECONDS)
            list(scaler.ExecutePipeline(PipelineRequest(pipeline_id=pipeline_id), timeout=PATIENCE_SECONDS))
        else:
            PipelineServiceStub(channel).GetPipeline(GetPipelineRequest(pipeline_id=pipeline_id), timeout=PATIENCE_SECONDS)


if __name__ == "__main__":
    for replica in sys.argv[2:]:
        service, _, address = replica.partition("=")
        ask(service, address, sys.argv[1])
