-- grpc.health.v1 for everything behind one address: a question about a service goes to the one that owns it, one about no service in
-- particular is answered by all of them: the first that is not SERVING answers, or else the scaler.
local owners = {
  ["ottoscaler.v1.OttoscalerService"] = "scaler",
  ["ottoscaler.v1.PipelineService"] = "pipeline-executor",
  ["ottoscaler.v1.LogStreamingService"] = "log-relay",
  ["ottoscaler.v1.OttoHandlerLogService"] = "log-relay",
}
local everybody = {"scaler", "pipeline-executor", "log-relay"}
local SERVING = "\8\1"

-- HealthCheckRequest has one field, a string: after gRPC's five bytes stand its tag, its length and its text.
local function asked(body)
  if body == nil or body:length() < 7 then
    return ""
  end
  local bytes = body:getBytes(0, body:length())
  if bytes:byte(6) ~= 10 then
    return ""
  end
  return bytes:sub(8, 7 + bytes:byte(7))
end

local function serving(handle, cluster)
  local question = {
    [":method"] = "POST",
    [":path"] = "/grpc.health.v1.Health/Check",
    [":authority"] = cluster,
    ["content-type"] = "application/grpc",
    ["te"] = "trailers",
  }
  local _, answer = handle:httpCall(cluster, question, "\0\0\0\0\0", 2000)
  return answer ~= nil and answer:sub(6) == SERVING
end

function envoy_on_request(handle)
  handle:headers():remove("x-otto-owner")
  local service = asked(handle:body())
  local owner = owners[service] or "scaler"
  if service == "" then
    for _, cluster in ipairs(everybody) do
      if not serving(handle, cluster) then
        owner = cluster
        break
      end
    end
  end
  handle:headers():add("x-otto-owner", owner)
  handle:clearRouteCache()
end
