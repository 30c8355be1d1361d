-- POST /files:put: files that were put before are replaced, BENCH_BATCH of them at a time.
package.path = os.getenv("BENCH_DIR") .. "/?.lua"
local common = require("wrk_common")
local files = tonumber(os.getenv("BENCH_BATCH"))
local headers = { ["Content-Type"] = "application/x-sfss-files" }

function request()
  local body = common.body()
  local records = {}
  for i = 1, files do
    records[i] = string.format('{"path": "%s", "size": %d}\n%s\n', common.name(), #body, body)
  end
  records[files + 1] = '{"end": true}\n'
  return wrk.format("POST", "/files:put", headers, table.concat(records))
end

response = common.check_batch
