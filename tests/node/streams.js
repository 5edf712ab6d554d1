// Every kind of stream there is, open at the same time on one channel.
import { shell } from "./handler.js";
import { Stage } from "./protos.js";

// Begins a run whose only stage goes on until `script` ends, and resolves when every stream has said something, or, where there is nothing to
// say, has reached the service.
export async function everyKind(handler, pipelineId, script, metadata = {}) {
  const run = handler.run({ pipelineId, metadata, stages: [shell("long", script)] });
  const { workerPodNames } = await run.until((message) => message.status === Stage.RUNNING && message.workerPodNames.length);
  const worker = { workerId: workerPodNames[0] };
  const streams = {
    "OttoscalerService.ExecutePipeline": run,
    "OttoscalerService.ExecutePipeline, attached": handler.run({ pipelineId, stages: [] }),
    "OttoscalerService.WatchWorkers": handler.stream("scaler", "WatchWorkers", {}),
    "PipelineService.ExecutePipeline, attached": handler.stream("pipelines", "ExecutePipeline", { pipelineId, stages: [] }),
    "PipelineService.WatchPipeline": handler.stream("pipelines", "WatchPipeline", { pipelineId }),
    "LogStreamingService.StreamWorkerLogs": handler.stream("logs", "StreamWorkerLogs", worker),
    "LogStreamingService.StreamBuildLogs": handler.stream("logs", "StreamBuildLogs", { pipelineId }),
    // otto-handler does not have it, and whoever does has to listen: its OK says that all is delivered, so a stop is an error
    "LogStreamingService.TailLogs of a worker": handler.stream("logs", "TailLogs", { worker }, false),
    "LogStreamingService.TailLogs of a build": handler.stream("logs", "TailLogs", { build: { pipelineId } }, false),
    "LogStreamingService.StreamLogs": handler.stream("logs", "StreamLogs"),
    "OttoHandlerLogService.ForwardWorkerLogs": handler.stream("push", "ForwardWorkerLogs"),
  };
  await streams["LogStreamingService.StreamLogs"].send({ workerId: `${pipelineId}-sender`, message: "a line" });
  await streams["OttoHandlerLogService.ForwardWorkerLogs"].send({ workerId: `${pipelineId}-forwarder`, message: "a line" });
  await Promise.all(Object.values(streams).map((stream) => stream.first));
  const silent = {
    "LogStreamingService.StreamLogs, silent": handler.stream("logs", "StreamLogs"),
    "OttoHandlerLogService.ForwardWorkerLogs, silent": handler.stream("push", "ForwardWorkerLogs"),
  };
  await handler.health(); // on the same connection, so the streams before it have arrived
  return { ...streams, ...silent };
}
