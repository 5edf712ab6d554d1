// Our protos, loaded at run time, with messages as ts-proto's clients have them: camelCase names, numbers for enums, and for int64 a number or an
// exception beyond 2^53 - 1.
import { loadPackageDefinition } from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import { cpSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const services = ["ottoscaler_service", "pipeline_service", "log_streaming_service", "otto_handler_log_service"];

export function load(directory) {
  const files = services.map((name) => `ottoscaler/v1/${name}.proto`);
  const definition = loadSync(files, { includeDirs: [directory], defaults: true });
  for (const service of Object.values(definition)) {
    for (const method of Object.values(service)) {
      if (method.responseDeserialize) {
        const decode = method.responseDeserialize;
        method.responseDeserialize = (bytes) => plain(decode(bytes));
      }
    }
  }
  return loadPackageDefinition(definition).ottoscaler.v1;
}

function plain(value) {
  if (value === null || typeof value !== "object" || Buffer.isBuffer(value)) return value;
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value.toNumber === "function") {
    const number = value.toNumber();
    if (!Number.isSafeInteger(number)) throw new Error("Value is larger than Number.MAX_SAFE_INTEGER");
    return number;
  }
  return Object.fromEntries(Object.entries(value).map(([name, field]) => [name, plain(field)]));
}

// The protos as an older client revision has them: without our additions, and a stage's type is a string. Returns their directory.
export function older(directory, copy) {
  cpSync(directory, copy, { recursive: true });
  const folder = join(copy, "ottoscaler/v1");
  for (const name of readdirSync(folder)) {
    const text = readFileSync(join(folder, name), "utf8");
    const fixed = text.replace(/^ {2}(optional |repeated )?[\w.]+ \w+ = 1\d\d;$/gm, "").replace("StageType type = 2;", "string type = 2;");
    writeFileSync(join(folder, name), fixed);
  }
  return copy;
}

export const StageType = { UNSPECIFIED: 0, BUILD: 1, TEST: 2, DEPLOY: 3, CUSTOM: 100 };
export const Stage = { PENDING: 0, RUNNING: 1, COMPLETED: 2, FAILED: 3, CANCELLED: 4, SKIPPED: 5, RETRYING: 6 };
