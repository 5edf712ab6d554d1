// A client that has every kind of stream open while the service goes away and comes back. Arguments: address, gate, careless or careful, the run's
// id, and what becomes of the run when its caller leaves: by default it is cancelled.
// Says as lines of JSON what happened; waits for a line before it attaches again. The run goes on until the file `gate` exists.
import { createInterface } from "node:readline";
import { Handler } from "./handler.js";
import { everyKind } from "./streams.js";

const [address, gate, manners, id = "open", left = "cancel"] = process.argv.slice(2);
const handler = new Handler(address, { careless: manners === "careless" });
const heard = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const say = (what) => console.log(JSON.stringify(what));

// A service that stops is no caller that leaves, so this does not cancel the run.
const metadata = { "otto.on_disconnect": left };
const script = `i=0; until test -e ${gate}; do i=$((i + 1)); echo $i; sleep 0.05; done`;
const streams = await everyKind(handler, id, script, metadata);
say(Object.keys(streams));
const ends = await Promise.all(Object.entries(streams).map(async ([name, stream]) => [name, (await stream.ended).code]));
say(Object.fromEntries(ends));

await heard.next();
const before = streams["OttoscalerService.ExecutePipeline"].seen;
const attached = await handler.attach(id);
const sender = handler.stream("logs", "StreamLogs");
await sender.send({ workerId: `${id}-sender`, message: "another line" });
sender.call.end();
say({ sequence: (await sender.all())[0].sequence });
const all = await attached.all();
say({
  sequences: all.map(({ sequence }) => sequence),
  same: before.every(({ timestamp, message }, index) => timestamp === all[index].timestamp && message === all[index].message),
  last: [all.at(-1).stageId, all.at(-1).status],
});
handler.close();
heard.return?.();
process.stdin.destroy();
