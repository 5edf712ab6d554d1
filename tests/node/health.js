// The health page of otto-handler: GetWorkerStatus with three empty strings. Arguments: the address.
import { credentials } from "@grpc/grpc-js";
import { constructors } from "./protos.js";

const client = new constructors.OttoscalerService(process.argv[2], credentials.createInsecure());
client.GetWorkerStatus({ task_id: "", worker_pod_name: "", status_filter: "" }, (error, answer) => {
  console.log(error ? `${error.code} ${error.details}` : `OK ${answer.total_count}`);
  client.close();
});
