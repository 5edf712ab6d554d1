// ExecutePipeline as otto-handler calls it.
import assert from "node:assert/strict";
import { after } from "node:test";
import { check } from "./check.js";
import { Handler, shell, sleep } from "./handler.js";
import { older, Stage, StageType } from "./protos.js";

const handler = new Handler(process.argv[2]);
after(() => handler.close());

const final = (message) => message.stageId === "" && message.status >= Stage.COMPLETED;
const running = (stageId) => (message) => message.stageId === stageId && message.status === Stage.RUNNING;
const numbered = (messages) => assert.deepEqual(messages.map((m) => m.sequence), messages.map((_, index) => index + 1));
const unmarked = (messages) => messages.map((message) => ({ ...message, replayed: false }));

check("stages run along the DAG, whatever script their ids are in; attaching afterwards replays the same", async () => {
  const id = `파이프라인-${"가".repeat(14)}`;
  const stages = [
    shell("빌드 단계.one_1", 'echo "$OTTO_STAGE_ID" > result', { type: StageType.BUILD }),
    shell("테스트 / ✅", 'test "$(cat result)" = "빌드 단계.one_1"', { type: StageType.TEST, workerCount: 2, dependsOn: ["빌드 단계.one_1"] }),
  ];
  const seen = await handler.run({ pipelineId: id, name: "한글", stages, triggeredBy: "otto-handler" }).all();
  numbered(seen);
  assert.ok(seen.every((message) => message.pipelineId === id));
  assert.deepEqual([seen.at(-1).stageId, seen.at(-1).status, seen.at(-1).overallPercentage], ["", Stage.COMPLETED, 100]);
  const done = seen.filter((message) => message.status === Stage.COMPLETED).map((message) => message.stageId);
  assert.deepEqual(done, ["빌드 단계.one_1", "테스트 / ✅", ""]);

  const again = await (await handler.attach(id, [])).all();
  assert.ok(again.every((message) => message.replayed));
  assert.deepEqual(unmarked(again), unmarked(seen));
});

check("an id that nobody knows is NOT_FOUND, in the details too", async () => {
  await assert.rejects(handler.run({ pipelineId: "nobody", stages: [] }).all(), { code: 5, details: /NOT_FOUND/ });
});

check("the progress page comes too early: its next try, 2 s later, finds the run", async () => {
  const attached = handler.attach("early");
  await sleep(500);
  const run = handler.run({ pipelineId: "early", stages: [shell("s", "sleep 2")] });
  numbered(await (await attached).all());
  assert.deepEqual(unmarked((await attached).seen), unmarked(await run.all()));
});

check("the same run sent again is ALREADY_EXISTS, once it has ended with ALREADY_COMPLETED, and never a second run", async () => {
  const request = { pipelineId: "twice", stages: [shell("s", "echo started >> starts; until test -e go; do sleep 0.05; done; test $(wc -l < starts) = 1")] };
  const run = handler.run(request);
  await run.until(running("s"));
  await assert.rejects(handler.run(request).all(), (error) => error.code === 6 && !/ALREADY_COMPLETED/.test(error.details));
  const attached = handler.run({ pipelineId: "twice", stages: [] });
  await attached.first;
  await handler.ask("pipelines", "CancelPipeline", { pipelineId: "twice" });
  assert.equal((await run.all()).at(-1).status, Stage.CANCELLED);
  assert.deepEqual(unmarked(await attached.all()), unmarked(run.seen));
  await assert.rejects(handler.run(request).all(), { code: 6, details: /ALREADY_COMPLETED/ });
});

check("a caller that cancels its stream leaves the pipeline running", async () => {
  const run = handler.run({ pipelineId: "left", stages: [shell("a", "sleep 1"), shell("b", "true", { dependsOn: ["a"] })] });
  await run.until(running("a"));
  run.call.cancel();
  assert.equal((await run.ended).code, 1);
  const seen = await (await handler.attach("left", [])).all();
  numbered(seen);
  assert.equal(seen.at(-1).status, Stage.COMPLETED);
});

