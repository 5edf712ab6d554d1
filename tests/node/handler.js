// A client with otto-handler's habits: one insecure channel to one address for every service; no deadline, no metadata, no retry, no keepalive.
import { credentials } from "@grpc/grpc-js";
import { load } from "./protos.js";

export class Handler {
  // `careless`: nobody listens for errors of streams, so that one which ends with an error ends the process.
  constructor(address, { protos = process.env.OTTO_PROTOS, careless = false } = {}) {
    this.careless = careless;
    this.streams = [];
    const { OttoscalerService, PipelineService, LogStreamingService, OttoHandlerLogService } = load(protos);
    const insecure = credentials.createInsecure();
    this.scaler = new OttoscalerService(address, insecure);
    const same = { channelOverride: this.scaler.getChannel() };
    this.pipelines = new PipelineService(address, insecure, same);
    this.logs = new LogStreamingService(address, insecure, same);
    this.push = new OttoHandlerLogService(address, insecure, same);
  }

  // The answer of a unary call, or its error thrown.
  ask(service, method, request = {}) {
    return new Promise((resolve, reject) => this[service][method](request, (error, answer) => (error ? reject(error) : resolve(answer))));
  }

  health() {
    return this.ask("scaler", "GetWorkerStatus", { taskId: "", workerPodName: "", statusFilter: "" });
  }

  // Opens the stream of a method; for one that takes a stream there is no request. A careless client listens for no error of it.
  stream(service, method, request, careless = this.careless) {
    const stream = new Stream(request ? this[service][method](request) : this[service][method](), careless);
    this.streams.push(stream);
    return stream;
  }

  run(request) {
    return this.stream("scaler", "ExecutePipeline", request);
  }

  // What the progress page does: only the id; again 2 s and 4 s later if that fails.
  async attach(pipelineId, delays = [2000, 4000]) {
    const stream = new Stream(this.scaler.ExecutePipeline({ pipelineId, stages: [] }));
    this.streams.push(stream);
    const status = await Promise.race([stream.ended, stream.first]);
    if (!status || status.code === 0 || !delays.length) return stream;
    await sleep(delays[0]);
    return this.attach(pipelineId, delays.slice(1));
  }

  close() {
    for (const stream of this.streams) if (stream.code === undefined) stream.call.cancel();
    this.scaler.close();
  }
}

// A call that answers with a stream: what it said so far and how it ends.
export class Stream {
  constructor(call, careless = false) {
    this.call = call;
    this.seen = [];
    this.waiting = [];
    this.first = new Promise((resolve) => call.once("data", () => resolve(undefined)));
    call.on("data", (message) => {
      this.seen.push(message);
      this.waiting.forEach((look) => look());
    });
    if (!careless) call.on("error", () => {});
    this.code = undefined;
    this.ended = new Promise((resolve) => call.on("status", resolve));
    this.ended.then(({ code }) => (this.code = code));
    this.ended.then(() => this.waiting.forEach((look) => look(true)));
  }

  // The first message, seen already or still to come, that fits.
  until(fits) {
    return new Promise((resolve, reject) => {
      const look = (over = false) => {
        const found = this.seen.find(fits);
        if (found) resolve(found);
        else if (over) reject(new Error(`ended before; seen: ${JSON.stringify(this.seen)}`));
      };
      this.waiting.push(look);
      look();
    });
  }

  // Sends a line; resolves when there is room for the next.
  send(entry) {
    return this.call.write(entry) || new Promise((resolve) => this.call.once("drain", resolve));
  }

  async all() {
    const status = await this.ended;
    if (status.code !== 0) throw Object.assign(new Error(`${status.code} ${status.details}`), status);
    return this.seen;
  }
}

export const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

export const shell = (stageId, script, more = {}) => ({
  stageId,
  name: stageId,
  type: 0,
  workerCount: 1,
  timeoutSeconds: 600,
  command: ["sh", "-c"],
  args: [script],
  dependsOn: [],
  ...more,
});
