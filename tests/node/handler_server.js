// otto-handler's own side: serves OttoHandlerLogService. It keeps strict order (RETRY until the line that comes next comes), asks for every 50th
// line twice, drops lines that hold "unwanted" and throttles now and then. Each line and notice it takes is a line of JSON on standard output.
// Arguments: the port (0: a free one), then {worker: the last sequence it has} as JSON, which a real one would keep in its database.
import { Server, ServerCredentials } from "@grpc/grpc-js";
import { load } from "./protos.js";

const [ACK, RETRY, DROP] = [0, 1, 2];
const [port, has] = [process.argv[2], JSON.parse(process.argv[3] ?? "{}")];
const say = (what) => process.stdout.write(`${JSON.stringify(what)}\n`);
const asked = new Set();

function answer(entry) {
  const sequence = Number(entry.metadata["otto.sequence"]);
  const key = `${entry.workerId}/${sequence}`;
  const last = has[entry.workerId] ?? 0;
  if (sequence <= last) {
    say({ repeated: key });
    return { status: ACK, sequence };
  }
  if (sequence > last + 1) return { status: RETRY, message: `line ${last + 1} comes first` };
  if (sequence % 50 === 0 && !asked.has(key)) {
    asked.add(key);
    return { status: RETRY, message: "the database is busy" };
  }
  has[entry.workerId] = sequence;
  if (entry.message.includes("unwanted")) {
    say({ dropped: key });
    return { status: DROP, message: "not wanted" };
  }
  say({ worker: entry.workerId, sequence, message: entry.message, level: entry.level, task: entry.taskId });
  return { status: ACK, sequence, throttleMs: sequence % 40 === 0 ? 5 : 0 };
}

const server = new Server();
server.addService(load(process.env.OTTO_PROTOS).OttoHandlerLogService.service, {
  ForwardWorkerLogs(call) {
    call.on("data", (entry) => call.write(answer(entry)));
    call.on("end", () => call.end());
    call.on("error", () => {});
  },
  NotifyWorkerStatus(call, done) {
    say({ notice: call.request.status, worker: call.request.workerId, reason: call.request.reason });
    done(null, { status: 0 });
  },
});
server.bindAsync(`127.0.0.1:${port}`, ServerCredentials.createInsecure(), (error, bound) => {
  if (error) throw error;
  say({ listening: bound });
});