for (const door of ["scaler", "pipelines"]) {
  check(`otto.on_disconnect=cancel, sent to the ${door}: a caller that leaves cancels the pipeline; one that only attached does not`, async () => {
    const pipelineId = `with-me-${door}`;
    const metadata = { "otto.on_disconnect": "cancel" };
    const stages = [shell("a", "sleep 60"), shell("b", "true", { dependsOn: ["a"] })];
    const run = handler.stream(door, "ExecutePipeline", { pipelineId, metadata, stages });
    await run.until(running("a"));
    const attached = handler.run({ pipelineId, stages: [] });
    const other = handler.run({ pipelineId, stages: [] });
    await other.first;
    other.call.cancel();
    await other.ended;
    assert.equal((await handler.ask("pipelines", "GetPipeline", { pipelineId })).summary.state, 1);
    run.call.cancel();
    const seen = await attached.all();
    assert.equal(seen.at(-1).status, Stage.CANCELLED);
    assert.deepEqual(new Set(seen.filter((m) => m.stageId && m.status === Stage.CANCELLED).map((m) => m.stageId)), new Set(["a", "b"]));
  });
}

check("a client that drops a message equal to the stage's last in status and percentage misses nothing of importance", async () => {
  const stages = [
    shell("three", "sleep 0.$OTTO_WORKER_INDEX", { workerCount: 3 }),
    shell("flaky", "test $OTTO_ATTEMPT = 3", { retryPolicy: { maxAttempts: 2, retryDelaySeconds: 0, retryableFailures: [] } }),
    shell("bad", "exit 7", { dependsOn: ["flaky"] }),
    shell("after bad", "true", { dependsOn: ["bad"] }),
    shell("ask", "true", { dependsOn: ["three"], config: { "otto.approvers": '["alice"]' } }),
  ];
  const run = handler.run({ pipelineId: "dropping", stages });
  await run.until((message) => message.stageId === "ask" && /alice/.test(message.message));
  await handler.ask("pipelines", "ApproveStage", { pipelineId: "dropping", stageId: "ask", user: "alice", decision: 1 });
  const seen = await run.all();
  const last = new Map();
  const dropped = [];
  for (const message of seen) {
    const before = last.get(message.stageId);
    if (before && before.status === message.status && before.progressPercentage === message.progressPercentage) dropped.push([before, message]);
    else last.set(message.stageId, message);
  }
  const important = (m) => [m.attempt, m.workerPodNames, m.startedAt, m.completedAt, m.errorMessage, m.failureCause, m.exitCode];
  for (const [before, message] of dropped) assert.deepEqual(important(message), important(before), JSON.stringify(message));
  assert.deepEqual(
    Object.fromEntries([...last].map(([stageId, { status, exitCode }]) => [stageId, [status, exitCode]])),
    {
      "": [Stage.FAILED, 7],
      three: [Stage.COMPLETED, undefined],
      flaky: [Stage.COMPLETED, undefined],
      bad: [Stage.FAILED, 7],
      "after bad": [Stage.SKIPPED, undefined],
      ask: [Stage.COMPLETED, undefined],
    },
  );
  for (const words of [/waits for approval by alice/, /approved by alice/]) assert.ok(kept(seen).some((m) => m.stageId === "ask" && words.test(m.message)), `${words}`);
});

check("an older client, whose stages have their type as a string, is understood", async () => {
  const old = new Handler(process.argv[2], { protos: older(process.env.OTTO_PROTOS, process.env.OTTO_OLDER_PROTOS) });
  const types = { b: "build", t: "TEST", d: "Deploy", c: "custom", n: "what?" };
  const stages = Object.entries(types).map(([stageId, type]) => shell(stageId, "true", { type }));
  const seen = await old.run({ pipelineId: "older", stages }).all().finally(() => old.close());
  assert.equal(seen[0].sequence, undefined);
  assert.equal(seen.at(-1).status, Stage.COMPLETED);
  const { BUILD, TEST, DEPLOY, CUSTOM } = StageType;
  const run = await handler.ask("pipelines", "GetPipeline", { pipelineId: "older" });
  for (const kept of [run.stages, run.request.stages]) {
    assert.deepEqual(Object.fromEntries(kept.map(({ stageId, type }) => [stageId, type])), { b: BUILD, t: TEST, d: DEPLOY, c: CUSTOM, n: CUSTOM });
  }
});

function kept(messages) {
  const last = new Map();
  return messages.filter((message) => {
    const key = `${message.status} ${message.progressPercentage}`;
    const fresh = last.get(message.stageId) !== key;
    last.set(message.stageId, key);
    return fresh;
  });
}
