// Our protos, loaded at run time as a NestJS client's loader options have it; `constructors.OttoscalerService` and so on.
import { loadPackageDefinition } from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

const files = ["ottoscaler_service", "pipeline_service", "log_streaming_service", "otto_handler_log_service"];

export const options = { keepCase: true, longs: Number, enums: String, defaults: true, oneofs: true };

export function load(directory, names = files) {
  const definition = loadSync(
    names.map((name) => `ottoscaler/v1/${name}.proto`),
    { ...options, includeDirs: [directory] },
  );
  return loadPackageDefinition(definition).ottoscaler.v1;
}

export const constructors = load(process.env.OTTO_PROTOS);
