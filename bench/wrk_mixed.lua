-- Four GETs to a PUT, in random order.
package.path = os.getenv("BENCH_DIR") .. "/?.lua"
local common = require("wrk_common")

function request()
  return math.random(5) == 1 and common.put() or common.get()
end
