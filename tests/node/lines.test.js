// Log lines in both directions, and leaving in the middle.
import assert from "node:assert/strict";
import { after } from "node:test";
import { check } from "./check.js";
import { Handler, sleep } from "./handler.js";
import { Stage } from "./protos.js";
import { everyKind } from "./streams.js";

const handler = new Handler(process.argv[2]);
after(() => handler.close());

for (const [service, method] of [["logs", "StreamLogs"], ["push", "ForwardWorkerLogs"]]) {
  check(`${method}: every line gets its answer in order, also the last ones after the sender has ended`, async () => {
    const workerId = `보내는 이 ${method}`;
    const said = Array.from({ length: 500 }, (_, number) => `줄 ${number + 1}`);
    const stream = handler.stream(service, method);
    for (const message of said) {
      await stream.send({ workerId, taskId: "작업", timestamp: new Date().toISOString(), level: "INFO", source: "stdout", message });
    }
    stream.call.end();
    const answers = await stream.all();
    assert.deepEqual(answers.map(({ status, sequence }) => [status, sequence]), said.map((_, index) => [0, index + 1]));

    const read = await handler.stream("logs", "StreamWorkerLogs", { workerId, selection: { noFollow: true } }).all();
    assert.deepEqual(read.map(({ sequence, message }) => [sequence, message]), said.map((message, index) => [index + 1, message]));
  });

  check(`${method}: a line that can't be stored is answered with DROP, and the next one is taken`, async () => {
    const stream = handler.stream(service, method);
    await stream.send({ workerId: "", message: "from nobody" });
    await stream.send({ workerId: `after-${method}`, message: "from somebody" });
    stream.call.end();
    const [nobody, somebody] = await stream.all();
    assert.equal(nobody.status, 2);
    assert.match(nobody.message, /worker_id/);
    assert.deepEqual([somebody.status, somebody.sequence], [0, 1]);
  });
}

check("ForwardWorkerLogs, opened with nothing to send, stays open and ends with OK when its side is closed", async () => {
  const stream = handler.stream("push", "ForwardWorkerLogs");
  for (let beat = 0; beat < 5; beat++) {
    await sleep(200);
    await handler.health();
    assert.equal(stream.code, undefined);
  }
  stream.call.end();
  assert.deepEqual(await stream.all(), []);
});

check("each kind of stream can be cancelled in the middle, and nobody else notices", async () => {
  const streams = await everyKind(handler, "cancelled", "i=0; while :; do i=$((i + 1)); echo $i; sleep 0.02; done");
  const stays = handler.run({ pipelineId: "cancelled", stages: [] });
  await stays.first;
  for (const [name, stream] of Object.entries(streams)) {
    assert.equal(stream.code, undefined, name);
    stream.call.cancel();
    assert.equal((await stream.ended).code, 1, name);
    await handler.health();
  }
  assert.equal(stays.code, undefined);
  assert.equal((await handler.ask("pipelines", "GetPipeline", { pipelineId: "cancelled" })).summary.state, 1);
  await handler.ask("pipelines", "CancelPipeline", { pipelineId: "cancelled" });
  assert.equal((await stays.all()).at(-1).status, Stage.CANCELLED);

  const entries = await handler.stream("logs", "StreamBuildLogs", { pipelineId: "cancelled" }).all();
  const lines = entries.filter(({ kind }) => kind === 1).map(({ entry }) => entry.message);
  assert.deepEqual(lines, lines.map((_, index) => `${index + 1}`));
});
