-- PUT random ones of the files: created at first, replaced later.
package.path = os.getenv("BENCH_DIR") .. "/?.lua"
local common = require("wrk_common")

local body = string.rep("v", common.bytes)
local headers = { ["Content-Type"] = "application/octet-stream" }

function request()
  return wrk.format("PUT", common.path(), headers, body)
end
