-- PUT files that were put before: each is replaced.
package.path = os.getenv("BENCH_DIR") .. "/?.lua"
request = require("wrk_common").put
