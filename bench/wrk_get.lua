-- GET files that were put before.
package.path = os.getenv("BENCH_DIR") .. "/?.lua"
request = require("wrk_common").get
