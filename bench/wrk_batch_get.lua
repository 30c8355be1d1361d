-- POST /files:get: files that were put before, BENCH_BATCH of them at a time.
package.path = os.getenv("BENCH_DIR") .. "/?.lua"
local common = require("wrk_common")
local files = tonumber(os.getenv("BENCH_BATCH"))

function request()
  local names = {}
  for i = 1, files do names[i] = common.name() end
  return wrk.format("POST", "/files:get", nil, table.concat(names, "\n"))
end

response = common.check_batch
