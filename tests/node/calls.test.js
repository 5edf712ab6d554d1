// Unary calls without deadlines.
import assert from "node:assert/strict";
import { after } from "node:test";
import { check } from "./check.js";
import { Handler, sleep } from "./handler.js";

const handler = new Handler(process.argv[2]);
after(() => handler.close());

check("the health page is answered: three empty strings select everything", async () => {
  const { workers, totalCount, runningCount, pendingCount, succeededCount, failedCount } = await handler.health();
  assert.deepEqual([workers, totalCount, runningCount, pendingCount, succeededCount, failedCount], [[], 0, 0, 0, 0, 0]);
});

check("ScaleUp creates workers once, GetWorkerStatus shows them, ScaleDown stops them", async () => {
  const request = { taskId: "작업 #1", workerCount: 2, buildConfig: { "otto.command": "sleep 60" }, triggeredBy: "otto-handler", reason: "push" };
  const up = await handler.ask("scaler", "ScaleUp", request);
  assert.equal(up.status, 0, up.message);
  assert.equal(up.processedCount, 2);
  assert.equal(new Set(up.workerPodNames).size, 2);
  assert.match(up.startedAt, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);

  const again = await handler.ask("scaler", "ScaleUp", request);
  assert.equal(again.status, 3);
  assert.deepEqual([...again.workerPodNames].sort(), [...up.workerPodNames].sort());

  const status = await until((answer) => answer.runningCount === 2, { taskId: "작업 #1" });
  assert.deepEqual(status.workers.map((worker) => worker.podName).sort(), [...up.workerPodNames].sort());
  assert.ok(status.workers.every((worker) => worker.taskId === "작업 #1" && worker.status === "running"));

  const down = await handler.ask("scaler", "ScaleDown", { taskId: "작업 #1", workerCount: 0 });
  assert.equal(down.status, 0, down.message);
  assert.equal(down.processedCount, 2);
  await until((answer) => answer.runningCount === 0 && answer.totalCount === 2, { taskId: "작업 #1" });
});

check("over the cap on workers the details hold INSUFFICIENT_RESOURCES", async () => {
  const request = { workerCount: 4, buildConfig: { "otto.command": "sleep 60" } };
  const full = await handler.ask("scaler", "ScaleUp", { ...request, taskId: "full" });
  assert.deepEqual([full.status, full.processedCount], [0, 4], full.message);
  await assert.rejects(handler.ask("scaler", "ScaleUp", { ...request, taskId: "more" }), { code: 8, details: /INSUFFICIENT_RESOURCES/ });
  await handler.ask("scaler", "ScaleDown", { taskId: "full", workerCount: 0 });
});

check("a wrong request is INVALID_ARGUMENT and names its fields", async () => {
  const wrong = { taskId: "", workerCount: -1 };
  await assert.rejects(handler.ask("scaler", "ScaleUp", wrong), (error) => {
    assert.equal(error.code, 3);
    assert.match(error.details, /task_id/);
    assert.match(error.details, /worker_count/);
    return true;
  });
});

check("a worker registers, and its notices are taken", async () => {
  const worker = { workerId: "외부-1", taskId: "작업", metadata: { podName: "외부-1", labels: { 팀: "가" } }, serverEndpoint: process.argv[2] };
  const first = await handler.ask("logs", "RegisterWorker", worker);
  assert.equal(first.status, 0);
  const second = await handler.ask("logs", "RegisterWorker", worker);
  assert.deepEqual([second.status, second.sessionId], [1, first.sessionId]);
  for (const status of [0, 1, 2]) {
    const notice = { workerId: "외부-1", taskId: "작업", status, timestamp: new Date().toISOString(), reason: "" };
    assert.equal((await handler.ask("push", "NotifyWorkerStatus", notice)).status, 0);
    assert.equal((await handler.ask("push", "NotifyWorkerStatus", notice)).status, 1);
  }
});

check("two hundred calls at once are all answered on the one channel", async () => {
  const answers = await Promise.all(Array.from({ length: 200 }, () => handler.health()));
  assert.equal(answers.length, 200);
});

async function until(fits, request) {
  for (let last; ; ) {
    last = await handler.ask("scaler", "GetWorkerStatus", request);
    if (fits(last)) return last;
    await sleep(50);
  }
}
