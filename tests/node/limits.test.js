// No message of ours is larger than the 4 MiB that grpc-js takes by default.
import assert from "node:assert/strict";
import { after } from "node:test";
import { check } from "./check.js";
import { Handler, shell } from "./handler.js";
import { Stage } from "./protos.js";

const handler = new Handler(process.argv[2]);
after(() => handler.close());

check("a request as large as is allowed, 500 stages with long names, can be followed, attached to and read back", async () => {
  const name = (number) => `${number} ${"단계".repeat(30)}`;
  const words = "가".repeat(430);
  const needs = Array.from({ length: 498 }, (_, index) => name(index + 1));
  const stages = [
    shell(name(0), "exit 3"),
    ...needs.map((stageId) => shell(stageId, words, { dependsOn: [name(0)] })),
    shell("last", words, { dependsOn: needs }),
  ];
  const request = { pipelineId: "large", name: "긴".repeat(300), stages };
  await assert.rejects(handler.run({ ...request, metadata: { filler: "x".repeat(2 ** 20) } }).all(), { code: 3, details: /1048576/ });
  const seen = await handler.run(request).all();
  assert.equal(seen.at(-1).status, Stage.FAILED);
  assert.equal(seen.filter(({ status }) => status === Stage.SKIPPED).length, 499);
  assert.equal((await handler.run({ pipelineId: "large", stages: [] }).all()).length, seen.length);
  const run = await handler.ask("pipelines", "GetPipeline", { pipelineId: "large" });
  assert.equal(run.stages.length, 500);
  assert.deepEqual(run.request.stages.at(-1).dependsOn, needs);
  await handler.ask("pipelines", "ListPipelines", {});
});

check("a request in which everything is wrong is refused in words that still fit into an error", async () => {
  const stages = Array.from({ length: 500 }, () => shell("same", "true", { dependsOn: ["nowhere".repeat(30)], workerCount: -1, config: { "otto.what": "" } }));
  await assert.rejects(handler.run({ pipelineId: "wrong", stages }).all(), { code: 3, details: /stages\[0\]/ });
  const { problems } = await handler.ask("pipelines", "ValidatePipeline", { pipeline: { pipelineId: "wrong", stages } });
  assert.ok(problems.length >= 500);
});

check("a line of 5 MB that is no UTF-8 comes in pieces, by every way of reading it", async () => {
  const script = "head -c 5000000 /dev/zero | tr '\\0' '\\377'; echo; echo end";
  const [{ workerPodNames }] = (await handler.run({ pipelineId: "wide", stages: [shell("s", script)] }).all()).filter((m) => m.workerPodNames.length);
  const worker = { workerId: workerPodNames[0] };
  const build = { pipelineId: "wide" };
  const readers = {
    StreamWorkerLogs: await handler.stream("logs", "StreamWorkerLogs", worker).all(),
    StreamBuildLogs: (await handler.stream("logs", "StreamBuildLogs", build).all()).filter(({ kind }) => kind === 1).map(({ entry }) => entry),
    "TailLogs of a worker": (await handler.stream("logs", "TailLogs", { worker }).all()).flatMap(({ entries }) => entries),
    "TailLogs of a build": (await handler.stream("logs", "TailLogs", { build }).all())
      .flatMap(({ buildEntries }) => buildEntries)
      .filter(({ kind }) => kind === 1)
      .map(({ entry }) => entry),
  };
  for (const [name, entries] of Object.entries(readers)) {
    assert.ok(entries.length > 2, name);
    assert.deepEqual(entries.map(({ sequence }) => sequence), entries.map((_, index) => index + 1), name);
    assert.equal(entries.at(-1).message, "end", name);
    const characters = entries.slice(0, -1).reduce((sum, { message }) => sum + message.length, 0);
    assert.equal(characters, 5_000_000, name);
  }
});
