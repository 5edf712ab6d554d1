"""The scaler: creates, stops, shows and tidies away workers, and owns OttoscalerService.

`worker`, `admission`, `watching` and `fleet` are the domain: what a worker is, who may run now, and one picture of all of them in memory.
They know neither gRPC nor how a worker is run; that is behind the Protocol in `backends`. `translate` turns messages into the domain and
back,
`service` answers calls, `pipelines` hands ExecutePipeline on to the executor, `app` puts it all together. Nothing here is imported by
another service.
"""
