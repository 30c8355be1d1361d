-- GET random ones of the files that were put before.
package.path = os.getenv("BENCH_DIR") .. "/?.lua"
local common = require("wrk_common")

function request()
  return wrk.format("GET", common.path())
end
